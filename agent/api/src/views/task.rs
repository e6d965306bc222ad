//! Tasks, also those that nobody could place yet.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::ids::{NodeId, Revision, ServiceId, TaskId};
use crate::spec::PortSpec;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TaskView {
    /// Of a pending row: made of service, slot and revision, so it stays the same while the row waits.
    pub id: TaskId,
    /// `web.3`, or `web.<node>` for a task of a global service.
    pub name: String,
    pub service: ServiceId,
    pub service_name: String,
    /// `None` for a task of a global service.
    pub slot: Option<u32>,
    /// Name of the node; `None` while pending.
    pub node: Option<String>,
    pub node_id: Option<NodeId>,
    pub desired_state: DesiredState,
    pub state: TaskState,
    /// When `state` was reached, by the node's clock.
    pub state_at: Timestamp,
    /// Why it failed, was rejected, or has no place; of a row that waits for the next try, why the last one ended.
    pub error: Option<String>,
    pub exit_code: Option<i32>,
    pub image: String,
    /// Which of the service's specs it runs.
    pub revision: Revision,
    /// What happens to it right now, or what it waits for: `pulling its image`, `tries again in 4 s`.
    pub message: Option<String>,
    /// Ports at which its node answers for it while it runs.
    pub ports: Vec<PortSpec>,
}

/// Docker's words, in the order of a task's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TaskState {
    /// No node was found for it, or none was looked for yet.
    Pending,
    Assigned,
    /// The image is pulled, the container created.
    Preparing,
    /// Started; its health check has not passed yet.
    Starting,
    Running,
    /// Ended by itself with exit code 0.
    Complete,
    /// Stopped because it was told to.
    Shutdown,
    Failed,
    /// The node could not run it at all.
    Rejected,
    /// Its node is down.
    Orphaned,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum DesiredState {
    Running,
    Shutdown,
    Remove,
}

impl TaskState {
    /// Whether the task will never run again.
    pub const fn is_final(self) -> bool {
        self as u8 >= Self::Complete as u8
    }

    pub const fn word(self) -> &'static str {
        match self {
            Self::Pending => "pending",
            Self::Assigned => "assigned",
            Self::Preparing => "preparing",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Complete => "complete",
            Self::Shutdown => "shutdown",
            Self::Failed => "failed",
            Self::Rejected => "rejected",
            Self::Orphaned => "orphaned",
        }
    }
}

impl fmt::Display for TaskState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.word())
    }
}

impl fmt::Display for DesiredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Running => "running",
            Self::Shutdown => "shutdown",
            Self::Remove => "remove",
        })
    }
}
