//! What every [`PeerLinks`] promises, as tests that run on each implementation.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::NodeId;
use tokio::time::{Instant, timeout};

use super::{CallError, Channel, Inbound, SendError, SharedLinks};

/// One node of the world under test.
pub(crate) struct Peer {
    pub(crate) id: NodeId,
    pub(crate) links: SharedLinks,
    pub(crate) inbound: Inbound,
}

/// Makes nodes that know each other's addresses.
pub(crate) trait World {
    fn node(&mut self) -> Peer;
    /// Ends a node at once, as a power cut would.
    async fn kill(&mut self, peer: &Peer);
}

/// Longer than anything here takes, shorter than a person waits.
pub(crate) const PATIENCE: Duration = Duration::from_secs(10);
const DEADLINE: Duration = Duration::from_secs(3);

pub(crate) async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    match timeout(PATIENCE, future).await {
        Ok(value) => value,
        Err(_) => panic!("{what} did not happen within {PATIENCE:?}"),
    }
}

/// Two things that must both come to an end.
pub(crate) async fn both<A, B>(
    one: impl Future<Output = A>,
    other: impl Future<Output = B>,
) -> (A, B) {
    soon("the end of both sides", async { tokio::join!(one, other) }).await
}

fn text(number: usize) -> Bytes {
    Bytes::from(format!("message {number}"))
}

/// Answers every call with its request turned round.
pub(crate) fn answer_reversed(mut inbound: Inbound) {
    tokio::spawn(async move {
        while let Some(call) = inbound.calls.recv().await {
            let reversed: Vec<u8> = call.request.iter().rev().copied().collect();
            call.answer.send(reversed.into()).ok();
        }
    });
}

pub(crate) async fn raft_messages_arrive_complete_and_in_order(world: &mut impl World) {
    const MESSAGES: usize = 400;
    let one = world.node();
    let mut two = world.node();
    for number in 0..MESSAGES {
        one.links.send(two.id, Channel::Raft, text(number)).unwrap();
    }
    for number in 0..MESSAGES {
        let (from, message) = soon("a raft message", two.inbound.raft.recv())
            .await
            .unwrap();
        assert_eq!((from, message), (one.id, text(number)));
    }
}

pub(crate) async fn both_sides_may_speak_first_and_at_once(world: &mut impl World) {
    const MESSAGES: usize = 100;
    let mut one = world.node();
    let mut two = world.node();
    for number in 0..MESSAGES {
        one.links.send(two.id, Channel::Raft, text(number)).unwrap();
        two.links.send(one.id, Channel::Raft, text(number)).unwrap();
        tokio::task::yield_now().await;
    }
    let (first, second) = (one.id, two.id);
    for (peer, other) in [(&mut one, second), (&mut two, first)] {
        for number in 0..MESSAGES {
            let (from, message) = soon("a raft message", peer.inbound.raft.recv())
                .await
                .unwrap();
            assert_eq!((from, message), (other, text(number)));
        }
    }
}

pub(crate) async fn gossip_and_snapshots_arrive_on_a_quiet_link(world: &mut impl World) {
    let one = world.node();
    let mut two = world.node();
    let snapshot = Bytes::from(vec![7; 3 << 20]);
    one.links
        .send(two.id, Channel::Snapshot, snapshot.clone())
        .unwrap();
    for number in 0..20 {
        one.links
            .send(two.id, Channel::Gossip, text(number))
            .unwrap();
    }
    let mut heard = Vec::new();
    for _ in 0..20 {
        let (from, message) = soon("gossip", two.inbound.gossip.recv()).await.unwrap();
        assert_eq!(from, one.id);
        heard.push(message);
    }
    heard.sort();
    let mut said: Vec<_> = (0..20).map(text).collect();
    said.sort();
    assert_eq!(heard, said);
    let arrived = soon("the snapshot", two.inbound.raft.recv()).await.unwrap();
    assert_eq!(arrived, (one.id, snapshot));
}

pub(crate) async fn a_call_brings_its_own_answer(world: &mut impl World) {
    let one = world.node();
    let two = world.node();
    answer_reversed(two.inbound);
    let calls = (0..40usize).map(|number| {
        let links = &one.links;
        let to = two.id;
        async move {
            let answer = links.call(to, text(number), DEADLINE).await.unwrap();
            let reversed: Vec<u8> = text(number).iter().rev().copied().collect();
            assert_eq!(answer, reversed);
        }
    });
    soon("forty answers", futures::future::join_all(calls)).await;
    let empty = one.links.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(empty, Ok(Bytes::new()));
}

pub(crate) async fn a_call_that_nobody_answers_ends_at_its_deadline(world: &mut impl World) {
    let one = world.node();
    let mut two = world.node();
    let deadline = Duration::from_millis(700);
    let begun = Instant::now();
    let answer = one.links.call(two.id, text(1), deadline).await;
    assert_eq!(answer, Err(CallError::NoAnswer { node: two.id }));
    assert!(begun.elapsed() >= deadline && begun.elapsed() < deadline + DEADLINE);
    let call = soon("the call", two.inbound.calls.recv()).await.unwrap();
    assert_eq!((call.from, call.request), (one.id, text(1)));
}

pub(crate) async fn a_call_whose_answer_is_dropped_ends_at_once(world: &mut impl World) {
    let one = world.node();
    let mut two = world.node();
    tokio::spawn(async move {
        while let Some(call) = two.inbound.calls.recv().await {
            drop(call.answer);
        }
    });
    let begun = Instant::now();
    let answer = one.links.call(two.id, text(1), PATIENCE).await;
    assert_eq!(answer, Err(CallError::NoAnswer { node: two.id }));
    assert!(begun.elapsed() < PATIENCE / 2);
}

pub(crate) async fn a_dead_peer_is_unreachable(world: &mut impl World) {
    let one = world.node();
    let two = world.node();
    world.kill(&two).await;
    let deadline = Duration::from_millis(500);
    let answer = one.links.call(two.id, text(1), deadline).await;
    assert!(
        matches!(answer, Err(CallError::Unreachable { node, .. }) if node == two.id),
        "{answer:?}"
    );
    assert!(!one.links.is_connected(two.id));
}

pub(crate) async fn an_unknown_peer_is_an_error_at_once(world: &mut impl World) {
    let one = world.node();
    let stranger = NodeId::from_bits(0xdead);
    for channel in [Channel::Raft, Channel::Gossip, Channel::Snapshot] {
        assert_eq!(
            one.links.send(stranger, channel, text(0)),
            Err(SendError::NoAddress(stranger))
        );
    }
    let begun = Instant::now();
    assert!(matches!(
        one.links.call(stranger, text(0), PATIENCE).await,
        Err(CallError::Unreachable { .. })
    ));
    assert!(matches!(
        one.links.open(stranger, text(0), PATIENCE).await,
        Err(CallError::Unreachable { .. })
    ));
    assert!(begun.elapsed() < PATIENCE / 2);
}

pub(crate) async fn frames_come_in_order_and_end_with_the_stream(world: &mut impl World) {
    const FRAMES: usize = 200;
    let one = world.node();
    let mut two = world.node();
    tokio::spawn(async move {
        let call = two.inbound.streams.recv().await.unwrap();
        assert_eq!((call.from, call.request), (one.id, text(9)));
        for number in 0..FRAMES {
            call.frames.send(text(number)).await.unwrap();
        }
    });
    let mut frames = one.links.open(two.id, text(9), DEADLINE).await.unwrap();
    for number in 0..FRAMES {
        assert_eq!(soon("a frame", frames.recv()).await, Some(text(number)));
    }
    assert_eq!(soon("the end", frames.recv()).await, None);
}

pub(crate) async fn dropping_the_frames_ends_the_stream_at_the_other_side(world: &mut impl World) {
    let one = world.node();
    let mut two = world.node();
    let opening = one.links.open(two.id, text(0), DEADLINE);
    let (opened, call) = both(opening, two.inbound.streams.recv()).await;
    let call = call.unwrap();
    let mut frames = opened.unwrap();
    call.frames.send(text(1)).await.unwrap();
    assert_eq!(soon("a frame", frames.recv()).await, Some(text(1)));
    assert!(!call.frames.is_closed());
    drop(frames);
    soon("the end of the stream", call.frames.closed()).await;
}

pub(crate) async fn oversized_messages_are_refused(world: &mut impl World) {
    let one = world.node();
    let mut two = world.node();
    let large = |size: usize| Bytes::from(vec![1; size]);
    for (channel, limit) in [(Channel::Raft, 8 << 20), (Channel::Gossip, 64 << 10)] {
        assert_eq!(
            one.links.send(two.id, channel, large(limit + 1)),
            Err(SendError::TooLarge {
                size: limit + 1,
                limit
            })
        );
        one.links.send(two.id, channel, large(limit)).unwrap();
    }
    let (_, raft) = soon("a large message", two.inbound.raft.recv())
        .await
        .unwrap();
    assert_eq!(raft.len(), 8 << 20);
    let (_, gossip) = soon("large gossip", two.inbound.gossip.recv())
        .await
        .unwrap();
    assert_eq!(gossip.len(), 64 << 10);
    let call = one.links.call(two.id, large((4 << 20) + 1), DEADLINE).await;
    assert!(
        matches!(call, Err(CallError::Unreachable { .. })),
        "{call:?}"
    );
}

pub(crate) async fn a_connection_is_reported_and_ends_when_the_peer_is_forgotten(
    world: &mut impl World,
) {
    let one = world.node();
    let two = world.node();
    answer_reversed(two.inbound);
    assert!(!one.links.is_connected(two.id));
    one.links.call(two.id, text(1), DEADLINE).await.unwrap();
    assert!(one.links.is_connected(two.id));
    one.links.forget(two.id);
    assert!(!one.links.is_connected(two.id));
    // Whoever is still in the address book may be talked to again.
    one.links.call(two.id, text(2), DEADLINE).await.unwrap();
    assert!(one.links.is_connected(two.id));
}

/// Runs the whole suite on the world that `$world` makes, under the attributes given.
macro_rules! contract_suite {
    ($world:expr, $(#[$attribute:meta])+) => {
        $crate::transport::contract::contract_suite!(@tests $world, [$(#[$attribute])+],
            raft_messages_arrive_complete_and_in_order,
            both_sides_may_speak_first_and_at_once,
            gossip_and_snapshots_arrive_on_a_quiet_link,
            a_call_brings_its_own_answer,
            a_call_that_nobody_answers_ends_at_its_deadline,
            a_call_whose_answer_is_dropped_ends_at_once,
            a_dead_peer_is_unreachable,
            an_unknown_peer_is_an_error_at_once,
            frames_come_in_order_and_end_with_the_stream,
            dropping_the_frames_ends_the_stream_at_the_other_side,
            oversized_messages_are_refused,
            a_connection_is_reported_and_ends_when_the_peer_is_forgotten,
        );
    };
    (@tests $world:expr, $attributes:tt, $($test:ident,)+) => {
        $($crate::transport::contract::contract_suite!(@test $world, $attributes, $test);)+
    };
    (@test $world:expr, [$(#[$attribute:meta])+], $test:ident) => {
        $(#[$attribute])+
        async fn $test() {
            $crate::transport::contract::$test(&mut $world).await;
        }
    };
}
pub(crate) use contract_suite;
