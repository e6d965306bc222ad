//! From a [`Host`] to a stream of bytes.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::UnixStream;
use tokio::process::{Child, Command};

use super::host::Host;

/// A local socket answers at once or not at all.
const LOCAL_DEADLINE: Duration = Duration::from_secs(5);

pub(super) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A stream, and the `ssh` that must live as long as it.
pub(super) struct Dialled {
    pub(super) stream: Box<dyn Stream>,
    pub(super) tunnel: Option<Child>,
}

/// Why nobody answers at a host.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error("no agent answers at {}", .path.display())]
    NoAgent { path: PathBuf },
    #[error("no permission to use {}", .path.display())]
    Permission { path: PathBuf },
    #[error("cannot connect to {}: {cause}", .path.display())]
    Local { path: PathBuf, cause: io::Error },
    #[error("cannot start `ssh`: {0}")]
    Ssh(io::Error),
    /// The tunnel stands or not; what is behind it did not speak.
    #[error("nothing useful answers through ssh: {0}")]
    Tunnel(String),
}

impl ConnectError {
    /// What to do next.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoAgent { .. } => Some(
                "is it running? try `systemctl status agent`; for another machine give --host or KAWAN_HOST, \
                 such as ssh://root@machine"
                    .to_owned(),
            ),
            Self::Permission { .. } => {
                Some("use sudo, or become a member of the group `docker`".to_owned())
            }
            Self::Local { .. } => None,
            Self::Ssh(_) => Some("is the OpenSSH client installed?".to_owned()),
            Self::Tunnel(_) => Some(
                "try the same with `ssh`; `kawan` must be installed there, and its agent must run".to_owned(),
            ),
        }
    }
}

/// One sentence over all that was tried.
pub(super) fn sentence(tried: &[(Host, ConnectError)]) -> String {
    match tried {
        [] => "there is no host to connect to".to_owned(),
        [(Host::Unix(_), error)] => error.to_string(),
        [(host, error)] => format!("{host}: {error}"),
        several => {
            let each: Vec<String> = several
                .iter()
                .map(|(host, error)| format!("{host}: {error}"))
                .collect();
            format!("no host answers ({})", each.join("; "))
        }
    }
}

/// Connects to an agent's socket on this machine.
///
/// # Errors
/// When there is no socket, nobody listens on it, or this user may not use it.
pub async fn connect_local(path: &Path) -> Result<UnixStream, ConnectError> {
    let path = path.to_owned();
    match tokio::time::timeout(LOCAL_DEADLINE, UnixStream::connect(&path)).await {
        Ok(Ok(stream)) => Ok(stream),
        Ok(Err(err)) => Err(match err.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused => {
                ConnectError::NoAgent { path }
            }
            io::ErrorKind::PermissionDenied => ConnectError::Permission { path },
            _ => ConnectError::Local { path, cause: err },
        }),
        Err(_) => Err(ConnectError::NoAgent { path }),
    }
}

pub(super) async fn dial(host: &Host) -> Result<Dialled, ConnectError> {
    match host {
        Host::Unix(path) => Ok(Dialled {
            stream: Box::new(connect_local(path).await?),
            tunnel: None,
        }),
        Host::Ssh { user, host, port } => dial_ssh(user.as_deref(), host, *port),
    }
}

/// `ssh` asks for passwords on the terminal itself and writes its own errors to ours.
fn dial_ssh(user: Option<&str>, host: &str, port: Option<u16>) -> Result<Dialled, ConnectError> {
    let mut command = Command::new("ssh");
    command.args([
        "-T",
        "-o",
        "ConnectTimeout=10",
        "-o",
        "ServerAliveInterval=15",
    ]);
    if let Some(port) = port {
        command.arg("-p").arg(port.to_string());
    }
    if let Some(user) = user {
        command.arg("-l").arg(user);
    }
    command.args(["--", host, "kawan", "dial-stdio"]);
    command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .kill_on_drop(true);
    let mut child = command.spawn().map_err(ConnectError::Ssh)?;
    match (child.stdout.take(), child.stdin.take()) {
        (Some(output), Some(input)) => Ok(Dialled {
            stream: Box::new(tokio::io::join(output, input)),
            tunnel: Some(child),
        }),
        _ => Err(ConnectError::Tunnel("ssh has no pipes".to_owned())),
    }
}
