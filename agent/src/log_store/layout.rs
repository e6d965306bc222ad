//! How a log lies in cells: the one description of what is stored under which key, shared by all stores.
//!
//! Four named cells (owner, hard state, start, snapshot) and one cell per entry, each a sealed record.

use kawanan_api::RaftId;
use kawanan_logic::codec::{self, CodecError};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::record::{seal, unseal};
use super::{HardState, LogEntry, Persisted, Position, Snapshot, StoreError, Write};

/// A cell with a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Cell {
    Owner,
    HardState,
    Start,
    Snapshot,
}

impl Cell {
    pub(super) const ALL: [Self; 4] = [Self::Owner, Self::HardState, Self::Start, Self::Snapshot];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Owner => "owner",
            Self::HardState => "hard_state",
            Self::Start => "start",
            Self::Snapshot => "snapshot",
        }
    }
}

/// One elementary change of the cells.
#[derive(Debug)]
pub(super) enum Change {
    Put(Cell, Vec<u8>),
    PutEntry(u64, Vec<u8>),
    /// Forgets the entries from here on.
    DropFrom(u64),
    /// Forgets the entries up to and including here.
    DropTo(u64),
}

/// The cells as they were found.
#[derive(Debug, Default)]
pub(super) struct Image {
    pub(super) owner: Option<Vec<u8>>,
    pub(super) hard_state: Option<Vec<u8>>,
    pub(super) start: Option<Vec<u8>>,
    pub(super) snapshot: Option<Vec<u8>>,
    /// By index, ascending.
    pub(super) entries: Vec<(u64, Vec<u8>)>,
}

impl Image {
    pub(super) fn cell(&mut self, cell: Cell) -> &mut Option<Vec<u8>> {
        match cell {
            Cell::Owner => &mut self.owner,
            Cell::HardState => &mut self.hard_state,
            Cell::Start => &mut self.start,
            Cell::Snapshot => &mut self.snapshot,
        }
    }
}

/// The cell that binds a store to its owner.
pub(super) fn owner_record(owner: RaftId) -> Result<Vec<u8>, StoreError> {
    sealed(Cell::Owner.name().as_bytes(), &owner)
}

/// What a write does to the cells, in order.
pub(super) fn changes(write: &Write) -> Result<Vec<Change>, StoreError> {
    let mut changes = Vec::with_capacity(write.append.len() + 4);
    if let Some(snapshot) = &write.install {
        changes.push(Change::DropFrom(0));
        changes.push(put(Cell::Snapshot, snapshot)?);
        changes.push(put(Cell::Start, &snapshot.at)?);
    }
    if let Some(first) = write.append.first() {
        changes.push(Change::DropFrom(first.index));
    }
    for entry in &write.append {
        let record = sealed(&entry.index.to_le_bytes(), entry)?;
        changes.push(Change::PutEntry(entry.index, record));
    }
    if let Some(checkpoint) = &write.checkpoint {
        changes.push(put(Cell::Snapshot, &checkpoint.snapshot)?);
        changes.push(put(Cell::Start, &checkpoint.drop_to)?);
        changes.push(Change::DropTo(checkpoint.drop_to.index));
    }
    if let Some(hard_state) = &write.hard_state {
        changes.push(put(Cell::HardState, hard_state)?);
    } else if write.install.is_some() || write.checkpoint.is_some() {
        return Err(StoreError::Encode {
            cause: "a snapshot without the hard state that belongs to it".into(),
        });
    }
    Ok(changes)
}

/// Reads the cells and checks that they make one whole log. `None` when nothing was ever stored.
pub(super) fn parse(image: &Image, owner: RaftId) -> Result<Option<Persisted>, StoreError> {
    let Some(record) = &image.owner else {
        if image.hard_state.is_some() || image.snapshot.is_some() || !image.entries.is_empty() {
            return Err(StoreError::corrupt("it does not say whose it is"));
        }
        return Ok(None);
    };
    let recorded: RaftId = opened(Cell::Owner.name(), b"owner", record)?;
    if recorded != owner {
        return Err(StoreError::OtherOwner {
            recorded,
            asked: owner,
        });
    }
    let hard_state: HardState = opened_cell(Cell::HardState, image.hard_state.as_deref())?;
    let start: Position = opened_cell(Cell::Start, image.start.as_deref())?;
    let snapshot = match &image.snapshot {
        Some(record) => Some(opened_snapshot(record)?),
        None => None,
    };
    let entries = image
        .entries
        .iter()
        .map(|(index, record)| {
            let entry: LogEntry = opened(&format!("entry {index}"), &index.to_le_bytes(), record)?;
            if entry.index == *index {
                Ok(entry)
            } else {
                Err(StoreError::corrupt(format!(
                    "entry {index} is out of place"
                )))
            }
        })
        .collect::<Result<Vec<_>, _>>()?;
    let persisted = Persisted {
        hard_state,
        snapshot,
        start,
        entries,
    };
    check(&persisted)?;
    Ok(Some(persisted))
}

/// Whether log, snapshot and hard state fit together. Raft would end the process where they do not.
fn check(persisted: &Persisted) -> Result<(), StoreError> {
    let mut last = persisted.start;
    for entry in &persisted.entries {
        if entry.index != last.index + 1 {
            return Err(StoreError::corrupt(format!(
                "entries {} to {} are missing",
                last.index + 1,
                entry.index.saturating_sub(1)
            )));
        }
        if entry.term < last.term {
            return Err(StoreError::corrupt(format!(
                "the term falls at entry {}",
                entry.index
            )));
        }
        last = Position {
            index: entry.index,
            term: entry.term,
        };
    }
    let snapshot = persisted
        .snapshot
        .as_ref()
        .map_or(Position::default(), |snapshot| snapshot.at);
    let commit = persisted.hard_state.commit;
    if snapshot.index < persisted.start.index || snapshot.index > last.index {
        return Err(StoreError::corrupt(format!(
            "the snapshot at {} is outside of the log ({} to {})",
            snapshot.index, persisted.start.index, last.index
        )));
    }
    if commit < snapshot.index || commit > last.index {
        return Err(StoreError::corrupt(format!(
            "the commit index {commit} is outside of the log ({} to {})",
            snapshot.index, last.index
        )));
    }
    if persisted.hard_state.term < last.term {
        return Err(StoreError::corrupt(format!(
            "term {} is behind the last entry's term {}",
            persisted.hard_state.term, last.term
        )));
    }
    Ok(())
}

fn put<T: Serialize>(cell: Cell, value: &T) -> Result<Change, StoreError> {
    Ok(Change::Put(cell, sealed(cell.name().as_bytes(), value)?))
}

fn sealed<T: Serialize>(key: &[u8], value: &T) -> Result<Vec<u8>, StoreError> {
    let body = codec::encode(value).map_err(|err| StoreError::Encode {
        cause: err.to_string(),
    })?;
    Ok(seal(key, &body))
}

fn opened_cell<T: DeserializeOwned + Default>(
    cell: Cell,
    record: Option<&[u8]>,
) -> Result<T, StoreError> {
    record.map_or_else(
        || Ok(T::default()),
        |record| opened(cell.name(), cell.name().as_bytes(), record),
    )
}

fn opened<T: DeserializeOwned>(what: &str, key: &[u8], record: &[u8]) -> Result<T, StoreError> {
    let body = body(what, key, record)?;
    codec::decode(body).map_err(|err| unreadable(what, err))
}

fn opened_snapshot(record: &[u8]) -> Result<Snapshot, StoreError> {
    let name = Cell::Snapshot.name();
    let body = body(name, name.as_bytes(), record)?;
    codec::decode_snapshot(body).map_err(|err| unreadable(name, err))
}

fn body<'a>(what: &str, key: &[u8], record: &'a [u8]) -> Result<&'a [u8], StoreError> {
    unseal(key, record)
        .ok_or_else(|| StoreError::corrupt(format!("the checksum of {what} is wrong")))
}

/// The checksum held, so these bytes were written on purpose: by a version that knows more.
fn unreadable(what: &str, err: CodecError) -> StoreError {
    StoreError::NewerFormat {
        cause: format!("{what}: {err}"),
    }
}
