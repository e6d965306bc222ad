//! The cluster's state as the machine that the log drives.

use kawanan_api::{RequestId, Revision};
use kawanan_logic::codec::CodecError;
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

    fn snapshot(&self) -> Result<Vec<u8>, CodecError> {
        snapshot::encode(self).map_err(|err| CodecError::Encode(err.to_string()))
    }

    fn restore(bytes: &[u8]) -> Result<Self, CodecError> {
        snapshot::decode(bytes).map_err(|err: SnapshotError| CodecError::Decode(err.to_string()))
    }

    fn remembered(&self, request: RequestId) -> Option<Outcome> {
        self.requests.get(request).cloned()
    }

    fn members(&self) -> Vec<Member> {
        let member = |node: &std::sync::Arc<kawanan_logic::state::Node>| Member {
            raft: node.raft_id,
            node: node.id,
            name: node.name.clone(),
        };
        self.nodes.values().map(member).collect()
    }
}
