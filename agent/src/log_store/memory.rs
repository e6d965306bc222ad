//! A store in memory for simulated nodes, with the failures of a real disk on demand.
//!
//! [`MemoryDisk`] is the machine's disk and outlives its agent; [`MemoryStore`] is one agent's handle on it. After
//! [`MemoryDisk::crash`] the old handle is dead and the next [`MemoryDisk::open`] sees what was durable. How long a write
//! takes is the persister's business, which waits in virtual time before it calls [`LogStore::write`]: what it had not
//! yet written at a crash is lost.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use kawanan_api::RaftId;

use super::layout::{self, Cell, Change, Image};
use super::{HardState, LogStore, Persisted, Position, StoreError, Write};

/// What goes wrong at the next write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The sync fails: nothing of the write is kept, and nobody can know.
    SyncFails,
    /// No space is left: nothing of the write is kept.
    Full,
    /// Power fails before the write is durable: nothing of it is kept, the handle is dead.
    CrashBefore,
    /// Power fails after the write became durable, before anybody heard of it.
    CrashAfter,
}

/// A simulated machine's disk. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct MemoryDisk(Arc<Mutex<Cells>>);

#[derive(Debug, Default)]
struct Cells {
    named: BTreeMap<Cell, Vec<u8>>,
    entries: BTreeMap<u64, Vec<u8>>,
    fault: Option<Fault>,
    /// Only the handle of this number may write.
    handle: u64,
    writes: u64,
}

impl MemoryDisk {
    fn cells(&self) -> MutexGuard<'_, Cells> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A fresh handle; older ones are dead from now on.
    pub fn open(&self) -> MemoryStore {
        let mut cells = self.cells();
        cells.handle += 1;
        MemoryStore {
            disk: self.clone(),
            handle: cells.handle,
            broken: None,
        }
    }

    /// Cuts the power: handles are dead, what was durable stays.
    pub fn crash(&self) {
        self.cells().handle += 1;
    }

    /// Lets the next write fail.
    pub fn inject(&self, fault: Fault) {
        self.cells().fault = Some(fault);
    }

    /// Takes an injected fault back that no write has met yet.
    pub fn repair(&self) {
        self.cells().fault = None;
    }

    /// Flips a bit of the entry at `index`. Says whether there is one.
    pub fn damage_entry(&self, index: u64) -> bool {
        let mut cells = self.cells();
        let byte = cells
            .entries
            .get_mut(&index)
            .and_then(|record| record.last_mut());
        byte.map(|byte| *byte ^= 1).is_some()
    }

    /// Writes that became durable so far.
    pub fn writes(&self) -> u64 {
        self.cells().writes
    }

    /// An independent copy of what is durable: a backup.
    pub fn copy(&self) -> Self {
        let cells = self.cells();
        Self(Arc::new(Mutex::new(Cells {
            named: cells.named.clone(),
            entries: cells.entries.clone(),
            ..Cells::default()
        })))
    }

    /// Everything gone, as after a reinstallation.
    pub fn wipe(&self) {
        let mut cells = self.cells();
        let handle = cells.handle + 1;
        *cells = Cells {
            handle,
            ..Cells::default()
        };
    }
}

/// One agent's handle on its simulated disk.
#[derive(Debug)]
pub struct MemoryStore {
    disk: MemoryDisk,
    handle: u64,
    broken: Option<StoreError>,
}

impl MemoryStore {
    fn commit(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        if let Some(err) = &self.broken {
            return Err(err.clone());
        }
        let result = self.disk.cells().commit(self.handle, changes);
        if let Err(err) = &result {
            self.broken = Some(err.clone());
        }
        result
    }
}

impl Cells {
    fn commit(&mut self, handle: u64, changes: Vec<Change>) -> Result<(), StoreError> {
        let doing = "writing the log";
        let failed = |cause: &str| {
            Err(StoreError::Io {
                doing,
                cause: cause.to_owned(),
            })
        };
        if self.handle != handle {
            return failed("the machine crashed");
        }
        let fault = self.fault.take();
        match fault {
            Some(Fault::SyncFails) => return failed("input/output error"),
            Some(Fault::Full) => return Err(StoreError::Full { doing }),
            Some(Fault::CrashBefore) => {
                self.handle += 1;
                return failed("the machine crashed");
            }
            Some(Fault::CrashAfter) | None => {}
        }
        for change in changes {
            match change {
                Change::Put(cell, record) => {
                    self.named.insert(cell, record);
                }
                Change::PutEntry(index, record) => {
                    self.entries.insert(index, record);
                }
                Change::DropFrom(index) => {
                    self.entries.split_off(&index);
                }
                Change::DropTo(index) => {
                    self.entries.retain(|at, _| *at > index);
                }
            }
        }
        self.writes += 1;
        if fault == Some(Fault::CrashAfter) {
            self.handle += 1;
            return failed("the machine crashed");
        }
        Ok(())
    }
}

impl LogStore for MemoryStore {
    fn load(&mut self, owner: RaftId) -> Result<Persisted, StoreError> {
        let mut image = Image::default();
        {
            let cells = self.disk.cells();
            for (cell, record) in &cells.named {
                *image.cell(*cell) = Some(record.clone());
            }
            image.entries = cells
                .entries
                .iter()
                .map(|(index, record)| (*index, record.clone()))
                .collect();
        }
        if let Some(persisted) = layout::parse(&image, owner)? {
            return Ok(persisted);
        }
        self.commit(vec![Change::Put(Cell::Owner, layout::owner_record(owner)?)])?;
        Ok(Persisted {
            hard_state: HardState::default(),
            snapshot: None,
            start: Position::default(),
            entries: Vec::new(),
        })
    }

    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        let changes = layout::changes(write)?;
        self.commit(changes)
    }
}
