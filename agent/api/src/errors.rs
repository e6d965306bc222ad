//! What goes wrong, as a value that survives the trip from any node to the person who asked.
//!
//! An error has a code for scripts, one sentence naming the cause, and where possible a hint: what to do next.

use std::fmt;

use serde::{Deserialize, Serialize};

/// The kinds of failure that callers may tell apart. Printed in snake case; codes are only ever added.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ErrorCode {
    /// The request itself is wrong: a bad name, a bad option. Asking again will not help.
    Invalid,
    /// Nothing of that name or id.
    NotFound,
    /// A name or id prefix that fits several objects.
    Ambiguous,
    /// Something of that name exists, or the object changed since it was read.
    Conflict,
    /// The object's state forbids it, such as removing a node that is up.
    Refused,
    /// Who asks may not do this.
    Forbidden,
    /// No node is leader, or none could be reached: writes wait for a quorum.
    NoLeader,
    /// Accepted or not, nobody knows: the answer was lost. Repeat with the same request id.
    OutcomeUnknown,
    /// A limit of the cluster is reached.
    LimitReached,
    /// The node is not ready to answer: starting, or shutting down.
    Unavailable,
    /// A defect or a failed disk on the answering node.
    Internal,
}

/// An error as the HTTP API sends it and the command line prints it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub struct ApiError {
    pub code: ErrorCode,
    /// One sentence without a full stop: the cause.
    pub message: String,
    /// What to do next, if there is something to do.
    pub hint: Option<String>,
}

impl ApiError {
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            hint: None,
        }
    }

    pub fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Invalid, message)
    }

    pub fn not_found(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::NotFound, message)
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}
