//! All that the API needs of the agent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use async_trait::async_trait;
use kawanan_api::{ApiError, NodeId, TaskId};
use kawanan_logic::state::Outcome;
use kawanan_logic::{ClusterState, Entry, Observation};
use tokio::sync::{mpsc, watch};

use crate::containers::LogQuery;
use crate::peer::LogFrame;

/// Who is who, as this node knows it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Standing {
    pub this_node: NodeId,
    /// For people.
    pub this_node_name: String,
    pub leader: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    /// What nodes are doing for their tasks right now, such as pulling an image.
    pub notes: BTreeMap<TaskId, String>,
}

/// The agent behind the API.
#[async_trait]
pub trait Backend: Send + Sync + 'static {
    /// The state as this node applies it.
    fn state(&self) -> watch::Receiver<Arc<ClusterState>>;

    fn standing(&self) -> Standing;

    /// Who seems alive.
    fn observation(&self) -> Observation;

    /// Puts an entry into the log, through the leader wherever it is, and waits for its outcome.
    ///
    /// # Errors
    /// The entry's own refusal; `NoLeader` when nobody could take it, and it will never happen; `OutcomeUnknown` when
    /// the answer was lost.
    async fn submit(&self, entry: Entry) -> Outcome;

    /// Returns once this node has applied all that was answered anywhere before the call.
    ///
    /// # Errors
    /// `NoLeader`.
    async fn read_barrier(&self) -> Result<(), ApiError>;

    /// Takes this node out of its cluster and ends the agent soon after. `last`: it is the only node.
    ///
    /// # Errors
    /// When the cluster cannot be told.
    async fn leave(&self, last: bool) -> Result<(), ApiError>;

    /// The output of a task's container, from whichever node runs it.
    ///
    /// # Errors
    /// When that node cannot be asked.
    async fn logs(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogFrame>, ApiError>;
}
