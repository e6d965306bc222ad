//! How the service log changes the state: [`ClusterState::apply`], the only writer of [`ClusterState`].
//!
//! Deterministic: the outcome depends on the state and the entry alone, never on a clock, a random number or the
//! version's idea of a valid spec (specs are checked where they enter the cluster, because the rules may change while
//! old entries may not). Total: any entry in any state has an outcome and none panics. All or nothing: a refused entry
//! changes nothing but the revision, the digest and the memory of requests.

mod cluster;
mod node;
mod plan;
mod service;
mod task;
mod token;

pub use cluster::check_level;

#[cfg(test)]
mod tests;

use kawanan_api::{ApiError, ErrorCode, Revision};
use sha2::{Digest, Sha256};

use crate::codec;
use crate::command::{Command, Entry};
use crate::state::{ClusterState, Outcome};

/// What one command makes of a state: nothing to say, or why it was refused.
type Applied = Result<(), ApiError>;

impl ClusterState {
    /// Applies the entry at `index`. Entries come in the order of the log; one that was applied before is refused.
    ///
    /// # Errors
    /// When the entry was refused; the error says why, for the person who asked. A request that was seen before gets
    /// the outcome that it got then.
    pub fn apply(&mut self, index: Revision, entry: &Entry) -> Outcome {
        if index <= self.revision {
            return Err(ApiError::new(
                ErrorCode::Internal,
                format!(
                    "log entry {index} came after entry {} was applied",
                    self.revision
                ),
            ));
        }
        self.revision = index;
        self.digest = next_digest(self.digest, index, entry);
        if let Some(outcome) = self.requests.get(entry.request) {
            return outcome.clone();
        }
        let outcome = self.run(index, entry).map(|()| index);
        self.requests
            .remember(entry.request, index, entry.at, outcome.clone());
        outcome
    }

    /// Passes over a log entry that holds no command, such as the one a new leader starts with.
    pub fn skip(&mut self, index: Revision) {
        self.revision = self.revision.max(index);
    }

    fn run(&mut self, index: Revision, entry: &Entry) -> Applied {
        let at = entry.at;
        if self.cluster.is_none() && !matches!(entry.command, Command::Found { .. }) {
            return Err(ApiError::new(
                ErrorCode::Refused,
                "the cluster is not founded yet",
            ));
        }
        match &entry.command {
            Command::Found {
                cluster,
                authority,
                node,
            } => self.found(index, at, *cluster, authority, node),
            Command::CreateToken {
                id,
                secret_hash,
                expires_at,
                uses,
                note,
            } => self.create_token(at, *id, *secret_hash, *expires_at, *uses, note),
            Command::RevokeToken { id } => self.revoke_token(at, *id),
            Command::AdmitNode {
                token,
                secret_hash,
                node,
            } => self.admit_node(index, at, *token, *secret_hash, node),
            Command::UpdateNode {
                id,
                availability,
                set_labels,
                remove_labels,
            } => self.update_node(index, *id, *availability, set_labels, remove_labels),
            Command::UpdateNodeFacts { id, raft_id, facts } => {
                self.update_node_facts(*id, *raft_id, facts)
            }
            Command::SetNodeStatus { id, status } => self.set_node_status(at, *id, *status),
            Command::RemoveNode { id, force } => self.remove_node(*id, *force),
            Command::CreateService { id, spec } => self.create_service(index, at, *id, spec),
            Command::UpdateService {
                id,
                spec,
                if_revision,
            } => self.update_service(index, at, *id, spec, *if_revision),
            Command::ScaleServices { replicas } => self.scale_services(index, at, replicas),
            Command::RemoveService { id } => self.remove_service(at, *id),
            Command::Plan { basis, changes } => self.apply_plan(index, at, *basis, changes),
            Command::ReportTasks { node, reports } => self.report_tasks(at, *node, reports),
        }
    }
}

/// The first 8 bytes of SHA-256 over the digest before, the index and the entry as it is stored.
fn next_digest(before: u64, index: Revision, entry: &Entry) -> u64 {
    let mut hash = Sha256::new();
    hash.update(before.to_be_bytes());
    hash.update(index.0.to_be_bytes());
    // Encoding fails for no entry that could have been in a log; if it did, it would fail alike on every node.
    hash.update(codec::encode(entry).unwrap_or_default());
    let sum = hash.finalize();
    sum.iter()
        .take(8)
        .fold(0, |digest, byte| digest << 8 | u64::from(*byte))
}
