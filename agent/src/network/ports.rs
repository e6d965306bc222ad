//! The agent's side of published ports: one owner task holds the table and the line to the proxy.
//!
//! Promises: a port is [`IngressPorts::ensure`]d before the first task behind it starts, so a taken port is a clear
//! refusal and not a silent hole; the newest table always reaches the proxy, also after either side restarted; a proxy
//! that runs is adopted. Never stops the proxy when the agent stops, and tells it nothing before the agent knows what
//! should run: an adopted proxy serves its last table until then.

mod line;

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};
use tracing::{debug, info, warn};

use super::table::{Order, PortKey, PortTable, ProxyFiles, Report};
use line::Line;

/// After the proxy could not be started or did not answer; each wait doubles up to the longest.
const RETRY_FIRST: Duration = Duration::from_millis(100);
const RETRY_LONGEST: Duration = Duration::from_secs(5);
/// A port that somebody else has is tried again so often.
const TAKEN_RETRY: Duration = Duration::from_secs(5);
/// How long a port stays open that was ensured and is in no table yet.
const RESERVED: Duration = Duration::from_secs(60);
/// Waiting requests; each is answered within a few milliseconds while the proxy runs.
const QUEUE: usize = 64;

/// Somebody else answers on the port.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("port {key} cannot be opened on this node: {cause}")]
pub struct PortInUse {
    pub key: PortKey,
    pub cause: String,
}

impl PortInUse {
    /// The same in words for people who look at several nodes.
    pub fn on_node(&self, node: &str) -> String {
        match self.cause.as_str() {
            TAKEN => format!("port {} is in use on {node} by another process", self.key),
            cause => format!("port {} cannot be opened on {node}: {cause}", self.key),
        }
    }
}

/// The cause that the proxy gives for a port that another process has.
pub(super) const TAKEN: &str = "another process listens on it";

/// What those who run tasks need of published ports. The twin in tests opens nothing.
#[async_trait]
pub trait IngressPorts: Send + Sync + 'static {
    /// Opens the port on this node if it is not open yet.
    ///
    /// # Errors
    /// When another process has it, or it cannot be opened at all.
    async fn ensure(&self, key: PortKey) -> Result<(), PortInUse>;

    /// Replaces the table: these containers answer from now on, ports that are not in it are closed. Never waits.
    fn update(&self, table: PortTable);

    /// Waits until the last [`IngressPorts::update`] is in force, or is known not to be for now.
    async fn settled(&self);
}

pub type SharedPorts = Arc<dyn IngressPorts>;

/// What the rest of the agent holds.
#[derive(Clone)]
pub struct PortsHandle {
    requests: mpsc::Sender<Ask>,
    table: Arc<watch::Sender<Option<PortTable>>>,
}

enum Ask {
    Ensure(PortKey, oneshot::Sender<Result<(), PortInUse>>),
    Settled(oneshot::Sender<()>),
    EndProxy(oneshot::Sender<()>),
}

#[async_trait]
impl IngressPorts for PortsHandle {
    async fn ensure(&self, key: PortKey) -> Result<(), PortInUse> {
        let stopped = || PortInUse {
            key,
            cause: "the agent is stopping".to_owned(),
        };
        let (reply, answer) = oneshot::channel();
        let asked = self.requests.send(Ask::Ensure(key, reply)).await;
        asked.map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    fn update(&self, table: PortTable) {
        self.table.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&table);
            *known = Some(table);
            changed
        });
    }

    async fn settled(&self) {
        let (reply, answer) = oneshot::channel();
        if self.requests.send(Ask::Settled(reply)).await.is_err() || answer.await.is_err() {
            debug!("the published ports are not settled: the agent is stopping");
        }
    }
}

impl PortsHandle {
    /// Ends the proxy; open connections may finish. For a node that leaves its cluster.
    pub async fn end_proxy(&self) {
        let (done, ended) = oneshot::channel();
        if self.requests.send(Ask::EndProxy(done)).await.is_err() || ended.await.is_err() {
            warn!("the port proxy may still run: the agent is stopping");
        }
    }
}

/// How a proxy is started when none runs. It must outlive the agent.
pub trait Launch: Send + Sync + 'static {
    /// Starts one, or says why not. The proxy opens its socket a moment later.
    ///
    /// # Errors
    /// When the process cannot be started.
    fn launch(&self, files: &ProxyFiles) -> io::Result<()>;
}

/// Starts the owner, with the agent's own binary as the proxy. It ends when all handles are dropped.
pub fn spawn(files: ProxyFiles) -> (PortsHandle, JoinHandle<()>) {
    spawn_with(files, env!("CARGO_PKG_VERSION"), line::OwnBinary)
}

pub(super) fn spawn_with(
    files: ProxyFiles,
    build: &'static str,
    launch: impl Launch,
) -> (PortsHandle, JoinHandle<()>) {
    let (requests, asked) = mpsc::channel(QUEUE);
    let (table, newest) = watch::channel(None);
    let owner = PortsOwner {
        line: Line::new(files, build, Box::new(launch)),
        newest,
        reserved: BTreeMap::new(),
        told: None,
        failed: BTreeMap::new(),
        failures: 0,
        again_at: None,
    };
    let handle = PortsHandle {
        requests,
        table: Arc::new(table),
    };
    (handle, tokio::spawn(owner.run(asked)))
}

struct PortsOwner {
    line: Line,
    /// `None` until the agent knows what should run.
    newest: watch::Receiver<Option<PortTable>>,
    /// Ports that were ensured for tasks that no table has yet.
    reserved: BTreeMap<PortKey, Instant>,
    /// What the proxy at the other end of the line has in force.
    told: Option<PortTable>,
    /// Ports of it that are not open, and why.
    failed: BTreeMap<PortKey, String>,
    /// In a row, of reaching the proxy.
    failures: u32,
    again_at: Option<Instant>,
}

impl PortsOwner {
    async fn run(mut self, mut asked: mpsc::Receiver<Ask>) {
        loop {
            let again_at = self.again_at;
            let waits = async {
                match again_at {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                ask = asked.recv() => match ask {
                    Some(ask) => self.handle(ask).await,
                    None => return,
                },
                changed = self.newest.changed() => {
                    if changed.is_err() {
                        return;
                    }
                    self.tell().await;
                }
                () = self.line.broken(), if self.line.is_open() => {
                    warn!("the port proxy went away");
                    self.told = None;
                    self.tell().await;
                }
                () = waits => {
                    self.again_at = None;
                    self.told = None;
                    self.tell().await;
                }
            }
        }
    }

    async fn handle(&mut self, ask: Ask) {
        match ask {
            Ask::Ensure(key, reply) => {
                let result = self.ensure(key).await;
                if reply.send(result).is_err() {
                    debug!(%key, "nobody waits for the port any more");
                }
            }
            Ask::Settled(reply) => {
                self.tell().await;
                if reply.send(()).is_err() {
                    debug!("nobody waits for the ports any more");
                }
            }
            Ask::EndProxy(done) => {
                if let Err(cause) = self.line.end_proxy().await {
                    warn!(cause, "the port proxy was not told to end");
                }
                self.told = Some(PortTable::new());
                if done.send(()).is_err() {
                    debug!("nobody waits for the proxy's end any more");
                }
            }
        }
    }

    async fn ensure(&mut self, key: PortKey) -> Result<(), PortInUse> {
        let is_open = |this: &Self| {
            let told = this
                .told
                .as_ref()
                .is_some_and(|table| table.contains_key(&key));
            told && this.line.is_open() && !this.failed.contains_key(&key)
        };
        self.reserved.insert(key, Instant::now());
        if is_open(self) {
            return Ok(());
        }
        // Somebody may have let go of it since.
        self.told = None;
        let unreached = self.tell().await;
        if is_open(self) {
            return Ok(());
        }
        self.reserved.remove(&key);
        let cause = self.failed.get(&key).cloned().or(unreached);
        Err(PortInUse {
            key,
            cause: cause.unwrap_or_else(|| "nothing is known yet of what should run".to_owned()),
        })
    }

    /// What should be in force; `None` as long as the agent does not know.
    fn wanted(&mut self) -> Option<PortTable> {
        let mut table = self.newest.borrow_and_update().clone()?;
        self.reserved
            .retain(|key, since| !table.contains_key(key) && since.elapsed() < RESERVED);
        for key in self.reserved.keys() {
            table.entry(*key).or_default();
        }
        Some(table)
    }

    /// Makes the proxy serve what is wanted, starting it when there is none and something to serve. Returns why not.
    async fn tell(&mut self) -> Option<String> {
        let wanted = self.wanted()?;
        if self.told.as_ref() == Some(&wanted) {
            return None;
        }
        match self.line.tell(&Order::of(&wanted)).await {
            Ok(report) => {
                self.in_force(wanted, report);
                None
            }
            Err(cause) => {
                warn!(cause, "the port proxy was not told the newest table");
                self.told = None;
                self.failures = self.failures.saturating_add(1);
                let wait = RETRY_FIRST.saturating_mul(1 << self.failures.min(10));
                self.again_at = Some(Instant::now() + wait.min(RETRY_LONGEST));
                Some(format!("the port proxy does not run: {cause}"))
            }
        }
    }

    fn in_force(&mut self, table: PortTable, report: Option<Report>) {
        let failed = report.map(|report| report.failed).unwrap_or_default();
        let failed: BTreeMap<PortKey, String> = failed
            .into_iter()
            .map(|failure| (failure.key, failure.cause))
            .collect();
        for (key, cause) in &failed {
            if self.failed.get(key) != Some(cause) {
                warn!(%key, cause, "a published port is not open");
            }
        }
        for key in self.failed.keys().filter(|key| !failed.contains_key(key)) {
            info!(%key, "a published port is not in the way any more");
        }
        self.again_at = (!failed.is_empty()).then(|| Instant::now() + TAKEN_RETRY);
        self.failed = failed;
        self.failures = 0;
        self.told = Some(table);
    }
}
