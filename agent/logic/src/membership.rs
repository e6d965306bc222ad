//! Who votes: the cluster decides, never a person. [`next_step`] compares Raft's configuration with the members and
//! names one change, or none. It is asked again once that change is applied.
//!
//! One voter with one or two nodes, three from three, five from seven. Two or four would tolerate no more than one or
//! three, and can be left without any possible leader when one of them dies in the middle of a change. Voters change
//! only by joint changes, to a set of which a healthy majority is there; a dead one is replaced rather than removed.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::RaftId;

use crate::state::{ClusterState, Node, NodeStatus};

#[cfg(test)]
mod tests;

/// How long a learner must have been up and level before it may vote in another one's place: a node that flaps is no
/// better than the one it would replace.
pub const STABLE_MIN: Duration = Duration::from_secs(10);
/// The same while there are fewer voters than there should be: until then a lost voter costs the quorum, so waiting is
/// the greater risk.
pub const STABLE_MIN_TO_GROW: Duration = Duration::from_secs(1);
/// The label by which voters are spread.
const ZONE: &str = "zone";

/// Raft's configuration, as the leader has applied it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RaftConf {
    pub voters: BTreeSet<RaftId>,
    /// The voters before, while a joint change is under way; otherwise empty.
    pub voters_outgoing: BTreeSet<RaftId>,
    pub learners: BTreeSet<RaftId>,
}

/// How a member looks to the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MemberHealth {
    pub alive: bool,
    /// It has nearly all of the log.
    pub caught_up: bool,
    /// For how long both have been so.
    pub stable_for: Duration,
}

/// One change to Raft's configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MemberStep {
    AddLearner(RaftId),
    /// Takes a learner out for good.
    RemoveMember(RaftId),
    /// One joint change. Those removed stay on as learners.
    SetVoters {
        add: BTreeSet<RaftId>,
        remove: BTreeSet<RaftId>,
    },
    /// Ends the joint change.
    LeaveJoint,
    /// The leader will not be a voter any more, and cannot see its own removal through.
    TransferLeadership(RaftId),
}

/// The next change that brings the voters closer to what they should be. `leader` is the node that asks.
pub fn next_step(
    state: &ClusterState,
    conf: &RaftConf,
    health: &BTreeMap<RaftId, MemberHealth>,
    leader: RaftId,
) -> Option<MemberStep> {
    let view = View::new(state, conf, health, leader);
    if !conf.voters_outgoing.is_empty() {
        return view.leave_joint();
    }
    if !conf.voters.contains(&leader) {
        return view.hand_over();
    }
    if !view.members.contains_key(&leader)
        && let Some(step) = view.hand_over()
    {
        return Some(step);
    }
    view.change_voters()
        .or_else(|| view.remove_learner())
        .or_else(|| view.add_learner())
        .or_else(|| view.spread_better())
}

struct View<'v> {
    conf: &'v RaftConf,
    health: &'v BTreeMap<RaftId, MemberHealth>,
    leader: RaftId,
    /// Nodes that have not left, by raft id.
    members: BTreeMap<RaftId, &'v Node>,
}

impl<'v> View<'v> {
    fn new(
        state: &'v ClusterState,
        conf: &'v RaftConf,
        health: &'v BTreeMap<RaftId, MemberHealth>,
        leader: RaftId,
    ) -> Self {
        let members = state
            .nodes
            .values()
            .filter(|node| node.status != NodeStatus::Left)
            .map(|node| (node.raft_id, &**node))
            .collect();
        Self {
            conf,
            health,
            leader,
            members,
        }
    }

    fn leave_joint(&self) -> Option<MemberStep> {
        if self.conf.voters.contains(&self.leader) {
            return Some(MemberStep::LeaveJoint);
        }
        self.hand_over()
    }

    /// Somebody else must lead: the healthiest voter.
    fn hand_over(&self) -> Option<MemberStep> {
        let others = self.conf.voters.iter().filter(|id| **id != self.leader);
        others
            .filter(|id| self.is_alive(**id) && self.is_ready(**id))
            .max_by_key(|id| {
                let health = self.health.get(id).copied().unwrap_or_default();
                (health.caught_up, health.stable_for, std::cmp::Reverse(**id))
            })
            .map(|id| MemberStep::TransferLeadership(*id))
    }

    fn is_alive(&self, id: RaftId) -> bool {
        id == self.leader || self.health.get(&id).is_some_and(|health| health.alive)
    }

    /// Whether the leader counts on a node: gossip alone takes nobody's vote.
    fn is_ready(&self, id: RaftId) -> bool {
        self.members.get(&id).is_some_and(|node| node.is_ready())
    }

    fn zone(&self, id: RaftId) -> Option<&str> {
        let node = self.members.get(&id)?;
        node.labels.get(ZONE).map(String::as_str)
    }

    /// Learners that may be given a vote.
    fn candidates(&self) -> BTreeSet<RaftId> {
        let may_vote = |id: &&RaftId| {
            self.is_ready(**id)
                && self.health.get(id).is_some_and(|health| {
                    health.alive && health.caught_up && health.stable_for >= STABLE_MIN
                })
        };
        self.conf
            .learners
            .iter()
            .filter(may_vote)
            .copied()
            .collect()
    }

    fn change_voters(&self) -> Option<MemberStep> {
        let current = &self.conf.voters;
        let reliable: BTreeSet<RaftId> = current
            .iter()
            .filter(|id| {
                **id == self.leader && self.members.contains_key(id) || self.is_ready(**id)
            })
            .copied()
            .collect();
        let candidates = self.candidates();
        sizes(self.members.len(), current.len())
            .into_iter()
            .map(|size| self.assemble(size, &reliable, &candidates))
            .find(|voters| voters.as_ref().is_some_and(|voters| self.is_safe(voters)))
            .flatten()
            .and_then(|voters| self.step_to(&voters))
    }

    /// Voters of this number: as many of the present ones as can be, the reliable first, then candidates, then those
    /// that are down but still members, if they voted before.
    fn assemble(
        &self,
        size: usize,
        reliable: &BTreeSet<RaftId>,
        candidates: &BTreeSet<RaftId>,
    ) -> Option<BTreeSet<RaftId>> {
        let mut voters = BTreeSet::new();
        if reliable.contains(&self.leader) {
            voters.insert(self.leader);
        }
        let down: BTreeSet<RaftId> = self
            .conf
            .voters
            .iter()
            .filter(|id| self.members.contains_key(id) && !reliable.contains(id))
            .copied()
            .collect();
        let nobody = BTreeSet::new();
        // More voters only when all of them are there; a present one that is down may stay for want of a better.
        let grows = size > self.conf.voters.len();
        for pool in [reliable, candidates, if grows { &nobody } else { &down }] {
            while voters.len() < size
                && let Some(next) = self.rarest_zone_first(pool, &voters)
            {
                voters.insert(next);
            }
        }
        (voters.len() == size).then_some(voters)
    }

    /// Who of the pool adds most to the spread over zones; among equals one that is alive, then the lowest id.
    fn rarest_zone_first(
        &self,
        pool: &BTreeSet<RaftId>,
        chosen: &BTreeSet<RaftId>,
    ) -> Option<RaftId> {
        pool.difference(chosen).copied().min_by_key(|id| {
            let zone = self.zone(*id);
            let there = chosen.iter().filter(|other| self.zone(**other) == zone);
            (!self.is_alive(*id), there.count(), *id)
        })
    }

    /// A majority of these is alive.
    fn is_safe(&self, voters: &BTreeSet<RaftId>) -> bool {
        let alive = voters.iter().filter(|id| self.is_alive(**id)).count();
        alive * 2 > voters.len()
    }

    fn step_to(&self, voters: &BTreeSet<RaftId>) -> Option<MemberStep> {
        let add: BTreeSet<RaftId> = voters.difference(&self.conf.voters).copied().collect();
        let remove: BTreeSet<RaftId> = self.conf.voters.difference(voters).copied().collect();
        if add.is_empty() && remove.is_empty() {
            return None;
        }
        Some(MemberStep::SetVoters { add, remove })
    }

    /// Learners whose node was removed, has left, or started over under another raft id.
    fn remove_learner(&self) -> Option<MemberStep> {
        let gone = |id: &&RaftId| !self.members.contains_key(id);
        let learner = self.conf.learners.iter().find(gone)?;
        Some(MemberStep::RemoveMember(*learner))
    }

    fn add_learner(&self) -> Option<MemberStep> {
        let known = |id: &RaftId| self.conf.voters.contains(id) || self.conf.learners.contains(id);
        let new = self
            .members
            .iter()
            .find(|(id, node)| node.is_ready() && !known(id))?;
        Some(MemberStep::AddLearner(*new.0))
    }

    /// Swaps one voter of a crowded zone for a learner of a zone without any.
    fn spread_better(&self) -> Option<MemberStep> {
        let voters = &self.conf.voters;
        let in_zone =
            |zone: Option<&str>| voters.iter().filter(|id| self.zone(**id) == zone).count();
        let newcomer = self
            .candidates()
            .into_iter()
            .find(|id| self.zone(*id).is_some() && in_zone(self.zone(*id)) == 0)?;
        let spare = voters
            .iter()
            .copied()
            .filter(|id| *id != self.leader && in_zone(self.zone(*id)) > 1)
            .max_by_key(|id| (in_zone(self.zone(*id)), *id))?;
        let mut better = voters.clone();
        better.remove(&spare);
        better.insert(newcomer);
        let all_well = voters.iter().all(|id| self.is_alive(*id));
        (all_well && self.is_safe(&better))
            .then(|| self.step_to(&better))
            .flatten()
    }
}

/// Numbers of voters to try, the best first. More than there are now only when the cluster has grown enough; fewer
/// only when it has shrunk below them. Nodes that are merely down still count as members.
fn sizes(members: usize, current: usize) -> Vec<usize> {
    let wanted = match members {
        0..=2 => 1,
        3..=6 => 3,
        _ => 5,
    };
    let most = if current > wanted && current <= members && current % 2 == 1 {
        current
    } else {
        wanted
    };
    // Growing waits for enough candidates; until then the present number is kept in order. It is odd, unless
    // somebody else made it.
    let least = most.min(current.saturating_sub((current + 1) % 2));
    [5, 3, 1]
        .into_iter()
        .filter(|size| *size <= most)
        .filter(|size| *size >= least)
        .collect()
}
