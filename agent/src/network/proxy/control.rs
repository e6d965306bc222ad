//! The control socket: JSON lines from the agent, each answered by one line. A newer proxy also gets sockets.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::PermissionsExt;
use std::time::Duration;

use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::sleep;
use tracing::warn;

use super::handover::send_socket;
use crate::network::table::{
    CONTROL_VERSION, LINE_BYTES_MAX, Order, PortFailure, PortKey, ProxyFiles, Report,
};

/// An order that waits to be carried out.
pub(super) struct Pending {
    pub order: Order,
    pub answer: oneshot::Sender<Answer>,
}

/// What came of it.
#[derive(Default)]
pub(super) struct Answer {
    pub failed: Vec<PortFailure>,
    /// Sockets for the proxy that asked for them.
    pub handed: Vec<(PortKey, OwnedFd)>,
    /// Dropped when everything is sent.
    pub done: Option<oneshot::Sender<()>>,
}

/// Orders waiting; there is one agent, which waits for each answer.
const QUEUE: usize = 4;
/// After a failed accept, so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Opens the socket. Aborting the task stops new conversations; the running ones go on.
pub(super) fn listen(
    files: &ProxyFiles,
    build: &'static str,
) -> io::Result<(mpsc::Receiver<Pending>, JoinHandle<()>)> {
    // Opened aside and moved into place: a path that nobody else ever sees half made, or open to others.
    let aside = files.socket().with_extension("new");
    match std::fs::remove_file(&aside) {
        Err(err) if err.kind() != io::ErrorKind::NotFound => return Err(err),
        _ => {}
    }
    let listener = UnixListener::bind(&aside)?;
    std::fs::set_permissions(&aside, std::fs::Permissions::from_mode(0o600))?;
    std::fs::rename(&aside, files.socket())?;
    let (sender, receiver) = mpsc::channel(QUEUE);
    let accepting = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((stream, _)) => {
                    let orders = sender.clone();
                    tokio::spawn(async move {
                        if let Err(err) = converse(stream, build, orders).await {
                            warn!(%err, "a control connection ended");
                        }
                    });
                }
                Err(err) => {
                    warn!(%err, "cannot accept a control connection");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    });
    Ok((receiver, accepting))
}

async fn converse(
    stream: UnixStream,
    build: &'static str,
    orders: mpsc::Sender<Pending>,
) -> io::Result<()> {
    let mut stream = BufReader::new(stream);
    loop {
        let mut line = String::new();
        let size = (&mut stream)
            .take(LINE_BYTES_MAX)
            .read_line(&mut line)
            .await?;
        if size == 0 {
            return Ok(());
        }
        let order: Order = serde_json::from_str(&line)?;
        let (answer, answered) = oneshot::channel();
        let ended = || io::Error::other("the proxy is ending");
        let pending = Pending { order, answer };
        orders.send(pending).await.map_err(|_| ended())?;
        let answer = answered.await.map_err(|_| ended())?;
        let report = Report {
            version: CONTROL_VERSION,
            build: build.to_owned(),
            failed: answer.failed,
            handed: answer.handed.iter().map(|(key, _)| *key).collect(),
        };
        let mut line = serde_json::to_vec(&report)?;
        line.push(b'\n');
        stream.write_all(&line).await?;
        for (_, socket) in &answer.handed {
            send_socket(stream.get_ref(), socket).await?;
        }
        drop(answer.done);
    }
}
