//! The socket file: made with its permissions before anybody can connect, never taken from an agent that listens.

use std::io;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::net::{UnixListener, UnixStream};

/// Read and write for root and the group, as Docker's own socket: whoever may use that one is as good as root.
const MODE: u32 = 0o660;
/// Whose members may use the API without sudo.
const GROUP: &str = "docker";
/// A listening agent accepts at once.
const PROBE_DEADLINE: Duration = Duration::from_secs(2);

#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error("another agent listens at {}: stop it first, or use another --run-dir", .0.display())]
    InUse(PathBuf),
    #[error("cannot make the API socket {}: {cause}", .path.display())]
    Io { path: PathBuf, cause: io::Error },
}

/// The listening API socket. Its file goes when it is dropped.
#[derive(Debug)]
pub struct ApiSocket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl ApiSocket {
    /// Listens at `path`, in an existing directory. A file that an agent left behind is replaced.
    ///
    /// # Errors
    /// When an agent listens there, or the file cannot be made.
    pub async fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |cause| SocketError::Io {
            path: path.to_owned(),
            cause,
        };
        if someone_listens(path).await {
            return Err(SocketError::InUse(path.to_owned()));
        }
        // Under another name until its mode is right, so that nobody connects before.
        let draft = path.with_extension("new");
        remove_if_there(&draft).map_err(failed)?;
        let listener = UnixListener::bind(&draft).map_err(failed)?;
        give_to_group(&draft);
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(MODE)).map_err(failed)?;
        std::fs::rename(&draft, path).map_err(failed)?;
        Ok(Self {
            listener,
            path: path.to_owned(),
        })
    }
}

impl Drop for ApiSocket {
    fn drop(&mut self) {
        if let Err(err) = remove_if_there(&self.path) {
            tracing::warn!(path = %self.path.display(), %err, "the API socket stays behind");
        }
    }
}

async fn someone_listens(path: &Path) -> bool {
    matches!(
        tokio::time::timeout(PROBE_DEADLINE, UnixStream::connect(path)).await,
        Ok(Ok(_)) | Err(_)
    )
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match std::fs::remove_file(path) {
        Err(err) if err.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Without that group, or without the right to give files away, only the agent's own user may use the API.
fn give_to_group(path: &Path) {
    let groups = match std::fs::read_to_string("/etc/group") {
        Ok(groups) => groups,
        Err(err) => {
            tracing::warn!(%err, "cannot read /etc/group; the API is for the agent's own user only");
            return;
        }
    };
    match group_id(&groups, GROUP) {
        Some(id) => {
            if let Err(err) = chown(path, None, Some(id)) {
                tracing::warn!(group = GROUP, %err, "cannot open the API to the group");
            }
        }
        None => tracing::info!(
            group = GROUP,
            "no such group; the API is for the agent's own user only"
        ),
    }
}

/// The number of a group in the text of `/etc/group` (`name:password:number:members`).
fn group_id(groups: &str, name: &str) -> Option<u32> {
    groups.lines().find_map(|line| {
        let mut fields = line.split(':');
        (fields.next() == Some(name)).then(|| fields.nth(1)?.parse().ok())?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_socket_file_left_behind_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api.sock");
        let left_behind = std::os::unix::net::UnixListener::bind(&path).unwrap();
        drop(left_behind);
        assert!(path.exists());

        let socket = ApiSocket::bind(&path).await.unwrap();
        let mode = std::fs::metadata(&path).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, MODE);
        let second = ApiSocket::bind(&path).await.unwrap_err();
        assert!(matches!(second, SocketError::InUse(_)), "{second}");

        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_group_is_found_by_its_whole_name() {
        let groups = "root:x:0:\ndockerx:x:5:\ndocker:x:998:ann,bob\n";
        assert_eq!(group_id(groups, "docker"), Some(998));
        assert_eq!(group_id(groups, "dock"), None);
        assert_eq!(group_id("docker:x", "docker"), None);
    }
}
