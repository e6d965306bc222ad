//! Raft messages as they travel: our own types, checked before raft-rs sees them.
//!
//! raft-rs ends the process when a message breaks its assumptions (entries with gaps, a missing snapshot, a message kind that
//! never travels), so [`decode`] lets only well-formed messages through.

use bytes::Bytes;
use kawanan_api::RaftId;
use kawanan_logic::codec::{self, CodecError, MESSAGE_BYTES_MAX};
use raft::eraftpb::{self, MessageType};
use serde::{Deserialize, Serialize};

use super::config::MESSAGE_ENTRY_BYTES_MAX;
use super::mirror;
use crate::log_store::{LogEntry, Snapshot, raw_bytes};
use crate::transport::Channel;

/// A message may not claim a term this far ahead of ours: raft-rs adds to terms without checking for the end.
const TERM_LEAP_MAX: u64 = 1 << 40;

/// The kinds that travel. Append-only. Proposals, read requests and requests for leadership are not among them: those are
/// our own calls.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
enum Kind {
    Append,
    AppendResponse,
    RequestVote,
    RequestVoteResponse,
    Snapshot,
    Heartbeat,
    HeartbeatResponse,
    TimeoutNow,
    RequestPreVote,
    RequestPreVoteResponse,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Wire {
    kind: Kind,
    to: RaftId,
    from: RaftId,
    term: u64,
    log_term: u64,
    index: u64,
    entries: Vec<LogEntry>,
    commit: u64,
    commit_term: u64,
    snapshot: Option<Snapshot>,
    request_snapshot: u64,
    reject: bool,
    reject_hint: u64,
    #[serde(with = "raw_bytes")]
    context: Bytes,
    priority: i64,
}

/// A message on its way out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outgoing {
    pub to: RaftId,
    pub channel: Channel,
    pub bytes: Bytes,
}

/// Why a message was not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum WireError {
    #[error("unreadable: {0}")]
    Codec(#[from] CodecError),
    #[error("makes no sense: {0}")]
    Nonsense(&'static str),
}

/// Encodes a message of raft-rs; a long append becomes several. Kinds that do not travel become none.
pub(super) fn encode(message: eraftpb::Message) -> Result<Vec<Outgoing>, CodecError> {
    let Some(kind) = kind_of(message.get_msg_type()) else {
        return Ok(Vec::new());
    };
    let channel = if kind == Kind::Snapshot {
        Channel::Snapshot
    } else {
        Channel::Raft
    };
    let to = RaftId(message.to);
    let wire = Wire {
        kind,
        to,
        from: RaftId(message.from),
        term: message.term,
        log_term: message.log_term,
        index: message.index,
        entries: message
            .get_entries()
            .iter()
            .map(mirror::entry_from_raft)
            .collect(),
        commit: message.commit,
        commit_term: message.commit_term,
        snapshot: (kind == Kind::Snapshot)
            .then(|| mirror::snapshot_from_raft(message.get_snapshot())),
        request_snapshot: message.request_snapshot,
        reject: message.reject,
        reject_hint: message.reject_hint,
        context: message.context,
        priority: message.priority,
    };
    split(wire)
        .into_iter()
        .map(|wire| {
            Ok(Outgoing {
                to,
                channel,
                bytes: Bytes::from(codec::encode(&wire)?),
            })
        })
        .collect()
}

/// raft-rs joins appends that wait to be sent without looking at their size: cut them to what a receiver takes.
fn split(mut wire: Wire) -> Vec<Wire> {
    let mut parts = Vec::new();
    let mut size = 0;
    let mut taken = Vec::new();
    for entry in std::mem::take(&mut wire.entries) {
        let bytes = entry.data.len() as u64;
        if !taken.is_empty() && size + bytes > MESSAGE_ENTRY_BYTES_MAX {
            parts.push(std::mem::take(&mut taken));
            size = 0;
        }
        size += bytes;
        taken.push(entry);
    }
    parts.push(taken);
    let mut before = (wire.index, wire.log_term);
    parts
        .into_iter()
        .map(|entries| {
            let (index, log_term) = before;
            if let Some(last) = entries.last() {
                before = (last.index, last.term);
            }
            Wire {
                index,
                log_term,
                entries,
                ..wire.clone()
            }
        })
        .collect()
}

/// Reads a message that must be for `me`, at a node whose term is `term`.
pub(super) fn decode(bytes: &[u8], me: RaftId, term: u64) -> Result<eraftpb::Message, WireError> {
    let wire: Wire = if bytes.len() > MESSAGE_BYTES_MAX {
        codec::decode_snapshot(bytes)?
    } else {
        codec::decode(bytes)?
    };
    check(&wire, me, term).map_err(WireError::Nonsense)?;
    let mut message = eraftpb::Message::default();
    message.set_msg_type(type_of(wire.kind));
    message.to = wire.to.0;
    message.from = wire.from.0;
    message.term = wire.term;
    message.log_term = wire.log_term;
    message.index = wire.index;
    message.commit = wire.commit;
    message.commit_term = wire.commit_term;
    message.request_snapshot = wire.request_snapshot;
    message.reject = wire.reject;
    message.reject_hint = wire.reject_hint;
    message.context = wire.context;
    message.priority = wire.priority;
    message.set_entries(
        wire.entries
            .into_iter()
            .map(mirror::entry_into_raft)
            .collect::<Vec<_>>()
            .into(),
    );
    if let Some(snapshot) = wire.snapshot {
        message.set_snapshot(mirror::snapshot_into_raft(snapshot));
    }
    Ok(message)
}

fn check(wire: &Wire, me: RaftId, term: u64) -> Result<(), &'static str> {
    if wire.to != me {
        return Err("it is for another member");
    }
    if wire.from == RaftId(0) || wire.from == me {
        return Err("it has no sender");
    }
    if wire.term == 0 {
        return Err("it has no term");
    }
    if wire.term > term.saturating_add(TERM_LEAP_MAX) {
        return Err("its term is out of reach");
    }
    if !wire.entries.is_empty() && wire.kind != Kind::Append {
        return Err("only an append carries entries");
    }
    let mut before = (wire.index, wire.log_term);
    for entry in &wire.entries {
        if before.0.checked_add(1) != Some(entry.index) {
            return Err("its entries have gaps");
        }
        if entry.term < before.1 || entry.term > wire.term {
            return Err("its entries have impossible terms");
        }
        before = (entry.index, entry.term);
    }
    match &wire.snapshot {
        Some(snapshot) => {
            if wire.kind != Kind::Snapshot {
                return Err("only a snapshot message carries a snapshot");
            }
            if snapshot.at.index == 0 || snapshot.at.term == 0 || snapshot.at.term > wire.term {
                return Err("its snapshot is of no place in the log");
            }
            if !coherent(snapshot) {
                return Err("its snapshot has impossible members");
            }
        }
        None if wire.kind == Kind::Snapshot => return Err("its snapshot is missing"),
        None => {}
    }
    Ok(())
}

/// Whether raft-rs can take these members over: it ends the process where it cannot.
fn coherent(snapshot: &Snapshot) -> bool {
    let members = &snapshot.members;
    let zero = RaftId(0);
    !members.voters.is_empty()
        && !members.contains(zero)
        && members
            .learners
            .iter()
            .all(|id| !members.is_voter(*id) && !members.learners_next.contains(id))
        && members
            .learners_next
            .iter()
            .all(|id| members.outgoing.contains(id) && !members.voters.contains(id))
}

const fn kind_of(kind: MessageType) -> Option<Kind> {
    Some(match kind {
        MessageType::MsgAppend => Kind::Append,
        MessageType::MsgAppendResponse => Kind::AppendResponse,
        MessageType::MsgRequestVote => Kind::RequestVote,
        MessageType::MsgRequestVoteResponse => Kind::RequestVoteResponse,
        MessageType::MsgSnapshot => Kind::Snapshot,
        MessageType::MsgHeartbeat => Kind::Heartbeat,
        MessageType::MsgHeartbeatResponse => Kind::HeartbeatResponse,
        MessageType::MsgTimeoutNow => Kind::TimeoutNow,
        MessageType::MsgRequestPreVote => Kind::RequestPreVote,
        MessageType::MsgRequestPreVoteResponse => Kind::RequestPreVoteResponse,
        MessageType::MsgHup
        | MessageType::MsgBeat
        | MessageType::MsgPropose
        | MessageType::MsgUnreachable
        | MessageType::MsgSnapStatus
        | MessageType::MsgCheckQuorum
        | MessageType::MsgTransferLeader
        | MessageType::MsgReadIndex
        | MessageType::MsgReadIndexResp => return None,
    })
}

const fn type_of(kind: Kind) -> MessageType {
    match kind {
        Kind::Append => MessageType::MsgAppend,
        Kind::AppendResponse => MessageType::MsgAppendResponse,
        Kind::RequestVote => MessageType::MsgRequestVote,
        Kind::RequestVoteResponse => MessageType::MsgRequestVoteResponse,
        Kind::Snapshot => MessageType::MsgSnapshot,
        Kind::Heartbeat => MessageType::MsgHeartbeat,
        Kind::HeartbeatResponse => MessageType::MsgHeartbeatResponse,
        Kind::TimeoutNow => MessageType::MsgTimeoutNow,
        Kind::RequestPreVote => MessageType::MsgRequestPreVote,
        Kind::RequestPreVoteResponse => MessageType::MsgRequestPreVoteResponse,
    }
}
