//! The agent's side of published ports: one owner task holds the table and the line to the proxy.
//!
//! Promises: a port is [`PortsHandle::ensure`]d before the first task behind it starts, so a taken port is a clear
//! refusal and not a silent hole; the newest table always reaches the proxy, also after either side restarted. Never
//! stops the proxy when the agent stops.

use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until, timeout};
use tracing::{info, warn};

use super::table::{CONTROL_VERSION, LINE_BYTES_MAX, Order, PortKey, PortTable, ProxyFiles, Report};

/// Time for the proxy to answer an order.
const ANSWER_DEADLINE: Duration = Duration::from_secs(3);
/// Time for a fresh proxy to open its socket.
const START_DEADLINE: Duration = Duration::from_secs(5);
/// The table is told again this often, which also notices a proxy that died.
const REPEAT: Duration = Duration::from_secs(5);
/// Waiting requests; each is answered within a few milliseconds.
const QUEUE: usize = 64;

/// Somebody else answers on the port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {}/{} cannot be opened on this node: {cause}", key.port, key.protocol)]
pub struct PortInUse {
    pub key: PortKey,
    pub cause: String,
}

/// What the rest of the agent holds.
#[derive(Clone)]
pub struct PortsHandle {
    requests: mpsc::Sender<Ask>,
}

enum Ask {
    Ensure(PortKey, oneshot::Sender<Result<(), PortInUse>>),
    Update(PortTable),
    EndProxy(oneshot::Sender<()>),
}

impl PortsHandle {
    /// Opens the port on this node if it is not open yet.
    ///
    /// # Errors
    /// When another program has it, or the proxy cannot be started.
    pub async fn ensure(&self, key: PortKey) -> Result<(), PortInUse> {
        let stopped = || PortInUse { key, cause: "the agent is stopping".to_owned() };
        let (reply, answer) = oneshot::channel();
        self.requests.send(Ask::Ensure(key, reply)).await.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Replaces the table: these containers answer from now on. Ports that are not in it are closed.
    pub async fn update(&self, table: PortTable) {
        if self.requests.send(Ask::Update(table)).await.is_err() {
            warn!("the published ports are not updated: the agent is stopping");
        }
    }

    /// Ends the proxy; open connections may finish. For a node that leaves its cluster.
    pub async fn end_proxy(&self) {
        let (done, ended) = oneshot::channel();
        if self.requests.send(Ask::EndProxy(done)).await.is_ok() && ended.await.is_err() {
            warn!("the port proxy may still run");
        }
    }
}

/// Starts the owner. It ends when all handles are dropped.
pub fn spawn(files: ProxyFiles) -> (PortsHandle, JoinHandle<()>) {
    let (requests, asked) = mpsc::channel(QUEUE);
    let owner = PortsOwner { files, table: PortTable::new(), line: None, dirty: false };
    (PortsHandle { requests }, tokio::spawn(owner.run(asked)))
}

struct PortsOwner {
    files: ProxyFiles,
    table: PortTable,
    line: Option<BufReader<UnixStream>>,
    /// The proxy has not heard the newest table.
    dirty: bool,
}

impl PortsOwner {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        let mut repeat_at = Instant::now() + REPEAT;
        loop {
            tokio::select! {
                biased;
                ask = asked.recv() => match ask {
                    Some(ask) => self.handle(ask).await,
                    None => return,
                },
                () = sleep_until(repeat_at) => {
                    if !self.table.is_empty() || self.dirty {
                        self.tell_or_warn().await;
                    }
                    repeat_at = Instant::now() + REPEAT;
                }
            }
        }
    }

    async fn handle(&mut self, ask: Ask) {
        match ask {
            Ask::Ensure(key, reply) => {
                let result = self.ensure(key).await;
                if reply.send(result).is_err() {
                    info!(port = key.port, "nobody waits for the port any more");
                }
            }
            Ask::Update(table) => {
                if table != self.table {
                    self.table = table;
                    self.tell_or_warn().await;
                }
            }
            Ask::EndProxy(done) => {
                self.table.clear();
                if let Err(cause) = self.end_proxy().await {
                    warn!(cause, "the port proxy was not told to end");
                }
                if done.send(()).is_err() {
                    info!("nobody waits for the proxy's end any more");
                }
            }
        }
    }

    async fn ensure(&mut self, key: PortKey) -> Result<(), PortInUse> {
        self.table.entry(key).or_default();
        let failed = match self.tell().await {
            Ok(report) => report.failed.into_iter().find(|failure| failure.key == key).map(|failure| failure.cause),
            Err(cause) => Some(format!("the port proxy does not run: {cause}")),
        };
        match failed {
            None => Ok(()),
            Some(cause) => {
                if self.table.get(&key).is_some_and(Vec::is_empty) {
                    self.table.remove(&key);
                }
                Err(PortInUse { key, cause })
            }
        }
    }

    async fn tell_or_warn(&mut self) {
        match self.tell().await {
            Ok(report) => {
                self.dirty = false;
                for failure in report.failed {
                    warn!(port = failure.key.port, cause = failure.cause, "a published port is not open");
                }
            }
            Err(cause) => {
                self.dirty = true;
                warn!(cause, "the port proxy was not told the newest table, trying again");
            }
        }
    }

    /// Tells the proxy the whole table, starting it when there is none.
    async fn tell(&mut self) -> Result<Report, String> {
        let order = Order::of(&self.table);
        if let Some(line) = &mut self.line {
            match exchange(line, &order).await {
                Ok(report) => return Ok(report),
                Err(_) => self.line = None,
            }
        }
        let mut line = match self.connect().await {
            Ok(line) => line,
            Err(_) if self.table.is_empty() => return Ok(nothing_to_do()),
            Err(_) => self.start_proxy().await?,
        };
        let report = exchange(&mut line, &order).await?;
        let report = if report.build == env!("CARGO_PKG_VERSION") {
            report
        } else {
            info!(old = report.build, "an older port proxy runs; a new one takes over");
            exchange(&mut line, &Order { exit: true, ..order.clone() }).await?;
            line = self.start_proxy().await?;
            exchange(&mut line, &order).await?
        };
        self.line = Some(line);
        Ok(report)
    }

    async fn connect(&self) -> Result<BufReader<UnixStream>, String> {
        let connected = timeout(ANSWER_DEADLINE, UnixStream::connect(self.files.socket())).await;
        connected.map_err(|_| "it does not answer".to_owned())?.map(BufReader::new).map_err(|err| err.to_string())
    }

    async fn start_proxy(&self) -> Result<BufReader<UnixStream>, String> {
        // The running image itself: the file may have been replaced by an upgrade meanwhile.
        let mut child = tokio::process::Command::new("/proc/self/exe")
            .arg("proxy")
            .arg("--dir")
            .arg(self.files.directory())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .map_err(|err| format!("it cannot be started: {err}"))?;
        // Not ours to stop, only to reap: it outlives the agent.
        tokio::spawn(async move {
            match child.wait().await {
                Ok(status) => info!(%status, "the port proxy ended"),
                Err(err) => warn!(%err, "the port proxy's end was not seen"),
            }
        });
        let deadline = Instant::now() + START_DEADLINE;
        loop {
            match self.connect().await {
                Ok(line) => return Ok(line),
                Err(cause) if Instant::now() > deadline => return Err(cause),
                Err(_) => sleep(Duration::from_millis(5)).await,
            }
        }
    }

    async fn end_proxy(&mut self) -> Result<(), String> {
        let mut line = match self.line.take() {
            Some(line) => line,
            None => match self.connect().await {
                Ok(line) => line,
                Err(_) => return Ok(()),
            },
        };
        let order = Order { exit: true, ..Order::of(&PortTable::new()) };
        exchange(&mut line, &order).await.map(|_| ())
    }
}

fn nothing_to_do() -> Report {
    Report { version: CONTROL_VERSION, build: env!("CARGO_PKG_VERSION").to_owned(), failed: Vec::new() }
}

async fn exchange(line: &mut BufReader<UnixStream>, order: &Order) -> Result<Report, String> {
    let conversation = async {
        let mut text = serde_json::to_vec(order).map_err(|err| err.to_string())?;
        text.push(b'\n');
        line.write_all(&text).await.map_err(|err| err.to_string())?;
        let mut answer = String::new();
        (&mut *line).take(LINE_BYTES_MAX).read_line(&mut answer).await.map_err(|err| err.to_string())?;
        serde_json::from_str(&answer).map_err(|err| format!("its answer cannot be read: {err}"))
    };
    timeout(ANSWER_DEADLINE, conversation).await.map_err(|_| "it does not answer in time".to_owned())?
}
