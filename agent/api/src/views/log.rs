//! Output of containers, line by line.

use serde::{Deserialize, Serialize};

use crate::ids::TaskId;
use crate::time::Timestamp;

/// Most lines that `tail` may ask for: they are collected in memory before the newest are known.
pub const TAIL_MAX: u32 = 10_000;

/// Which lines are wanted: the query of the log paths.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LogRequest {
    /// Go on as new lines come.
    pub follow: bool,
    /// The newest lines over all tasks together, at most [`TAIL_MAX`]; `None`: all.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tail: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
}

/// One line of the stream.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum LogEvent {
    /// A line that a container wrote. Bytes that are no UTF-8 are replaced.
    Line {
        at: Timestamp,
        task: TaskId,
        /// Such as `web.3`.
        task_name: String,
        node: String,
        stderr: bool,
        text: String,
    },
    /// Lines are missing, and why.
    Warning { message: String },
    /// Nothing for a while; says that the stream is alive.
    Idle,
}
