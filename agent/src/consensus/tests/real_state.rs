//! The log with the state that it is for.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{ClusterId, ErrorCode, RaftId, RequestId, Timestamp, TokenId};
use kawanan_logic::command::NewNode;
use kawanan_logic::state::{NodeFacts, Platform};
use kawanan_logic::{ClusterState, Command, Entry};

use super::bus::Bus;
use super::toy::node_id;
use crate::consensus::persist::Setup;
use crate::consensus::{
    ConsensusConfig, ConsensusHandle, Running, StateMachine as _, Surroundings, found, start,
};
use crate::log_store::MemoryDisk;

fn boot(disk: &MemoryDisk) -> (ConsensusHandle<ClusterState>, Running) {
    let (links, inbound) = Bus::start().plug_in(node_id(1));
    let mut config = ConsensusConfig::new(node_id(1), RaftId(1));
    config.checkpoint_entries = 4;
    config.kept_entries = 1;
    let surroundings = Surroundings {
        links,
        inbound,
        hints: BTreeMap::new(),
    };
    let setup = Setup::simulated(disk.open(), Box::new(|| Duration::from_millis(1)));
    start(config, setup, surroundings).unwrap()
}

fn entry(request: u128, command: Command) -> Entry {
    Entry {
        request: RequestId::from_bits(request),
        at: Timestamp::from_millis(1_700_000_000_000),
        command,
    }
}

fn found_cluster() -> Command {
    Command::Found {
        cluster: ClusterId::from_bits(9),
        authority: vec![1, 2, 3],
        node: NewNode {
            id: node_id(1),
            raft_id: RaftId(1),
            name: "alpha".into(),
            labels: BTreeMap::new(),
            facts: NodeFacts {
                address: "127.0.0.1:7700".parse().unwrap(),
                platform: Platform::default(),
                capacity: ResourceAmounts::default(),
                agent_version: "0.1.0".into(),
                engine_version: String::new(),
                feature_level: kawanan_logic::command::FEATURE_LEVEL,
            },
        },
    }
}

fn token(id: u128) -> Command {
    Command::CreateToken {
        id: TokenId::from_bits(id),
        secret_hash: [7; 32],
        expires_at: None,
        uses: None,
        note: String::new(),
    }
}

#[tokio::test(start_paused = true)]
async fn the_clusters_state_lives_through_checkpoints_and_restarts() {
    let disk = MemoryDisk::default();
    found::<ClusterState>(&mut disk.open(), RaftId(1)).unwrap();
    let (handle, running) = boot(&disk);
    handle
        .propose(&entry(1, found_cluster()))
        .await
        .unwrap()
        .unwrap();
    for id in 2..20 {
        handle
            .propose(&entry(id, token(id)))
            .await
            .unwrap()
            .unwrap();
    }
    let refused = handle.propose(&entry(30, token(5))).await.unwrap();
    assert_eq!(refused.unwrap_err().code, ErrorCode::Conflict);
    let before = handle.state().borrow().clone();
    assert_eq!(before.tokens.len(), 18);
    assert_eq!(before.members()[0].name, "alpha");
    handle.shutdown().await;
    running.ended().await;
    disk.crash();

    let (handle, _running) = boot(&disk);
    handle.read_index().await.unwrap();
    let after = handle.state().borrow().clone();
    assert_eq!(after.digest, before.digest);
    assert_eq!(after.tokens, before.tokens);
    assert_eq!(after.requests, before.requests);
    let again = handle.propose(&entry(30, token(5))).await.unwrap();
    assert_eq!(again.unwrap_err().code, ErrorCode::Conflict);
    assert_eq!(handle.state().borrow().revision, after.revision);
}
