//! The cluster's state as what the log changes.

use kawanan_api::{RequestId, Revision};
use kawanan_logic::snapshot::{self, SnapshotError};
use kawanan_logic::state::Outcome;
use kawanan_logic::{ClusterState, Entry};

use super::{Member, StateMachine};

impl StateMachine for ClusterState {
    fn apply(&mut self, index: Revision, entry: &Entry) -> Outcome {
        Self::apply(self, index, entry)
    }

    fn skip(&mut self, index: Revision) {
        Self::skip(self, index);
    }

    fn revision(&self) -> Revision {
        self.revision
    }

    fn snapshot(&self) -> Result<Vec<u8>, SnapshotError> {
        snapshot::encode(self)
    }

    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError> {
        snapshot::decode(bytes)
    }

    fn remembered(&self, request: RequestId) -> Option<Outcome> {
        self.requests.get(request).cloned()
    }

    fn members(&self) -> Vec<Member> {
        self.nodes
            .values()
            .map(|node| Member {
                raft: node.raft_id,
                node: node.id,
                name: node.name.clone(),
            })
            .collect()
    }
}
