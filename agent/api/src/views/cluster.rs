//! The cluster as a whole, and the answer to a write.

use serde::{Deserialize, Serialize};

use crate::ids::{ClusterId, NodeId, Revision};
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ClusterView {
    /// `None` on an agent that belongs to no cluster yet.
    pub id: Option<ClusterId>,
    pub created_at: Option<Timestamp>,
    /// The node that answers.
    pub this_node: NodeId,
    pub this_node_name: String,
    pub leader: Option<NodeId>,
    pub leader_name: Option<String>,
    /// All listed nodes, those that left included.
    pub nodes: u32,
    pub nodes_ready: u32,
    /// Nodes whose votes elect the leader and commit writes.
    pub voters: u32,
    pub voters_ready: u32,
    /// How many more voters may fail before writes stop.
    pub losses_tolerated: u32,
    pub services: u32,
    pub tasks_running: u32,
    /// A leader is known, every node is ready, and every seat of every service runs.
    pub healthy: bool,
    /// Why not, one sentence each; empty when healthy.
    pub problems: Vec<String>,
    /// Last entry of the service log that the answering node has applied.
    pub revision: Revision,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct VersionView {
    /// Of the agent that answers, such as `0.1.0`.
    pub version: String,
    /// Of this API; a path starts with `/v<api>/`.
    pub api: u32,
    pub node: NodeId,
    pub node_name: String,
}

/// What a write did: the object it was about, and the place in the log where it took effect.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Written {
    /// Id of the object.
    pub id: String,
    pub name: String,
    pub revision: Revision,
}
