//! One attempt to fill a slot on one node.
//!
//! A task never moves and its state only goes forward. Two fields, two writers: the leader writes `desired`, the node
//! that runs the task reports `state`. A change of the spec makes a new task; nothing edits one.

use kawanan_api::{NodeId, Revision, ServiceId, Slot, TaskId, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Task {
    pub id: TaskId,
    pub service: ServiceId,
    /// Which of the service's specs it runs.
    pub spec_revision: Revision,
    /// `None` for a task of a global service: its node is its seat.
    pub slot: Option<Slot>,
    pub node: NodeId,
    pub desired: Desired,
    pub state: TaskState,
    pub created_at: Timestamp,
    /// When `state` was reached: what the node said, kept between the task's creation and the report's entry.
    pub state_at: Timestamp,
    /// When it was first seen running.
    pub running_since: Option<Timestamp>,
    /// Why it failed or was rejected, for people.
    pub error: Option<String>,
    pub exit_code: Option<i32>,
    /// Failures in a row of its seat before this task, for the back-off; 0 after a task that stayed up.
    pub attempt: u32,
    /// The end of the back-off that it waited for. The leader makes it only then.
    pub not_before: Timestamp,
}

/// The place that a task fills: a numbered slot, or, for a global service, its node. Tasks follow one another in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Seat {
    Slot(Slot),
    Node(NodeId),
}

/// What the leader wants of a task. Only moves forward.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Desired {
    Running,
    /// Stop the container, keep the task as history.
    Shutdown,
    /// Stop and delete the container, forget the task.
    Remove,
}

/// How far a task has come. The order is the order of life; the gaps leave room.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum TaskState {
    /// Given to its node by the leader.
    Assigned = 192,
    /// Pulling the image, creating the container.
    Preparing = 320,
    /// Started, its health check not yet passed.
    Starting = 448,
    Running = 512,
    /// Ended by itself with exit code 0.
    Complete = 576,
    /// Stopped because the leader wanted so.
    Shutdown = 640,
    /// Ended by itself otherwise, or never became healthy.
    Failed = 704,
    /// The node could not run it at all: no such image, port taken, mount missing.
    Rejected = 768,
    /// Its node is down; whether its container still runs, nobody knows.
    Orphaned = 832,
}

impl TaskState {
    /// Whether the task will never run again.
    pub const fn is_final(self) -> bool {
        self as u16 >= Self::Complete as u16
    }
}

impl Task {
    /// Which seat of its service it fills.
    pub fn seat(&self) -> Seat {
        self.slot.map_or(Seat::Node(self.node), Seat::Slot)
    }

    /// Whether it is meant to run and still may.
    pub fn is_live(&self) -> bool {
        self.desired == Desired::Running && !self.state.is_final()
    }

    /// Whether it runs and is meant to.
    pub fn is_running(&self) -> bool {
        self.desired == Desired::Running && self.state == TaskState::Running
    }
}
