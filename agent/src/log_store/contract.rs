//! What every store must do, run on the real one and on its twin in memory.

use std::collections::BTreeMap;

use bytes::Bytes;
use kawanan_api::RaftId;
use proptest::prelude::*;

use super::{
    Checkpoint, EntryKind, HardState, LogEntry, LogStore, MemberSets, MemoryDisk, Persisted,
    Position, RedbStore, Snapshot, StoreError, Write,
};

const OWNER: RaftId = RaftId(7);

pub(super) fn entry(index: u64, term: u64) -> LogEntry {
    LogEntry {
        term,
        index,
        kind: EntryKind::Normal,
        data: Bytes::from(format!("entry {index} of term {term}")),
    }
}

pub(super) fn hard(term: u64, commit: u64) -> HardState {
    HardState {
        term,
        vote: 3,
        commit,
    }
}

pub(super) fn snapshot(index: u64, term: u64) -> Snapshot {
    Snapshot {
        at: Position { index, term },
        members: MemberSets {
            voters: [RaftId(1), OWNER].into(),
            ..MemberSets::default()
        },
        data: Bytes::from(vec![u8::try_from(index % 256).unwrap(); 10_000]),
    }
}

pub(super) fn append(entries: impl IntoIterator<Item = LogEntry>, hard_state: HardState) -> Write {
    Write {
        append: entries.into_iter().collect(),
        hard_state: Some(hard_state),
        ..Write::default()
    }
}

pub(super) fn founded() -> Write {
    Write {
        install: Some(snapshot(1, 1)),
        hard_state: Some(hard(1, 1)),
        ..Write::default()
    }
}

/// A disk that an agent may be restarted on.
trait Disk {
    type Store: LogStore;
    fn open(&self) -> Self::Store;
}

struct RealFile(tempfile::TempDir);

impl Disk for RealFile {
    type Store = RedbStore;
    fn open(&self) -> RedbStore {
        RedbStore::open(&self.0.path().join("log.redb")).unwrap()
    }
}

impl Disk for MemoryDisk {
    type Store = super::MemoryStore;
    fn open(&self) -> super::MemoryStore {
        Self::open(self)
    }
}

fn real() -> RealFile {
    RealFile(tempfile::tempdir().unwrap())
}

fn written(disk: &impl Disk, writes: &[Write]) -> Persisted {
    {
        let mut store = disk.open();
        store.load(OWNER).unwrap();
        for write in writes {
            store.write(write).unwrap();
        }
    }
    disk.open().load(OWNER).unwrap()
}

fn indexes(persisted: &Persisted) -> Vec<(u64, u64)> {
    persisted
        .entries
        .iter()
        .map(|entry| (entry.index, entry.term))
        .collect()
}

fn a_new_store_is_empty_and_belongs_to_its_first_owner(disk: &impl Disk) {
    let found = written(disk, &[]);
    assert_eq!(found.hard_state, HardState::default());
    assert_eq!(found.snapshot, None);
    assert_eq!(found.start, Position::default());
    assert_eq!(found.entries, []);
    let other = disk.open().load(RaftId(8)).unwrap_err();
    assert_eq!(
        other,
        StoreError::OtherOwner {
            recorded: OWNER,
            asked: RaftId(8)
        }
    );
}

fn what_is_written_comes_back(disk: &impl Disk) {
    let entries: Vec<_> = (2..5).map(|index| entry(index, 1)).collect();
    let found = written(disk, &[founded(), append(entries.clone(), hard(4, 3))]);
    assert_eq!(found.hard_state, hard(4, 3));
    assert_eq!(found.snapshot, Some(snapshot(1, 1)));
    assert_eq!(found.start, Position { index: 1, term: 1 });
    assert_eq!(found.entries, entries);
}

fn a_new_leaders_entries_replace_the_old_ones(disk: &impl Disk) {
    let first = append((2..9).map(|index| entry(index, 1)), hard(1, 3));
    let second = append((5..7).map(|index| entry(index, 2)), hard(2, 6));
    let found = written(disk, &[founded(), first, second]);
    assert_eq!(indexes(&found), [(2, 1), (3, 1), (4, 1), (5, 2), (6, 2)]);
}

fn a_checkpoint_drops_the_beginning_and_keeps_the_rest(disk: &impl Disk) {
    let entries = append((2..12).map(|index| entry(index, 1)), hard(1, 11));
    let checkpoint = Write {
        checkpoint: Some(Checkpoint {
            snapshot: snapshot(9, 1),
            drop_to: Position { index: 6, term: 1 },
        }),
        hard_state: Some(hard(1, 11)),
        ..Write::default()
    };
    let found = written(disk, &[founded(), entries, checkpoint]);
    assert_eq!(found.start, Position { index: 6, term: 1 });
    assert_eq!(found.snapshot, Some(snapshot(9, 1)));
    assert_eq!(found.entries.first().map(|entry| entry.index), Some(7));
    assert_eq!(found.entries.len(), 5);
}

fn a_leaders_snapshot_replaces_everything(disk: &impl Disk) {
    let entries = append((2..12).map(|index| entry(index, 1)), hard(1, 11));
    let install = Write {
        install: Some(snapshot(50, 3)),
        append: vec![entry(51, 3)],
        hard_state: Some(hard(3, 50)),
        ..Write::default()
    };
    let found = written(disk, &[founded(), entries, install]);
    assert_eq!(found.start, Position { index: 50, term: 3 });
    assert_eq!(indexes(&found), [(51, 3)]);
}

fn what_does_not_fit_together_is_not_accepted_at_the_next_start(disk: &impl Disk) {
    let gap = append([entry(5, 1)], hard(1, 1));
    let err = {
        let mut store = disk.open();
        store.load(OWNER).unwrap();
        store.write(&founded()).unwrap();
        store.write(&gap).unwrap();
        drop(store);
        disk.open().load(OWNER).unwrap_err()
    };
    assert_eq!(err, StoreError::corrupt("entries 2 to 4 are missing"));
}

fn a_snapshot_without_hard_state_is_refused_and_changes_nothing(disk: &impl Disk) {
    let mut store = disk.open();
    store.load(OWNER).unwrap();
    let write = Write {
        install: Some(snapshot(1, 1)),
        ..Write::default()
    };
    assert!(matches!(
        store.write(&write),
        Err(StoreError::Encode { .. })
    ));
    store.write(&founded()).unwrap();
}

macro_rules! contract {
    ($($story:ident),+ $(,)?) => {
        mod real_file {
            $(#[test] fn $story() { super::$story(&super::real()); })+
        }
        mod memory {
            $(#[test] fn $story() { super::$story(&super::MemoryDisk::default()); })+
        }
    };
}

contract!(
    a_new_store_is_empty_and_belongs_to_its_first_owner,
    what_is_written_comes_back,
    a_new_leaders_entries_replace_the_old_ones,
    a_checkpoint_drops_the_beginning_and_keeps_the_rest,
    a_leaders_snapshot_replaces_everything,
    what_does_not_fit_together_is_not_accepted_at_the_next_start,
    a_snapshot_without_hard_state_is_refused_and_changes_nothing,
);

/// One step in the life of a log.
#[derive(Debug, Clone)]
enum Step {
    /// So many entries, overwriting so many uncommitted ones.
    Append {
        entries: u64,
        overwrite: u64,
    },
    Commit,
    Checkpoint {
        keep: u64,
    },
    Install {
        ahead: u64,
    },
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        4 => (1u64..6, 0u64..4).prop_map(|(entries, overwrite)| Step::Append { entries, overwrite }),
        2 => Just(Step::Commit),
        1 => (0u64..4).prop_map(|keep| Step::Checkpoint { keep }),
        1 => (1u64..9).prop_map(|ahead| Step::Install { ahead }),
    ]
}

/// A log as plain values.
#[derive(Debug)]
struct Model {
    entries: BTreeMap<u64, LogEntry>,
    start: Position,
    snapshot: Snapshot,
    hard: HardState,
}

impl Model {
    fn last(&self) -> u64 {
        self.entries
            .last_key_value()
            .map_or(self.start.index, |(index, _)| *index)
    }

    fn write(&mut self, step: &Step) -> Write {
        match *step {
            Step::Append { entries, overwrite } => {
                self.hard.term += 1;
                let first = (self.last() + 1 - overwrite.min(self.last()))
                    .max(self.hard.commit + 1)
                    .min(self.last() + 1);
                self.entries.split_off(&first);
                let new: Vec<_> = (first..first + entries)
                    .map(|index| entry(index, self.hard.term))
                    .collect();
                self.entries
                    .extend(new.iter().map(|entry| (entry.index, entry.clone())));
                append(new, self.hard)
            }
            Step::Commit => {
                self.hard.commit = self.last();
                append([], self.hard)
            }
            Step::Checkpoint { keep } => {
                let at = self.hard.commit;
                let term = |index| {
                    let entry: Option<&LogEntry> = self.entries.get(&index);
                    entry.map_or(self.start.term, |entry| entry.term)
                };
                let drop_to = at.saturating_sub(keep).max(self.start.index);
                let drop_to = Position {
                    index: drop_to,
                    term: term(drop_to),
                };
                self.snapshot = snapshot(at, term(at));
                self.entries.retain(|index, _| *index > drop_to.index);
                self.start = drop_to;
                Write {
                    checkpoint: Some(Checkpoint {
                        snapshot: self.snapshot.clone(),
                        drop_to,
                    }),
                    hard_state: Some(self.hard),
                    ..Write::default()
                }
            }
            Step::Install { ahead } => {
                self.hard.term += 1;
                self.hard.commit = self.last() + ahead;
                self.snapshot = snapshot(self.hard.commit, self.hard.term);
                self.start = self.snapshot.at;
                self.entries.clear();
                Write {
                    install: Some(self.snapshot.clone()),
                    hard_state: Some(self.hard),
                    ..Write::default()
                }
            }
        }
    }

    fn persisted(&self) -> Persisted {
        Persisted {
            hard_state: self.hard,
            snapshot: Some(self.snapshot.clone()),
            start: self.start,
            entries: self.entries.values().cloned().collect(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn any_life_of_a_log_comes_back_whole_also_when_writes_are_merged(
        steps in prop::collection::vec((step(), any::<bool>()), 1..25),
    ) {
        let disks = (MemoryDisk::default(), real());
        let mut memory = MemoryDisk::open(&disks.0);
        let mut file = disks.1.open();
        memory.load(OWNER).unwrap();
        file.load(OWNER).unwrap();
        let mut model = Model {
            entries: BTreeMap::new(),
            start: Position { index: 1, term: 1 },
            snapshot: snapshot(1, 1),
            hard: hard(1, 1),
        };
        memory.write(&founded()).unwrap();
        file.write(&founded()).unwrap();
        // The file gets some writes merged, as group commit does it.
        let mut merged = Write::default();
        for (step, flush) in &steps {
            let write = model.write(step);
            memory.write(&write).unwrap();
            merged.merge(write);
            if *flush {
                file.write(&std::mem::take(&mut merged)).unwrap();
            }
        }
        file.write(&merged).unwrap();
        drop(file);
        prop_assert_eq!(MemoryDisk::open(&disks.0).load(OWNER).unwrap(), model.persisted());
        prop_assert_eq!(disks.1.open().load(OWNER).unwrap(), model.persisted());
    }
}
