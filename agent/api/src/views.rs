//! What the API shows and what it takes: the JSON between the agent and its callers.
//!
//! Views are for reading: made fresh from the cluster's state, never stored. Fields are only ever added. A word for a
//! state is the word that Docker's tools use. No view holds a password or a token's secret, except
//! [`CreatedToken::join_token`], which is shown once.

mod cluster;
mod log;
mod node;
mod progress;
mod service;
mod task;
mod token;

pub use cluster::{ClusterView, VersionView, Written};
pub use log::{LogEvent, LogRequest, TAIL_MAX};
pub use node::{AmountsView, Availability, NodeDetail, NodePatch, NodeStatus, NodeView};
pub use progress::{DrainEvent, ProgressEvent, SeatView, WaitsFor};
pub use service::{
    RolloutState, RolloutView, ScaleServices, ServiceDetail, ServiceView, UpdateService,
};
pub use task::{DesiredState, TaskState, TaskView};
pub use token::{CreateToken, CreatedToken, TokenView};
