//! The log as raft-rs reads it: entries after the last compaction, and the applied state, in memory.
//!
//! The durable copy is only written while the node runs and read when it starts, so nothing here waits for a disk. Bounded:
//! compaction keeps a few hundred entries.

use std::collections::VecDeque;

use bytes::Bytes;
use kawanan_api::RaftId;
use raft::eraftpb::{self, Entry};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::{StateMachine, mirror};
use crate::log_store::{HardState, MemberSets, Persisted, Position, Snapshot};

pub(super) struct MemoryLog<S> {
    /// As of start; raft-rs asks once.
    hard_state: HardState,
    start: Position,
    entries: VecDeque<Entry>,
    entry_bytes: usize,
    /// The state after the entry at `applied`, and the members then.
    pub(super) state: S,
    pub(super) applied: Position,
    pub(super) members: MemberSets,
    /// Whether another snapshot may be sent now.
    pub(super) snapshots_allowed: bool,
}

impl<S: StateMachine> MemoryLog<S> {
    pub(super) fn new(persisted: Persisted, state: S) -> Self {
        let (applied, members) = persisted
            .snapshot
            .map_or_else(Default::default, |snapshot| (snapshot.at, snapshot.members));
        let mut log = Self {
            hard_state: persisted.hard_state,
            start: persisted.start,
            entries: VecDeque::new(),
            entry_bytes: 0,
            state,
            applied,
            members,
            snapshots_allowed: true,
        };
        for entry in persisted.entries {
            log.push(mirror::entry_into_raft(entry));
        }
        log
    }

    /// Adds consecutive entries; those from the first one's index on are replaced.
    pub(super) fn append(&mut self, entries: &[Entry]) {
        let Some(first) = entries.first() else {
            return;
        };
        assert!(
            first.index > self.start.index && first.index <= self.last().index + 1,
            "entries from {} on do not continue the log ({} to {})",
            first.index,
            self.start.index,
            self.last().index
        );
        while self.last().index >= first.index {
            if let Some(entry) = self.entries.pop_back() {
                self.entry_bytes -= size(&entry);
            }
        }
        for entry in entries {
            self.push(entry.clone());
        }
    }

    fn push(&mut self, entry: Entry) {
        self.entry_bytes += size(&entry);
        self.entries.push_back(entry);
    }

    /// Forgets the whole log: a snapshot at `at` replaces it.
    pub(super) fn reset(&mut self, at: Position) {
        self.entries.clear();
        self.entry_bytes = 0;
        self.start = at;
    }

    /// Forgets the entries up to `index`, which must be applied.
    pub(super) fn compact(&mut self, index: u64) {
        while self.start.index < index {
            let Some(entry) = self.entries.pop_front() else {
                return;
            };
            self.entry_bytes -= size(&entry);
            self.start = Position {
                index: entry.index,
                term: entry.term,
            };
        }
    }

    pub(super) fn start(&self) -> Position {
        self.start
    }

    pub(super) fn last(&self) -> Position {
        self.entries.back().map_or(self.start, |entry| Position {
            index: entry.index,
            term: entry.term,
        })
    }

    /// The term of the entry at `index`, if it is here.
    pub(super) fn term_at(&self, index: u64) -> Option<u64> {
        if index == self.start.index {
            return Some(self.start.term);
        }
        self.get(index).map(|entry| entry.term)
    }

    /// Bytes of the entries after `index`.
    pub(super) fn bytes_after(&self, index: u64) -> usize {
        if index <= self.start.index {
            return self.entry_bytes;
        }
        let skip = usize::try_from(index - self.start.index).unwrap_or(usize::MAX);
        self.entries.iter().skip(skip).map(size).sum()
    }

    fn get(&self, index: u64) -> Option<&Entry> {
        let offset = index.checked_sub(self.start.index + 1)?;
        self.entries.get(usize::try_from(offset).ok()?)
    }

    fn own_snapshot(&self) -> Result<Snapshot, StorageError> {
        let data = self
            .state
            .snapshot()
            .map_err(|err| StorageError::Other(Box::new(err)))?;
        Ok(Snapshot {
            at: self.applied,
            members: self.members.clone(),
            data: Bytes::from(data),
        })
    }
}

fn size(entry: &Entry) -> usize {
    entry.data.len() + entry.context.len() + 32
}

impl<S: StateMachine> Storage for MemoryLog<S> {
    fn initial_state(&self) -> raft::Result<RaftState> {
        Ok(RaftState::new(
            mirror::hard_state_into_raft(self.hard_state),
            mirror::members_into_raft(&self.members),
        ))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.start.index {
            return Err(StorageError::Compacted.into());
        }
        if high > self.last().index + 1 {
            return Err(StorageError::Unavailable.into());
        }
        let limit = max_size.into().unwrap_or(u64::MAX);
        let mut taken = Vec::new();
        let mut bytes = 0u64;
        for entry in (low..high).map_while(|index| self.get(index)) {
            bytes = bytes.saturating_add(size(entry) as u64);
            if bytes > limit && !taken.is_empty() {
                break;
            }
            taken.push(entry.clone());
        }
        Ok(taken)
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index < self.start.index {
            return Err(StorageError::Compacted.into());
        }
        self.term_at(index)
            .ok_or_else(|| StorageError::Unavailable.into())
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.start.index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last().index)
    }

    /// Made on the spot from the applied state. The receiver must be among its members, or it would ignore it.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<eraftpb::Snapshot> {
        let behind = self.applied.index < request_index.max(1);
        if behind || !self.snapshots_allowed || !self.members.contains(RaftId(to)) {
            return Err(StorageError::SnapshotTemporarilyUnavailable.into());
        }
        Ok(mirror::snapshot_into_raft(self.own_snapshot()?))
    }
}
