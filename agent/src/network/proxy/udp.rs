//! UDP: each client keeps its container for as long as it talks.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout};
use tracing::debug;

use super::Backends;

/// A client that was silent for so long may get another container. Also how long answers are waited for.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// Clients at a time; beyond it the longest silent one is forgotten.
const FLOWS_MAX: usize = 1024;
const PRUNE_EVERY: Duration = Duration::from_secs(1);
/// After a failed receive, so as not to spin.
const RECEIVE_PAUSE: Duration = Duration::from_millis(10);
/// Largest datagram over IPv4.
const DATAGRAM_BYTES_MAX: usize = 65_507;

struct Flow {
    socket: Arc<UdpSocket>,
    backend: SocketAddr,
    last: Instant,
    answers: JoinHandle<()>,
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.answers.abort();
    }
}

/// The socket that clients send to.
pub(super) struct Door(pub Arc<UdpSocket>);

impl Door {
    /// The same socket once more.
    pub(super) fn as_fd_owned(&self) -> io::Result<OwnedFd> {
        self.0.as_fd().try_clone_to_owned()
    }
}

/// Opens the port, on IPv6 and IPv4 where the machine has both, or goes on with a socket that is open already.
pub(super) fn door(port: u16, inherited: Option<OwnedFd>) -> io::Result<Door> {
    let dual = || -> io::Result<std::net::UdpSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(std::net::UdpSocket::from(socket))
    };
    let socket = match inherited {
        Some(socket) => std::net::UdpSocket::from(socket),
        None => match dual() {
            Err(err) if err.kind() != io::ErrorKind::AddrInUse => {
                std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?
            }
            bound => bound?,
        },
    };
    socket.set_nonblocking(true)?;
    Ok(Door(Arc::new(UdpSocket::from_std(socket)?)))
}

/// Serves until the returned task is aborted.
pub(super) fn serve(socket: Arc<UdpSocket>, backends: watch::Receiver<Backends>) -> JoinHandle<()> {
    tokio::spawn(pass_on(socket, backends))
}

async fn pass_on(door: Arc<UdpSocket>, backends: watch::Receiver<Backends>) {
    let mut flows = Flows {
        door,
        by_client: BTreeMap::new(),
        turn: 0,
        pruned: Instant::now(),
    };
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    loop {
        let (size, client) = match flows.door.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(err) => {
                debug!(%err, "a datagram was not received");
                sleep(RECEIVE_PAUSE).await;
                continue;
            }
        };
        let current = Arc::clone(&backends.borrow());
        let Some(flow) = flows.of(client, &current).await else {
            continue;
        };
        flow.last = Instant::now();
        if let Err(err) = flow.socket.send(&datagram[..size]).await {
            debug!(%err, "a datagram was not passed on");
        }
    }
}

/// The clients of one port.
struct Flows {
    door: Arc<UdpSocket>,
    by_client: BTreeMap<SocketAddr, Flow>,
    turn: usize,
    pruned: Instant,
}

impl Flows {
    /// The client's flow; a new one when it has none, or when its container went away or refused.
    async fn of(&mut self, client: SocketAddr, current: &[SocketAddr]) -> Option<&mut Flow> {
        let good = |flow: &Flow| current.contains(&flow.backend) && !flow.answers.is_finished();
        if self.by_client.get(&client).is_some_and(good) {
            return self.by_client.get_mut(&client);
        }
        self.by_client.remove(&client);
        self.prune();
        self.turn = self.turn.wrapping_add(1);
        let backend = *current.get(self.turn % current.len().max(1))?;
        match open_flow(&self.door, client, backend).await {
            Ok(flow) => Some(self.by_client.entry(client).or_insert(flow)),
            Err(err) => {
                debug!(%backend, %err, "a container cannot be reached");
                None
            }
        }
    }

    /// Forgets silent clients, at most every second, and the longest silent one when there are too many.
    fn prune(&mut self) {
        if self.pruned.elapsed() >= PRUNE_EVERY {
            self.by_client
                .retain(|_, flow| flow.last.elapsed() < FLOW_IDLE);
            self.pruned = Instant::now();
        }
        if self.by_client.len() < FLOWS_MAX {
            return;
        }
        let oldest = self.by_client.iter().min_by_key(|(_, flow)| flow.last);
        if let Some(client) = oldest.map(|(client, _)| *client) {
            self.by_client.remove(&client);
        }
    }
}

async fn open_flow(
    door: &Arc<UdpSocket>,
    client: SocketAddr,
    backend: SocketAddr,
) -> io::Result<Flow> {
    let local: SocketAddr = match backend {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    };
    let socket = Arc::new(UdpSocket::bind(local).await?);
    socket.connect(backend).await?;
    let answers = tokio::spawn(carry_answers(Arc::clone(&socket), Arc::clone(door), client));
    Ok(Flow {
        socket,
        backend,
        last: Instant::now(),
        answers,
    })
}

/// Ends after a silence, or when the container refuses.
async fn carry_answers(from: Arc<UdpSocket>, door: Arc<UdpSocket>, client: SocketAddr) {
    loop {
        // The buffer is there only while there is something to put into it: there may be many silent clients.
        match timeout(FLOW_IDLE, from.readable()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return,
        }
        let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
        let size = match from.try_recv(&mut datagram) {
            Ok(size) => size,
            Err(err) if err.kind() == io::ErrorKind::WouldBlock => continue,
            Err(err) => {
                debug!(%client, %err, "a container refuses datagrams");
                return;
            }
        };
        if let Err(err) = door.send_to(&datagram[..size], client).await {
            debug!(%err, "an answer was not passed back");
        }
    }
}
