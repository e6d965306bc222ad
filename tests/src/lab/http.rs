//! A client for HTTP/1.1, just enough for small answers: one request per connection, over TCP or a unix socket.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

/// An answer larger than this is no answer that a test looks at.
const ANSWER_BYTES_MAX: u64 = 64 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub status: u16,
    pub body: String,
}

impl Answer {
    /// The body as JSON.
    ///
    /// # Errors
    /// When the status is not 2xx, or the body is not JSON.
    pub fn json(&self) -> Result<Value> {
        ensure!(
            (200..300).contains(&self.status),
            "HTTP {}: {}",
            self.status,
            self.body.trim()
        );
        serde_json::from_str(&self.body).with_context(|| format!("not JSON: {}", self.body))
    }
}

/// Asks a TCP server, from the network namespace of the calling thread.
pub fn get(address: SocketAddr, path: &str, deadline: Duration) -> Result<Answer> {
    let stream = TcpStream::connect_timeout(&address, deadline)
        .with_context(|| format!("cannot connect to {address}"))?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    ask(stream, "GET", path, None).with_context(|| format!("no answer from http://{address}{path}"))
}

/// Asks a server on a unix socket, such as a Docker Engine.
pub fn over_socket(
    socket: &Path,
    method: &str,
    path: &str,
    body: Option<&Value>,
    deadline: Duration,
) -> Result<Answer> {
    let stream = UnixStream::connect(socket)
        .with_context(|| format!("cannot connect to {}", socket.display()))?;
    stream.set_read_timeout(Some(deadline))?;
    stream.set_write_timeout(Some(deadline))?;
    ask(stream, method, path, body)
        .with_context(|| format!("no answer to {method} {path} from {}", socket.display()))
}

fn ask(
    mut stream: impl Read + Write,
    method: &str,
    path: &str,
    body: Option<&Value>,
) -> Result<Answer> {
    let body = body.map(Value::to_string).unwrap_or_default();
    let length = body.len();
    write!(
        stream,
        "{method} {path} HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\
         Content-Type: application/json\r\nContent-Length: {length}\r\n\r\n{body}"
    )?;
    let mut bytes = Vec::new();
    stream.take(ANSWER_BYTES_MAX).read_to_end(&mut bytes)?;
    read_answer(&bytes)
}

fn read_answer(bytes: &[u8]) -> Result<Answer> {
    let end = bytes
        .windows(4)
        .position(|window| window == b"\r\n\r\n")
        .context("the connection closed before the answer was complete")?;
    let (head, body) = (String::from_utf8_lossy(&bytes[..end]), &bytes[end + 4..]);
    let status = head
        .split_whitespace()
        .nth(1)
        .and_then(|status| status.parse().ok())
        .with_context(|| format!("not HTTP: {head}"))?;
    let header = |name: &str| {
        head.lines().skip(1).find_map(|line| {
            let (key, value) = line.split_once(':')?;
            key.eq_ignore_ascii_case(name)
                .then(|| value.trim().to_ascii_lowercase())
        })
    };
    let body = if header("transfer-encoding").as_deref() == Some("chunked") {
        join_chunks(body)?
    } else {
        let expected: usize = header("content-length").map_or(Ok(body.len()), |n| n.parse())?;
        ensure!(
            body.len() >= expected,
            "{} of {expected} bytes arrived",
            body.len()
        );
        body[..expected].to_vec()
    };
    Ok(Answer {
        status,
        body: String::from_utf8_lossy(&body).into_owned(),
    })
}

fn join_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut whole = Vec::new();
    loop {
        let Some(line_end) = rest.windows(2).position(|window| window == b"\r\n") else {
            bail!("the connection closed between two chunks");
        };
        let size = std::str::from_utf8(&rest[..line_end])?;
        let size = usize::from_str_radix(size.split(';').next().unwrap_or_default().trim(), 16)?;
        rest = &rest[line_end + 2..];
        if size == 0 {
            return Ok(whole);
        }
        ensure!(
            rest.len() >= size + 2,
            "the connection closed within a chunk"
        );
        whole.extend_from_slice(&rest[..size]);
        rest = &rest[size + 2..];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_answer_in_chunks_is_put_together() {
        let bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nweb\r\n4;x=y\r\n v1\n\r\n0\r\n\r\n";
        let answer = read_answer(bytes).unwrap();
        assert_eq!(
            answer,
            Answer {
                status: 200,
                body: "web v1\n".to_owned()
            }
        );
    }

    #[test]
    fn an_answer_cut_short_is_an_error() {
        for bytes in [
            &b"HTTP/1.1 200 OK\r\nContent-Len"[..],
            b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nweb",
        ] {
            assert!(
                read_answer(bytes).is_err(),
                "{}",
                String::from_utf8_lossy(bytes)
            );
        }
    }
}
