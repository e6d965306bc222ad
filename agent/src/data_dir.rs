//! The data directory beside identity and log: how the node entered the cluster, and its gossip generation.
//!
//! `entry.json` holds what is needed before the node table is here: the members to dial first, and the labels that the
//! founder enters its own cluster with. `generation` grows at every start and is on disk before it is used.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{ErrorKind, Write};
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use kawanan_api::{NodeId, RaftId, Timestamp};
use serde::{Deserialize, Serialize};

use crate::config::KeptSettings;
use crate::directory::Member;

/// A file of the data directory that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum DataDirError {
    #[error("cannot {action} {}: {cause}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("{} is damaged: {cause}", path.display())]
    Damaged { path: PathBuf, cause: String },
}

/// How this node entered its cluster.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EntryRecord {
    /// Whether this machine founded the cluster.
    pub founder: bool,
    pub labels: BTreeMap<String, String>,
    /// Members at the time of joining.
    pub members: Vec<(NodeId, RaftId, SocketAddr)>,
    /// Flags of `init` or `join` that every later run keeps to.
    #[serde(default)]
    pub settings: KeptSettings,
}

impl EntryRecord {
    pub fn hints(&self) -> BTreeMap<NodeId, Member> {
        self.members
            .iter()
            .map(|(node, raft, address)| {
                (
                    *node,
                    Member {
                        raft: *raft,
                        address: *address,
                    },
                )
            })
            .collect()
    }

    /// Reads the record; an absent one is empty.
    ///
    /// # Errors
    /// When the file is there and cannot be read.
    pub fn load(data_dir: &Path) -> Result<Self, DataDirError> {
        let path = data_dir.join("entry.json");
        match std::fs::read(&path) {
            Ok(bytes) => serde_json::from_slice(&bytes).map_err(|err| DataDirError::Damaged {
                path,
                cause: err.to_string(),
            }),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(Self::default()),
            Err(cause) => Err(DataDirError::Io {
                action: "read",
                path,
                cause,
            }),
        }
    }

    /// Writes the record durably.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn save(&self, data_dir: &Path) -> Result<(), DataDirError> {
        let path = data_dir.join("entry.json");
        let bytes = serde_json::to_vec_pretty(self).map_err(|err| DataDirError::Damaged {
            path: path.clone(),
            cause: err.to_string(),
        })?;
        replace(&path, &bytes)
    }
}

/// The next gossip generation: one more than the last, and at least the time of day, so that it also grows when the
/// directory was restored from an old copy.
///
/// # Errors
/// When it cannot be made durable.
pub fn next_generation(data_dir: &Path, now: Timestamp) -> Result<u64, DataDirError> {
    let path = data_dir.join("generation");
    let last: u64 = match std::fs::read_to_string(&path) {
        Ok(text) => text.trim().parse().unwrap_or(0),
        Err(err) if err.kind() == ErrorKind::NotFound => 0,
        Err(cause) => {
            return Err(DataDirError::Io {
                action: "read",
                path,
                cause,
            });
        }
    };
    let generation = now.millis().max(last + 1);
    replace(&path, generation.to_string().as_bytes())?;
    Ok(generation)
}

/// Writes aside, syncs, renames, syncs the directory.
fn replace(path: &Path, bytes: &[u8]) -> Result<(), DataDirError> {
    let failed = |action| {
        move |cause| DataDirError::Io {
            action,
            path: path.to_owned(),
            cause,
        }
    };
    let aside = path.with_extension("new");
    let mut file = File::create(&aside).map_err(failed("create"))?;
    file.write_all(bytes).map_err(failed("write"))?;
    file.sync_all().map_err(failed("sync"))?;
    std::fs::rename(&aside, path).map_err(failed("replace"))?;
    let parent = path.parent().unwrap_or(Path::new("/"));
    File::open(parent)
        .and_then(|dir| dir.sync_all())
        .map_err(failed("sync the directory of"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn generations_grow_also_when_the_clock_steps_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = next_generation(dir.path(), Timestamp::from_millis(1000)).unwrap();
        let second = next_generation(dir.path(), Timestamp::from_millis(10)).unwrap();
        assert_eq!((first, second), (1000, 1001));
    }

    #[test]
    fn the_entry_record_reads_back_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(
            EntryRecord::load(dir.path()).unwrap(),
            EntryRecord::default()
        );
        let member = (
            NodeId::from_bits(7),
            RaftId(9),
            "10.0.0.1:7700".parse().unwrap(),
        );
        let record = EntryRecord {
            members: vec![member],
            ..EntryRecord::default()
        };
        record.save(dir.path()).unwrap();
        assert_eq!(EntryRecord::load(dir.path()).unwrap(), record);
        std::fs::write(dir.path().join("entry.json"), "{").unwrap();
        assert!(EntryRecord::load(dir.path()).is_err());
    }
}
