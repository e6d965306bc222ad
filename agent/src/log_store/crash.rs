//! The real store on a disk that loses power: what was not synced may be there, be gone, or be torn at a sector.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kawanan_api::RaftId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use redb::StorageBackend;

use super::contract::{append, entry, founded, hard, snapshot};
use super::{Checkpoint, LogStore, Persisted, Position, RedbStore, StoreError, Write};

const OWNER: RaftId = RaftId(7);
const SECTOR: usize = 512;

#[derive(Debug, Clone)]
enum Pending {
    Write(u64, Vec<u8>),
    Length(u64),
}

#[derive(Debug, Default)]
struct Platter {
    durable: Vec<u8>,
    /// What a running process sees.
    seen: Vec<u8>,
    pending: Vec<Pending>,
    /// Operations until the power fails.
    left: Option<u64>,
    operations: u64,
    full: bool,
    sync_fails: bool,
    boots: u64,
}

/// A file on a simulated disk; a handle of a process that is gone does nothing.
#[derive(Debug, Clone)]
struct File {
    platter: Arc<Mutex<Platter>>,
    boot: u64,
}

#[derive(Debug, Clone, Default)]
struct Disk(Arc<Mutex<Platter>>);

fn apply(bytes: &mut Vec<u8>, change: &Pending) {
    match change {
        Pending::Length(length) => bytes.resize(usize::try_from(*length).unwrap(), 0),
        Pending::Write(at, data) => {
            let at = usize::try_from(*at).unwrap();
            let end = (at + data.len()).min(bytes.len());
            if at < end {
                bytes[at..end].copy_from_slice(&data[..end - at]);
            }
        }
    }
}

impl Disk {
    fn platter(&self) -> MutexGuard<'_, Platter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn boot(&self, operations: Option<u64>) -> Result<RedbStore, StoreError> {
        let boot = {
            let mut platter = self.platter();
            platter.boots += 1;
            platter.left = operations;
            platter.boots
        };
        RedbStore::open_backend(File {
            platter: Arc::clone(&self.0),
            boot,
        })
    }

    /// Cuts the power: every write since the last sync is there, gone, or torn, as chance has it.
    fn lose_power(&self, random: &mut StdRng) {
        let mut platter = self.platter();
        platter.boots += 1;
        let mut durable = std::mem::take(&mut platter.durable);
        for change in std::mem::take(&mut platter.pending) {
            match (change, random.random_range(0..3)) {
                (_, 0) => {}
                (Pending::Write(at, data), 1) => {
                    for (sector, part) in data.chunks(SECTOR).enumerate() {
                        if random.random() {
                            let at = at + (sector * SECTOR) as u64;
                            apply(&mut durable, &Pending::Write(at, part.to_vec()));
                        }
                    }
                }
                (change, _) => apply(&mut durable, &change),
            }
        }
        platter.seen.clone_from(&durable);
        platter.durable = durable;
    }
}

impl File {
    fn operate<T>(
        &self,
        run: impl FnOnce(&mut Platter) -> Result<T, io::Error>,
    ) -> Result<T, io::Error> {
        let mut platter = self.platter.lock().unwrap_or_else(PoisonError::into_inner);
        if platter.boots != self.boot || platter.left == Some(0) {
            return Err(io::Error::other("no power"));
        }
        platter.operations += 1;
        platter.left = platter.left.map(|left| left - 1);
        run(&mut platter)
    }
}

impl StorageBackend for File {
    fn len(&self) -> Result<u64, io::Error> {
        let platter = self.platter.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(platter.seen.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> Result<(), io::Error> {
        let platter = self.platter.lock().unwrap_or_else(PoisonError::into_inner);
        let at = usize::try_from(offset).unwrap();
        let found = platter.seen.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, length: u64) -> Result<(), io::Error> {
        self.operate(|platter| {
            let change = Pending::Length(length);
            apply(&mut platter.seen, &change);
            platter.pending.push(change);
            Ok(())
        })
    }

    fn sync_data(&self) -> Result<(), io::Error> {
        self.operate(|platter| {
            if platter.sync_fails {
                return Err(io::Error::other("input/output error"));
            }
            platter.pending.clear();
            platter.durable.clone_from(&platter.seen);
            Ok(())
        })
    }

    fn write(&self, offset: u64, data: &[u8]) -> Result<(), io::Error> {
        self.operate(|platter| {
            if platter.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            let change = Pending::Write(offset, data.to_vec());
            apply(&mut platter.seen, &change);
            platter.pending.push(change);
            Ok(())
        })
    }
}

/// A short life of a log with everything in it.
fn life() -> Vec<Write> {
    vec![
        founded(),
        append((2..6).map(|index| entry(index, 1)), hard(1, 4)),
        append((5..9).map(|index| entry(index, 2)), hard(2, 8)),
        Write {
            checkpoint: Some(Checkpoint {
                snapshot: snapshot(7, 2),
                drop_to: Position { index: 5, term: 2 },
            }),
            hard_state: Some(hard(2, 8)),
            ..Write::default()
        },
        append([entry(9, 2)], hard(2, 9)),
        Write {
            install: Some(snapshot(40, 3)),
            hard_state: Some(hard(3, 40)),
            ..Write::default()
        },
        append((41..44).map(|index| entry(index, 3)), hard(3, 42)),
    ]
}

/// What a healthy store holds after each of the writes.
fn stages() -> Vec<Persisted> {
    (0..=life().len())
        .map(|count| {
            let disk = Disk::default();
            let mut store = disk.boot(None).unwrap();
            store.load(OWNER).unwrap();
            for write in &life()[..count] {
                store.write(write).unwrap();
            }
            store.load(OWNER).unwrap()
        })
        .collect()
}

#[test]
fn power_lost_at_any_operation_loses_nothing_that_was_acknowledged() {
    let stages = stages();
    let mut cut = 0;
    loop {
        let mut acknowledged = 0;
        let mut finished = false;
        for seed in 0..4 {
            let mut random = StdRng::seed_from_u64(cut * 10 + seed);
            let disk = Disk::default();
            // The file exists and has its owner: that is done once, when a node joins.
            disk.boot(None).unwrap().load(OWNER).unwrap();
            acknowledged = 0;
            if let Ok(mut store) = disk.boot(Some(cut)) {
                acknowledged = life()
                    .iter()
                    .take_while(|write| store.write(write).is_ok())
                    .count();
                finished = disk.platter().left != Some(0);
                disk.lose_power(&mut random);
            } else {
                disk.lose_power(&mut random);
            }
            let mut store = disk.boot(None).unwrap();
            let found = store.load(OWNER).unwrap();
            let possible = &stages[acknowledged..(acknowledged + 2).min(stages.len())];
            assert!(
                possible.contains(&found),
                "cut after {cut} operations, seed {seed}: {acknowledged} acknowledged, found {found:?}"
            );
            // And it goes on from there.
            store
                .write(&append([], found.hard_state))
                .expect("the store works again");
        }
        if finished {
            assert_eq!(acknowledged, life().len());
            break;
        }
        cut += 1;
    }
    assert!(cut > 20, "only {cut} operations");
}

#[test]
fn after_a_failed_sync_nothing_more_is_written() {
    let disk = Disk::default();
    let mut store = disk.boot(None).unwrap();
    store.load(OWNER).unwrap();
    store.write(&founded()).unwrap();
    disk.platter().sync_fails = true;
    let write = append([entry(2, 1)], hard(1, 1));
    let first = store.write(&write).unwrap_err();
    assert!(matches!(first, StoreError::Io { .. }), "{first}");
    disk.platter().sync_fails = false;
    let operations = disk.platter().operations;
    assert_eq!(store.write(&write), Err(first));
    assert_eq!(disk.platter().operations, operations);
}

#[test]
fn a_full_disk_is_named() {
    let disk = Disk::default();
    let mut store = disk.boot(None).unwrap();
    store.load(OWNER).unwrap();
    disk.platter().full = true;
    let err = store.write(&founded()).unwrap_err();
    assert_eq!(
        err.to_string(),
        "the disk is full while writing the log: free some space and restart the agent"
    );
}

#[test]
fn a_changed_byte_is_never_taken_for_data() {
    let disk = Disk::default();
    {
        let mut store = disk.boot(None).unwrap();
        store.load(OWNER).unwrap();
        for write in life() {
            store.write(&write).unwrap();
        }
    }
    let whole = disk.boot(None).unwrap().load(OWNER).unwrap();
    let bytes = disk.platter().seen.clone();
    let used: Vec<usize> = (0..bytes.len()).filter(|at| bytes[*at] != 0).collect();
    let mut random = StdRng::seed_from_u64(1);
    let mut noticed = 0;
    for _ in 0..600 {
        let at = used[random.random_range(0..used.len())];
        let mut damaged = bytes.clone();
        damaged[at] ^= 1 << random.random_range(0..8);
        disk.platter().seen = damaged;
        match disk.boot(None).and_then(|mut store| store.load(OWNER)) {
            // A byte that nothing refers to any more.
            Ok(found) => assert_eq!(found, whole, "byte {at}"),
            Err(_) => noticed += 1,
        }
    }
    assert!(noticed > 50, "{noticed} of 600 noticed");
}
