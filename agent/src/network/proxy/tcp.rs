//! TCP: accept, pick the next container, copy both ways.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

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
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Opens the port, on IPv6 and IPv4 where the machine has both, and serves it until the returned task is aborted.
/// Connections outlive it.
pub(super) fn serve(
    port: u16,
    backends: watch::Receiver<Backends>,
    places: Arc<Semaphore>,
) -> io::Result<JoinHandle<()>> {
    let listener = bind(port)?;
    Ok(tokio::spawn(accept(listener, backends, places)))
}

fn bind(port: u16) -> io::Result<TcpListener> {
    let dual = || {
        let socket = TcpSocket::new_v6()?;
        rustix::net::sockopt::set_ipv6_v6only(&socket, false)?;
        socket.set_reuseaddr(true)?;
        socket.bind(SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        socket.listen(BACKLOG)
    };
    match dual() {
        Err(err) if err.kind() != io::ErrorKind::AddrInUse => {
            let socket = TcpSocket::new_v4()?;
            socket.set_reuseaddr(true)?;
            socket.bind(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)))?;
            socket.listen(BACKLOG)
        }
        bound => bound,
    }
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
    backends: watch::Receiver<Backends>,
    turn: Arc<AtomicUsize>,
    _place: OwnedSemaphorePermit,
) {
    let Some(mut container) = connect(&backends, turn.fetch_add(1, Ordering::Relaxed)).await else {
        debug!("no container accepts the connection");
        return;
    };
    for stream in [&client, &container] {
        if let Err(err) = stream.set_nodelay(true) {
            debug!(%err, "a connection keeps waiting for full packets");
        }
    }
    if let Err(err) =
        copy_bidirectional_with_sizes(&mut client, &mut container, BUFFER_BYTES, BUFFER_BYTES).await
    {
        debug!(%err, "a connection ended early");
    }
}

/// The first container that accepts, beginning with the one whose turn it is.
async fn connect(backends: &watch::Receiver<Backends>, turn: usize) -> Option<TcpStream> {
    let backends = Arc::clone(&backends.borrow());
    for step in 0..backends.len() {
        let backend = backends[(turn + step) % backends.len()];
        match timeout(CONNECT_DEADLINE, TcpStream::connect(backend)).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(err)) => debug!(%backend, %err, "a container does not accept"),
            Err(_) => debug!(%backend, "a container does not answer"),
        }
    }
    None
}
