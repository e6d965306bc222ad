//! Looks after Raft's members: every node learns, and as many vote as `logic::membership` wants.
//!
//! One step at a time, each decided anew from what is true after the last. Before a node may vote it is handed the key
//! of the cluster's authority, so that whoever leads can let machines in.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::{NodeId, RaftId};
use kawanan_logic::codec;
use kawanan_logic::membership::{MemberHealth, MemberStep, RaftConf, next_step};
use kawanan_logic::state::NodeStatus;
use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::LeaderParts;
use crate::consensus::ConsensusStatus;
use crate::gossip::PeerState;
use crate::peer::{Answer, Request};

/// Looked at again this often while a step waits for time to pass (a node to be stable, a log to be caught up).
const LOOK_AGAIN: Duration = Duration::from_secs(1);
/// Pause after a step that failed.
const AFTER_FAILURE: Duration = Duration::from_millis(500);
/// Entries that a node may be behind and still vote; Nomad's autopilot takes the same figure (`max_trailing_logs`).
const BEHIND_MAX: u64 = 250;
/// Time to hand over the authority's key.
const KEY_DEADLINE: Duration = Duration::from_secs(5);

pub(super) async fn run(parts: LeaderParts) {
    let mut state = parts.consensus.state();
    let mut status = parts.consensus.status();
    let leading_since = Instant::now();
    loop {
        state.borrow_and_update();
        status.borrow_and_update();
        if let Some(step) = decide(&parts, leading_since) {
            if carry_out(&parts, &step).await {
                continue;
            }
            sleep(AFTER_FAILURE).await;
        }
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            () = sleep(LOOK_AGAIN) => {}
        }
    }
}

fn decide(parts: &LeaderParts, leading_since: Instant) -> Option<MemberStep> {
    let state = parts.consensus.state().borrow().clone();
    let status = parts.consensus.status().borrow().clone();
    let liveness = parts.liveness.borrow().clone();
    let leader = state.nodes.get(&parts.me)?.raft_id;
    let health: BTreeMap<RaftId, MemberHealth> = state
        .nodes
        .values()
        .map(|node| {
            let peer = liveness.peers.get(&node.id);
            let alive = node.id == parts.me
                || (node.status == NodeStatus::Ready
                    && peer.is_some_and(|peer| peer.state == PeerState::Alive));
            let since = peer.map_or(leading_since, |peer| peer.since);
            let caught_up = node.id == parts.me || is_caught_up(&status, node.raft_id);
            let health = MemberHealth {
                alive,
                caught_up,
                stable_for: since.elapsed(),
            };
            (node.raft_id, health)
        })
        .collect();
    let conf = RaftConf {
        voters: status.members.voters.clone(),
        voters_outgoing: status.members.outgoing.clone(),
        learners: status
            .members
            .learners
            .union(&status.members.learners_next)
            .copied()
            .collect(),
    };
    next_step(&state, &conf, &health, leader)
}

/// Whether a member holds nearly all of the log: at most [`BEHIND_MAX`] entries are missing.
fn is_caught_up(status: &ConsensusStatus, member: RaftId) -> bool {
    status.progress.get(&member).is_some_and(|progress| {
        progress.active && progress.matched.0 + BEHIND_MAX >= status.committed.0
    })
}

async fn carry_out(parts: &LeaderParts, step: &MemberStep) -> bool {
    if let MemberStep::SetVoters { add, .. } = step {
        for raft_id in add {
            if !hand_over_key(parts, *raft_id).await {
                return false;
            }
        }
    }
    info!(?step, "changing the members of the log");
    match parts.consensus.change_members(step.clone()).await {
        Ok(()) => true,
        Err(err) => {
            warn!(%err, ?step, "the members of the log could not be changed");
            false
        }
    }
}

async fn hand_over_key(parts: &LeaderParts, raft_id: RaftId) -> bool {
    let state = parts.consensus.state().borrow().clone();
    let Some(node) = state
        .nodes
        .values()
        .find(|node| node.raft_id == raft_id)
        .map(|node| node.id)
    else {
        return false;
    };
    if node == parts.me {
        return true;
    }
    let Some(key) = parts.authority_key.pkcs8() else {
        warn!("this node leads but does not hold the authority's key; no node can become a voter");
        return false;
    };
    let handed = give_key(parts, node, key).await;
    if !handed {
        warn!(%node, "the node did not take the authority's key and cannot vote yet");
    }
    handed
}

async fn give_key(parts: &LeaderParts, node: NodeId, key: Vec<u8>) -> bool {
    let Ok(request) = codec::encode(&Request::HoldAuthorityKey { key }) else {
        return false;
    };
    match parts.links.call(node, request.into(), KEY_DEADLINE).await {
        Ok(answer) => matches!(codec::decode(&answer), Ok(Answer::Done)),
        Err(_) => false,
    }
}
