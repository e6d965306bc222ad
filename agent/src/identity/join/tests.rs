//! Tests of identity join.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::Timestamp;
use kawanan_api::spec::ResourceAmounts;
use kawanan_logic::state::Platform;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::*;
use crate::identity::authority::NODE_LIFE;
use crate::identity::{Identity, NodeKey};
use crate::transport::contract::{answer_reversed, both, soon};
use crate::transport::fixture::{Loopback, NOW, Node, clock_at};
use crate::transport::{JoinCall, PeerLinks};

/// Long enough for a handshake on the loopback address.
const SEED_DEADLINE: Duration = Duration::from_millis(400);

fn application(key: &NodeKey) -> JoinRequest {
    JoinRequest::Join(Box::new(Application {
        version: "0.1.0".to_owned(),
        token: TokenId::from_bits(4),
        secret: TokenSecret(*b"sixteen bytes..."),
        signing_request: key.signing_request().unwrap(),
        raft_id: RaftId(9),
        name: "new".to_owned(),
        labels: BTreeMap::new(),
        facts: NodeFacts {
            address: "192.0.2.7:7700".parse().unwrap(),
            platform: Platform::default(),
            capacity: ResourceAmounts::default(),
            agent_version: "0.1.0".to_owned(),
            engine_version: String::new(),
            feature_level: 1,
        },
    }))
}

fn dialer(world: &Loopback) -> JoinDialer {
    JoinDialer::new(world.authority.digest(), clock_at(NOW)).with_seed_deadline(SEED_DEADLINE)
}

fn seed(node: &Node) -> SocketAddr {
    node.quic.local_addr().unwrap()
}

/// Welcomes whoever asks, as the leader would.
fn welcome(world: &Loopback, request: &[u8]) -> JoinAnswer {
    let signing_request = match codec::decode(request).unwrap() {
        JoinRequest::Join(application) => application.signing_request,
        JoinRequest::Renew { signing_request } => signing_request,
    };
    let (certificate, node) = world
        .authority
        .sign_node(&signing_request, world.cluster, NOW)
        .unwrap();
    JoinAnswer::Welcome(Box::new(Welcome {
        certificate,
        authorities: vec![world.authority.certificate_der().to_vec()],
        cluster: world.cluster,
        node,
        members: vec![],
    }))
}

fn encoded(answer: &JoinAnswer) -> Bytes {
    codec::encode(answer).unwrap().into()
}

/// Gives everybody who joins at this node the same answer.
fn answer_always(mut joins: mpsc::Receiver<JoinCall>, answer: JoinAnswer) {
    tokio::spawn(async move {
        while let Some(call) = joins.recv().await {
            call.answer.send(encoded(&answer)).ok();
        }
    });
}

fn refusal(code: ErrorCode) -> JoinAnswer {
    JoinAnswer::Refused(ApiError::new(code, "because"))
}

#[tokio::test]
async fn a_machine_that_is_welcomed_is_a_member() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let key = NodeKey::generate().unwrap();
    let request = application(&key);
    let seeds = [seed(&node)];
    let joining = join(&seeds, world.authority.digest(), &request, clock_at(NOW));
    let serving = async {
        let call = node.inbound.joins.recv().await.unwrap();
        assert!(call.from.ip().is_loopback());
        assert_eq!(
            codec::decode::<JoinRequest>(&call.request).unwrap(),
            request
        );
        let answer = encoded(&welcome(&world, &call.request));
        call.answer.send(answer).unwrap();
    };
    let begun = Instant::now();
    let (welcome, ()) = both(joining, serving).await;
    let welcome = welcome.unwrap();
    assert!(begun.elapsed() < Duration::from_millis(500));
    assert_eq!(welcome.node, key.node_id());
    let identity = Identity {
        cluster: welcome.cluster,
        node: welcome.node,
        raft: RaftId(9),
        name: "new".to_owned(),
        key,
        chain: vec![welcome.certificate],
        authorities: welcome.authorities,
    };
    let member = world.start(&identity, &clock_at(NOW));
    answer_reversed(node.inbound);
    let deadline = Duration::from_secs(3);
    let answer = member.quic.call(node.id, Bytes::new(), deadline).await;
    assert_eq!(answer, Ok(Bytes::new()));
}

#[tokio::test]
async fn a_member_of_another_cluster_never_hears_the_secret() {
    let world = Loopback::new();
    let mut other = Loopback::of_cluster(ClusterId::from_bits(5)).any_node();
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&[seed(&other)], &request, &dialer(&world))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        JoinError::Unanswered(vec![JoinDialError::OtherCluster(seed(&other))])
    );
    assert_eq!(
        error.to_string(),
        format!(
            "the machine at {} belongs to another cluster than the token",
            seed(&other)
        )
    );
    assert!(other.inbound.joins.try_recv().is_err());
}

#[tokio::test]
async fn whoever_shows_our_authority_without_its_signature_never_hears_the_secret() {
    let world = Loopback::new();
    let mut elsewhere = Loopback::of_cluster(ClusterId::from_bits(5));
    let mut impostor = elsewhere.identity();
    impostor
        .authorities
        .push(world.authority.certificate_der().to_vec());
    let mut impostor = elsewhere.start(&impostor, &clock_at(NOW));
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&[seed(&impostor)], &request, &dialer(&world))
        .await
        .unwrap_err();
    let JoinError::Unanswered(failures) = error else {
        panic!("{error}");
    };
    assert!(
        matches!(failures[..], [JoinDialError::Distrusted { .. }]),
        "{failures:?}"
    );
    assert!(impostor.inbound.joins.try_recv().is_err());
}

#[tokio::test]
async fn a_seed_with_an_expired_certificate_is_named_together_with_the_clock() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let late = clock_at(NOW.saturating_add(NODE_LIFE * 2));
    let dialer = JoinDialer::new(world.authority.digest(), late).with_seed_deadline(SEED_DEADLINE);
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&[seed(&node)], &request, &dialer)
        .await
        .unwrap_err();
    assert!(error.to_string().contains("clock"), "{error}");
}

#[tokio::test]
async fn a_joiner_whose_clock_was_reset_can_join() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let dialer = JoinDialer::new(world.authority.digest(), clock_at(Timestamp::default()))
        .with_seed_deadline(SEED_DEADLINE);
    let request = application(&NodeKey::generate().unwrap());
    let seeds = [seed(&node)];
    let serving = async {
        let call = node.inbound.joins.recv().await.unwrap();
        let answer = encoded(&welcome(&world, &call.request));
        call.answer.send(answer).unwrap();
    };
    let (joined, ()) = both(ask_in_turn(&seeds, &request, &dialer), serving).await;
    assert!(joined.is_ok(), "{joined:?}");
}

#[tokio::test]
async fn silence_is_explained_with_the_port_and_the_firewall() {
    let world = Loopback::new();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = silent.local_addr().unwrap();
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&[address], &request, &dialer(&world))
        .await
        .unwrap_err();
    assert_eq!(
        error,
        JoinError::Unanswered(vec![JoinDialError::NoAnswer(address)])
    );
    let said = error.to_string();
    assert!(said.contains("firewall"), "{said}");
    assert!(
        said.contains(&format!("UDP port {}", address.port())),
        "{said}"
    );
}

#[tokio::test]
async fn a_dead_seed_costs_only_its_deadline() {
    let mut world = Loopback::new();
    let node = world.any_node();
    let silent = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let key = NodeKey::generate().unwrap();
    let request = application(&key);
    let answer = welcome(&world, &codec::encode(&request).unwrap());
    let seeds = [silent.local_addr().unwrap(), seed(&node)];
    answer_always(node.inbound.joins, answer);
    let begun = Instant::now();
    let joined = ask_in_turn(&seeds, &request, &dialer(&world)).await;
    assert_eq!(joined.unwrap().node, key.node_id());
    assert!(begun.elapsed() < SEED_DEADLINE * 3);
}

#[tokio::test]
async fn a_refusal_is_final_and_keeps_its_words() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let mut two = world.any_node();
    let seeds = [seed(&one), seed(&two)];
    answer_always(one.inbound.joins, refusal(ErrorCode::Forbidden));
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&seeds, &request, &dialer(&world)).await;
    let because = ApiError::new(ErrorCode::Forbidden, "because");
    assert_eq!(error, Err(JoinError::Refused(because)));
    assert!(two.inbound.joins.try_recv().is_err());
}

#[tokio::test]
async fn a_seed_without_a_leader_sends_the_joiner_to_the_next() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    let key = NodeKey::generate().unwrap();
    let request = application(&key);
    let seeds = [seed(&one), seed(&two)];
    answer_always(one.inbound.joins, refusal(ErrorCode::NoLeader));
    let answer = welcome(&world, &codec::encode(&request).unwrap());
    answer_always(two.inbound.joins, answer);
    let joined = ask_in_turn(&seeds, &request, &dialer(&world)).await;
    assert_eq!(joined.unwrap().node, key.node_id());
    // When there is no other, its words are what the user reads.
    let error = ask_in_turn(&seeds[..1], &request, &dialer(&world)).await;
    let because = ApiError::new(ErrorCode::NoLeader, "because");
    assert_eq!(error, Err(JoinError::Refused(because)));
}

#[tokio::test]
async fn redirections_are_followed_but_not_in_circles() {
    let mut world = Loopback::new();
    let one = world.any_node();
    let two = world.any_node();
    let three = world.any_node();
    let key = NodeKey::generate().unwrap();
    let request = application(&key);
    let answer = welcome(&world, &codec::encode(&request).unwrap());
    let (first, second, last) = (seed(&one), seed(&two), seed(&three));
    answer_always(one.inbound.joins, JoinAnswer::Redirect(vec![second, first]));
    answer_always(two.inbound.joins, JoinAnswer::Redirect(vec![first, last]));
    answer_always(three.inbound.joins, answer);
    let joined = ask_in_turn(&[first], &request, &dialer(&world)).await;
    assert_eq!(joined.unwrap().node, key.node_id());
    three.quic.close().await;
    let circle = async { ask_in_turn(&[first], &request, &dialer(&world)).await };
    let error = soon("the end of the circle", circle).await.unwrap_err();
    assert!(matches!(error, JoinError::Unanswered(_)), "{error}");
}

#[tokio::test]
async fn an_answer_that_makes_no_sense_is_said_to_be_so() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let request = application(&NodeKey::generate().unwrap());
    let other = application(&NodeKey::generate().unwrap());
    let JoinAnswer::Welcome(mut mixed) = welcome(&world, &codec::encode(&other).unwrap()) else {
        unreachable!();
    };
    mixed.node = NodeId::from_bits(1);
    let mixed = encoded(&JoinAnswer::Welcome(mixed));
    for answer in [Bytes::from_static(b"\xff\xff"), Bytes::new(), mixed] {
        let seeds = [seed(&node)];
        let serving = async {
            let call = node.inbound.joins.recv().await.unwrap();
            call.answer.send(answer).unwrap();
        };
        let (error, ()) = both(
            async { ask_in_turn(&seeds, &request, &dialer(&world)).await },
            serving,
        )
        .await;
        let error = error.unwrap_err();
        assert!(matches!(error, JoinError::Nonsense { .. }), "{error}");
    }
}

#[tokio::test]
async fn a_lost_answer_is_not_called_a_refusal() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let request = application(&NodeKey::generate().unwrap());
    let seeds = [seed(&node)];
    let serving = async {
        drop(node.inbound.joins.recv().await.unwrap());
    };
    let dialer = dialer(&world);
    let (error, ()) = both(ask_in_turn(&seeds, &request, &dialer), serving).await;
    let JoinError::Unanswered(failures) = error.unwrap_err() else {
        panic!("an answer from nowhere");
    };
    assert!(
        matches!(failures[..], [JoinDialError::BrokeOff { .. }]),
        "{failures:?}"
    );
}

#[tokio::test]
async fn no_seed_and_another_program_have_sentences_of_their_own() {
    let world = Loopback::new();
    let request = application(&NodeKey::generate().unwrap());
    let error = ask_in_turn(&[], &request, &dialer(&world)).await;
    assert_eq!(error, Err(JoinError::NoSeeds));
    let stranger = crate::transport::fixture::foreign_server();
    let address = stranger.local_addr().unwrap();
    let error = ask_in_turn(&[address], &request, &dialer(&world)).await;
    assert_eq!(
        error,
        Err(JoinError::Unanswered(vec![JoinDialError::NotAnAgent(
            address
        )]))
    );
}

#[test]
fn a_secret_is_never_printed() {
    let request = application(&NodeKey::generate().unwrap());
    let printed = format!("{request:?}");
    assert!(printed.contains("TokenSecret(..)"), "{printed}");
    assert!(!printed.contains("115, 105, 120"), "{printed}");
}

#[test]
fn the_most_telling_failure_comes_first() {
    let address: SocketAddr = "192.0.2.1:7700".parse().unwrap();
    let mut failures = vec![
        JoinDialError::NoAnswer(address),
        JoinDialError::Busy(address),
        JoinDialError::OtherCluster(address),
    ];
    failures.sort_by_key(tellingness);
    assert_eq!(failures[0], JoinDialError::OtherCluster(address));
    let said = JoinError::Unanswered(failures).to_string();
    assert!(
        said.starts_with("the machine at 192.0.2.1:7700 belongs"),
        "{said}"
    );
}

#[tokio::test]
async fn an_expired_member_gets_a_new_certificate_by_its_key() {
    let mut world = Loopback::new();
    let mut node = world.any_node();
    let key = NodeKey::generate().unwrap();
    let request = JoinRequest::Renew {
        signing_request: key.signing_request().unwrap(),
    };
    let seeds = [seed(&node)];
    let asking = join(&seeds, world.authority.digest(), &request, clock_at(NOW));
    let serving = async {
        let call = node.inbound.joins.recv().await.unwrap();
        let answer = encoded(&welcome(&world, &call.request));
        call.answer.send(answer).unwrap();
    };
    let (renewed, ()) = both(asking, serving).await;
    assert_eq!(renewed.unwrap().node, key.node_id());
}
