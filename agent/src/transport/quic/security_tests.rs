//! Who is kept out, and how they are told.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ClusterId, NodeId};
use quinn::{ConnectionError, TransportErrorCode, VarInt};
use tokio::time::Instant;

use super::super::contract::{answer_reversed, both, soon};
use super::super::endpoint::{ALPN_JOIN, ALPN_MEMBER};
use super::super::fixture::{Loopback, NOW, Node, clock_at};
use super::super::rogue::{Rogue, shown};
use super::super::stream_kind::{StreamKind, write_kind, write_message};
use super::super::{CallError, Channel, PeerLinks, codes, limits};
use crate::identity::authority::{Authority, NODE_LIFE};
use crate::identity::{Identity, NodeKey};

const DEADLINE: Duration = Duration::from_secs(3);

fn address(node: &Node) -> std::net::SocketAddr {
    node.quic.local_addr().unwrap()
}

/// Sent away by TLS with one of its alerts (RFC 8446, 6.2).
fn by_alert(reason: &ConnectionError, alert: u8) -> bool {
    matches!(reason, ConnectionError::ConnectionClosed(close)
        if close.error_code == TransportErrorCode::crypto(alert))
}

fn by_code(reason: &ConnectionError, code: VarInt) -> bool {
    matches!(reason, ConnectionError::ApplicationClosed(close) if close.error_code == code)
}

const UNKNOWN_CA: u8 = 48;
const CERTIFICATE_EXPIRED: u8 = 45;
const ACCESS_DENIED: u8 = 49;

#[tokio::test]
async fn a_certificate_of_another_cluster_is_refused() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let stranger = Loopback::of_cluster(ClusterId::from_bits(5)).identity();
    let reason = Rogue::new(ALPN_MEMBER, Some(&stranger))
        .sent_away(address(&node))
        .await;
    assert!(by_alert(&reason, UNKNOWN_CA), "{reason}");
}

#[tokio::test]
async fn a_certificate_that_names_another_cluster_is_refused_even_if_our_authority_signed_it() {
    let mut world = Loopback::new();
    let node = world.any_node();
    world.cluster = ClusterId::from_bits(6);
    let reason = Rogue::new(ALPN_MEMBER, Some(&world.identity()))
        .sent_away(address(&node))
        .await;
    assert!(by_alert(&reason, UNKNOWN_CA), "{reason}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused() {
    let mut world = Loopback::new();
    let identity = world.identity();
    let later = NOW.saturating_add(NODE_LIFE + Duration::from_secs(60));
    let renewed = world.identity_at(NodeKey::generate().unwrap(), later);
    let node = world.start(&renewed, &clock_at(later));
    let reason = Rogue::new(ALPN_MEMBER, Some(&identity))
        .sent_away(address(&node))
        .await;
    assert!(by_alert(&reason, CERTIFICATE_EXPIRED), "{reason}");
}

#[tokio::test]
async fn a_member_cannot_vouch_for_others() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let member = world.identity();
    // The member's own certificate and key in the place of an authority's.
    let forger = Authority::from_key_and_certificate(member.key.pkcs8(), &member.chain[0]).unwrap();
    let key = NodeKey::generate().unwrap();
    let request = key.signing_request().unwrap();
    let (certificate, forged) = forger.sign_node(&request, world.cluster, NOW).unwrap();
    let identity = Identity {
        node: forged,
        key,
        chain: vec![certificate, member.chain[0].clone()],
        ..member
    };
    let reason = Rogue::new(ALPN_MEMBER, Some(&identity))
        .sent_away(address(&node))
        .await;
    assert!(
        by_alert(&reason, UNKNOWN_CA) || by_alert(&reason, ACCESS_DENIED),
        "{reason}"
    );
}

#[tokio::test]
async fn nobody_speaks_as_a_member_without_a_certificate() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let rogue = Rogue::new(ALPN_MEMBER, None);
    let connection = rogue.connect(address(&node)).await.unwrap();
    let reason = soon("the end", connection.closed()).await;
    assert!(by_code(&reason, codes::NO_CERTIFICATE), "{reason}");
    assert!(node.inbound.raft.try_recv().is_err());
}

#[tokio::test]
async fn an_unknown_protocol_is_refused() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let reason = Rogue::new(b"kwn/999", Some(&world.identity()))
        .sent_away(address(&node))
        .await;
    const NO_APPLICATION_PROTOCOL: u8 = 120;
    assert!(by_alert(&reason, NO_APPLICATION_PROTOCOL), "{reason}");
}

#[tokio::test]
async fn a_node_that_is_no_member_is_sent_away_although_its_certificate_is_good() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let identity = world.identity();
    node.gate.expelled.lock().unwrap().insert(identity.node);
    let reason = Rogue::new(ALPN_MEMBER, Some(&identity))
        .sent_away(address(&node))
        .await;
    assert!(by_code(&reason, codes::NOT_ADMITTED), "{reason}");
}

#[tokio::test]
async fn whoever_answers_as_another_node_is_not_talked_to() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let wanted = NodeId::from_bits(1234);
    world.tell(wanted, address(&two));
    let begun = Instant::now();
    let error = one
        .quic
        .call(wanted, Bytes::from_static(b"secret"), DEADLINE)
        .await
        .unwrap_err();
    let CallError::Unreachable { node, cause } = error else {
        panic!("{error:?}");
    };
    assert_eq!(node, wanted);
    assert!(cause.contains(&two.id.to_string()), "{cause}");
    assert!(cause.contains(&address(&two).to_string()), "{cause}");
    assert!(begun.elapsed() < DEADLINE, "it is no use to wait");
    assert!(two.inbound.calls.try_recv().is_err());
}

#[tokio::test]
async fn a_machine_of_another_cluster_is_not_talked_to() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let other = Loopback::of_cluster(ClusterId::from_bits(5)).any_node();
    world.tell(other.id, address(&other));
    let error = one
        .quic
        .call(other.id, Bytes::new(), DEADLINE)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("another cluster"), "{error}");
}

#[tokio::test]
async fn a_removed_node_is_cut_off_at_its_next_word() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let say = || {
        one.quic
            .send(two.id, Channel::Raft, Bytes::from_static(b"x"))
    };
    say().unwrap();
    soon("the first word", two.inbound.raft.recv()).await;
    assert!(one.quic.is_connected(two.id));
    two.gate.expelled.lock().unwrap().insert(one.id);
    say().unwrap();
    let error = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(error, Err(CallError::Refused(two.id)));
    let open = one.quic.open(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(open.err(), Some(CallError::Refused(two.id)));
    assert!(two.inbound.raft.try_recv().is_err());
    assert!(two.inbound.calls.try_recv().is_err());
    // Taken in again, it may talk again.
    two.gate.expelled.lock().unwrap().clear();
    answer_reversed(two.inbound);
    let answer = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_joiner_cannot_open_what_members_open() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    // Even a member's certificate does not help there.
    for identity in [None, Some(world.identity())] {
        let rogue = Rogue::new(ALPN_JOIN, identity.as_ref());
        for kind in [StreamKind::Call, StreamKind::Logs, StreamKind::Raft] {
            let connection = rogue.connect(address(&node)).await.unwrap();
            let one_way = tokio::time::timeout(Duration::from_millis(50), connection.open_uni());
            assert!(one_way.await.is_err(), "no one-way stream is allowed");
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            write_kind(&mut send, kind).await.unwrap();
            let written = write_message(&mut send, &Bytes::from_static(b"let me in")).await;
            drop(written);
            let reason = soon("the end", connection.closed()).await;
            assert!(by_code(&reason, codes::JOIN_OVER), "{kind:?}: {reason}");
        }
    }
    assert!(node.inbound.raft.try_recv().is_err());
    assert!(node.inbound.calls.try_recv().is_err());
    assert!(node.inbound.streams.try_recv().is_err());
    assert!(node.inbound.joins.try_recv().is_err());
}

#[tokio::test]
async fn a_joiner_that_says_too_much_is_not_heard() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let rogue = Rogue::new(ALPN_JOIN, None);
    let connection = rogue.connect(address(&node)).await.unwrap();
    let (mut send, _receive) = connection.open_bi().await.unwrap();
    write_kind(&mut send, StreamKind::Join).await.unwrap();
    let talk = Bytes::from(vec![0; limits::JOIN_REQUEST_BYTES + 1]);
    let written = write_message(&mut send, &talk).await;
    drop(written);
    let reason = soon("the end", connection.closed()).await;
    assert!(by_code(&reason, codes::JOIN_OVER), "{reason}");
    assert!(node.inbound.joins.try_recv().is_err());
}

#[tokio::test]
async fn joiners_beyond_the_limit_are_told_to_try_again() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let rogue = Rogue::new(ALPN_JOIN, None);
    let mut waiting = Vec::new();
    let mut calls = Vec::new();
    for _ in 0..limits::JOINS_MAX {
        let connection = rogue.connect(address(&node)).await.unwrap();
        let (mut send, receive) = connection.open_bi().await.unwrap();
        write_kind(&mut send, StreamKind::Join).await.unwrap();
        write_message(&mut send, &Bytes::from_static(b"please"))
            .await
            .unwrap();
        waiting.push((connection, send, receive));
        calls.push(soon("a joiner", node.inbound.joins.recv()).await.unwrap());
    }
    let reason = rogue.sent_away(address(&node)).await;
    assert!(by_code(&reason, codes::BUSY), "{reason}");
    // One that is answered makes room.
    let call = calls.pop().unwrap();
    call.answer.send(Bytes::from_static(b"welcome")).unwrap();
    let (connection, _, mut receive) = waiting.pop().unwrap();
    let answer = soon("the answer", receive.read_to_end(100)).await.unwrap();
    assert_eq!(answer[4..], *b"welcome");
    connection.close(codes::JOIN_OVER, b"");
    soon("room for another", async {
        loop {
            let connection = rogue.connect(address(&node)).await.unwrap();
            let (mut send, _receive) = connection.open_bi().await.unwrap();
            let asked = write_kind(&mut send, StreamKind::Join).await.is_ok()
                && write_message(&mut send, &Bytes::new()).await.is_ok();
            let heard = tokio::time::timeout(Duration::from_millis(200), node.inbound.joins.recv());
            if asked && heard.await.is_ok() {
                break;
            }
        }
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_joiner_that_says_nothing_is_sent_away() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let begun = Instant::now();
    let reason = Rogue::new(ALPN_JOIN, None).sent_away(address(&node)).await;
    assert!(by_code(&reason, codes::JOIN_OVER), "{reason}");
    assert!(begun.elapsed() >= limits::JOIN_REQUEST_DEADLINE);
}

#[tokio::test]
async fn promises_of_too_much_end_the_stream_before_anything_is_kept() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let rogue = Rogue::new(ALPN_MEMBER, Some(&world.identity()));
    let connection = rogue.connect(address(&node)).await.unwrap();
    for kind in [StreamKind::Raft, StreamKind::Gossip, StreamKind::Snapshot] {
        let mut send = soon("a stream", connection.open_uni()).await.unwrap();
        write_kind(&mut send, kind).await.unwrap();
        let size = u32::try_from(kind.message_bytes_max() + 1).unwrap();
        send.write_all(&size.to_be_bytes()).await.unwrap();
        let stopped = soon("the end of the stream", send.stopped()).await;
        assert_eq!(stopped.unwrap(), Some(codes::TOO_LARGE), "{kind:?}");
    }
    for kind in [StreamKind::Call, StreamKind::Logs] {
        let (mut send, mut receive) = soon("a stream", connection.open_bi()).await.unwrap();
        write_kind(&mut send, kind).await.unwrap();
        let size = u32::try_from(kind.message_bytes_max() + 1).unwrap();
        send.write_all(&size.to_be_bytes()).await.unwrap();
        let answer = soon("the end of the stream", receive.read_to_end(10)).await;
        let reset = quinn::ReadToEndError::Read(quinn::ReadError::Reset(codes::TOO_LARGE));
        assert_eq!(answer.unwrap_err(), reset, "{kind:?}");
    }
    assert!(connection.close_reason().is_none(), "only the streams end");
    assert!(node.inbound.raft.try_recv().is_err());
}

#[tokio::test]
async fn a_kind_of_stream_that_is_not_known_ends_only_that_stream() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let rogue = Rogue::new(ALPN_MEMBER, Some(&world.identity()));
    let connection = rogue.connect(address(&node)).await.unwrap();
    let mut send = soon("a stream", connection.open_uni()).await.unwrap();
    send.write_all(&[99, 1, 2, 3]).await.unwrap();
    let stopped = soon("the end of the stream", send.stopped()).await;
    assert_eq!(stopped.unwrap(), Some(codes::UNKNOWN_KIND));
    assert!(connection.close_reason().is_none());
}

#[tokio::test]
async fn a_session_cannot_be_resumed() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let rogue = Rogue::new(ALPN_MEMBER, Some(&world.identity()));
    let first = rogue.connect(address(&node)).await.unwrap();
    // Time for a ticket to arrive, if there were any.
    let (mut send, mut receive) = soon("a stream", first.open_bi()).await.unwrap();
    write_kind(&mut send, StreamKind::Call).await.unwrap();
    send.reset(codes::ABANDONED).unwrap();
    drop(soon("the reply", receive.read_to_end(10)).await);
    first.close(codes::JOIN_OVER, b"");
    assert!(rogue.dial(address(&node)).into_0rtt().is_err());
}

#[tokio::test]
async fn a_machine_whose_clock_was_reset_still_talks_to_its_peers() {
    let mut world = Loopback::new();
    let reset = world.identity();
    let one = world.start(&reset, &clock_at(kawanan_api::Timestamp::default()));
    let two = world.any_node();
    answer_reversed(two.inbound);
    let answer = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    assert_eq!(answer, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_wrong_clock_is_named_as_the_cause() {
    let mut world = Loopback::new();
    let ahead = NOW.saturating_add(NODE_LIFE * 2);
    let one = world.identity();
    let one = world.start(&one, &clock_at(ahead));
    let two = world.any_node();
    let error = one.quic.call(two.id, Bytes::new(), DEADLINE).await;
    let error = error.unwrap_err().to_string();
    assert!(error.contains("clock"), "{error}");
    assert!(error.contains(&ahead.to_string()[..10]), "{error}");
}

#[tokio::test]
async fn a_renewed_certificate_is_shown_from_then_on_and_drops_no_connection() {
    let mut world = Loopback::new();
    let identity = world.identity();
    let one = world.start(&identity, &clock_at(NOW));
    let two = world.any_node();
    let opening = two.quic.open(one.id, Bytes::new(), DEADLINE);
    let mut inbound = one.inbound;
    let (frames, call) = both(opening, inbound.streams.recv()).await;
    let (mut frames, call) = (frames.unwrap(), call.unwrap());
    let renewed = world.identity_at(identity.key.clone(), NOW.saturating_add(NODE_LIFE / 2));
    assert_ne!(renewed.chain, identity.chain);
    one.quic.swap_certificate(&renewed).unwrap();
    call.frames.send(Bytes::from_static(b"on")).await.unwrap();
    assert_eq!(soon("a frame", frames.recv()).await.unwrap(), "on");
    let rogue = Rogue::new(ALPN_MEMBER, Some(&world.identity()));
    let connection = rogue.connect(one.quic.local_addr().unwrap()).await.unwrap();
    assert_eq!(shown(&connection)[0].as_ref(), renewed.chain[0]);
    // That of another node is not taken.
    assert!(one.quic.swap_certificate(&world.identity()).is_err());
}

#[tokio::test]
async fn joiners_are_shown_the_authority_and_members_are_not() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let joiner = Rogue::new(ALPN_JOIN, None);
    let connection = joiner.connect(address(&node)).await.unwrap();
    assert_eq!(
        shown(&connection)[1].as_ref(),
        world.authority.certificate_der()
    );
    let member = Rogue::new(ALPN_MEMBER, Some(&world.identity()));
    let connection = member.connect(address(&node)).await.unwrap();
    assert_eq!(shown(&connection).len(), 1);
}
