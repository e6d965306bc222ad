//! The container engine behind a narrow trait: what a node needs of Docker, and nothing more.
//!
//! Every call has a deadline inside and returns a typed error; a hung engine makes calls fail, it never makes them
//! wait for ever. Creating is idempotent by task. The trait never restarts, never decides: `logic::converge` does.
//!
//! [`docker`] is the real thing, [`simulated`] its twin in virtual time; one contract suite runs on both.

pub mod docker;
pub mod simulated;

#[cfg(test)]
mod contract;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{ClusterId, NodeId, ServiceId, ServiceSpec, Slot, TaskId, Timestamp};
use tokio::sync::mpsc;

/// Everything needed to make one task's container.
#[derive(Debug, Clone)]
pub struct TaskContainer {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub node_name: String,
    pub service: ServiceId,
    pub task: TaskId,
    pub slot: Option<Slot>,
    pub spec: Arc<ServiceSpec>,
}

/// A container of ours as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SeenContainer {
    pub id: String,
    pub name: String,
    /// From the labels; `None` when a label is missing or damaged.
    pub task: Option<TaskId>,
    pub service: Option<ServiceId>,
    /// The node whose agent made it.
    pub node: Option<NodeId>,
    pub status: ContainerStatus,
    /// Address on the engine's bridge while running, for the port proxy.
    pub address: Option<std::net::IpAddr>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ContainerStatus {
    Created,
    Running {
        health: Health,
        since: Timestamp,
    },
    Paused,
    Exited {
        code: i32,
        out_of_memory: bool,
        at: Timestamp,
        error: String,
    },
    /// On its way out, or stuck there.
    Removing,
    /// The engine could not get rid of it and lost track.
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// The container has no health check.
    NoCheck,
    Starting,
    Healthy,
    Unhealthy,
}

/// What the engine says about itself and its machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineInfo {
    pub version: String,
    pub os: String,
    pub arch: String,
    pub capacity: ResourceAmounts,
}

/// Why the engine did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EngineError {
    /// The socket does not answer at all.
    #[error("cannot reach the container engine at {endpoint}: {cause}")]
    Unreachable { endpoint: String, cause: String },
    /// No answer within the deadline; it may still happen.
    #[error("the container engine did not answer `{call}` within {after:?}")]
    TimedOut { call: &'static str, after: Duration },
    /// Nobody has this image: asking again will not help.
    #[error("no such image: {image} ({cause})")]
    NoSuchImage { image: String, cause: String },
    /// The registry wants fewer pulls; later it will give the image.
    #[error("the registry limits pulls, so {image} has to wait: {cause}")]
    RegistryBusy { image: String, cause: String },
    /// The image could not be fetched this time.
    #[error("cannot pull {image}: {cause}")]
    Image { image: String, cause: String },
    /// The engine refuses this container: port taken, mount missing, bad option.
    #[error("{0}")]
    Refused(String),
    /// No such container.
    #[error("container {0} does not exist")]
    Gone(String),
    #[error("the container engine failed: {0}")]
    Failed(String),
}

/// Which lines of a container's output are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogQuery {
    pub follow: bool,
    /// Newest lines only; `None`: all.
    pub tail: Option<u32>,
    pub since: Option<Timestamp>,
}

/// A line of output, without its line end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogLine {
    pub at: Timestamp,
    pub stderr: bool,
    pub text: Bytes,
}

/// Something happened to a container of ours: look again. Says nothing of what happened, on purpose; the id only
/// tells where to look first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stirred {
    pub container: Option<String>,
}

#[async_trait]
pub trait ContainerRuntime: Send + Sync + 'static {
    async fn info(&self) -> Result<EngineInfo, EngineError>;

    /// All containers that carry this cluster's label, running or not.
    async fn list(&self, cluster: ClusterId) -> Result<Vec<SeenContainer>, EngineError>;

    /// One container as it is now.
    async fn inspect(&self, container: &str) -> Result<SeenContainer, EngineError>;

    /// Makes sure that the image is here, pulling it if it is not.
    async fn ensure_image(&self, spec: &ServiceSpec) -> Result<(), EngineError>;

    /// Creates the task's container, or finds the one that an earlier attempt created; returns its id.
    async fn create(&self, container: &TaskContainer) -> Result<String, EngineError>;

    /// Starts it; fine when it runs already.
    async fn start(&self, container: &str) -> Result<(), EngineError>;

    /// Asks it to stop and kills it after `grace`; fine when it is stopped or gone.
    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError>;

    /// Deletes it with its anonymous volumes; fine when it is gone.
    async fn remove(&self, container: &str) -> Result<(), EngineError>;

    /// Lines of output; the channel ends with them.
    async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>, EngineError>;

    /// Wakes up when a container of the cluster changes. Hints only: the channel may end or miss any.
    async fn events(&self, cluster: ClusterId) -> Result<mpsc::Receiver<Stirred>, EngineError>;
}

/// How parts of the agent hold the engine.
pub type SharedRuntime = Arc<dyn ContainerRuntime>;
