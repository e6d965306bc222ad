//! What becomes of messages while links change, fill up and end.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, sleep};

use super::super::contract::{PATIENCE, answer_reversed, both, soon};
use super::super::fixture::{Loopback, NOW, Relay, clock_at, number};
use super::super::{Channel, PeerLinks, limits};
use crate::identity::NodeKey;

const DEADLINE: Duration = Duration::from_secs(3);

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
async fn what_was_said_before_closing_still_arrives() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let relay = Relay::start(two.quic.local_addr().unwrap(), Duration::from_millis(10)).await;
    world.tell(two.id, relay.address);
    one.quic.send(two.id, Channel::Raft, number(0)).unwrap();
    soon("the first message", two.inbound.raft.recv()).await;
    // More than a connection sends before it hears back, so that most of it is still here when the end comes.
    let large = Bytes::from(vec![9; 5 << 10]);
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

#[test]
fn a_message_may_be_sent_from_a_thread_outside_the_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let entered = runtime.enter();
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    drop(entered);
    one.quic.send(two.id, Channel::Raft, number(1)).unwrap();
    let heard = runtime.block_on(soon("a message", two.inbound.raft.recv()));
    assert_eq!(heard, Some((one.id, number(1))));
}

#[tokio::test]
async fn raft_passes_a_snapshot_that_was_sent_before() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let relay = Relay::start(two.quic.local_addr().unwrap(), Duration::from_millis(5)).await;
    world.tell(two.id, relay.address);
    one.quic.send(two.id, Channel::Raft, number(0)).unwrap();
    soon("the first message", two.inbound.raft.recv()).await;
    let snapshot = Bytes::from(vec![5; 4 << 20]);
    one.quic
        .send(two.id, Channel::Snapshot, snapshot.clone())
        .unwrap();
    sleep(Duration::from_millis(100)).await;
    for value in 1..=20 {
        one.quic.send(two.id, Channel::Raft, number(value)).unwrap();
        let heard = soon("a message", two.inbound.raft.recv()).await;
        assert_eq!(heard, Some((one.id, number(value))));
    }
    let heard = soon("the snapshot", two.inbound.raft.recv()).await;
    assert_eq!(heard, Some((one.id, snapshot)));
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
