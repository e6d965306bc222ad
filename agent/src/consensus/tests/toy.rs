//! The simplest state that keeps a log's promises visible: it remembers which notes were applied, in order.

use std::collections::BTreeMap;

use kawanan_api::{NodeId, RaftId, RequestId, Revision, Timestamp, TokenId};
use kawanan_logic::codec;
use kawanan_logic::snapshot::SnapshotError;
use kawanan_logic::state::Outcome;
use kawanan_logic::{Command, Entry};
use serde::{Deserialize, Serialize};

use crate::consensus::{Member, StateMachine};

#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Toy {
    pub(super) revision: Revision,
    pub(super) notes: Vec<String>,
    outcomes: BTreeMap<RequestId, Outcome>,
}

impl StateMachine for Toy {
    fn apply(&mut self, index: Revision, entry: &Entry) -> Outcome {
        assert_eq!(index.0, self.revision.0 + 1, "applied out of order");
        self.revision = index;
        if let Some(outcome) = self.outcomes.get(&entry.request) {
            return outcome.clone();
        }
        let Command::CreateToken { note, .. } = &entry.command else {
            panic!("the toy only knows notes");
        };
        assert_ne!(note, "poison", "the toy chokes on this");
        self.notes.push(note.clone());
        self.outcomes.insert(entry.request, Ok(index));
        Ok(index)
    }

    fn skip(&mut self, index: Revision) {
        assert_eq!(index.0, self.revision.0 + 1, "skipped out of order");
        self.revision = index;
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        Ok(codec::encode(self)?)
    }

    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        Ok(codec::decode_snapshot(bytes)?)
    }

    fn remembered(&self, request: RequestId) -> Option<Outcome> {
        self.outcomes.get(&request).cloned()
    }

    /// Knows nine machines; number 1 takes part as 1 and, after it was wiped, as 101, and so on.
    fn members(&self) -> Vec<Member> {
        (1..=9)
            .flat_map(|machine| [machine, machine + 100])
            .map(|raft| Member {
                raft: RaftId(raft),
                node: node_id(raft),
                name: format!("m{}", raft % 100),
            })
            .collect()
    }
}

/// The machine that takes part under a number.
pub(super) fn node_id(raft: u64) -> NodeId {
    NodeId::from_bits(u128::from(raft % 100))
}

pub(super) fn note(request: u128, text: &str) -> Entry {
    Entry {
        request: RequestId::from_bits(request),
        at: Timestamp::from_millis(0),
        command: Command::CreateToken {
            id: TokenId::from_bits(request),
            secret_hash: [0; 32],
            expires_at: None,
            uses: None,
            note: text.to_owned(),
        },
    }
}
