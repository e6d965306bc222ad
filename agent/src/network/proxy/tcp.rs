//! TCP: accept, pick the next container, copy both ways.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::io::copy_bidirectional_with_sizes;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::Backends;

/// Time for a container of this node to accept.
const CONNECT_DEADLINE: Duration = Duration::from_secs(1);
/// Buffer in each direction.
const BUFFER_BYTES: usize = 8 * 1024;
const BACKLOG: u32 = 1024;
/// How long a connection waits for a container that accepts it.
const PATIENCE: Duration = Duration::from_secs(5);
/// While no container accepts.
const LOOK_AGAIN: Duration = Duration::from_millis(50);
/// A silent connection is probed after so long.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(300);
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// A listening socket.
pub(super) struct Door(pub TcpListener);

impl Door {
    /// The same socket once more.
    pub(super) fn as_fd_owned(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// Opens the port, on IPv6 and IPv4 where the machine has both, or goes on with a socket that is open already.
pub(super) fn door(port: u16, inherited: Option<OwnedFd>) -> io::Result<Door> {
    if let Some(socket) = inherited {
        let listener = std::net::TcpListener::from(socket);
        listener.set_nonblocking(true)?;
        return TcpListener::from_std(listener).map(Door);
    }
    let dual = || {
        let socket = TcpSocket::new_v6()?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    };
    let listener = match dual() {
        Err(err) if err.kind() != io::ErrorKind::AddrInUse => {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            socket.listen(BACKLOG)
        }
        bound => bound,
    };
    listener.map(Door)
}

/// Serves until the returned task is aborted. Connections outlive it.
pub(super) fn serve(
    listener: TcpListener,
    backends: watch::Receiver<Backends>,
    places: Arc<Semaphore>,
) -> JoinHandle<()> {
    tokio::spawn(accept(listener, backends, places))
}

async fn accept(
    listener: TcpListener,
    backends: watch::Receiver<Backends>,
    places: Arc<Semaphore>,
) {
    let turn = Arc::new(AtomicUsize::new(0));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                tokio::spawn(pass_on(client, backends.clone(), Arc::clone(&turn), place));
            }
            Err(err) => {
                warn!(%err, "cannot accept a connection");
                sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn pass_on(
    mut client: TcpStream,
    mut backends: watch::Receiver<Backends>,
    turn: Arc<AtomicUsize>,
    _place: OwnedSemaphorePermit,
) {
    let connect = connect(&mut backends, turn.fetch_add(1, Ordering::Relaxed));
    let Ok(mut container) = timeout(PATIENCE, connect).await else {
        debug!("no container accepts the connection");
        return;
    };
    for stream in [&client, &container] {
        if let Err(err) = tune(stream) {
            debug!(%err, "a connection keeps the system's settings");
        }
    }
    let copied =
        copy_bidirectional_with_sizes(&mut client, &mut container, BUFFER_BYTES, BUFFER_BYTES);
    if let Err(err) = copied.await {
        debug!(%err, "a connection ended early");
    }
}

/// No waiting for full packets, and an end for connections whose other side vanished without a word.
fn tune(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    sockopt::set_socket_keepalive(stream, true)?;
    sockopt::set_tcp_keepidle(stream, KEEPALIVE_IDLE)?;
    Ok(())
}

/// The first container that accepts, beginning with the one whose turn it is. When none does it waits for one that
/// will: between two tasks of one slot there may be a moment with none.
async fn connect(backends: &mut watch::Receiver<Backends>, turn: usize) -> TcpStream {
    loop {
        let current = Arc::clone(&backends.borrow_and_update());
        for step in 0..current.len() {
            let backend = current[turn.wrapping_add(step) % current.len()];
            match timeout(CONNECT_DEADLINE, TcpStream::connect(backend)).await {
                Ok(Ok(stream)) => return stream,
                Ok(Err(err)) => debug!(%backend, %err, "a container does not accept"),
                Err(_) => debug!(%backend, "a container does not answer"),
            }
        }
        // Without a sender the port is closed; the caller's patience ends the wait.
        if let Ok(Err(_)) = timeout(LOOK_AGAIN, backends.changed()).await {
            sleep(LOOK_AGAIN).await;
        }
    }
}
