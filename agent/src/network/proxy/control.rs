//! The control socket: JSON lines from the agent, each answered by one line.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::sleep;
use tracing::warn;

use super::super::table::{
    CONTROL_VERSION, LINE_BYTES_MAX, Order, PortFailure, ProxyFiles, Report,
};

/// An order that waits to be carried out.
pub(super) struct Pending {
    pub order: Order,
    pub reply: oneshot::Sender<Vec<PortFailure>>,
}

/// Orders waiting; there is one agent, which waits for each answer.
const QUEUE: usize = 4;
/// After a failed accept, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

pub(super) fn listen(files: &ProxyFiles) -> io::Result<mpsc::Receiver<Pending>> {
    match std::fs::remove_file(files.socket()) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(files.socket())?;
    std::fs::set_permissions(files.socket(), std::fs::Permissions::from_mode(0o600))?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let orders = sender.clone();
                    tokio::spawn(async move {
                        if let Err(err) = converse(stream, orders).await {
                            warn!(%err, "a control connection ended");
                        }
                    });
                }
                Err(err) => {
                    warn!(%err, "cannot accept a control connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok(receiver)
}

async fn converse(stream: UnixStream, orders: mpsc::Sender<Pending>) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        if (&mut stream)
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .await?
            == 0
        {
            return Ok(());
        }
        let order: Order = serde_json::from_str(&line).map_err(io::Error::other)?;
        let (reply, failed) = oneshot::channel();
        let ended = || io::Error::other("the proxy is ending");
        orders
            .send(Pending { order, reply })
            .await
            .map_err(|_| ended())?;
        let report = Report {
            version: CONTROL_VERSION,
            build: env!("CARGO_PKG_VERSION").to_owned(),
            failed: failed.await.map_err(|_| ended())?,
        };
        let mut answer = serde_json::to_vec(&report).map_err(io::Error::other)?;
        answer.push(b'\n');
        stream.write_all(&answer).await?;
    }
}
