//! The port proxy: a process of its own that passes connections on published ports to containers of this node.
//!
//! Promises: serves its last table from disk after a restart; a container that is taken out of the table gets no new
//! connection and keeps its open ones; while nothing was sent, a container that refuses is skipped for the next; a newer
//! version takes over without losing a connection. Never talks to the cluster, Docker or the log: its only master is the
//! control socket, which only its own user can open.

mod control;
mod handover;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::spec::Protocol;
use tokio::sync::{Semaphore, oneshot, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::ports::TAKEN;
use super::table::{Order, PortFailure, PortKey, PortTable, ProxyFiles};
use control::{Answer, Pending};
use handover::Inherited;

/// Connections passed on at a time. Each costs two sockets and 16 KiB.
const CONNECTIONS_MAX: u64 = 8192;
/// Open files that are not connections: ports, the control socket, the runtime's own.
const OTHER_FILES: u64 = 256;
/// With nothing to serve for so long, the process ends.
const IDLE_END: Duration = Duration::from_secs(60);
/// How long open connections may go on after the process was told to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3600);
/// Time for a newer proxy to receive the sockets.
const HAND_OVER_DEADLINE: Duration = Duration::from_secs(3);

/// The containers behind one port; replaced as a whole.
type Backends = Arc<Vec<SocketAddr>>;

/// Serves until told to end, until a newer version takes over, or until there was nothing to serve for a minute.
///
/// # Errors
/// When a proxy of this version serves in the directory, or the control socket cannot be opened.
pub async fn run(directory: &Path) -> io::Result<()> {
    // In a session of its own, so that neither the agent's end nor a Ctrl-C in its terminal reaches this process.
    if let Err(err) = rustix::process::setsid() {
        info!(%err, "the proxy stays in its session");
    }
    serve(
        ProxyFiles::new(directory),
        env!("CARGO_PKG_VERSION"),
        IDLE_END,
    )
    .await
}

/// [`run`] without what concerns the process.
pub(super) async fn serve(
    files: ProxyFiles,
    build: &'static str,
    idle_end: Duration,
) -> io::Result<()> {
    let open_files = handover::raise_open_files();
    let (lock, inherited) = handover::become_the_one(&files, build).await?;
    let places = CONNECTIONS_MAX
        .min(open_files.saturating_sub(OTHER_FILES) / 2)
        .max(16);
    let mut proxy = Proxy::new(files.clone(), places, inherited);
    let failed = proxy.apply(&last_table(&files));
    info!(
        build,
        ports = proxy.ports.len(),
        failed = failed.len(),
        "the port proxy serves"
    );
    let (mut orders, control) = control::listen(&files, build)?;
    let mut idle_since = Instant::now();
    let mut sent = None;
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(Pending { order, answer }) = order else { break };
                idle_since = Instant::now();
                if order.hand_over_to.as_ref().is_some_and(|newer| newer != build) {
                    control.abort();
                    proxy.forget_socket();
                    drop(lock);
                    sent = proxy.hand_over(answer);
                    break;
                }
                if order.hand_over_to.is_some() {
                    reply(answer, Answer::default());
                    continue;
                }
                let failed = proxy.apply(&order.table());
                proxy.keep_table(&order);
                reply(answer, Answer { failed, ..Answer::default() });
                if order.exit {
                    break;
                }
            }
            () = sleep(idle_end) => {
                if proxy.ports.is_empty() && idle_since.elapsed() >= idle_end {
                    break;
                }
            }
        }
    }
    match sent {
        Some(sent) => {
            if timeout(HAND_OVER_DEADLINE, sent).await.is_err() {
                warn!("the newer proxy did not take all ports; it opens them itself");
            }
        }
        None => {
            control.abort();
            proxy.forget_socket();
        }
    }
    proxy.drain().await;
    Ok(())
}

fn reply(asked: oneshot::Sender<Answer>, answer: Answer) {
    if asked.send(answer).is_err() {
        info!("the agent went away before its answer");
    }
}

/// The table that was served last; an unreadable one is empty, the agent will tell it again.
fn last_table(files: &ProxyFiles) -> PortTable {
    let Ok(bytes) = std::fs::read(files.last_table()) else {
        return PortTable::new();
    };
    match serde_json::from_slice::<Order>(&bytes) {
        Ok(order) => order.table(),
        Err(err) => {
            warn!(%err, "the last table cannot be read");
            PortTable::new()
        }
    }
}

struct Proxy {
    files: ProxyFiles,
    ports: BTreeMap<PortKey, OpenPort>,
    places: Arc<Semaphore>,
    places_max: u64,
    /// Sockets of the proxy before this one, until the first table says which of them are wanted.
    inherited: Inherited,
}

struct OpenPort {
    backends: watch::Sender<Backends>,
    listener: JoinHandle<()>,
    /// The socket once more, for the proxy after this one.
    socket: OwnedFd,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Proxy {
    fn new(files: ProxyFiles, places_max: u64, inherited: Inherited) -> Self {
        let places = usize::try_from(places_max).unwrap_or(usize::MAX);
        Self {
            files,
            ports: BTreeMap::new(),
            places: Arc::new(Semaphore::new(places.min(Semaphore::MAX_PERMITS))),
            places_max,
            inherited,
        }
    }

    /// Serves exactly this table; returns the ports that could not be opened.
    fn apply(&mut self, table: &PortTable) -> Vec<PortFailure> {
        self.ports.retain(|key, _| table.contains_key(key));
        let mut failed = Vec::new();
        for (key, backends) in table {
            let backends: Backends = Arc::new(backends.clone());
            if let Some(open) = self.ports.get(key) {
                open.backends.send_if_modified(|known| {
                    let changed = **known != *backends;
                    if changed {
                        *known = backends;
                    }
                    changed
                });
                continue;
            }
            match self.open(*key, backends) {
                Ok(open) => {
                    self.ports.insert(*key, open);
                }
                Err(err) => failed.push(PortFailure {
                    key: *key,
                    cause: cause_of(&err),
                }),
            }
        }
        self.inherited.clear();
        failed
    }

    fn open(&mut self, key: PortKey, backends: Backends) -> io::Result<OpenPort> {
        let inherited = self.inherited.remove(&key);
        let (backends, seen) = watch::channel(backends);
        let (listener, socket) = match key.protocol {
            Protocol::Tcp => {
                let door = tcp::door(key.port, inherited)?;
                let socket = door.as_fd_owned()?;
                (tcp::serve(door.0, seen, Arc::clone(&self.places)), socket)
            }
            Protocol::Udp => {
                let door = udp::door(key.port, inherited)?;
                let socket = door.as_fd_owned()?;
                (udp::serve(door.0, seen), socket)
            }
        };
        Ok(OpenPort {
            backends,
            listener,
            socket,
        })
    }

    /// Remembers the table for the next start. A failed write costs only that memory.
    fn keep_table(&self, order: &Order) {
        let aside = self.files.last_table().with_extension("new");
        let kept = Order {
            exit: false,
            hand_over_to: None,
            ..order.clone()
        };
        let written = serde_json::to_vec(&kept)
            .map_err(io::Error::other)
            .and_then(|bytes| std::fs::write(&aside, bytes))
            .and_then(|()| std::fs::rename(&aside, self.files.last_table()));
        if let Err(err) = written {
            warn!(%err, "the table was not kept for a restart");
        }
    }

    /// Gives all sockets to whoever asked, and accepts nothing any more. Returns what resolves when they are sent.
    fn hand_over(&mut self, asked: oneshot::Sender<Answer>) -> Option<oneshot::Receiver<()>> {
        let ports = std::mem::take(&mut self.ports);
        let mut handed = Vec::new();
        for (key, open) in &ports {
            match open.socket.try_clone() {
                Ok(socket) => handed.push((*key, socket)),
                Err(err) => warn!(%key, %err, "a port is not handed over"),
            }
        }
        // Stops accepting before anybody else starts; who waits to be accepted waits in the socket.
        drop(ports);
        let (done, sent) = oneshot::channel();
        info!(ports = handed.len(), "a newer port proxy takes over");
        reply(
            asked,
            Answer {
                handed,
                done: Some(done),
                ..Answer::default()
            },
        );
        Some(sent)
    }

    fn forget_socket(&self) {
        if let Err(err) = std::fs::remove_file(self.files.socket()) {
            info!(%err, "the control socket was gone already");
        }
    }

    /// Closes all ports and waits for open connections to finish.
    async fn drain(mut self) {
        self.ports.clear();
        let all = u32::try_from(self.places_max).unwrap_or(u32::MAX);
        let finished = timeout(DRAIN_DEADLINE, self.places.acquire_many(all)).await;
        if finished.is_err() {
            info!("connections that are still open are cut off");
        }
    }
}

fn cause_of(err: &io::Error) -> String {
    match err.kind() {
        io::ErrorKind::AddrInUse => TAKEN.to_owned(),
        io::ErrorKind::PermissionDenied => "this process may not open it".to_owned(),
        _ => err.to_string(),
    }
}

#[cfg(test)]
mod tests;
