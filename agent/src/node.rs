//! Runs on every node: turns the tasks that the log gives this node into containers, and tells the log what became of
//! them.
//!
//! Promises: a container that runs is adopted after a restart and never restarted for it; only a newer committed
//! instruction stops one; a hung engine call holds up nothing but its own container; what was seen is reported until
//! the log has it. Dropping [`Node`] ends the work here and leaves every container as it is.

mod converger;
mod endpoints;
pub mod engine;
mod logs;
mod permits;
mod progress;
mod reporter;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use kawanan_api::{ApiError, ClusterId, NodeId, Revision, TaskId};
use kawanan_logic::{ClusterState, Command};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;

use crate::clock::SharedClock;
use crate::containers::{EngineInfo, SeenContainer, SharedRuntime};
use crate::network::SharedPorts;
use crate::random::SharedRandom;

pub use engine::EngineHealth;
pub use logs::LogSource;

/// How the node puts a command into the log, from wherever it runs.
#[async_trait]
pub trait Submit: Send + Sync + 'static {
    /// Commits a command and returns the revision at which it took effect.
    ///
    /// # Errors
    /// When it is refused, when there is no leader within `deadline`, or when its outcome is unknown then.
    async fn submit(&self, command: Command, deadline: Duration) -> Result<Revision, ApiError>;
}

pub type SharedSubmit = Arc<dyn Submit>;

/// What the node stands on.
#[derive(Clone)]
pub struct NodeParts {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// For people, in messages.
    pub name: String,
    pub engine: SharedRuntime,
    pub state: watch::Receiver<Arc<ClusterState>>,
    /// True once `state` holds everything that was committed when this agent started.
    pub caught_up: watch::Receiver<bool>,
    pub submit: SharedSubmit,
    pub ports: SharedPorts,
    pub clock: SharedClock,
    pub random: SharedRandom,
    /// Creates and starts under way at a time.
    pub parallel_starts: usize,
}

/// Starting containers is work for the processors: twice their number keeps them busy, more only adds waiting.
pub fn parallel_starts() -> usize {
    let cores = std::thread::available_parallelism().map_or(2, std::num::NonZeroUsize::get);
    (2 * cores).max(4)
}

/// What runs on this node right now, by the engine's container id.
pub type Seen = Arc<BTreeMap<String, SeenContainer>>;

/// The running parts. Dropping it ends them.
pub struct Node {
    /// What unfinished tasks are doing, in words: pulling, waiting for health, trying again.
    pub progress: watch::Receiver<BTreeMap<TaskId, String>>,
    pub engine: watch::Receiver<EngineHealth>,
    /// What the engine said about itself last; `None` until it answered once.
    pub engine_info: watch::Receiver<Option<EngineInfo>>,
    pub seen: watch::Receiver<Seen>,
    pub logs: LogSource,
    pings: mpsc::Sender<oneshot::Sender<()>>,
    _owners: JoinSet<()>,
}

impl Node {
    /// Starts everything. Needs a tokio runtime.
    pub fn spawn(parts: NodeParts) -> Self {
        let mut owners = JoinSet::new();
        let (progress, progress_seen) = progress::board();
        let (seen_out, seen) = watch::channel(Seen::default());
        let (pings, pinged) = mpsc::channel(4);
        let reporter = reporter::spawn(&parts, &mut owners);
        let (engine, engine_info) = engine::spawn(&parts, seen.clone(), &mut owners);
        let logs = LogSource::new(parts.cluster, parts.engine.clone(), seen.clone());
        let converger = converger::Converger::new(parts, reporter, progress, seen_out);
        owners.spawn(converger.run(pinged));
        Self {
            progress: progress_seen,
            engine,
            engine_info,
            seen,
            logs,
            pings,
            _owners: owners,
        }
    }

    /// Whether the loop that cares for containers still turns. For the watchdog; does not answer while it is stuck.
    pub fn is_turning(&self) -> impl Future<Output = bool> + Send + use<> {
        let pings = self.pings.clone();
        async move {
            let (answer, answered) = oneshot::channel();
            pings.send(answer).await.is_ok() && answered.await.is_ok()
        }
    }
}

#[cfg(test)]
mod tests;
