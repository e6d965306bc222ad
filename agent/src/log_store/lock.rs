//! One agent per data directory.

use std::fs::{File, OpenOptions};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use super::StoreError;

/// Holds the data directory for this process. The kernel lets go of it when the process ends, however it ends.
#[derive(Debug)]
pub struct DirectoryLock {
    _file: File,
}

impl DirectoryLock {
    /// Name of the lock file inside the data directory. It stays behind; only the lock on it counts.
    pub const FILE_NAME: &str = "agent.lock";

    /// Takes the directory, which must exist.
    ///
    /// # Errors
    /// When another agent holds it, or the lock file cannot be opened.
    pub fn take(directory: &Path) -> Result<Self, StoreError> {
        let file = OpenOptions::new()
            .create(true)
            .truncate(false)
            .read(true)
            .write(true)
            .open(directory.join(Self::FILE_NAME))
            .map_err(|err| StoreError::Io {
                doing: "opening the lock file of the data directory",
                cause: err.to_string(),
            })?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => Err(StoreError::InUse {
                directory: directory.to_owned(),
            }),
            Err(err) => Err(StoreError::Io {
                doing: "locking the data directory",
                cause: err.to_string(),
            }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_agent_on_the_same_directory_is_told_so() {
        let directory = tempfile::tempdir().unwrap();
        let first = DirectoryLock::take(directory.path()).unwrap();
        let second = DirectoryLock::take(directory.path()).unwrap_err();
        assert_eq!(
            second.to_string(),
            format!(
                "the data directory {} is in use by another agent",
                directory.path().display()
            )
        );
        drop(first);
        DirectoryLock::take(directory.path()).unwrap();
    }
}
