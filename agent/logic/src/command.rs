//! The service log's vocabulary: every change that may ever happen to [`ClusterState`](crate::ClusterState).
//!
//! An entry carries its own time, ids and idempotency key, so applying it needs nothing but the state before it.
//! Both enums are append-only: variants keep their place and their fields for ever, because they are on disks.
//! A new need gets a new variant at the end and a higher [`FEATURE_LEVEL`].

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{
    ClusterId, NodeId, RaftId, RequestId, Revision, ServiceId, ServiceSpec, Slot, TaskId,
    Timestamp, TokenId,
};
use serde::{Deserialize, Serialize};

use crate::state::{Availability, Desired, NodeFacts, NodeStatus, Rollout, Seat, TaskState};

/// The newest command that this version understands. A command that needs more than the lowest level of all nodes is
/// refused when it is proposed.
pub const FEATURE_LEVEL: u32 = 1;

/// One entry of the service log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Idempotency key: drawn once by whoever wants the change, kept over retries.
    pub request: RequestId,
    /// The proposer's clock; what `apply` takes for "now".
    pub at: Timestamp,
    pub command: Command,
}

/// A change, worded as an order.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Founds the cluster: the first entry of every log.
    Found {
        cluster: ClusterId,
        authority: Vec<u8>,
        node: NewNode,
    },
    CreateToken {
        id: TokenId,
        secret_hash: [u8; 32],
        expires_at: Option<Timestamp>,
        uses: Option<u32>,
        note: String,
    },
    RevokeToken {
        id: TokenId,
    },
    /// Takes a machine in that showed a token's secret. Refused when the token is unknown, spent, revoked or expired.
    AdmitNode {
        token: TokenId,
        secret_hash: [u8; 32],
        node: NewNode,
    },
    /// What an operator sets on a node.
    UpdateNode {
        id: NodeId,
        availability: Option<Availability>,
        set_labels: BTreeMap<String, String>,
        remove_labels: BTreeSet<String>,
    },
    /// What a node says about itself.
    UpdateNodeFacts {
        id: NodeId,
        raft_id: RaftId,
        facts: NodeFacts,
    },
    /// The leader's confirmed verdict, or a node's goodbye.
    SetNodeStatus {
        id: NodeId,
        status: NodeStatus,
    },
    /// Forgets a node. Refused while it is ready, unless forced.
    RemoveNode {
        id: NodeId,
        force: bool,
    },
    CreateService {
        id: ServiceId,
        #[serde(with = "crate::codec::spec_as_json")]
        spec: ServiceSpec,
    },
    /// Refused when the service is not at `if_revision` any more.
    UpdateService {
        id: ServiceId,
        #[serde(with = "crate::codec::spec_as_json")]
        spec: ServiceSpec,
        if_revision: Option<Revision>,
    },
    /// Sets the replica counts of several services, all or none.
    ScaleServices {
        replicas: BTreeMap<ServiceId, u32>,
    },
    RemoveService {
        id: ServiceId,
    },
    /// What the leader decided, seen from `basis`. Refused as a whole when another plan was applied after `basis`.
    Plan {
        basis: Revision,
        changes: Vec<TaskChange>,
    },
    /// What a node saw happen to its own tasks.
    ReportTasks {
        node: NodeId,
        reports: Vec<TaskReport>,
    },
}

/// A machine as it enters the cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewNode {
    pub id: NodeId,
    pub raft_id: RaftId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub facts: NodeFacts,
}

/// One step of a plan. A step that no longer fits the state is skipped, not an error: the next plan sees why.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum TaskChange {
    Create(NewTask),
    SetDesired {
        task: TaskId,
        desired: Desired,
    },
    /// Its node is down.
    Orphan {
        task: TaskId,
    },
    /// Forgets a task that is over.
    Forget {
        task: TaskId,
    },
    SetRollout {
        service: ServiceId,
        spec_revision: Revision,
        rollout: Rollout,
    },
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewTask {
    pub id: TaskId,
    pub service: ServiceId,
    pub spec_revision: Revision,
    pub slot: Option<Slot>,
    pub node: NodeId,
    pub attempt: u32,
    pub not_before: Timestamp,
}

impl NewTask {
    /// Which seat of its service it is for.
    pub fn seat(&self) -> Seat {
        self.slot.map_or(Seat::Node(self.node), Seat::Slot)
    }
}

/// What a node saw happen to one of its tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskReport {
    pub task: TaskId,
    pub state: TaskState,
    /// By the node's clock.
    pub at: Timestamp,
    pub error: Option<String>,
    pub exit_code: Option<i32>,
    /// The container is gone from the engine: nothing of the task is left on the node.
    pub gone: bool,
}
