//! What members ask each other: the requests and answers that travel through [`crate::transport`].
//!
//! Append-only enums, encoded by `kawanan_logic::codec`.

pub mod serve;
pub mod streams;

use kawanan_api::{ApiError, NodeId, Revision, TaskId, Timestamp};
use kawanan_logic::Entry;
use kawanan_logic::state::Outcome;
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Request {
    /// Are you there? Answered from the receiving task itself, so that a stuck agent does not answer.
    Ping,
    /// Can you reach that node? Answered with [`Answer::Probed`].
    Probe { target: NodeId },
    /// For the leader: put this into the log and say what came of it.
    Propose(Box<Entry>),
    /// For the leader: the revision that a read must have applied to be linearizable.
    ReadIndex,
    /// For the leader: what a joiner asked of another node, or a member's wish for a fresh certificate.
    Join { request: Vec<u8> },
    /// From the leader to a node that is about to vote: the authority's private key (PKCS#8).
    HoldAuthorityKey { key: Vec<u8> },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    Pong,
    Probed {
        reachable: bool,
    },
    Outcome(Outcome),
    /// Not here; perhaps there.
    NotLeader {
        leader: Option<NodeId>,
    },
    Revision(Revision),
    /// What to tell the joiner.
    Joined(Vec<u8>),
    Done,
    Failed(ApiError),
}

/// A request that is answered by frames.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum StreamRequest {
    /// The output of one task's container.
    Logs {
        task: TaskId,
        follow: bool,
        tail: Option<u32>,
        since: Option<Timestamp>,
    },
}

/// One frame of [`StreamRequest::Logs`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum LogFrame {
    Line {
        at: Timestamp,
        stderr: bool,
        text: Vec<u8>,
    },
    /// The last frame when something went wrong.
    Failed(ApiError),
}
