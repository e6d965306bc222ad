//! The line to the port proxy: connecting, starting one, handing over to a newer one, and one exchange at a time.

use std::io;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::{Instant, sleep, timeout};
use tracing::info;

use super::Launch;
use crate::network::table::{LINE_BYTES_MAX, Order, PortTable, ProxyFiles, Report};

/// Time for the proxy to answer an order.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// Time for a fresh proxy to open its socket, and to take the ports over from an older one.
const START_DEADLINE: Duration = Duration::from_secs(5);
const START_LOOK: Duration = Duration::from_millis(10);

pub(super) struct Line {
    files: ProxyFiles,
    /// The version that should serve.
    build: &'static str,
    launch: Box<dyn Launch>,
    stream: Option<BufReader<UnixStream>>,
}

impl Line {
    pub(super) fn new(files: ProxyFiles, build: &'static str, launch: Box<dyn Launch>) -> Self {
        Self {
            files,
            build,
            launch,
            stream: None,
        }
    }

    pub(super) fn is_open(&self) -> bool {
        self.stream.is_some()
    }

    /// Ends when the other side closes the line, or says something unasked. Call only while it is open.
    pub(super) async fn broken(&mut self) {
        if let Some(stream) = &mut self.stream
            && let Err(err) = stream.fill_buf().await
        {
            info!(%err, "the line to the port proxy broke");
        }
        self.stream = None;
    }

    /// Has the order carried out. `None` when there is nothing to serve and nobody serves.
    pub(super) async fn tell(&mut self, order: &Order) -> Result<Option<Report>, String> {
        if let Some(stream) = &mut self.stream {
            match exchange(stream, order).await {
                Ok(report) => return Ok(Some(report)),
                Err(err) => {
                    info!(err, "the port proxy does not answer; reaching for it anew");
                    self.stream = None;
                }
            }
        }
        let (stream, report) = match self.reach(order).await {
            Ok((_, report)) if report.build != self.build => {
                info!(
                    old = report.build,
                    "another version of the port proxy serves; taking over"
                );
                self.start(order).await?
            }
            Ok(reached) => reached,
            Err(_) if order.ports.is_empty() => return Ok(None),
            Err(_) => self.start(order).await?,
        };
        self.stream = Some(stream);
        Ok(Some(report))
    }

    async fn reach(&self, order: &Order) -> Result<(BufReader<UnixStream>, Report), String> {
        let mut stream = self.connect().await?;
        let report = exchange(&mut stream, order).await?;
        Ok((stream, report))
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, String> {
        let connect = UnixStream::connect(self.files.socket());
        match timeout(ANSWER_DEADLINE, connect).await {
            Ok(Ok(stream)) => Ok(BufReader::new(stream)),
            Ok(Err(err)) => Err(err.to_string()),
            Err(_) => Err("it does not answer".to_owned()),
        }
    }

    /// Starts a proxy of this version and waits until it serves the order.
    async fn start(&self, order: &Order) -> Result<(BufReader<UnixStream>, Report), String> {
        self.launch
            .launch(&self.files)
            .map_err(|err| format!("it cannot be started: {err}"))?;
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            let cause = match self.reach(order).await {
                Ok((stream, report)) if report.build == self.build => return Ok((stream, report)),
                Ok((_, report)) => format!("version {} still serves", report.build),
                Err(cause) => cause,
            };
            if Instant::now() > deadline {
                return Err(cause);
            }
            sleep(START_LOOK).await;
        }
    }

    /// Ends the proxy, if one runs.
    pub(super) async fn end_proxy(&mut self) -> Result<(), String> {
        let mut stream = match self.stream.take() {
            Some(stream) => stream,
            None => match self.connect().await {
                Ok(stream) => stream,
                Err(_) => return Ok(()),
            },
        };
        let order = Order {
            exit: true,
            ..Order::of(&PortTable::new())
        };
        exchange(&mut stream, &order).await.map(|_| ())
    }
}

async fn exchange(line: &mut BufReader<UnixStream>, order: &Order) -> Result<Report, String> {
    let conversation = async {
        let mut text = serde_json::to_vec(order)?;
        text.push(b'\n');
        line.write_all(&text).await?;
        let mut answer = String::new();
        (&mut *line)
            .take(LINE_BYTES_MAX)
            .read_line(&mut answer)
            .await?;
        if answer.is_empty() {
            return Err(io::Error::from(io::ErrorKind::UnexpectedEof));
        }
        Ok(serde_json::from_str(&answer)?)
    };
    match timeout(ANSWER_DEADLINE, conversation).await {
        Ok(Ok(report)) => Ok(report),
        Ok(Err(err)) => Err(err.to_string()),
        Err(_) => Err("it does not answer in time".to_owned()),
    }
}

/// The agent's own binary as the proxy.
pub(super) struct OwnBinary;

impl Launch for OwnBinary {
    fn launch(&self, files: &ProxyFiles) -> io::Result<()> {
        // The running image itself: an upgrade may have replaced the file meanwhile.
        let mut command = tokio::process::Command::new("/proc/self/exe");
        command
            .arg("proxy")
            .arg("--dir")
            .arg(files.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null());
        // Under systemd its words go to the journal, as the agent's do. Elsewhere they go to a file: a pipe of the
        // agent's may lose its reader, and whoever reads it would wait for the proxy too.
        if std::env::var_os("JOURNAL_STREAM").is_none() {
            command.stderr(std::fs::File::create(files.output())?);
        }
        let mut child = command.spawn()?;
        // Not ours to stop, only to reap: it outlives the agent.
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => info!(%status, "the port proxy ended"),
                Err(err) => info!(%err, "the port proxy's end was not seen"),
            }
        });
        Ok(())
    }
}
