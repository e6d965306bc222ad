//! What the cluster knows: the replicated truth that every node computes from the same log.
//!
//! [`ClusterState`] is changed only by `apply`. It holds intent (services, tokens, availability, labels), membership,
//! and those observations that decisions rest on (a task runs, failed, a node is down). Who seems alive this second is
//! not in here: that is gossip's.

mod node;
mod request;
mod service;
mod task;
mod token;

use std::collections::BTreeMap;
use std::sync::Arc;

use kawanan_api::{ClusterId, NodeId, Revision, ServiceId, TaskId, Timestamp, TokenId};
use serde::{Deserialize, Serialize};

pub use node::{Availability, Node, NodeFacts, NodeStatus, Platform};
pub use request::{Outcome, RequestTable};
pub use service::{Rollout, Service};
pub use task::{Desired, Seat, Task, TaskState};
pub use token::Token;

/// The replicated state. Cheap to clone: objects are shared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct ClusterState {
    /// Index of the last entry that was applied.
    pub revision: Revision,
    /// Index of the last plan of a leader that was applied. A plan made before it is stale and refused.
    pub plan_revision: Revision,
    /// `None` until the first entry, which founds the cluster.
    pub cluster: Option<Cluster>,
    pub nodes: BTreeMap<NodeId, Arc<Node>>,
    pub services: BTreeMap<ServiceId, Arc<Service>>,
    pub tasks: BTreeMap<TaskId, Arc<Task>>,
    pub tokens: BTreeMap<TokenId, Arc<Token>>,
    /// What became of recent writes, by their idempotency key.
    pub requests: RequestTable,
    /// Hash over all entries applied so far; equal on two nodes at one revision or one of them is wrong.
    pub digest: u64,
}

/// Facts about the cluster as a whole.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Cluster {
    pub id: ClusterId,
    pub created_at: Timestamp,
    /// Certificates of the cluster's authority that nodes trust, DER. The first signs; a second one is there while
    /// the authority is being replaced.
    pub authorities: Vec<Vec<u8>>,
}

impl ClusterState {
    /// Tasks of one service, by id.
    pub fn tasks_of(&self, service: ServiceId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks
            .values()
            .filter(move |task| task.service == service)
    }

    /// Tasks assigned to one node, by id.
    pub fn tasks_on(&self, node: NodeId) -> impl Iterator<Item = &Arc<Task>> {
        self.tasks.values().filter(move |task| task.node == node)
    }

    /// The spec that a task runs: the one of its revision, not the service's newest.
    pub fn spec_of(&self, task: &Task) -> Option<&Arc<kawanan_api::ServiceSpec>> {
        self.services
            .get(&task.service)?
            .revisions
            .get(&task.spec_revision)
    }

    /// Whether a node is known and counted on; an unknown one is not.
    pub fn node_is_ready(&self, node: NodeId) -> bool {
        self.nodes.get(&node).is_some_and(|node| node.is_ready())
    }

    /// A node's name for people, or its id once it is forgotten.
    pub fn node_name(&self, node: NodeId) -> String {
        self.nodes
            .get(&node)
            .map_or_else(|| node.short(), |node| node.name.clone())
    }

    /// A service that is not being removed, by its name.
    pub fn service_named(&self, name: &str) -> Option<&Arc<Service>> {
        self.services
            .values()
            .find(|service| service.removed_at.is_none() && service.spec().name == name)
    }
}
