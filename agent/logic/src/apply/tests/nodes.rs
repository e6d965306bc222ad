//! Tests of apply nodes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::{ErrorCode, RaftId, Revision, Timestamp, TokenId};

use crate::command::NewNode;
use crate::state::{Availability, NodeStatus};
use crate::testing::{Cluster, SECRET_HASH, START, TOKEN, entry, new_node, node_id, spec};
use crate::{ClusterState, Command, check_level};

fn admit(token: TokenId, secret_hash: [u8; 32], node: NewNode) -> Command {
    Command::AdmitNode {
        token,
        secret_hash,
        node,
    }
}

fn token(id: u128, expires_at: Option<Timestamp>, uses: Option<u32>) -> Command {
    Command::CreateToken {
        id: TokenId::from_bits(id),
        secret_hash: SECRET_HASH,
        expires_at,
        uses,
        note: "for the lab".to_owned(),
    }
}

#[test]
fn nothing_comes_before_the_founding_and_nothing_founds_twice() {
    let mut state = ClusterState::default();
    let early = entry(1, START, token(1, None, None));
    let error = state.apply(Revision(1), &early).unwrap_err();
    assert_eq!(error.message, "the cluster is not founded yet");
    let mut cluster = Cluster::new(1);
    let error = cluster.refused(Command::Found {
        cluster: kawanan_api::ClusterId::from_bits(2),
        authority: vec![],
        node: new_node(2),
    });
    assert_eq!(error.message, "the cluster is founded already");
}

#[test]
fn a_repeated_request_gets_its_first_answer_and_changes_nothing() {
    let mut cluster = Cluster::new(1);
    let create = entry(
        50,
        START,
        Command::CreateService {
            id: kawanan_api::ServiceId::from_bits(3),
            spec: spec("web", 1),
        },
    );
    let at = |number: u64| Revision(number);
    assert_eq!(cluster.state.apply(at(10), &create), Ok(at(10)));
    let before = cluster.state.clone();
    assert_eq!(cluster.state.apply(at(11), &create), Ok(at(10)));
    assert_eq!(cluster.state.revision, at(11));
    assert_ne!(cluster.state.digest, before.digest);
    let mut rest = cluster.state.clone();
    (rest.revision, rest.digest) = (before.revision, before.digest);
    assert_eq!(rest, before);
    // Refusals are remembered as well.
    let wrong = entry(
        51,
        START,
        Command::RevokeToken {
            id: TokenId::from_bits(99),
        },
    );
    let first = cluster.state.apply(at(12), &wrong);
    assert!(first.is_err());
    assert_eq!(cluster.state.apply(at(13), &wrong), first);
}

#[test]
fn an_entry_that_was_applied_before_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::new(1);
    let before = cluster.state.clone();
    let old = entry(77, START, token(5, None, None));
    assert!(cluster.state.apply(before.revision, &old).is_err());
    assert_eq!(cluster.state, before);
}

#[test]
fn an_empty_entry_only_moves_the_revision() {
    let mut cluster = Cluster::new(1);
    let before = cluster.state.clone();
    cluster.state.skip(Revision(90));
    assert_eq!(cluster.state.revision, Revision(90));
    cluster.state.revision = before.revision;
    assert_eq!(cluster.state, before);
}

#[test]
fn every_kind_of_bad_token_has_its_own_sentence() {
    let mut cluster = Cluster::new(1);
    let expiry = START.saturating_add(Duration::from_secs(60));
    cluster.ok(token(20, Some(expiry), None));
    cluster.ok(token(21, None, Some(1)));
    cluster.ok(token(22, None, None));
    cluster.ok(Command::RevokeToken {
        id: TokenId::from_bits(22),
    });
    cluster.ok(admit(TokenId::from_bits(21), SECRET_HASH, new_node(2)));
    cluster.ok(admit(TokenId::from_bits(20), SECRET_HASH, new_node(3)));
    cluster.advance(Duration::from_secs(60));
    for (id, secret, message) in [
        (19, SECRET_HASH, "the cluster does not know this join token"),
        (20, [0; 32], "the secret in this join token is wrong"),
        (
            20,
            SECRET_HASH,
            "this join token expired at 2023-11-14T22:14:20.000Z",
        ),
        (
            21,
            SECRET_HASH,
            "this join token is used up: it was good for 1 join",
        ),
        (
            22,
            SECRET_HASH,
            "this join token was revoked at 2023-11-14T22:13:20.000Z",
        ),
        // Somebody without the secret learns nothing more.
        (22, [0; 32], "the secret in this join token is wrong"),
    ] {
        let error = cluster.refused(admit(TokenId::from_bits(id), secret, new_node(9)));
        assert_eq!(
            (error.code, &*error.message),
            (ErrorCode::Forbidden, message)
        );
        assert!(error.hint.is_some());
    }
    assert_eq!(cluster.state.nodes.len(), 3);
}

#[test]
fn long_dead_tokens_go_when_new_ones_come() {
    let mut cluster = Cluster::new(1);
    let expiry = START.saturating_add(Duration::from_secs(1));
    for id in 0..998 {
        cluster.ok(token(100 + id, Some(expiry), None));
    }
    cluster.ok(token(5000, None, None));
    let error = cluster.refused(token(5001, None, None));
    assert_eq!(error.code, ErrorCode::LimitReached);
    cluster.advance(Duration::from_secs(8 * 24 * 3600));
    cluster.ok(token(5001, None, None));
    assert_eq!(cluster.state.tokens.len(), 3);
}

#[test]
fn a_machine_that_joins_again_keeps_its_place() {
    let mut cluster = Cluster::new(2);
    cluster.label(node_id(2), "disk", "ssd");
    cluster.set_availability(node_id(2), Availability::Pause);
    cluster.set_status(node_id(2), NodeStatus::Left);
    cluster.advance(Duration::from_secs(5));
    let mut again = new_node(2);
    again.raft_id = RaftId(77);
    again.labels = BTreeMap::from([
        ("disk".to_owned(), "floppy".to_owned()),
        ("rack".to_owned(), "4".to_owned()),
    ]);
    cluster.join(again);
    let node = &cluster.state.nodes[&node_id(2)];
    assert_eq!((node.raft_id, node.status), (RaftId(77), NodeStatus::Ready));
    assert_eq!(node.availability, Availability::Pause);
    assert_eq!((&*node.labels["disk"], &*node.labels["rack"]), ("ssd", "4"));
    assert_eq!(node.joined_at, START);
}

#[test]
fn raft_ids_are_never_shared() {
    let mut cluster = Cluster::new(2);
    let mut clone = new_node(3);
    clone.raft_id = RaftId(2);
    let error = cluster.refused(admit(TOKEN, SECRET_HASH, clone.clone()));
    assert_eq!(
        error.message,
        "node n2 has the raft id 0000000000000002 already"
    );
    clone.raft_id = RaftId(0);
    cluster.refused(admit(TOKEN, SECRET_HASH, clone.clone()));
    let error = cluster.refused(Command::UpdateNodeFacts {
        id: node_id(1),
        raft_id: RaftId(2),
        facts: clone.facts,
    });
    assert_eq!(error.code, ErrorCode::Conflict);
}

#[test]
fn a_node_that_left_comes_back_by_joining_only() {
    let mut cluster = Cluster::new(2);
    cluster.set_status(node_id(2), NodeStatus::Left);
    let error = cluster.refused(Command::SetNodeStatus {
        id: node_id(2),
        status: NodeStatus::Ready,
    });
    assert_eq!(error.message, "node n2 has left the cluster");
}

#[test]
fn a_ready_node_is_removed_by_force_only_and_the_last_one_never() {
    let mut cluster = Cluster::new(2);
    let remove = |id, force| Command::RemoveNode {
        id: node_id(id),
        force,
    };
    let error = cluster.refused(remove(2, false));
    assert_eq!(error.message, "node n2 is ready");
    assert_eq!(
        error.hint.unwrap(),
        "drain it and run `agent leave` there, or use --force"
    );
    cluster.ok(remove(2, true));
    let error = cluster.refused(remove(1, true));
    assert_eq!(error.message, "node n1 is the only one of the cluster");
    assert_eq!(cluster.refused(remove(2, true)).code, ErrorCode::NotFound);
}

#[test]
fn labels_are_set_and_removed() {
    let mut cluster = Cluster::new(1);
    cluster.label(node_id(1), "zone", "a");
    let revision = cluster.state.nodes[&node_id(1)].revision;
    cluster.label(node_id(1), "zone", "a");
    assert_eq!(cluster.state.nodes[&node_id(1)].revision, revision);
    cluster.ok(Command::UpdateNode {
        id: node_id(1),
        availability: None,
        set_labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        remove_labels: BTreeSet::from(["zone".to_owned(), "none".to_owned()]),
    });
    let labels = &cluster.state.nodes[&node_id(1)].labels;
    assert_eq!(
        labels,
        &BTreeMap::from([("disk".to_owned(), "ssd".to_owned())])
    );
}

#[test]
fn a_command_waits_for_the_oldest_node_that_is_still_a_member() {
    let mut cluster = Cluster::new(2);
    let command = Command::RevokeToken { id: TOKEN };
    assert_eq!(check_level(&cluster.state, &command), Ok(()));
    let mut old = new_node(3);
    old.facts.feature_level = 0;
    old.facts.agent_version = "0.0.9".to_owned();
    cluster.join(old);
    assert_eq!(cluster.state.feature_level(), 0);
    let error = check_level(&cluster.state, &command).unwrap_err();
    assert_eq!(
        error.message,
        "node n3 (agent 0.0.9) does not understand this command yet"
    );
    cluster.set_status(node_id(3), NodeStatus::Left);
    assert_eq!(cluster.state.feature_level(), 1);
}
