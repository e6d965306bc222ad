//! The web service of tests and demo: says who it is over HTTP, and misbehaves on request.
//!
//! One file and only the standard library, so that `build.sh` makes a static binary of it in a second.
//! Paths: `/` (version and host name), `/health`, `/env`, `/version`, `/hostname`. Every flag can also be set as a
//! variable: `--crash-after 3` is `CRASH_AFTER=3`. SIGTERM and SIGINT end it at once with code 0.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::exit;
use std::thread;
use std::time::Duration;

const USAGE: &str = "web [--port N] [--fail] [--sick] [--crash-after S] [--start-after S] [--log-every MS] [--check]
  --port N         listen here (80)
  --fail           say so and end with code 1 at once
  --sick           answer /health with 503
  --crash-after S  end with code 3 after S seconds
  --start-after S  listen only after S seconds
  --log-every MS   print a numbered line every MS milliseconds
  --check          be the health check: ask the service on this port, end with 0 or 1";

/// A request line longer than this is none of ours.
const REQUEST_BYTES_MAX: u64 = 16 * 1024;

unsafe extern "C" {
    fn signal(number: i32, handler: extern "C" fn(i32)) -> usize;
    fn _exit(code: i32) -> !;
}

extern "C" fn end_at_once(_signal: i32) {
    // SAFETY: `_exit` may be called in a signal handler.
    unsafe { _exit(0) }
}

/// The value after the flag, or of the variable of that name; a flag without a value counts as "1".
fn setting(name: &str) -> Option<String> {
    let flag = format!("--{name}");
    let mut arguments = std::env::args().skip(1).skip_while(|argument| *argument != flag);
    if arguments.next().is_some() {
        let value = arguments.next().filter(|value| !value.starts_with("--"));
        return Some(value.unwrap_or_else(|| "1".to_owned()));
    }
    std::env::var(name.to_uppercase().replace('-', "_")).ok().filter(|value| !value.is_empty())
}

fn number(name: &str) -> Option<u64> {
    setting(name).map(|text| {
        text.parse().unwrap_or_else(|_| {
            eprintln!("`{text}` is not a number for --{name}\n{USAGE}");
            exit(2);
        })
    })
}

fn main() {
    for number in [2, 15] {
        // SAFETY: the handler only calls `_exit`.
        unsafe { signal(number, end_at_once) };
    }
    let port = number("port").unwrap_or(80);
    if std::env::args().any(|argument| argument == "--help") {
        println!("{USAGE}");
        return;
    }
    if setting("check").is_some() {
        exit(if check(port).unwrap_or(false) { 0 } else { 1 });
    }
    if setting("fail").is_some() {
        eprintln!("web: told to fail at the start");
        exit(1);
    }
    if let Some(seconds) = number("crash-after") {
        thread::spawn(move || {
            thread::sleep(Duration::from_secs(seconds));
            eprintln!("web: told to crash after {seconds} s");
            exit(3);
        });
    }
    if let Some(every) = number("log-every") {
        thread::spawn(move || {
            for line in 1u64.. {
                println!("line {line} of {}", hostname());
                thread::sleep(Duration::from_millis(every));
            }
        });
    }
    if let Some(seconds) = number("start-after") {
        thread::sleep(Duration::from_secs(seconds));
    }
    let listener = TcpListener::bind(("0.0.0.0", port as u16)).unwrap_or_else(|err| {
        eprintln!("web: cannot listen on port {port}: {err}");
        exit(1);
    });
    println!("web {} on {} listens on port {port}", version(), hostname());
    for stream in listener.incoming() {
        match stream {
            Ok(stream) => drop(thread::spawn(move || {
                if let Err(err) = answer(stream) {
                    eprintln!("web: {err}");
                }
            })),
            Err(err) => eprintln!("web: {err}"),
        }
    }
}

fn answer(stream: TcpStream) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    let mut lines = BufReader::new((&stream).take(REQUEST_BYTES_MAX)).lines();
    let request = lines.next().transpose()?.unwrap_or_default();
    // The rest of the head has to be read: closing with unread input would reset the connection.
    while lines.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split_whitespace().nth(1).unwrap_or("/");
    let (status, body) = match path.split('?').next().unwrap_or(path) {
        "/" => ("200 OK", format!("web {} on {}\n", version(), hostname())),
        "/health" if setting("sick").is_some() => ("503 Service Unavailable", "sick\n".to_owned()),
        "/health" => ("200 OK", "well\n".to_owned()),
        "/version" => ("200 OK", format!("{}\n", version())),
        "/hostname" => ("200 OK", format!("{}\n", hostname())),
        "/env" => ("200 OK", std::env::vars().map(|(key, value)| format!("{key}={value}\n")).collect()),
        _ => ("404 Not Found", "no such page\n".to_owned()),
    };
    let length = body.len();
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n"
    );
    (&stream).write_all((head + &body).as_bytes())
}

fn check(port: u64) -> std::io::Result<bool> {
    let mut stream = TcpStream::connect(("127.0.0.1", port as u16))?;
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    stream.write_all(b"GET /health HTTP/1.1\r\nHost: web\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    Ok(text.starts_with("HTTP/1.1 200"))
}

fn version() -> String {
    std::env::var("VERSION").unwrap_or_else(|_| "v0".to_owned())
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default().trim().to_owned()
}
