//! How a link lives through restarts, moves and crossing dials.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::contract::{PATIENCE, answer_reversed, both, soon};
use super::super::endpoint::ALPN_MEMBER;
use super::super::fixture::{Loopback, NOW, Node, clock_at};
use super::super::rogue::Rogue;
use super::super::{CallError, Channel, PeerLinks, limits};
use crate::identity::{Identity, NodeKey};

const DEADLINE: Duration = Duration::from_secs(3);

fn number(value: u32) -> Bytes {
    Bytes::copy_from_slice(&value.to_be_bytes())
}

/// Two identities, the one with the lower node id first.
fn ordered(world: &Loopback) -> (Identity, Identity) {
    let one = world.identity();
    let two = world.identity();
    if one.node < two.node {
        (one, two)
    } else {
        (two, one)
    }
}

/// What both ends of one connection can compute, and nobody else.
fn fingerprint(node: &Node, peer: kawanan_api::NodeId) -> Option<[u8; 16]> {
    let connection = node.quic.existing_link(peer)?.held()?;
    let mut bytes = [0; 16];
    connection
        .export_keying_material(&mut bytes, b"test", b"")
        .ok()?;
    Some(bytes)
}

#[tokio::test]
async fn nodes_that_dial_each_other_at_once_end_up_with_one_connection() {
    for _ in 0..30 {
        let mut world = Loopback::new();
        let mut one = world.any_node();
        let mut two = world.any_node();
        let (x, y) = (number(1), number(2));
        one.quic.send(two.id, Channel::Raft, x.clone()).unwrap();
        two.quic.send(one.id, Channel::Raft, y.clone()).unwrap();
        let (heard_by_two, heard_by_one) = soon("both messages", async {
            tokio::join!(two.inbound.raft.recv(), one.inbound.raft.recv())
        })
        .await;
        assert_eq!(heard_by_two, Some((one.id, x)));
        assert_eq!(heard_by_one, Some((two.id, y)));
        // A dial that is still under way may change their minds once more.
        soon("lasting agreement on one connection", async {
            loop {
                let before = fingerprint(&one, two.id);
                sleep(Duration::from_millis(30)).await;
                let (here, there) = (fingerprint(&one, two.id), fingerprint(&two, one.id));
                if here.is_some() && here == there && here == before {
                    break;
                }
            }
        })
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_lost_the_choice_is_closed_after_a_while() {
    let mut world = Loopback::new();
    let (low, high) = ordered(&world);
    let clock = clock_at(NOW);
    let low = world.start(&low, &clock);
    let rogue = Rogue::new(ALPN_MEMBER, Some(&high));
    let first = rogue.connect(low.quic.local_addr().unwrap()).await.unwrap();
    let second = rogue.connect(low.quic.local_addr().unwrap()).await.unwrap();
    sleep(limits::RETIRED_LIFE / 2).await;
    assert!(first.close_reason().is_none(), "calls on it may end");
    sleep(limits::RETIRED_LIFE).await;
    assert!(first.close_reason().is_some());
    assert!(second.close_reason().is_none());
}

/// A node in a runtime of its own, so that it can be ended without a goodbye.
struct Doomed {
    runtime: tokio::runtime::Runtime,
    address: SocketAddr,
}

fn start_doomed(world: &mut Loopback, identity: &Identity, listen: SocketAddr) -> Doomed {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    let entered = runtime.enter();
    let node = world.start_at(listen, identity, &clock_at(NOW));
    let address = node.quic.local_addr().unwrap();
    drop(entered);
    runtime.spawn(async move {
        let _quic = node.quic;
        answer_reversed(node.inbound);
        std::future::pending::<()>().await;
    });
    Doomed { runtime, address }
}

async fn call_until_answered(node: &Node, peer: kawanan_api::NodeId) -> Vec<CallError> {
    let mut errors = Vec::new();
    loop {
        match node.quic.call(peer, Bytes::new(), DEADLINE).await {
            Ok(_) => return errors,
            Err(error) => errors.push(error),
        }
    }
}

async fn recovers_from_a_crash_of(low_crashes: bool) {
    let mut world = Loopback::new();
    let (low, high) = ordered(&world);
    let (crashing, staying) = if low_crashes {
        (low, high)
    } else {
        (high, low)
    };
    let staying = world.start(&staying, &clock_at(NOW));
    let doomed = start_doomed(&mut world, &crashing, "127.0.0.1:0".parse().unwrap());
    let peer = crashing.node;
    soon("the first answer", call_until_answered(&staying, peer)).await;
    let address = doomed.address;
    world.forget_alive(peer);
    doomed.runtime.shutdown_background();
    // The socket goes with the last task of the runtime.
    soon("the end of the socket", until_free(address)).await;
    assert!(staying.quic.is_connected(peer), "nobody has told it");
    let again = start_doomed(&mut world, &crashing, address);
    let begun = Instant::now();
    let errors = soon("an answer", call_until_answered(&staying, peer)).await;
    let took = begun.elapsed();
    assert!(took < Duration::from_secs(1), "{took:?} {errors:?}");
    again.runtime.shutdown_background();
}

#[tokio::test]
async fn a_peer_that_crashed_and_came_back_is_talked_to_at_once() {
    recovers_from_a_crash_of(true).await;
    recovers_from_a_crash_of(false).await;
}

#[tokio::test]
async fn a_peer_that_dialed_crashed_and_came_back_silently_is_found_long_before_the_idle_timeout() {
    let mut world = Loopback::new();
    let staying = world.any_node();
    let identity = world.identity();
    let doomed = start_doomed(&mut world, &identity, "127.0.0.1:0".parse().unwrap());
    let quic = world.alive(identity.node);
    let to = staying.id;
    doomed.runtime.spawn(async move {
        quic.send(to, Channel::Raft, number(1)).ok();
    });
    let mut raft = staying.inbound.raft;
    soon("a message", raft.recv()).await;
    world.forget_alive(identity.node);
    doomed.runtime.shutdown_background();
    soon("the end of the socket", until_free(doomed.address)).await;
    let again = start_doomed(&mut world, &identity, doomed.address);
    let begun = Instant::now();
    let staying = Node {
        inbound: super::Inbound {
            raft,
            ..staying.inbound
        },
        ..staying
    };
    let errors = soon("an answer", call_until_answered(&staying, identity.node)).await;
    assert!(begun.elapsed() < limits::IDLE_TIMEOUT / 2, "{errors:?}");
    again.runtime.shutdown_background();
}

/// A network between one client and one server.
struct Relay {
    address: SocketAddr,
    /// Swallow everything.
    swallow: AtomicBool,
    /// First packets of new connections that were swallowed.
    swallowed_dials: AtomicUsize,
}

impl Relay {
    async fn start(target: SocketAddr, delay: Duration) -> Arc<Self> {
        let socket = tokio::net::UdpSocket::bind("127.0.0.1:0").await.unwrap();
        let relay = Arc::new(Self {
            address: socket.local_addr().unwrap(),
            swallow: AtomicBool::new(false),
            swallowed_dials: AtomicUsize::new(0),
        });
        tokio::spawn(Arc::clone(&relay).pass(Arc::new(socket), target, delay));
        relay
    }

    async fn pass(
        self: Arc<Self>,
        socket: Arc<tokio::net::UdpSocket>,
        target: SocketAddr,
        delay: Duration,
    ) {
        const LONG_HEADER: u8 = 0x80;
        let mut client = None;
        let mut packet = [0; 2048];
        loop {
            let (size, from) = socket.recv_from(&mut packet).await.unwrap();
            let to = if from == target { client } else { Some(target) };
            if from != target {
                client = Some(from);
            }
            if self.swallow.load(Ordering::Relaxed) {
                if packet[0] & LONG_HEADER != 0 {
                    self.swallowed_dials.fetch_add(1, Ordering::Relaxed);
                }
            } else if let Some(to) = to {
                let (socket, packet) = (Arc::clone(&socket), packet[..size].to_vec());
                tokio::spawn(async move {
                    sleep(delay).await;
                    socket.send_to(&packet, to).await.unwrap();
                });
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_swallows_everything_gets_a_rival_long_before_the_idle_timeout() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    answer_reversed(two.inbound);
    let relay = Relay::start(two.quic.local_addr().unwrap(), Duration::ZERO).await;
    world.tell(two.id, relay.address);
    soon("an answer", call_until_answered(&one, two.id)).await;
    relay.swallow.store(true, Ordering::Relaxed);
    let begun = Instant::now();
    while relay.swallowed_dials.load(Ordering::Relaxed) == 0 {
        one.quic.send(two.id, Channel::Gossip, number(0)).ok();
        sleep(Duration::from_millis(250)).await;
        assert!(begun.elapsed() < limits::IDLE_TIMEOUT / 2);
    }
    assert!(one.quic.is_connected(two.id), "it is not given up yet");
    relay.swallow.store(false, Ordering::Relaxed);
    soon("an answer", call_until_answered(&one, two.id)).await;
}

#[tokio::test(start_paused = true)]
async fn a_link_that_only_listens_gets_no_rival() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    one.quic.send(two.id, Channel::Raft, number(0)).unwrap();
    soon("a message", two.inbound.raft.recv()).await;
    let (here, there) = (fingerprint(&one, two.id), fingerprint(&two, one.id));
    for value in 1..100 {
        one.quic.send(two.id, Channel::Raft, number(value)).unwrap();
        soon("a message", two.inbound.raft.recv()).await;
        sleep(limits::LOOK_PERIOD).await;
    }
    assert_eq!(fingerprint(&one, two.id), here);
    assert_eq!(fingerprint(&two, one.id), there);
}

async fn until_free(address: SocketAddr) {
    while std::net::UdpSocket::bind(address).is_err() {
        sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn a_peer_that_stopped_and_came_back_is_talked_to_at_once() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let identity = world.identity();
    let two = world.start(&identity, &clock_at(NOW));
    let address = two.quic.local_addr().unwrap();
    answer_reversed(two.inbound);
    one.quic.call(two.id, Bytes::new(), DEADLINE).await.unwrap();
    two.quic.close().await;
    soon("the end of the connection", async {
        while one.quic.is_connected(two.id) {
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
    drop(two.quic);
    world.forget_alive(identity.node);
    soon("the end of the socket", until_free(address)).await;
    let two = world.start_at(address, &identity, &clock_at(NOW));
    answer_reversed(two.inbound);
    let begun = Instant::now();
    let answer = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
    assert!(begun.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn a_peer_that_moved_is_followed_without_losing_or_reordering_raft_messages() {
    const MESSAGES: u32 = 600;
    let mut world = Loopback::new();
    let one = world.any_node();
    let identity = world.identity();
    let mut two = world.start_at("0.0.0.0:0".parse().unwrap(), &identity, &clock_at(NOW));
    let port = two.quic.local_addr().unwrap().port();
    let homes: Vec<SocketAddr> = (1..=4u8)
        .map(|host| ([127, 0, 0, host], port).into())
        .collect();
    world.tell(two.id, homes[0]);
    let sending = async {
        for value in 0..MESSAGES {
            one.quic.send(two.id, Channel::Raft, number(value)).unwrap();
            if value % 40 == 39 {
                world.tell(two.id, homes[(value / 40) as usize % homes.len()]);
            }
            sleep(Duration::from_millis(1)).await;
        }
    };
    let receiving = async {
        for value in 0..MESSAGES {
            let heard = soon("a message", two.inbound.raft.recv()).await;
            assert_eq!(heard, Some((one.id, number(value))));
        }
    };
    both(sending, receiving).await;
    let last = homes[((MESSAGES / 40 - 1) as usize) % homes.len()];
    soon("the connection to the last address", async {
        loop {
            let link = one.quic.existing_link(two.id).unwrap();
            if link
                .held()
                .is_some_and(|held| held.remote_address() == last)
            {
                break;
            }
            sleep(Duration::from_millis(1)).await;
        }
    })
    .await;
}

#[tokio::test]
async fn raft_messages_on_a_faster_connection_do_not_overtake_those_on_the_slow_one_before() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let home = two.quic.local_addr().unwrap();
    let relay = Relay::start(home, Duration::from_millis(40)).await;
    world.tell(two.id, relay.address);
    one.quic.send(two.id, Channel::Raft, number(0)).unwrap();
    soon("the first message", two.inbound.raft.recv()).await;
    world.tell(two.id, home);
    let mut value = 0;
    let at_home = || {
        let link = one.quic.existing_link(two.id).unwrap();
        link.held()
            .is_some_and(|held| held.remote_address() == home)
    };
    soon("the change to the fast connection", async {
        while !at_home() {
            value += 1;
            one.quic.send(two.id, Channel::Raft, number(value)).unwrap();
            tokio::task::yield_now().await;
        }
    })
    .await;
    for _ in 0..10 {
        value += 1;
        one.quic.send(two.id, Channel::Raft, number(value)).unwrap();
    }
    for expected in 1..=value {
        let heard = soon("a message", two.inbound.raft.recv()).await;
        assert_eq!(heard, Some((one.id, number(expected))));
    }
}

#[tokio::test]
async fn a_peer_whose_address_changes_while_it_is_dialed_is_found() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    let home = two.quic.local_addr().unwrap();
    answer_reversed(two.inbound);
    // Nobody lives there, and nobody says so.
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    world.tell(two.id, silent.local_addr().unwrap());
    let call = one.quic.call(two.id, Bytes::new(), DEADLINE);
    let moving = async {
        sleep(Duration::from_millis(200)).await;
        world.tell(two.id, home);
        Instant::now()
    };
    let (answer, moved) = both(call, moving).await;
    assert_eq!(answer, Ok(Bytes::new()));
    assert!(moved.elapsed() < Duration::from_secs(1));
}

#[tokio::test]
async fn what_was_said_before_closing_still_arrives() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let relay = Relay::start(two.quic.local_addr().unwrap(), Duration::from_millis(10)).await;
    world.tell(two.id, relay.address);
    one.quic.send(two.id, Channel::Raft, number(0)).unwrap();
    soon("the first message", two.inbound.raft.recv()).await;
    // More than a connection sends before it hears back, so that most of it is still here when the end comes.
    let large = Bytes::from(vec![9; 10 << 10]);
    for _ in 0..10 {
        one.quic.send(two.id, Channel::Raft, large.clone()).unwrap();
    }
    let hearing = async {
        for _ in 0..10 {
            let heard = soon("a last message", two.inbound.raft.recv()).await;
            assert_eq!(heard, Some((one.id, large.clone())));
        }
    };
    both(one.quic.close(), hearing).await;
}

#[tokio::test]
async fn a_queue_to_a_silent_peer_fills_and_says_so() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let peer = NodeKey::generate().unwrap().node_id();
    world.tell(peer, silent.local_addr().unwrap());
    let mut sent = 0;
    while one.quic.send(peer, Channel::Raft, number(0)).is_ok() {
        sent += 1;
        assert!(sent <= limits::RAFT_QUEUE);
    }
    assert_eq!(
        one.quic.send(peer, Channel::Raft, number(0)),
        Err(super::SendError::QueueFull(peer))
    );
}

#[tokio::test]
async fn old_messages_are_not_delivered_to_a_peer_that_comes_late() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let identity = world.identity();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    world.tell(identity.node, address);
    one.quic
        .send(identity.node, Channel::Raft, number(1))
        .unwrap();
    sleep(limits::MESSAGE_AGE_MAX + Duration::from_millis(100)).await;
    drop(silent);
    let mut two = world.start_at(address, &identity, &clock_at(NOW));
    let begun = Instant::now();
    while begun.elapsed() < PATIENCE && !one.quic.is_connected(two.id) {
        sleep(Duration::from_millis(5)).await;
    }
    one.quic.send(two.id, Channel::Raft, number(2)).unwrap();
    let heard = soon("the fresh message", two.inbound.raft.recv()).await;
    assert_eq!(heard, Some((one.id, number(2))));
}

#[tokio::test]
async fn log_streams_are_limited_and_do_not_stand_in_the_way_of_calls() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    let mut streams = two.inbound.streams;
    let inbound = super::Inbound {
        streams: tokio::sync::mpsc::channel(1).1,
        ..two.inbound
    };
    answer_reversed(inbound);
    // Talks without end, on every stream.
    tokio::spawn(async move {
        while let Some(call) = streams.recv().await {
            tokio::spawn(async move {
                let frame = Bytes::from(vec![0; 60 << 10]);
                while call.frames.send(frame.clone()).await.is_ok() {}
            });
        }
    });
    let mut resting = Vec::new();
    for _ in 0..limits::LOG_STREAMS_MAX {
        let frames = one.quic.open(two.id, Bytes::new(), DEADLINE).await;
        resting.push(frames.unwrap());
    }
    let more = one.quic.open(two.id, Bytes::new(), DEADLINE).await;
    let more = more.unwrap_err().to_string();
    assert!(more.contains("48 log streams"), "{more}");
    // All of them are full of what nobody reads.
    sleep(Duration::from_millis(500)).await;
    for _ in 0..20 {
        let large = Bytes::from(vec![1; 300 << 10]);
        let answer = one.quic.call(two.id, large.clone(), DEADLINE).await;
        assert_eq!(answer, Ok(large));
    }
    // One that is given up makes room.
    resting.pop();
    soon("room for another", async {
        while one.quic.open(two.id, Bytes::new(), DEADLINE).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_connection_on_which_nothing_is_said_for_minutes_is_closed_and_made_again_when_needed() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    answer_reversed(two.inbound);
    one.quic.call(two.id, Bytes::new(), DEADLINE).await.unwrap();
    let idle = limits::LOOK_PERIOD * limits::IDLE_LOOKS;
    sleep(idle / 2).await;
    assert!(one.quic.is_connected(two.id), "keep-alives keep it");
    one.quic.call(two.id, Bytes::new(), DEADLINE).await.unwrap();
    sleep(idle * 2 / 3).await;
    assert!(one.quic.is_connected(two.id), "something was said");
    sleep(idle / 2).await;
    assert!(!one.quic.is_connected(two.id));
    assert!(!two.quic.is_connected(one.id));
    let answer = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
}
