//! The disk of a node: one write at a time, everything that comes up meanwhile goes into the next one.
//!
//! A write never holds up the owner: it runs on a thread of its own, or, in simulation, after a wait in virtual time. The
//! first failure is the last thing that happens: it is reported and nothing is written after it.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::RaftId;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use super::StateMachine;
use super::log_node::Work;
use crate::log_store::{Checkpoint, LogStore, Persisted, Snapshot, StoreError};

/// Entry bytes that wait for the disk before the owner takes no more messages.
const WAITING_BYTES_MAX: usize = 32 << 20;

/// How long a simulated write takes; asked anew for each.
pub type Latency = Box<dyn FnMut() -> Duration + Send>;

/// Where a node's log goes, before the node is started.
pub struct Setup {
    store: Box<dyn LogStore>,
    /// Simulated, when there.
    latency: Option<Latency>,
}

impl Setup {
    /// A real disk: a thread waits for it.
    pub fn on_thread(store: impl LogStore) -> Self {
        Self {
            store: Box::new(store),
            latency: None,
        }
    }

    /// A simulated disk: a tokio task waits in virtual time before each write. What it has not written when it is aborted
    /// is lost, as in a crash.
    pub fn simulated(store: impl LogStore, latency: Latency) -> Self {
        Self {
            store: Box::new(store),
            latency: Some(latency),
        }
    }

    /// Reads the log, then starts the disk.
    pub(super) fn open<S: StateMachine>(mut self, owner: RaftId) -> Result<Opened<S>, StoreError> {
        let persisted = self.store.load(owner)?;
        let (work, inbox) = mpsc::channel(1);
        let (reports, done) = mpsc::channel(1);
        let task = match self.latency {
            Some(latency) => Some(tokio::spawn(write_in_virtual_time(
                self.store, latency, inbox, reports,
            ))),
            None => {
                std::thread::Builder::new()
                    .name("log-disk".into())
                    .spawn(move || write_on_thread(self.store, inbox, &reports))
                    .map_err(|err| StoreError::Io {
                        doing: "starting the disk's thread",
                        cause: err.to_string(),
                    })?;
                None
            }
        };
        let persister = Persister {
            work,
            done,
            busy: false,
            waiting: None,
        };
        Ok(Opened {
            persisted,
            persister,
            task,
        })
    }
}

/// A log that was read, and its disk.
pub(super) struct Opened<S> {
    pub(super) persisted: Persisted,
    pub(super) persister: Persister<S>,
    pub(super) task: Option<JoinHandle<()>>,
}

/// What became of some work.
type Report = Result<u64, StoreError>;

/// The owner's end of the disk.
pub struct Persister<S> {
    work: mpsc::Sender<Work<S>>,
    done: mpsc::Receiver<Report>,
    busy: bool,
    waiting: Option<Work<S>>,
}

impl<S: StateMachine> Persister<S> {
    /// Takes work on. Never waits.
    ///
    /// # Errors
    /// When the disk's thread is gone.
    pub fn submit(&mut self, work: Work<S>) -> Result<(), StoreError> {
        match &mut self.waiting {
            Some(waiting) => waiting.merge(work),
            none => *none = Some(work),
        }
        self.start_next()
    }

    fn start_next(&mut self) -> Result<(), StoreError> {
        if self.busy {
            return Ok(());
        }
        let Some(work) = self.waiting.take() else {
            return Ok(());
        };
        self.busy = true;
        self.work.try_send(work).map_err(|_| gone())
    }

    /// Waits until a write is done; returns the number of the newest work that is durable. Waits for ever when nothing is
    /// under way. Cancel safe.
    ///
    /// # Errors
    /// When the write failed, or the disk's thread is gone.
    pub async fn done(&mut self) -> Result<u64, StoreError> {
        if !self.busy {
            return std::future::pending().await;
        }
        let number = self.done.recv().await.ok_or_else(gone)??;
        self.busy = false;
        self.start_next()?;
        Ok(number)
    }

    pub fn is_idle(&self) -> bool {
        !self.busy
    }

    /// Whether so much waits that no more should be taken in.
    pub fn is_full(&self) -> bool {
        self.waiting
            .as_ref()
            .is_some_and(|work| work.write.entry_bytes() > WAITING_BYTES_MAX)
    }
}

fn gone() -> StoreError {
    StoreError::Io {
        doing: "writing the log",
        cause: "the thread that writes has ended".into(),
    }
}

fn write_on_thread<S: StateMachine>(
    mut store: Box<dyn LogStore>,
    mut inbox: mpsc::Receiver<Work<S>>,
    reports: &mpsc::Sender<Report>,
) {
    while let Some(work) = inbox.blocking_recv() {
        let report = carry_out(store.as_mut(), work);
        let failed = report.is_err();
        if reports.blocking_send(report).is_err() || failed {
            return;
        }
    }
}

async fn write_in_virtual_time<S: StateMachine>(
    mut store: Box<dyn LogStore>,
    mut latency: Latency,
    mut inbox: mpsc::Receiver<Work<S>>,
    reports: mpsc::Sender<Report>,
) {
    while let Some(work) = inbox.recv().await {
        tokio::time::sleep(latency()).await;
        let report = carry_out(store.as_mut(), work);
        let failed = report.is_err();
        if reports.send(report).await.is_err() || failed {
            return;
        }
    }
}

fn carry_out<S: StateMachine>(store: &mut dyn LogStore, work: Work<S>) -> Report {
    let number = work.number;
    let written = catch_unwind(AssertUnwindSafe(|| {
        let mut write = work.write;
        if let Some(save) = work.checkpoint {
            let data = save.state.snapshot().map_err(|err| StoreError::Encode {
                cause: err.to_string(),
            })?;
            write.checkpoint = Some(Checkpoint {
                snapshot: Snapshot {
                    at: save.at,
                    members: save.members,
                    data: Bytes::from(data),
                },
                drop_to: save.drop_to,
            });
        }
        store.write(&write)
    }));
    match written {
        Ok(result) => result.map(|()| number),
        Err(_) => Err(StoreError::Io {
            doing: "writing the log",
            cause: "the store panicked".into(),
        }),
    }
}
