//! The service log: raft-rs behind one owner task.
//!
//! [`start`] opens a node's log and spawns the task that owns it; everybody else holds a [`ConsensusHandle`], which proposes
//! entries (on the leader), tells how fresh a read must be, changes the members, and publishes the state and the node's
//! role. [`Proposer`] does the same from any node by asking the leader.
//!
//! Promises: an outcome is told only after the entry is durable on a majority and applied here; what was told is never lost
//! or undone; the state is published once per batch, always whole. Never does: read a clock or lease to decide that a
//! read is fresh, parse protobuf that came from the network or the disk, forward a proposal through Raft, or repeat a failed
//! write. When the disk fails or an invariant breaks, only this node's Raft role ends ([`Role::Failed`]); the agent and its
//! containers go on.
//!
//! In reading order: [`LogNode`] is the node as a value machine without I/O, `task` feeds and empties it, `persist` is its
//! disk, `forward` finds the leader for those who are not.

mod cluster_state;
pub mod config;
pub mod forward;
pub mod handle;
pub mod log_node;
mod member_table;
mod memory_log;
mod mirror;
pub mod persist;
mod raft_trace;
pub mod status;
mod task;
mod waiters;
mod wire;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

use bytes::Bytes;
use kawanan_api::{NodeId, RaftId, RequestId, Revision};
use kawanan_logic::Entry;
use kawanan_logic::snapshot::SnapshotError;
use kawanan_logic::state::Outcome;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

pub use config::{ConsensusConfig, ElectionTicks};
pub use forward::{Proposer, answer_propose, answer_read_index};
pub use handle::{ChangeError, ConsensusHandle, ProposeError, ReadError};
pub use kawanan_logic::membership::MemberStep;
pub use log_node::LogNode;
pub use persist::Persister;
pub use status::{ConsensusStatus, Progress, Role, Stage};

use crate::log_store::{
    HardState, LogStore, MemberSets, Persisted, Position, Snapshot, StoreError, Write,
};
use crate::transport::SharedLinks;

/// The service log of a cluster, and how to write into it from any node.
pub type ClusterLog = ConsensusHandle<kawanan_logic::ClusterState>;
pub type ClusterProposer = Proposer<kawanan_logic::ClusterState>;

/// What the log changes. Deterministic and total: the same entries make the same state on every node.
pub trait StateMachine: Clone + Default + Send + Sync + 'static {
    /// Applies the entry at `index`; says what came of it. An entry whose request was applied before changes nothing and
    /// has the outcome of that time.
    fn apply(&mut self, index: Revision, entry: &Entry) -> Outcome;
    /// Takes note of an index that holds no entry for the state.
    fn skip(&mut self, index: Revision);
    /// Index of the last entry applied or skipped.
    fn revision(&self) -> Revision;
    /// The whole state as bytes.
    ///
    /// # Errors
    /// When the state cannot be written down.
    fn snapshot(&self) -> Result<Vec<u8>, SnapshotError>;
    /// The state out of the bytes of [`StateMachine::snapshot`].
    ///
    /// # Errors
    /// When the bytes are no state of a version known here.
    fn restore(bytes: &[u8]) -> Result<Self, SnapshotError>;
    /// The outcome of a request that was applied before, as long as it is remembered.
    fn remembered(&self, request: RequestId) -> Option<Outcome>;
    /// The machines that the state knows, by the number under which they take part.
    fn members(&self) -> Vec<Member>;
}

/// A machine and its number in the log's membership.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    pub raft: RaftId,
    pub node: NodeId,
    /// For people.
    pub name: String,
}

/// Why a node cannot take part.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StartError {
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("the log cannot be opened: {0}")]
    Raft(String),
    #[error("this node is part of a cluster already: its log holds {entries} entries")]
    AlreadyFounded { entries: u64 },
}

/// Makes `founder` the only voter of a new log. Must be durable before [`start`]; a crash in between leaves nothing.
///
/// The log begins with a snapshot at index 1, so that nodes that join later get the members together with the state.
///
/// # Errors
/// When the store holds a log already, or the disk refuses.
pub fn found<S: StateMachine>(store: &mut dyn LogStore, founder: RaftId) -> Result<(), StartError> {
    let before = store.load(founder)?;
    if before.snapshot.is_some() || !before.entries.is_empty() {
        return Err(StartError::AlreadyFounded {
            entries: last_index(&before),
        });
    }
    let mut state = S::default();
    state.skip(Revision(1));
    let data = state.snapshot().map_err(|err| StoreError::Encode {
        cause: err.to_string(),
    })?;
    let snapshot = Snapshot {
        at: Position { index: 1, term: 1 },
        members: MemberSets {
            voters: [founder].into(),
            ..MemberSets::default()
        },
        data: Bytes::from(data),
    };
    store.write(&Write {
        install: Some(snapshot),
        hard_state: Some(HardState {
            term: 1,
            vote: 0,
            commit: 1,
        }),
        ..Write::default()
    })?;
    Ok(())
}

fn last_index(persisted: &Persisted) -> u64 {
    persisted
        .entries
        .last()
        .map_or(persisted.start.index, |entry| entry.index)
}

/// What [`start`] needs beside the log.
pub struct Surroundings {
    pub links: SharedLinks,
    /// Raft messages of other nodes, as [`crate::transport::Inbound::raft`] delivers them.
    pub inbound: mpsc::Receiver<(NodeId, Bytes)>,
    /// Members that the joiner was told about, until its state knows them.
    pub hints: BTreeMap<RaftId, NodeId>,
}

/// The tokio tasks behind a [`ConsensusHandle`].
#[derive(Debug)]
pub struct Running {
    owner: JoinHandle<()>,
    /// Only of a simulated disk; a real one has a thread, which ends with its owner.
    disk: Option<JoinHandle<()>>,
}

impl Running {
    /// Ends everything on the spot, as a crash would. For simulation; the polite way is [`ConsensusHandle::shutdown`].
    pub fn crash(self) {
        self.owner.abort();
        if let Some(disk) = self.disk {
            disk.abort();
        }
    }

    /// Waits until the owner has ended.
    pub async fn ended(self) {
        if let Err(err) = self.owner.await {
            tracing::error!(%err, "the log's owner ended in disorder");
        }
    }
}

/// Opens the log and spawns its owner and, with [`persist::Setup::on_thread`], the disk's thread.
///
/// Must run inside a tokio runtime. An empty log makes an outsider, which waits for the leader to take it in.
///
/// # Errors
/// When the log belongs to another Raft id, is damaged, cannot be read, or does not fit this version.
pub fn start<S: StateMachine>(
    config: ConsensusConfig,
    disk: persist::Setup,
    surroundings: Surroundings,
) -> Result<(ConsensusHandle<S>, Running), StartError> {
    let opened = disk.open::<S>(config.raft_id)?;
    let node = LogNode::<S>::open(config.clone(), opened.persisted, surroundings.hints)?;
    let (handle, owner) = task::spawn(
        &config,
        node,
        opened.persister,
        surroundings.links,
        surroundings.inbound,
    );
    let disk = opened.task;
    Ok((handle, Running { owner, disk }))
}
