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

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use raft::eraftpb::{Entry, EntryType, Message};

    use super::*;
    use crate::log_store::{EntryKind, MemberSets, Position};

    const ME: RaftId = RaftId(2);

    fn append(entries: Vec<Entry>) -> Message {
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgAppend);
        (message.from, message.to, message.term) = (1, ME.0, 3);
        (message.index, message.log_term, message.commit) = (10, 2, 9);
        message.set_entries(entries.into());
        message
    }

    fn entry(index: u64, term: u64, data: Vec<u8>) -> Entry {
        let mut entry = Entry::default();
        (entry.index, entry.term) = (index, term);
        entry.data = data.into();
        entry
    }

    fn wire() -> Wire {
        Wire {
            kind: Kind::Append,
            to: ME,
            from: RaftId(1),
            term: 3,
            log_term: 2,
            index: 10,
            entries: vec![LogEntry {
                term: 3,
                index: 11,
                kind: EntryKind::Normal,
                data: Bytes::from_static(b"x"),
            }],
            commit: 9,
            commit_term: 0,
            snapshot: None,
            request_snapshot: 0,
            reject: false,
            reject_hint: 0,
            context: Bytes::new(),
            priority: 0,
        }
    }

    fn read(wire: &Wire) -> Result<Message, WireError> {
        decode(&codec::encode(wire).unwrap(), ME, 3)
    }

    #[test]
    fn messages_keep_their_bytes_for_ever() {
        let mut snapshot = wire();
        snapshot.kind = Kind::Snapshot;
        snapshot.entries.clear();
        snapshot.snapshot = Some(Snapshot {
            at: Position { index: 7, term: 2 },
            members: MemberSets {
                voters: [RaftId(1)].into(),
                learners: [ME].into(),
                ..MemberSets::default()
            },
            data: Bytes::from_static(b"state"),
        });
        let mut heartbeat = wire();
        heartbeat.kind = Kind::HeartbeatResponse;
        heartbeat.entries.clear();
        heartbeat.context = Bytes::from_static(b"ctx");
        heartbeat.priority = -1;
        let golden: [(Wire, &[u8]); 3] = [
            (
                wire(),
                &[
                    1, 0, 2, 1, 3, 2, 10, 1, 3, 11, 0, 1, b'x', 9, 0, 0, 0, 0, 0, 0, 0,
                ],
            ),
            (
                snapshot,
                &[
                    1, 4, 2, 1, 3, 2, 10, 0, 9, 0, 1, 7, 2, 1, 1, 1, 2, 0, 0, 5, b's', b't', b'a',
                    b't', b'e', 0, 0, 0, 0, 0,
                ],
            ),
            (
                heartbeat,
                &[
                    1, 6, 2, 1, 3, 2, 10, 0, 9, 0, 0, 0, 0, 0, 3, b'c', b't', b'x', 1,
                ],
            ),
        ];
        for (wire, bytes) in golden {
            assert_eq!(codec::encode(&wire).unwrap(), bytes, "{wire:?}");
            assert_eq!(codec::decode::<Wire>(bytes).unwrap(), wire);
        }
    }

    #[test]
    fn a_message_arrives_as_it_was_sent_without_the_bytes_that_only_raft_reads() {
        let mut change = entry(12, 3, b"protobuf".to_vec());
        change.set_entry_type(EntryType::EntryConfChangeV2);
        change.context = Bytes::from_static(b"ours");
        let sent = append(vec![entry(11, 3, b"abc".to_vec()), change.clone()]);
        let outgoing = encode(sent.clone()).unwrap();
        assert_eq!(outgoing.len(), 1);
        assert_eq!(outgoing[0].channel, Channel::Raft);
        let mut expected = sent;
        change.data = Bytes::new();
        expected.mut_entries()[1] = change;
        assert_eq!(decode(&outgoing[0].bytes, ME, 3).unwrap(), expected);
    }

    #[test]
    fn a_long_append_travels_in_parts_that_follow_each_other() {
        let megabyte = usize::try_from(MESSAGE_ENTRY_BYTES_MAX).unwrap();
        let sizes = [10, megabyte, megabyte / 2, megabyte / 2, 1, megabyte + 5];
        let entries = (11..).zip(sizes);
        let entries = entries.map(|(index, size)| entry(index, 3, vec![7; size]));
        let parts = encode(append(entries.collect())).unwrap();
        let mut next = 11;
        let mut before_term = 2;
        for part in &parts {
            let message = decode(&part.bytes, ME, 3).unwrap();
            assert_eq!((message.index + 1, message.log_term), (next, before_term));
            assert!(!message.get_entries().is_empty());
            assert!(part.bytes.len() < MESSAGE_BYTES_MAX);
            next += message.get_entries().len() as u64;
            before_term = 3;
        }
        assert_eq!((parts.len(), next), (5, 17));
    }

    #[test]
    fn what_raft_would_panic_about_is_refused_at_the_door() {
        type Spoil = fn(&mut Wire);
        let spoiled: [(Spoil, &str); 12] = [
            (|it| it.to = RaftId(9), "for another member"),
            (|it| it.from = RaftId(0), "no sender"),
            (|it| it.from = ME, "no sender"),
            (|it| it.term = 0, "no term"),
            (|it| it.term = u64::MAX, "out of reach"),
            (|it| it.kind = Kind::Heartbeat, "only an append"),
            (|it| it.entries[0].index = 12, "gaps"),
            (|it| it.index = u64::MAX, "gaps"),
            (|it| it.entries[0].term = 1, "impossible terms"),
            (|it| it.entries[0].term = 4, "impossible terms"),
            (
                |it| {
                    it.entries.clear();
                    it.kind = Kind::Snapshot;
                },
                "snapshot is missing",
            ),
            (
                |it| {
                    it.entries.clear();
                    it.kind = Kind::Snapshot;
                    it.snapshot = Some(Snapshot {
                        at: Position { index: 5, term: 1 },
                        members: MemberSets {
                            voters: [RaftId(1)].into(),
                            learners: [RaftId(1)].into(),
                            ..MemberSets::default()
                        },
                        data: Bytes::new(),
                    });
                },
                "impossible members",
            ),
        ];
        assert!(read(&wire()).is_ok());
        for (spoil, why) in spoiled {
            let mut wire = wire();
            spoil(&mut wire);
            let err = read(&wire).unwrap_err().to_string();
            assert!(err.contains(why), "{err} instead of {why}");
        }
    }

    #[test]
    fn requests_of_raft_itself_never_leave() {
        for kind in [
            MessageType::MsgPropose,
            MessageType::MsgReadIndex,
            MessageType::MsgTransferLeader,
            MessageType::MsgHup,
        ] {
            let mut message = Message::default();
            message.set_msg_type(kind);
            assert_eq!(encode(message).unwrap(), []);
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            if let Ok(message) = decode(&bytes, ME, 3) {
                prop_assert_eq!(message.to, ME.0);
            }
        }

        #[test]
        fn a_true_message_with_one_byte_changed_is_read_or_refused_without_a_panic(at in 0usize..20, byte: u8) {
            let mut bytes = codec::encode(&wire()).unwrap();
            let at = at % bytes.len();
            bytes[at] = byte;
            drop(decode(&bytes, ME, 3));
        }
    }
}
