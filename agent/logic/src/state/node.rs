//! A machine that belongs to the cluster.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{NodeId, RaftId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    pub id: NodeId,
    /// Changes when the machine starts over with an empty data directory under the same key.
    pub raft_id: RaftId,
    /// For people; not unique.
    pub name: String,
    /// Set by operators only: they steer where tasks go.
    pub labels: BTreeMap<String, String>,
    pub availability: Availability,
    pub status: NodeStatus,
    pub status_at: Timestamp,
    pub joined_at: Timestamp,
    pub facts: NodeFacts,
    /// Last entry that changed what an operator set.
    pub revision: Revision,
}

/// What a node says about itself: at its join, and again when it changes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NodeFacts {
    /// Where peers reach its agent (UDP). A hint: the node's identity is its key.
    pub address: SocketAddr,
    pub platform: Platform,
    /// All processors and memory of the machine.
    pub capacity: ResourceAmounts,
    /// Version of the agent, such as `0.1.0`.
    pub agent_version: String,
    /// Version of the container engine; empty while it cannot be reached.
    pub engine_version: String,
    /// Newest command in the log that this agent understands.
    pub feature_level: u32,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Platform {
    /// As in Go and in image manifests: `linux`.
    pub os: String,
    /// As the kernel says it: `x86_64`, `aarch64`.
    pub arch: String,
}

/// What an operator wants a node to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Availability {
    /// Takes tasks.
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Gives its tasks to other nodes.
    Drain,
}

/// Whether the leader counts on a node. Committed after confirmation; a mere suspicion is not in the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum NodeStatus {
    Ready,
    /// Confirmed unreachable: its tasks are replaced.
    Down,
    /// Said goodbye with `agent leave`. It stays listed until it is removed.
    Left,
}

impl Node {
    /// Whether the leader counts on it to run what it was given.
    pub fn is_ready(&self) -> bool {
        self.status == NodeStatus::Ready
    }
}
