//! Where a node's part of the Raft log rests: entries, vote and term, the newest snapshot, in one durable file.
//!
//! Promises: a [`Write`] is atomic, and durable when [`LogStore::write`] returns; what was stored comes back unchanged or
//! as [`StoreError::Corrupt`], because every record carries a checksum over its key and its bytes. Never does: repair
//! damage, repeat a failed write, or parse protobuf. After an error of `write` the store is done: what is on the disk is
//! unknown, so the node's Raft role ends and only a restart (which checks everything) may use the file again.
//!
//! The file is a redb database. It was chosen over an append-only file of our own and over fjall, raft-engine and SQLite
//! (figures in `docs/decisions`): entries, term, vote and snapshot change in one transaction, so they can never disagree; it
//! checksums its pages; it is pure Rust, three packages, and starts no threads. It writes more bytes per tiny commit than
//! the others, which group commit makes up for: a cluster's log grows by tens of entries per second, redb commits thousands.
//!
//! Only snapshot and log are stored. State, applied index and members after the snapshot are recomputed from them at
//! start, so there is nothing that a crash could leave in disagreement.

pub mod disk;
mod layout;
pub mod lock;
pub mod memory;
mod record;

#[cfg(test)]
mod contract;
#[cfg(test)]
mod crash;

use std::collections::BTreeSet;
use std::path::PathBuf;

use bytes::Bytes;
use kawanan_api::RaftId;
use serde::{Deserialize, Serialize};

pub use disk::RedbStore;
pub use lock::DirectoryLock;
pub use memory::{Fault, MemoryDisk, MemoryStore};
pub use record::raw_bytes;

/// Name of the log's file inside the data directory.
pub const FILE_NAME: &str = "log.redb";

/// What a stored record of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum EntryKind {
    /// A command, or nothing at all (a new leader's first entry).
    Normal,
    /// A change of the members.
    Membership,
}

/// One record of the Raft log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogEntry {
    pub term: u64,
    pub index: u64,
    pub kind: EntryKind,
    /// The encoded command, or the encoded change of the members.
    #[serde(with = "raw_bytes")]
    pub data: Bytes,
}

/// What Raft must not forget. `vote` is 0 when no vote was given in `term`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct HardState {
    pub term: u64,
    pub vote: u64,
    pub commit: u64,
}

/// Who takes part. During a joint change both `voters` and `outgoing` must agree to everything.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct MemberSets {
    pub voters: BTreeSet<RaftId>,
    pub learners: BTreeSet<RaftId>,
    /// The voters before a joint change; empty outside of one.
    pub outgoing: BTreeSet<RaftId>,
    /// Outgoing voters that become learners when the joint change ends.
    pub learners_next: BTreeSet<RaftId>,
}

impl MemberSets {
    pub fn is_joint(&self) -> bool {
        !self.outgoing.is_empty()
    }

    /// Whether `id` votes, in the new or the old half of a joint change.
    pub fn is_voter(&self, id: RaftId) -> bool {
        self.voters.contains(&id) || self.outgoing.contains(&id)
    }

    pub fn contains(&self, id: RaftId) -> bool {
        self.is_voter(id) || self.learners.contains(&id) || self.learners_next.contains(&id)
    }
}

/// A place in the log. `index` 0 is before everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Position {
    pub index: u64,
    pub term: u64,
}

/// The whole state after the entry at `at`, and who the members were.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Snapshot {
    pub at: Position,
    pub members: MemberSets,
    #[serde(with = "raw_bytes")]
    pub data: Bytes,
}

/// A snapshot of this node's own state, after which the log's beginning is not needed any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoint {
    pub snapshot: Snapshot,
    /// Entries up to here are dropped.
    pub drop_to: Position,
}

/// Changes that become durable together, carried out in the order of the fields.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Write {
    /// A leader's snapshot: replaces the whole log.
    pub install: Option<Snapshot>,
    /// Consecutive entries. Those in the store from the first one's index on are replaced.
    pub append: Vec<LogEntry>,
    pub checkpoint: Option<Checkpoint>,
    /// Must be there with `install` or `checkpoint`: a commit index below the snapshot would be nonsense.
    pub hard_state: Option<HardState>,
}

impl Write {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Adds a later write, so that both are done at once.
    pub fn merge(&mut self, later: Self) {
        if later.install.is_some() {
            self.install = later.install;
            self.append = later.append;
            self.checkpoint = None;
        } else {
            if let Some(first) = later.append.first() {
                self.append.retain(|entry| entry.index < first.index);
            }
            self.append.extend(later.append);
        }
        if later.checkpoint.is_some() {
            self.checkpoint = later.checkpoint;
        }
        if later.hard_state.is_some() {
            self.hard_state = later.hard_state;
        }
    }

    /// Bytes of entries in it, roughly.
    pub fn entry_bytes(&self) -> usize {
        self.append.iter().map(|entry| entry.data.len() + 32).sum()
    }
}

/// Everything a store holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Persisted {
    pub hard_state: HardState,
    /// `None` in a store that never was part of a cluster.
    pub snapshot: Option<Snapshot>,
    /// The place before the first entry.
    pub start: Position,
    /// Consecutive, from `start.index + 1`.
    pub entries: Vec<LogEntry>,
}

/// A node's durable log. Blocking; used from one thread at a time.
pub trait LogStore: Send + 'static {
    /// Reads and checks everything. The first call binds the store to `owner`.
    ///
    /// # Errors
    /// When the store belongs to another Raft id, is damaged, or cannot be read.
    fn load(&mut self, owner: RaftId) -> Result<Persisted, StoreError>;

    /// Makes all of `write` durable, or none of it.
    ///
    /// # Errors
    /// When the disk refuses. The store must not be used after that.
    fn write(&mut self, write: &Write) -> Result<(), StoreError>;
}

/// Why the log cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("the data directory {} is in use by another agent", directory.display())]
    InUse { directory: PathBuf },
    #[error(
        "the log is damaged: {what}; this node's copy cannot be trusted: remove its data directory and join again \
         with a new token"
    )]
    Corrupt { what: String },
    #[error(
        "the log belongs to member {recorded}, not to {asked}: its data directory was put together from two nodes; \
         remove it and join again with a new token"
    )]
    OtherOwner { recorded: RaftId, asked: RaftId },
    #[error("the disk is full while {doing}: free some space and restart the agent")]
    Full { doing: &'static str },
    #[error("the disk failed while {doing}: {cause}; check the disk, then restart the agent")]
    Io { doing: &'static str, cause: String },
    #[error("the log was written by a newer version ({cause}): install that version of the agent")]
    NewerFormat { cause: String },
    #[error("this change cannot be written down: {cause}")]
    Encode { cause: String },
}

impl StoreError {
    pub(super) fn corrupt(what: impl Into<String>) -> Self {
        Self::Corrupt { what: what.into() }
    }
}
