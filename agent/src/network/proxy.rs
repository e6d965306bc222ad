//! The port proxy: a process of its own that passes connections on published ports to containers of this node.
//!
//! Promises: serves its last table from disk after a restart; a container that is taken out of the table gets no new
//! connection and keeps its open ones; while nothing was sent, a container that refuses is skipped for the next. Never
//! talks to the cluster, Docker or the log: its only master is the control socket, which only root can open.

mod control;
mod tcp;
mod udp;

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io;
use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::spec::Protocol;
use rustix::fs::{FlockOperation, flock};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::{info, warn};

use super::ports::TAKEN;
use super::table::{Order, PortFailure, PortKey, PortTable, ProxyFiles};

/// Connections passed on at a time. Each costs two sockets and 16 KiB.
const CONNECTIONS_MAX: usize = 8192;
/// With nothing to serve for so long, the process ends.
const IDLE_END: Duration = Duration::from_secs(60);
/// How long open connections may go on after the process was told to end.
const DRAIN_DEADLINE: Duration = Duration::from_secs(3600);

/// The containers behind one port; replaced as a whole.
type Backends = Arc<Vec<SocketAddr>>;

/// Serves until told to end, or until there was nothing to serve for a minute.
///
/// # Errors
/// When another proxy runs in the directory, or the control socket cannot be opened.
pub async fn run(directory: &Path) -> io::Result<()> {
    // In a session of its own, so that neither the agent's end nor a Ctrl-C in its terminal reaches this process.
    if let Err(err) = rustix::process::setsid() {
        info!(%err, "the proxy stays in its session");
    }
    let files = ProxyFiles::new(directory);
    let lock = take_lock(&files)?;
    let mut proxy = Proxy::new(files.clone());
    proxy.apply(&last_table(&files));
    let mut orders = control::listen(&files)?;
    let mut idle_since = Instant::now();
    loop {
        tokio::select! {
            biased;
            order = orders.recv() => {
                let Some(control::Pending { order, reply }) = order else { break };
                let failed = proxy.apply(&order.table());
                proxy.keep_table(&order);
                if reply.send(failed).is_err() {
                    info!("the agent went away before its answer");
                }
                if order.exit {
                    break;
                }
                idle_since = Instant::now();
            }
            () = sleep(IDLE_END) => {
                if proxy.ports.is_empty() && idle_since.elapsed() >= IDLE_END {
                    break;
                }
            }
        }
    }
    proxy.close();
    // From here on another proxy may serve the ports; this one only sees its open connections out.
    drop(lock);
    proxy.drain().await;
    Ok(())
}

fn take_lock(files: &ProxyFiles) -> io::Result<File> {
    let lock = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(files.lock())?;
    flock(&lock, FlockOperation::NonBlockingLockExclusive).map_err(|_| {
        io::Error::new(
            io::ErrorKind::AddrInUse,
            "another port proxy runs in this directory",
        )
    })?;
    Ok(lock)
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
}

struct OpenPort {
    backends: watch::Sender<Backends>,
    listener: JoinHandle<()>,
}

impl Drop for OpenPort {
    fn drop(&mut self) {
        self.listener.abort();
    }
}

impl Proxy {
    fn new(files: ProxyFiles) -> Self {
        Self {
            files,
            ports: BTreeMap::new(),
            places: Arc::new(Semaphore::new(CONNECTIONS_MAX)),
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
        failed
    }

    fn open(&self, key: PortKey, backends: Backends) -> io::Result<OpenPort> {
        let (backends, seen) = watch::channel(backends);
        let listener = match key.protocol {
            Protocol::Tcp => tcp::serve(key.port, seen, Arc::clone(&self.places))?,
            Protocol::Udp => udp::serve(key.port, seen)?,
        };
        Ok(OpenPort { backends, listener })
    }

    /// Remembers the table for the next start. A failed write costs only that memory.
    fn keep_table(&self, order: &Order) {
        let aside = self.files.last_table().with_extension("new");
        let written = serde_json::to_vec(&Order {
            exit: false,
            ..order.clone()
        })
        .map_err(io::Error::other)
        .and_then(|bytes| std::fs::write(&aside, bytes))
        .and_then(|()| std::fs::rename(&aside, self.files.last_table()));
        if let Err(err) = written {
            warn!(%err, "the table was not kept for a restart");
        }
    }

    /// Closes all ports and the control socket. Open connections go on.
    fn close(&mut self) {
        self.ports.clear();
        if let Err(err) = std::fs::remove_file(self.files.socket()) {
            info!(%err, "the control socket was gone already");
        }
    }

    /// Waits for open connections to finish.
    async fn drain(self) {
        let all = u32::try_from(CONNECTIONS_MAX).unwrap_or(u32::MAX);
        if timeout(DRAIN_DEADLINE, self.places.acquire_many(all))
            .await
            .is_err()
        {
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
