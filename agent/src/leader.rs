//! What only the leader does: turn intent into tasks, confirm failures, look after the voters.
//!
//! Exists only while this node leads: [`run`] starts the duties when the node is elected and aborts them when it is
//! not. Holds no truth of its own, so a new leader continues from the log where the last one stopped. Never touches a
//! container and never acts on gossip alone.

mod controller;
mod eviction;
mod failures;
mod voters;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::{NodeId, RequestId, Timestamp};
use kawanan_logic::observation::{NodeSeen, Observation};
use kawanan_logic::{ClusterState, Command, Entry};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tracing::info;

use crate::clock::SharedClock;
use crate::consensus::{ClusterLog, ConsensusStatus, ProposeError};
use crate::gossip::{Liveness, keys};
use crate::random::SharedRandom;
use crate::transport::SharedLinks;

/// What the leader's duties stand on.
#[derive(Clone)]
pub struct LeaderParts {
    pub me: NodeId,
    pub consensus: ClusterLog,
    pub liveness: watch::Receiver<Arc<Liveness>>,
    pub links: SharedLinks,
    pub clock: SharedClock,
    pub random: SharedRandom,
    /// The authority's key, for nodes that are about to vote.
    pub authority_key: Arc<dyn AuthorityKey>,
}

/// Where the private key of the cluster's authority comes from.
pub trait AuthorityKey: Send + Sync + 'static {
    /// PKCS#8; `None` when this node does not hold it (yet).
    fn pkcs8(&self) -> Option<Vec<u8>>;
}

impl LeaderParts {
    fn entry(&self, command: Command) -> Entry {
        Entry {
            request: RequestId::from_bits(self.random.bits()),
            at: self.clock.now(),
            command,
        }
    }

    fn observe(&self) -> Observation {
        observe(&self.liveness.borrow(), self.clock.now())
    }
}

/// What gossip tells the brain. A node that gossip never heard of is left out: there is no evidence against it.
pub fn observe(liveness: &Liveness, now: Timestamp) -> Observation {
    let nodes: BTreeMap<NodeId, NodeSeen> = liveness
        .peers
        .keys()
        .map(|node| {
            let engine_ok = liveness
                .fact(*node, keys::ENGINE)
                .is_none_or(|engine| engine == "ok");
            (
                *node,
                NodeSeen {
                    alive: !liveness.is_suspect(*node),
                    engine_ok,
                },
            )
        })
        .collect();
    Observation { now, nodes }
}

/// Starts and ends the duties as leadership comes and goes. Runs until aborted.
pub async fn run(parts: LeaderParts) {
    let mut status = parts.consensus.status();
    loop {
        if status.wait_for(ConsensusStatus::is_leader).await.is_err() {
            return;
        }
        let term = status.borrow().term;
        info!(term, "this node leads the cluster");
        let mut duties = JoinSet::new();
        duties.spawn(controller::run(parts.clone()));
        duties.spawn(failures::run(parts.clone()));
        duties.spawn(voters::run(parts.clone()));
        let log_goes_on = status
            .wait_for(|status| !status.is_leader() || status.term != term)
            .await
            .is_ok();
        duties.shutdown().await;
        if !log_goes_on {
            return;
        }
        info!(term, "this node leads no more");
    }
}

/// Proposes and waits until the entry is applied here. `false`: not accepted or not known; the caller looks at the
/// state again before it decides anew.
async fn commit(parts: &LeaderParts, command: Command) -> bool {
    let entry = parts.entry(command);
    match parts.consensus.propose(&entry).await {
        Ok(Ok(revision)) => {
            reached(&mut parts.consensus.state(), |state| {
                state.revision >= revision
            })
            .await
        }
        Ok(Err(refusal)) => {
            tracing::debug!(%refusal, "the log refused a command of the leader");
            false
        }
        Err(ProposeError::NotLeader { .. }) => false,
        Err(err) => {
            tracing::warn!(%err, "a command of the leader may or may not have been written");
            false
        }
    }
}

/// Longest wait for this node's own state to catch up with an entry that is committed.
const APPLY_DEADLINE: Duration = Duration::from_secs(5);

async fn reached(
    state: &mut watch::Receiver<Arc<ClusterState>>,
    goal: impl FnMut(&Arc<ClusterState>) -> bool,
) -> bool {
    matches!(
        tokio::time::timeout(APPLY_DEADLINE, state.wait_for(goal)).await,
        Ok(Ok(_))
    )
}
