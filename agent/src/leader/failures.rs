//! Confirms what gossip suspects, and commits the verdict: down, or back.
//!
//! A node is down when gossip finds it silent, two rounds of direct probes fail, and in each round two other nodes that
//! seem alive cannot reach it either. A node that was down is ready again when gossip hears it and it answers a probe.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::NodeId;
use kawanan_logic::codec;
use kawanan_logic::state::{Node, NodeStatus};
use kawanan_logic::{ClusterState, Command};
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::eviction::{EvictionGuard, Hold};
use super::{LeaderParts, commit};
use crate::gossip::Liveness;
use crate::peer::{Answer, Request};

/// Pause between looks while something is suspect or down. Nothing runs while all is well.
const ROUND: Duration = Duration::from_millis(200);
/// Time for one probe to be answered. A ping takes a millisecond; this allows for a busy machine.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);
/// Time for another node's probe: its own deadline and the way there and back.
const INDIRECT_DEADLINE: Duration = Duration::from_millis(800);
/// Other nodes that are asked.
const WITNESSES: usize = 2;
/// Rounds in a row that must fail.
const ROUNDS_TO_CONFIRM: u32 = 2;
/// A member that gossip has not heard of at all since this node leads, for so long, is silent.
const NEVER_HEARD: Duration = Duration::from_secs(5);

pub(super) async fn run(parts: LeaderParts) {
    let mut watch = FailureWatch {
        parts: parts.clone(),
        guard: EvictionGuard::new(Instant::now()),
        leading_since: Instant::now(),
        failed_rounds: BTreeMap::new(),
        last_hold: None,
    };
    let mut liveness = parts.liveness.clone();
    let mut state = parts.consensus.state();
    loop {
        let busy = watch.round().await;
        if busy {
            sleep(ROUND).await;
            continue;
        }
        tokio::select! {
            biased;
            changed = liveness.changed() => if changed.is_err() { return },
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(NEVER_HEARD) => {}
        }
    }
}

struct FailureWatch {
    parts: LeaderParts,
    guard: EvictionGuard,
    leading_since: Instant,
    failed_rounds: BTreeMap<NodeId, u32>,
    last_hold: Option<Hold>,
}

impl FailureWatch {
    /// One look at everybody. `true` while there is something to look at again soon.
    async fn round(&mut self) -> bool {
        let state = self.parts.consensus.state().borrow().clone();
        let liveness = self.parts.liveness.borrow().clone();
        let silent = self.silent(&state, &liveness);
        self.failed_rounds.retain(|node, _| silent.contains(node));
        let returned = returned(&state, &liveness);
        for node in &returned {
            if self.answers(*node).await {
                info!(%node, "node is back");
                commit(
                    &self.parts,
                    Command::SetNodeStatus {
                        id: *node,
                        status: NodeStatus::Ready,
                    },
                )
                .await;
            }
        }
        let probes = silent
            .iter()
            .map(|node| self.is_gone(*node, &state, &liveness));
        let verdicts = futures::future::join_all(probes).await;
        for (node, gone) in silent.iter().zip(verdicts) {
            let failed = self.failed_rounds.entry(*node).or_default();
            *failed = if gone { *failed + 1 } else { 0 };
        }
        self.declare_one_down(&state, &liveness, silent.len()).await;
        !silent.is_empty() || !returned.is_empty()
    }

    fn silent(&self, state: &ClusterState, liveness: &Liveness) -> Vec<NodeId> {
        let long_enough = self.leading_since.elapsed() >= NEVER_HEARD;
        let now = self.parts.clock.now();
        ready_others(state, self.parts.me)
            .filter(|node| {
                let never_heard = !liveness.peers.contains_key(&node.id)
                    && long_enough
                    && now.since(node.joined_at.max(node.status_at)) >= NEVER_HEARD;
                liveness.is_suspect(node.id) || never_heard
            })
            .map(|node| node.id)
            .collect()
    }

    async fn is_gone(&self, node: NodeId, state: &ClusterState, liveness: &Liveness) -> bool {
        if self.answers(node).await {
            return false;
        }
        let witnesses = ready_others(state, self.parts.me)
            .map(|witness| witness.id)
            .filter(|witness| *witness != node && liveness.is_alive(*witness))
            .take(WITNESSES)
            .map(|witness| self.reaches(witness, node));
        !futures::future::join_all(witnesses).await.contains(&true)
    }

    async fn answers(&self, node: NodeId) -> bool {
        matches!(
            self.ask(node, &Request::Ping, PROBE_DEADLINE).await,
            Some(Answer::Pong)
        )
    }

    async fn reaches(&self, witness: NodeId, target: NodeId) -> bool {
        let answer = self
            .ask(witness, &Request::Probe { target }, INDIRECT_DEADLINE)
            .await;
        matches!(answer, Some(Answer::Probed { reachable: true }))
    }

    async fn ask(&self, node: NodeId, request: &Request, deadline: Duration) -> Option<Answer> {
        let request = codec::encode(request).ok()?;
        let answer = self
            .parts
            .links
            .call(node, request.into(), deadline)
            .await
            .ok()?;
        codec::decode(&answer).ok()
    }

    async fn declare_one_down(&mut self, state: &ClusterState, liveness: &Liveness, silent: usize) {
        let confirmed = self
            .failed_rounds
            .iter()
            .find(|(_, rounds)| **rounds >= ROUNDS_TO_CONFIRM);
        let Some((&node, _)) = confirmed else {
            self.last_hold = None;
            return;
        };
        let members = state
            .nodes
            .values()
            .filter(|node| node.status == NodeStatus::Ready)
            .count();
        if let Err(hold) = self
            .guard
            .check(Instant::now(), !liveness.untrusted, silent, members)
        {
            if self.last_hold != Some(hold) {
                warn!(%node, ?hold, "node is silent but is not declared down");
                self.last_hold = Some(hold);
            }
            return;
        }
        let name = state
            .nodes
            .get(&node)
            .map(|node| node.name.as_str())
            .unwrap_or_default();
        warn!(%node, name, "node is down: it answers neither this node nor others");
        if commit(
            &self.parts,
            Command::SetNodeStatus {
                id: node,
                status: NodeStatus::Down,
            },
        )
        .await
        {
            self.guard.evicted(Instant::now());
            self.failed_rounds.remove(&node);
        }
    }
}

fn ready_others(state: &ClusterState, me: NodeId) -> impl Iterator<Item = &Arc<Node>> {
    state
        .nodes
        .values()
        .filter(move |node| node.status == NodeStatus::Ready && node.id != me)
}

/// Nodes that are down in the log and alive in gossip.
fn returned(state: &ClusterState, liveness: &Liveness) -> Vec<NodeId> {
    let down = state
        .nodes
        .values()
        .filter(|node| node.status == NodeStatus::Down);
    down.map(|node| node.id)
        .filter(|node| liveness.is_alive(*node))
        .collect()
}
