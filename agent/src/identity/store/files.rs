//! Small files that must survive a crash whole, some of them secret.

use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

/// No file here comes near this; a larger one is not ours.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why the identity on disk could not be read or written. Each names the path and what to do.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot {doing} {}: {source}", path.display())]
    Io {
        doing: &'static str,
        path: PathBuf,
        source: io::Error,
    },
    #[error(
        "{} is damaged ({cause}): restore it from a backup, or move the identity directory away and join again",
        path.display()
    )]
    Damaged { path: PathBuf, cause: String },
    #[error(
        "{} is missing: restore it from a backup, or move the identity directory away and join again",
        path.display()
    )]
    Missing { path: PathBuf },
    #[error(
        "{} is a private key that other users may read (mode {mode:o}): if nobody has seen it, run `chmod 600` on it",
        path.display()
    )]
    Exposed { path: PathBuf, mode: u32 },
}

impl StoreError {
    pub(super) fn io(doing: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io {
            doing,
            path: path.to_owned(),
            source,
        }
    }

    pub(super) fn damaged(path: &Path, cause: impl fmt::Display) -> Self {
        Self::Damaged {
            path: path.to_owned(),
            cause: cause.to_string(),
        }
    }

    pub(super) fn missing(path: &Path) -> Self {
        Self::Missing {
            path: path.to_owned(),
        }
    }
}

/// Who may read a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    /// Secret.
    Owner,
    Everyone,
}

impl Access {
    fn mode(self) -> u32 {
        match self {
            Self::Owner => 0o600,
            Self::Everyone => 0o644,
        }
    }
}

/// The text of a file, or `None` when there is none. A secret that others may read is refused.
pub(super) fn read(path: &Path, access: Access) -> Result<Option<String>, StoreError> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(err) if err.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(err) => return Err(StoreError::io("open", path, err)),
    };
    let metadata = file
        .metadata()
        .map_err(|err| StoreError::io("read", path, err))?;
    let mode = metadata.permissions().mode() & 0o777;
    if access == Access::Owner && mode & 0o077 != 0 {
        return Err(StoreError::Exposed {
            path: path.to_owned(),
            mode,
        });
    }
    let mut text = String::new();
    file.take(FILE_BYTES_MAX)
        .read_to_string(&mut text)
        .map_err(|err| StoreError::io("read", path, err))?;
    Ok(Some(text))
}

/// Puts `content` at `path` in one step: after a crash the file is the old one or the new one.
pub(super) fn replace(path: &Path, content: &[u8], access: Access) -> Result<(), StoreError> {
    let directory = path.parent().unwrap_or(Path::new("."));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|err| StoreError::io("create", directory, err))?;
    let aside = aside(path);
    remove(&aside)?;
    let written = write_new(&aside, content, access)
        .and_then(|()| fs::rename(&aside, path))
        .and_then(|()| File::open(directory)?.sync_all());
    written.map_err(|err| StoreError::io("write", path, err))
}

fn write_new(path: &Path, content: &[u8], access: Access) -> io::Result<()> {
    // `create_new` is O_EXCL: never through a link that somebody put there.
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(access.mode())
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn aside(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".new");
    path.with_file_name(name)
}

/// Deletes a file; fine when there is none.
pub(super) fn remove(path: &Path) -> Result<(), StoreError> {
    match fs::remove_file(path) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => {
            Err(StoreError::io("remove", path, err))
        }
        _ => Ok(()),
    }
}
