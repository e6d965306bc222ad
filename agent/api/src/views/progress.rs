//! How far something has come: one event for terminals, scripts and dashboards alike.
//!
//! Each event holds the whole picture, so a client that missed one has missed nothing.

use serde::{Deserialize, Serialize};

use super::{NodeView, RolloutView, TaskView};
use crate::duration::Span;
use crate::ids::{Revision, ServiceId};
use crate::time::Timestamp;

/// A line of `GET /v1/services/{id}/progress`. Sent at once, then at every change, and now and then without one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ProgressEvent {
    pub at: Timestamp,
    /// Last entry of the service log that this picture contains.
    pub applied: Revision,
    pub service: ServiceId,
    pub name: String,
    /// The revision that should run.
    pub revision: Revision,
    /// Tasks wanted.
    pub wanted: u32,
    /// Tasks of the wanted revision that run.
    pub running: u32,
    /// Tasks of the wanted revision that ended well and are not to run again.
    pub complete: u32,
    pub rollout: RolloutView,
    /// How long a new task must run before it counts as good.
    pub monitor: Span,
    /// Failures of new tasks that are too many.
    pub max_failures: u32,
    pub seats: Vec<SeatView>,
    /// Tasks that still have to go: surplus ones, and ones of older revisions.
    pub leaving: u32,
    /// Every seat runs the wanted revision (or completed), nothing is leaving, and the leader has nothing left to do.
    pub converged: bool,
    /// Where the service answers, such as `http://10.0.0.2:8080`.
    pub addresses: Vec<String>,
    /// No leader is known: nothing will change before there is one.
    pub leaderless: bool,
    /// The service was removed.
    pub removed: bool,
}

/// One seat of a service and the task that fills it, or is about to.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SeatView {
    /// `web.3`, or `web.<node>` for a global service.
    pub name: String,
    /// The newest task in the seat.
    pub task: TaskView,
    /// Whether that task runs the wanted revision.
    pub up_to_date: bool,
    /// Whether an older task answers meanwhile.
    pub older_runs: bool,
    /// Tasks of the wanted revision that ended in this seat though they should run, as far as history goes.
    pub ended: u32,
    /// Why the last of them ended.
    pub last_error: Option<String>,
    /// Name of the node where it ended.
    pub last_node: Option<String>,
    /// Since when the current task runs, if it does and its node is not down.
    pub running_since: Option<Timestamp>,
    /// What keeps the seat from having a (better) task.
    pub waits_for: Option<WaitsFor>,
}

/// What a seat waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WaitsFor {
    /// No node fits.
    Place,
    /// The last attempt failed; the next one comes after a while.
    Retry,
    /// It failed as often as its restart policy allows; nothing comes.
    Nothing,
}

/// A line of `GET /v1/nodes/{id}/progress`: what is still there.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrainEvent {
    pub at: Timestamp,
    /// Last entry of the service log that this picture contains.
    pub applied: Revision,
    pub node: NodeView,
    /// Tasks whose containers are not stopped yet, except those that run there by choice (global services while the
    /// node takes tasks).
    pub remaining: Vec<TaskView>,
    /// Tasks that wait for a place on another node before they can leave, and why.
    pub waiting: Vec<String>,
    pub leaderless: bool,
}
