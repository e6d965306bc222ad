//! UDP: each client keeps its container for as long as it talks.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};
use tokio::net::UdpSocket;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout};
use tracing::debug;

use super::Backends;

/// A client that was silent for so long may get another container. Also how long answers are waited for.
const FLOW_IDLE: Duration = Duration::from_secs(60);
/// Clients at a time; beyond it the longest silent one is forgotten.
const FLOWS_MAX: usize = 1024;
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

/// Opens the port and serves it until the returned task is aborted.
pub(super) fn serve(port: u16, backends: watch::Receiver<Backends>) -> io::Result<JoinHandle<()>> {
    let socket = Arc::new(bind(port)?);
    Ok(tokio::spawn(pass_on(socket, backends)))
}

fn bind(port: u16) -> io::Result<UdpSocket> {
    let dual = || -> io::Result<std::net::UdpSocket> {
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let socket =
            rustix::net::socket_with(AddressFamily::INET6, SocketType::DGRAM, flags, None)?;
        sockopt::set_ipv6_v6only(&socket, false)?;
        rustix::net::bind(&socket, &SocketAddr::from((Ipv6Addr::UNSPECIFIED, port)))?;
        Ok(std::net::UdpSocket::from(socket))
    };
    match dual() {
        Err(err) if err.kind() != io::ErrorKind::AddrInUse => {
            let socket = std::net::UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port))?;
            socket.set_nonblocking(true)?;
            UdpSocket::from_std(socket)
        }
        bound => UdpSocket::from_std(bound?),
    }
}

async fn pass_on(socket: Arc<UdpSocket>, backends: watch::Receiver<Backends>) {
    let mut flows: BTreeMap<SocketAddr, Flow> = BTreeMap::new();
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    let mut turn = 0usize;
    loop {
        let (size, client) = match socket.recv_from(&mut datagram).await {
            Ok(received) => received,
            Err(err) => {
                debug!(%err, "a datagram was not received");
                continue;
            }
        };
        let current = Arc::clone(&backends.borrow());
        flows.retain(|_, flow| flow.last.elapsed() < FLOW_IDLE && current.contains(&flow.backend));
        if !flows.contains_key(&client) {
            turn = turn.wrapping_add(1);
            let Some(backend) = current.get(turn % current.len().max(1)).copied() else {
                continue;
            };
            match open_flow(&socket, client, backend).await {
                Ok(flow) => {
                    make_room(&mut flows);
                    flows.insert(client, flow);
                }
                Err(err) => {
                    debug!(%backend, %err, "a container cannot be reached");
                    continue;
                }
            }
        }
        if let Some(flow) = flows.get_mut(&client) {
            flow.last = Instant::now();
            if let Err(err) = flow.socket.send(&datagram[..size]).await {
                debug!(%err, "a datagram was not passed on");
            }
        }
    }
}

fn make_room(flows: &mut BTreeMap<SocketAddr, Flow>) {
    if flows.len() < FLOWS_MAX {
        return;
    }
    let oldest = flows
        .iter()
        .min_by_key(|(_, flow)| flow.last)
        .map(|(client, _)| *client);
    if let Some(oldest) = oldest {
        flows.remove(&oldest);
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

async fn carry_answers(from: Arc<UdpSocket>, door: Arc<UdpSocket>, client: SocketAddr) {
    let mut datagram = vec![0; DATAGRAM_BYTES_MAX];
    while let Ok(Ok(size)) = timeout(FLOW_IDLE, from.recv(&mut datagram)).await {
        if let Err(err) = door.send_to(&datagram[..size], client).await {
            debug!(%err, "an answer was not passed back");
        }
    }
}
