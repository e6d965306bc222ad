//! Machines.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use super::TaskView;
use crate::ids::{NodeId, RaftId, Revision};
use crate::spec::ResourceAmounts;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeView {
    pub id: NodeId,
    pub name: String,
    pub status: NodeStatus,
    pub availability: Availability,
    pub leader: bool,
    pub voter: bool,
    /// IP and port of its agent.
    pub address: String,
    /// Of its agent.
    pub version: String,
    /// Empty while its container engine cannot be reached.
    pub engine_version: String,
    pub labels: BTreeMap<String, String>,
    pub capacity: AmountsView,
    /// What the services that run there have reserved.
    pub reserved: AmountsView,
    /// Running tasks.
    pub tasks: u32,
    pub joined_at: Timestamp,
    /// Whether it is the node that answers.
    pub is_self: bool,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeDetail {
    #[serde(flatten)]
    pub node: NodeView,
    pub status_at: Timestamp,
    pub os: String,
    pub arch: String,
    pub raft_id: RaftId,
    pub feature_level: u32,
    /// Last change of what an operator sets.
    pub revision: Revision,
    /// Tasks that have something left on the node.
    pub task_list: Vec<TaskView>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum NodeStatus {
    Ready,
    /// Not heard of for a moment, as seen from the node that answers.
    Suspect,
    /// Confirmed unreachable: its tasks are replaced.
    Down,
    /// Said goodbye.
    Left,
}

/// What an operator wants a node to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Availability {
    /// Takes tasks.
    Active,
    /// Keeps its tasks, takes no new ones.
    Pause,
    /// Gives its tasks to other nodes.
    Drain,
}

/// Processors as a decimal number, memory in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct AmountsView {
    pub cpus: f64,
    pub memory: u64,
}

impl From<ResourceAmounts> for AmountsView {
    fn from(amounts: ResourceAmounts) -> Self {
        Self {
            cpus: amounts.cpus.0 as f64 / 1000.0,
            memory: amounts.memory.0,
        }
    }
}

/// The body of `PATCH /v1/nodes/{id}`. What is left out stays as it is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct NodePatch {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub availability: Option<Availability>,
    pub set_labels: BTreeMap<String, String>,
    pub remove_labels: BTreeSet<String>,
}

impl fmt::Display for NodeStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Ready => "ready",
            Self::Suspect => "suspect",
            Self::Down => "down",
            Self::Left => "left",
        })
    }
}

impl fmt::Display for Availability {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Active => "active",
            Self::Pause => "pause",
            Self::Drain => "drain",
        })
    }
}

/// Text that is not an availability.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an availability; use active, pause or drain")]
pub struct ParseAvailabilityError(String);

impl FromStr for Availability {
    type Err = ParseAvailabilityError;
    fn from_str(text: &str) -> Result<Self, ParseAvailabilityError> {
        match text {
            "active" => Ok(Self::Active),
            "pause" => Ok(Self::Pause),
            "drain" => Ok(Self::Drain),
            other => Err(ParseAvailabilityError(other.to_owned())),
        }
    }
}
