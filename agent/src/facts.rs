//! What this node says about itself in the node table, and the task that keeps it true.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{NodeId, RaftId, TaskId};
use kawanan_logic::command::FEATURE_LEVEL;
use kawanan_logic::state::{NodeFacts, Platform};
use kawanan_logic::{ClusterState, Command};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::containers::EngineInfo;
use crate::gossip::{GossipHandle, VALUE_BYTES_MAX, keys};
use crate::node::EngineHealth;
use crate::submit::Submitter;

/// Pause between attempts to correct the node table.
const PAUSE: Duration = Duration::from_secs(2);
/// Time for one attempt.
const DEADLINE: Duration = Duration::from_secs(10);

/// The facts of this machine. Without an engine, capacity and platform come from the operating system.
pub fn facts(address: SocketAddr, engine: Option<&EngineInfo>) -> NodeFacts {
    let (platform, capacity, engine_version) = match engine {
        Some(info) => (
            Platform {
                os: info.os.clone(),
                arch: info.arch.clone(),
            },
            info.capacity,
            info.version.clone(),
        ),
        None => {
            let platform = Platform {
                os: std::env::consts::OS.to_owned(),
                arch: std::env::consts::ARCH.to_owned(),
            };
            (platform, machine_capacity(), String::new())
        }
    };
    let agent_version = env!("CARGO_PKG_VERSION").to_owned();
    NodeFacts {
        address,
        platform,
        capacity,
        agent_version,
        engine_version,
        feature_level: FEATURE_LEVEL,
    }
}

fn machine_capacity() -> ResourceAmounts {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    ResourceAmounts {
        cpus: MilliCpus(cores * 1000),
        memory: Bytes(kib * 1024),
    }
}

/// Corrects this node's row in the node table whenever it says something else than `wanted`.
pub async fn keep_true(
    me: NodeId,
    raft_id: RaftId,
    mut wanted: watch::Receiver<NodeFacts>,
    mut state: watch::Receiver<Arc<ClusterState>>,
    submitter: Submitter,
) {
    loop {
        let facts = wanted.borrow_and_update().clone();
        let known = state
            .borrow_and_update()
            .nodes
            .get(&me)
            .map(|node| (node.raft_id, node.facts.clone()));
        // A node that is not in the table was removed, or has not heard of its own admission yet: not ours to change.
        if known.is_some_and(|(raft, known)| raft != raft_id || known != facts) {
            let command = Command::UpdateNodeFacts {
                id: me,
                raft_id,
                facts,
            };
            match submitter.submit(command, DEADLINE).await {
                Ok(_) => info!("the node table is told what changed about this node"),
                Err(err) => {
                    debug!(%err, "the node table does not know yet what changed about this node")
                }
            }
            sleep(PAUSE).await;
            continue;
        }
        tokio::select! {
            biased;
            changed = wanted.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
        }
    }
}

/// Takes what the engine says about itself into the wanted facts, whenever it answers anew.
pub async fn follow_engine(
    mut engine: watch::Receiver<Option<EngineInfo>>,
    wanted: watch::Sender<NodeFacts>,
) {
    loop {
        let info = engine.borrow_and_update().clone();
        wanted.send_if_modified(|known| {
            // An engine that is away keeps its last version: the node table is not for passing states.
            let Some(info) = &info else { return false };
            let newest = facts(known.address, Some(info));
            let changed = *known != newest;
            *known = newest;
            changed
        });
        if engine.changed().await.is_err() {
            return;
        }
    }
}

/// Shortest time between two publications of what tasks are doing.
const GOSSIP_PAUSE: Duration = Duration::from_millis(250);

/// Publishes the engine's health and what unfinished tasks are doing, as both change.
pub async fn gossip_about(
    mut engine: watch::Receiver<EngineHealth>,
    mut progress: watch::Receiver<BTreeMap<TaskId, String>>,
    gossip: GossipHandle,
) {
    loop {
        let health = engine
            .borrow_and_update()
            .error
            .clone()
            .unwrap_or_else(|| "ok".to_owned());
        let notes = fitting(&progress.borrow_and_update());
        for (key, value) in [(keys::ENGINE, health), (keys::PROGRESS, notes)] {
            if let Err(err) = gossip.publish(key, value).await {
                debug!(%err, "the cluster is not told what this node does");
            }
        }
        sleep(GOSSIP_PAUSE).await;
        tokio::select! {
            biased;
            changed = engine.changed() => if changed.is_err() { return },
            changed = progress.changed() => if changed.is_err() { return },
        }
    }
}

/// As many notes as one gossiped value holds.
fn fitting(notes: &BTreeMap<TaskId, String>) -> String {
    let mut notes = notes.clone();
    loop {
        let text = serde_json::to_string(&notes).unwrap_or_default();
        if text.len() <= VALUE_BYTES_MAX || notes.pop_last().is_none() {
            return text;
        }
    }
}
