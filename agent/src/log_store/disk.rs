//! The durable store: one redb file.

use std::fs::File;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use kawanan_api::RaftId;
use redb::{
    CommitError, Database, DatabaseError, Durability, ReadableDatabase, ReadableTable,
    StorageBackend, StorageError, TableDefinition, TableError, TransactionError,
};

use super::layout::{self, Cell, Change, Image};
use super::{HardState, LogStore, Persisted, Position, StoreError, Write};

const CELLS: TableDefinition<&str, &[u8]> = TableDefinition::new("cells");
const ENTRIES: TableDefinition<u64, &[u8]> = TableDefinition::new("entries");

/// The log is read once, at start, and then only written: more cache would be memory for nothing (redb's own default is
/// 1 GiB).
const CACHE_BYTES: usize = 2 << 20;

/// The log in one file, every write durable when it returns.
#[derive(Debug)]
pub struct RedbStore {
    database: Database,
    /// Set by the first failed write: nothing is tried after it.
    broken: Option<StoreError>,
}

impl RedbStore {
    /// Opens the file at `path`, or makes it in a directory that exists.
    ///
    /// # Errors
    /// When another agent has it open, it is damaged, or the disk refuses.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
        let existed = path.exists();
        let store = Self::build(&directory, |builder| builder.create(path))?;
        if !existed {
            sync_directory(&directory)?;
        }
        Ok(store)
    }

    /// Opens a log on something that behaves like a file.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_backend(backend: impl StorageBackend) -> Result<Self, StoreError> {
        Self::build(Path::new("."), |builder| {
            builder.create_with_backend(backend)
        })
    }

    fn build(
        directory: &Path,
        open: impl FnOnce(&redb::Builder) -> Result<Database, DatabaseError>,
    ) -> Result<Self, StoreError> {
        let mut builder = Database::builder();
        builder.set_cache_size(CACHE_BYTES);
        // A damaged file has made redb panic before now.
        let database = catch_unwind(AssertUnwindSafe(|| open(&builder)))
            .map_err(|_| StoreError::corrupt("the file cannot be opened"))?
            .map_err(|err| open_error(err, directory.to_owned()))?;
        Ok(Self {
            database,
            broken: None,
        })
    }

    fn image(&self) -> Result<Image, StoreError> {
        let doing = "reading the log";
        let failed = |err: StorageError| storage_error(err, doing);
        let transaction = self
            .database
            .begin_read()
            .map_err(|err| transaction_error(err, doing))?;
        let mut image = Image::default();
        match transaction.open_table(CELLS) {
            Ok(cells) => {
                for cell in Cell::ALL {
                    let record = cells.get(cell.name()).map_err(failed)?;
                    *image.cell(cell) = record.map(|record| record.value().to_vec());
                }
            }
            Err(TableError::TableDoesNotExist(_)) => return Ok(image),
            Err(err) => return Err(table_error(err, doing)),
        }
        match transaction.open_table(ENTRIES) {
            Ok(entries) => {
                for row in entries.iter().map_err(failed)? {
                    let (index, record) = row.map_err(failed)?;
                    image.entries.push((index.value(), record.value().to_vec()));
                }
            }
            Err(TableError::TableDoesNotExist(_)) => {}
            Err(err) => return Err(table_error(err, doing)),
        }
        Ok(image)
    }

    fn commit(&self, changes: Vec<Change>) -> Result<(), StoreError> {
        let doing = "writing the log";
        let failed = |err: StorageError| storage_error(err, doing);
        let mut transaction = self
            .database
            .begin_write()
            .map_err(|err| transaction_error(err, doing))?;
        transaction
            .set_durability(Durability::Immediate)
            .map_err(|err| StoreError::Io {
                doing,
                cause: err.to_string(),
            })?;
        {
            let mut cells = transaction
                .open_table(CELLS)
                .map_err(|err| table_error(err, doing))?;
            let mut entries = transaction
                .open_table(ENTRIES)
                .map_err(|err| table_error(err, doing))?;
            for change in changes {
                match change {
                    Change::Put(cell, record) => {
                        cells
                            .insert(cell.name(), record.as_slice())
                            .map_err(failed)?;
                    }
                    Change::PutEntry(index, record) => {
                        entries.insert(index, record.as_slice()).map_err(failed)?;
                    }
                    Change::DropFrom(index) => {
                        entries.retain_in(index.., |_, _| false).map_err(failed)?;
                    }
                    Change::DropTo(index) => {
                        entries.retain_in(..=index, |_, _| false).map_err(failed)?;
                    }
                }
            }
        }
        transaction.commit().map_err(|err| match err {
            CommitError::Storage(err) => storage_error(err, doing),
            err => StoreError::Io {
                doing,
                cause: err.to_string(),
            },
        })
    }

    /// Runs one blocking access; after the first failure there is no second one.
    fn guarded<T>(
        &mut self,
        access: impl FnOnce(&Self) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        if let Some(err) = &self.broken {
            return Err(err.clone());
        }
        let result = catch_unwind(AssertUnwindSafe(|| access(self)))
            .unwrap_or_else(|_| Err(StoreError::corrupt("the file is inconsistent in itself")));
        if let Err(err) = &result {
            self.broken = Some(err.clone());
        }
        result
    }
}

impl LogStore for RedbStore {
    fn load(&mut self, owner: RaftId) -> Result<Persisted, StoreError> {
        let found = self.guarded(|store| layout::parse(&store.image()?, owner))?;
        if let Some(persisted) = found {
            return Ok(persisted);
        }
        let record = layout::owner_record(owner)?;
        self.guarded(|store| store.commit(vec![Change::Put(Cell::Owner, record)]))?;
        Ok(Persisted {
            hard_state: HardState::default(),
            snapshot: None,
            start: Position::default(),
            entries: Vec::new(),
        })
    }

    fn write(&mut self, write: &Write) -> Result<(), StoreError> {
        let changes = layout::changes(write)?;
        self.guarded(|store| store.commit(changes))
    }
}

/// A new file is only safe when the directory that names it is.
fn sync_directory(directory: &Path) -> Result<(), StoreError> {
    File::open(directory)
        .and_then(|file| file.sync_all())
        .map_err(|err| io_error(&err, "making the log's file"))
}

fn open_error(err: DatabaseError, directory: PathBuf) -> StoreError {
    let doing = "opening the log";
    match err {
        DatabaseError::DatabaseAlreadyOpen | DatabaseError::LockProtocolMismatch => {
            StoreError::InUse { directory }
        }
        DatabaseError::UpgradeRequired(version) => StoreError::NewerFormat {
            cause: format!("file format {version}"),
        },
        DatabaseError::RepairAborted => StoreError::corrupt("the file cannot be repaired"),
        DatabaseError::Storage(err) => storage_error(err, doing),
        err => StoreError::Io {
            doing,
            cause: err.to_string(),
        },
    }
}

fn table_error(err: TableError, doing: &'static str) -> StoreError {
    match err {
        TableError::Storage(err) => storage_error(err, doing),
        err => StoreError::corrupt(err.to_string()),
    }
}

fn transaction_error(err: TransactionError, doing: &'static str) -> StoreError {
    match err {
        TransactionError::Storage(err) => storage_error(err, doing),
        err => StoreError::Io {
            doing,
            cause: err.to_string(),
        },
    }
}

fn storage_error(err: StorageError, doing: &'static str) -> StoreError {
    match err {
        StorageError::Corrupted(what) => StoreError::Corrupt { what },
        StorageError::Io(err) => io_error(&err, doing),
        err => StoreError::Io {
            doing,
            cause: err.to_string(),
        },
    }
}

fn io_error(err: &io::Error, doing: &'static str) -> StoreError {
    match err.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => StoreError::Full { doing },
        // The file is shorter or other than its own header says.
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            StoreError::corrupt(err.to_string())
        }
        _ => StoreError::Io {
            doing,
            cause: err.to_string(),
        },
    }
}
