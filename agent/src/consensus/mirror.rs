//! Between our own types, which rest and travel, and those of raft-rs, which never leave the process.
//!
//! raft-rs's types are protobuf messages. No byte from the disk or a peer goes through protobuf's parser: a change of the
//! members is written as our own [`Step`] into the entry's context, and what raft-rs keeps in the entry's data is left
//! behind whenever the entry leaves this process.

use std::collections::BTreeSet;

use bytes::Bytes;
use kawanan_api::RaftId;
use kawanan_logic::codec::{self, CodecError};
use raft::eraftpb::{
    self, ConfChangeSingle, ConfChangeTransition, ConfChangeType, ConfChangeV2, ConfState,
    EntryType,
};
use serde::{Deserialize, Serialize};

use crate::log_store::{EntryKind, HardState, LogEntry, MemberSets, Position, Snapshot};

/// A change of the members as it rests in the log. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Step {
    AddLearner(RaftId),
    RemoveMember(RaftId),
    /// Those removed stay on as learners.
    SetVoters {
        add: BTreeSet<RaftId>,
        remove: BTreeSet<RaftId>,
    },
    LeaveJoint,
}

pub(super) fn encode_step(step: &Step) -> Result<Vec<u8>, CodecError> {
    codec::encode(step)
}

/// No bytes at all are what raft-rs itself puts into the log: the end of a joint change.
pub(super) fn decode_step(bytes: &[u8]) -> Result<Step, CodecError> {
    if bytes.is_empty() {
        return Ok(Step::LeaveJoint);
    }
    codec::decode(bytes)
}

/// The same in raft-rs's words. A joint change is left explicitly by whoever leads then: raft-rs's own way of leaving is
/// lost with the leader that began it.
pub(super) fn conf_change(step: &Step) -> ConfChangeV2 {
    let mut change = ConfChangeV2::default();
    let mut single = |kind: ConfChangeType, id: RaftId| {
        let mut one = ConfChangeSingle::default();
        one.set_change_type(kind);
        one.node_id = id.0;
        change.mut_changes().push(one);
    };
    match step {
        Step::AddLearner(id) => single(ConfChangeType::AddLearnerNode, *id),
        Step::RemoveMember(id) => single(ConfChangeType::RemoveNode, *id),
        Step::SetVoters { add, remove } => {
            for id in add {
                single(ConfChangeType::AddNode, *id);
            }
            for id in remove {
                single(ConfChangeType::AddLearnerNode, *id);
            }
            change.set_transition(ConfChangeTransition::Explicit);
        }
        Step::LeaveJoint => {}
    }
    change
}

pub(super) fn entry_from_raft(entry: &eraftpb::Entry) -> LogEntry {
    let (kind, data) = match entry.get_entry_type() {
        EntryType::EntryNormal => (EntryKind::Normal, entry.data.clone()),
        EntryType::EntryConfChange | EntryType::EntryConfChangeV2 => {
            (EntryKind::Membership, entry.context.clone())
        }
    };
    LogEntry {
        term: entry.term,
        index: entry.index,
        kind,
        data,
    }
}

pub(super) fn entry_into_raft(entry: LogEntry) -> eraftpb::Entry {
    let mut raft = eraftpb::Entry {
        term: entry.term,
        index: entry.index,
        ..Default::default()
    };
    match entry.kind {
        EntryKind::Normal => raft.data = entry.data,
        EntryKind::Membership => {
            raft.set_entry_type(EntryType::EntryConfChangeV2);
            raft.context = entry.data;
        }
    }
    raft
}

pub(super) fn hard_state_from_raft(state: &eraftpb::HardState) -> HardState {
    HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
    }
}

pub(super) fn hard_state_into_raft(state: HardState) -> eraftpb::HardState {
    eraftpb::HardState {
        term: state.term,
        vote: state.vote,
        commit: state.commit,
        ..Default::default()
    }
}

pub(super) fn members_from_raft(state: &ConfState) -> MemberSets {
    let set = |ids: &[u64]| ids.iter().copied().map(RaftId).collect();
    MemberSets {
        voters: set(&state.voters),
        learners: set(&state.learners),
        outgoing: set(&state.voters_outgoing),
        learners_next: set(&state.learners_next),
    }
}

pub(super) fn members_into_raft(members: &MemberSets) -> ConfState {
    let list = |ids: &BTreeSet<RaftId>| ids.iter().map(|id| id.0).collect::<Vec<_>>();
    let mut state = ConfState::default();
    state.set_voters(list(&members.voters));
    state.set_learners(list(&members.learners));
    state.set_voters_outgoing(list(&members.outgoing));
    state.set_learners_next(list(&members.learners_next));
    state
}

pub(super) fn snapshot_from_raft(snapshot: &eraftpb::Snapshot) -> Snapshot {
    let metadata = snapshot.get_metadata();
    Snapshot {
        at: Position {
            index: metadata.index,
            term: metadata.term,
        },
        members: members_from_raft(metadata.get_conf_state()),
        data: snapshot.data.clone(),
    }
}

pub(super) fn snapshot_into_raft(snapshot: Snapshot) -> eraftpb::Snapshot {
    let mut raft = eraftpb::Snapshot::default();
    let metadata = raft.mut_metadata();
    metadata.index = snapshot.at.index;
    metadata.term = snapshot.at.term;
    metadata.set_conf_state(members_into_raft(&snapshot.members));
    raft.data = snapshot.data;
    raft
}

/// An entry for [`raft::RawNode::step`] that proposes a change of the members.
pub(super) fn step_proposal(step: &Step) -> Result<eraftpb::Entry, CodecError> {
    use protobuf::Message as _;

    let mut entry = eraftpb::Entry::default();
    entry.set_entry_type(EntryType::EntryConfChangeV2);
    // raft-rs reads this back once, here in this process, to check it against the current members.
    entry.data = conf_change(step)
        .write_to_bytes()
        .map_err(|err| CodecError::Encode(err.to_string()))?
        .into();
    entry.context = Bytes::from(encode_step(step)?);
    Ok(entry)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(ids: &[u64]) -> BTreeSet<RaftId> {
        ids.iter().copied().map(RaftId).collect()
    }

    #[test]
    fn steps_keep_their_bytes_for_ever() {
        let golden: [(Step, &[u8]); 4] = [
            (Step::AddLearner(RaftId(7)), &[1, 0, 7]),
            (Step::RemoveMember(RaftId(8)), &[1, 1, 8]),
            (
                Step::SetVoters {
                    add: ids(&[1, 2]),
                    remove: ids(&[300]),
                },
                &[1, 2, 2, 1, 2, 1, 251, 44, 1],
            ),
            (Step::LeaveJoint, &[1, 3]),
        ];
        for (step, bytes) in golden {
            assert_eq!(encode_step(&step).unwrap(), bytes, "{step:?}");
            assert_eq!(decode_step(bytes).unwrap(), step);
        }
    }

    #[test]
    fn members_and_entries_survive_the_way_to_raft_and_back() {
        let members = MemberSets {
            voters: ids(&[1, 2, 3]),
            learners: ids(&[9]),
            outgoing: ids(&[1, 4]),
            learners_next: ids(&[4]),
        };
        assert_eq!(members_from_raft(&members_into_raft(&members)), members);
        for kind in [EntryKind::Normal, EntryKind::Membership] {
            let entry = LogEntry {
                term: 3,
                index: 12,
                kind,
                data: Bytes::from_static(b"abc"),
            };
            assert_eq!(entry_from_raft(&entry_into_raft(entry.clone())), entry);
        }
    }

    #[test]
    fn leaving_a_joint_change_is_an_empty_change_and_entering_one_is_explicit() {
        assert!(conf_change(&Step::LeaveJoint).leave_joint());
        let enter = conf_change(&Step::SetVoters {
            add: ids(&[2]),
            remove: ids(&[]),
        });
        assert_eq!(enter.enter_joint(), Some(false));
        assert_eq!(
            conf_change(&Step::AddLearner(RaftId(2))).enter_joint(),
            None
        );
    }
}
