//! What this node says about itself in the node table, and the task that keeps it true.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{NodeId, RaftId};
use kawanan_logic::command::FEATURE_LEVEL;
use kawanan_logic::state::{NodeFacts, Platform};
use kawanan_logic::{ClusterState, Command};
use tokio::sync::watch;
use tokio::time::sleep;
use tracing::{debug, info};

use crate::containers::EngineInfo;
use crate::submit::Submitter;

/// Pause between attempts to correct the node table.
const PAUSE: Duration = Duration::from_secs(2);
/// Time for one attempt.
const DEADLINE: Duration = Duration::from_secs(10);

/// The facts of this machine. Without an engine, capacity and platform come from the operating system.
pub fn facts(address: SocketAddr, engine: Option<&EngineInfo>) -> NodeFacts {
    let (platform, capacity, engine_version) = match engine {
        Some(info) => {
            (Platform { os: info.os.clone(), arch: info.arch.clone() }, info.capacity, info.version.clone())
        }
        None => {
            let platform = Platform { os: std::env::consts::OS.to_owned(), arch: std::env::consts::ARCH.to_owned() };
            (platform, machine_capacity(), String::new())
        }
    };
    let agent_version = env!("CARGO_PKG_VERSION").to_owned();
    NodeFacts { address, platform, capacity, agent_version, engine_version, feature_level: FEATURE_LEVEL }
}

fn machine_capacity() -> ResourceAmounts {
    let cores = std::thread::available_parallelism().map_or(1, |cores| cores.get() as u64);
    let meminfo = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let kib = meminfo
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:"))
        .and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok())
        .unwrap_or(0);
    ResourceAmounts { cpus: MilliCpus(cores * 1000), memory: Bytes(kib * 1024) }
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
        let known = state.borrow_and_update().nodes.get(&me).map(|node| (node.raft_id, node.facts.clone()));
        // A node that is not in the table was removed, or has not heard of its own admission yet: not ours to change.
        if known.is_some_and(|(raft, known)| raft != raft_id || known != facts) {
            let command = Command::UpdateNodeFacts { id: me, raft_id, facts };
            match submitter.submit(command, DEADLINE).await {
                Ok(_) => info!("the node table is told what changed about this node"),
                Err(err) => debug!(%err, "the node table does not know yet what changed about this node"),
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
