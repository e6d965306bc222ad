//! Tests of membership.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::RaftId;
use proptest::prelude::*;

use super::{MemberHealth, MemberStep, RaftConf, STABLE_MIN, next_step};
use crate::Command;
use crate::state::NodeStatus;
use crate::testing::{Cluster, new_node, node_id};

fn ids(numbers: impl IntoIterator<Item = u64>) -> BTreeSet<RaftId> {
    numbers.into_iter().map(RaftId).collect()
}

/// A cluster with Raft's configuration beside it, and everybody well.
#[derive(Debug, Clone)]
struct Group {
    cluster: Cluster,
    conf: RaftConf,
    health: BTreeMap<RaftId, MemberHealth>,
    leader: RaftId,
}

const WELL: MemberHealth = MemberHealth {
    alive: true,
    caught_up: true,
    stable_for: STABLE_MIN,
};

impl Group {
    fn new(nodes: u128) -> Self {
        let cluster = Cluster::new(nodes);
        let health = (1..=nodes as u64).map(|id| (RaftId(id), WELL)).collect();
        Self {
            cluster,
            conf: RaftConf {
                voters: ids([1]),
                ..RaftConf::default()
            },
            health,
            leader: RaftId(1),
        }
    }

    fn next(&self) -> Option<MemberStep> {
        next_step(&self.cluster.state, &self.conf, &self.health, self.leader)
    }

    fn carry_out(&mut self, step: MemberStep) {
        match step {
            MemberStep::AddLearner(id) => {
                assert!(self.conf.learners.insert(id) && !self.conf.voters.contains(&id));
            }
            MemberStep::RemoveMember(id) => {
                assert!(self.conf.learners.remove(&id));
            }
            MemberStep::SetVoters { add, remove } => {
                assert!(self.conf.voters_outgoing.is_empty());
                assert!(add.is_subset(&self.conf.learners) && remove.is_subset(&self.conf.voters));
                self.conf.voters_outgoing = self.conf.voters.clone();
                self.conf.voters.retain(|id| !remove.contains(id));
                self.conf.voters.extend(add.iter().copied());
                self.conf.learners.retain(|id| !add.contains(id));
                self.conf.learners.extend(remove);
                assert!(
                    matches!(self.conf.voters.len(), 1 | 3 | 5),
                    "{:?}",
                    self.conf
                );
            }
            MemberStep::LeaveJoint => {
                assert!(!self.conf.voters_outgoing.is_empty());
                assert!(self.conf.voters.contains(&self.leader));
                self.conf.voters_outgoing.clear();
            }
            MemberStep::TransferLeadership(id) => {
                assert!(self.conf.voters.contains(&id) && self.health[&id].alive);
                self.leader = id;
            }
        }
    }

    /// Takes steps until there are none, and returns their number.
    fn settle(&mut self) -> usize {
        for steps in 0..100 {
            let Some(step) = self.next() else {
                return steps;
            };
            self.carry_out(step);
        }
        panic!("never at rest: {self:?}");
    }

    fn lose(&mut self, id: u64) {
        self.health.insert(RaftId(id), MemberHealth::default());
        self.cluster
            .set_status(node_id(u128::from(id)), NodeStatus::Down);
    }
}

#[test]
fn the_number_of_voters_follows_the_number_of_nodes() {
    for (nodes, voters) in [(1, 1), (2, 1), (3, 3), (4, 3), (6, 3), (7, 5), (12, 5)] {
        let mut group = Group::new(nodes);
        group.settle();
        assert_eq!(group.conf.voters.len(), voters, "{nodes} nodes");
        assert_eq!(group.conf.learners.len(), nodes as usize - voters);
    }
}

#[test]
fn voters_grow_only_with_enough_learners_that_are_level_and_steady() {
    let mut group = Group::new(3);
    for (alive, caught_up, seconds) in [(false, true, 60), (true, false, 60), (true, true, 0)] {
        let poor = MemberHealth {
            alive,
            caught_up,
            stable_for: Duration::from_secs(seconds),
        };
        group.health.insert(RaftId(3), poor);
        group.settle();
        assert_eq!(group.conf.voters, ids([1]));
    }
    group.health.insert(RaftId(3), WELL);
    let step = MemberStep::SetVoters {
        add: ids([2, 3]),
        remove: ids([]),
    };
    assert_eq!(group.next(), Some(step));
}

#[test]
fn a_dead_voter_is_replaced_in_one_step_by_a_steady_learner() {
    let mut group = Group::new(4);
    group.settle();
    assert_eq!(group.conf.voters, ids([1, 2, 3]));
    group.lose(2);
    group.health.get_mut(&RaftId(4)).unwrap().stable_for = Duration::from_secs(3);
    assert_eq!(group.next(), None);
    group.health.insert(RaftId(4), WELL);
    let step = MemberStep::SetVoters {
        add: ids([4]),
        remove: ids([2]),
    };
    assert_eq!(group.next(), Some(step));
    group.settle();
    // When it returns it is a learner like any other.
    group.cluster.set_status(node_id(2), NodeStatus::Ready);
    group.health.insert(RaftId(2), WELL);
    assert_eq!(group.next(), None);
}

#[test]
fn suspicion_alone_takes_nobody_s_vote() {
    let mut group = Group::new(4);
    group.settle();
    group.health.insert(RaftId(2), MemberHealth::default());
    assert_eq!(group.next(), None);
}

#[test]
fn voters_shrink_when_nodes_are_taken_out_and_not_when_they_are_down() {
    let mut group = Group::new(3);
    group.settle();
    group.lose(3);
    assert_eq!(group.next(), None);
    group.cluster.ok(Command::RemoveNode {
        id: node_id(3),
        force: false,
    });
    let step = MemberStep::SetVoters {
        add: ids([]),
        remove: ids([2, 3]),
    };
    assert_eq!(group.next(), Some(step));
    group.settle();
    assert_eq!(
        (&group.conf.voters, &group.conf.learners),
        (&ids([1]), &ids([2]))
    );
}

#[test]
fn five_voters_stay_five_until_there_are_fewer_nodes() {
    let mut group = Group::new(7);
    group.settle();
    for id in [7, 6] {
        group.cluster.set_status(node_id(id), NodeStatus::Left);
        group.settle();
        assert_eq!(group.conf.voters.len(), 5);
    }
    group.cluster.set_status(node_id(5), NodeStatus::Left);
    group.settle();
    assert_eq!(
        (&group.conf.voters, &group.conf.learners),
        (&ids([1, 2, 3]), &ids([4]))
    );
}

#[test]
fn a_machine_that_started_over_is_another_member() {
    let mut group = Group::new(3);
    group.settle();
    let mut again = new_node(3);
    again.raft_id = RaftId(33);
    group.cluster.join(again);
    group.health.insert(RaftId(3), MemberHealth::default());
    group.settle();
    assert_eq!(
        (&group.conf.voters, &group.conf.learners),
        (&ids([1, 2, 3]), &ids([33]))
    );
    group.health.insert(RaftId(33), WELL);
    group.settle();
    assert_eq!(
        (&group.conf.voters, &group.conf.learners),
        (&ids([1, 2, 33]), &ids([]))
    );
}

#[test]
fn a_change_under_way_is_finished_first_whoever_leads() {
    let mut group = Group::new(3);
    group.settle();
    group.conf.voters_outgoing = ids([1]);
    assert_eq!(group.next(), Some(MemberStep::LeaveJoint));
    group.conf.voters = ids([2, 3, 4]);
    group.health.insert(RaftId(2), MemberHealth::default());
    assert_eq!(
        group.next(),
        Some(MemberStep::TransferLeadership(RaftId(3)))
    );
}

#[test]
fn a_leader_that_leaves_hands_over_first() {
    let mut group = Group::new(4);
    group.settle();
    group.cluster.set_status(node_id(1), NodeStatus::Left);
    assert_eq!(
        group.next(),
        Some(MemberStep::TransferLeadership(RaftId(2)))
    );
    group.settle();
    assert_eq!(
        (&group.conf.voters, group.leader),
        (&ids([2, 3, 4]), RaftId(2))
    );
    assert_eq!(group.conf.learners, ids([]));
    // Not to one that the log calls down, whatever gossip says.
    let mut group = Group::new(3);
    group.settle();
    group.cluster.set_status(node_id(1), NodeStatus::Left);
    group.cluster.set_status(node_id(2), NodeStatus::Down);
    assert_eq!(
        group.next(),
        Some(MemberStep::TransferLeadership(RaftId(3)))
    );
    // The only voter of two nodes: the other one must be made a voter to take over.
    let mut pair = Group::new(2);
    pair.settle();
    pair.cluster.set_status(node_id(1), NodeStatus::Left);
    pair.settle();
    assert_eq!((&pair.conf.voters, pair.leader), (&ids([2]), RaftId(2)));
}

#[test]
fn voters_are_spread_over_zones() {
    let mut group = Group::new(6);
    for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "b"), (5, "b"), (6, "c")] {
        group.cluster.label(node_id(node), "zone", zone);
    }
    group.settle();
    assert_eq!(group.conf.voters, ids([1, 4, 6]));
    // Zones that come later draw a vote from a crowded one.
    let mut late = Group::new(5);
    for (node, zone) in [(1, "a"), (2, "a"), (3, "a"), (4, "a"), (5, "a")] {
        late.cluster.label(node_id(node), "zone", zone);
    }
    late.settle();
    assert_eq!(late.conf.voters, ids([1, 2, 3]));
    late.cluster.label(node_id(5), "zone", "b");
    late.settle();
    assert_eq!(late.conf.voters, ids([1, 2, 5]));
    late.cluster.label(node_id(4), "zone", "c");
    late.settle();
    assert_eq!(late.conf.voters, ids([1, 4, 5]));
}

#[derive(Debug, Clone)]
enum Event {
    Step,
    Lose(u64),
    Return(u64),
    Leave(u64),
    Remove(u64),
    Health(u64, MemberHealth),
    Lead(u64),
}

fn event() -> impl Strategy<Value = Event> {
    let node = || 1..=8u64;
    let health =
        (any::<bool>(), any::<bool>(), 0..20u64).prop_map(|(alive, caught_up, seconds)| {
            MemberHealth {
                alive,
                caught_up,
                stable_for: Duration::from_secs(seconds),
            }
        });
    prop_oneof![
        8 => Just(Event::Step),
        2 => node().prop_map(Event::Lose),
        3 => node().prop_map(Event::Return),
        1 => node().prop_map(Event::Leave),
        1 => node().prop_map(Event::Remove),
        2 => (node(), health).prop_map(|(id, it)| Event::Health(id, it)),
        1 => node().prop_map(Event::Lead),
    ]
}

impl Group {
    fn has_quorum(&self) -> bool {
        let alive =
            |id: &&RaftId| **id == self.leader || self.health.get(id).is_some_and(|it| it.alive);
        let majority =
            |voters: &BTreeSet<RaftId>| voters.iter().filter(alive).count() * 2 > voters.len();
        majority(&self.conf.voters)
            && (self.conf.voters_outgoing.is_empty() || majority(&self.conf.voters_outgoing))
    }

    fn suffer(&mut self, event: Event) {
        let known = |group: &Self, id: u64| {
            group
                .cluster
                .state
                .nodes
                .contains_key(&node_id(u128::from(id)))
        };
        match event {
            Event::Lose(id)
                if RaftId(id) != self.leader
                    && self.cluster.state.node_is_ready(node_id(u128::from(id))) =>
            {
                self.lose(id);
            }
            Event::Return(id) => {
                self.cluster.join(new_node(u128::from(id)));
                self.health.insert(RaftId(id), WELL);
            }
            Event::Leave(id) if known(self, id) => {
                self.cluster
                    .set_status(node_id(u128::from(id)), NodeStatus::Left);
            }
            // Forcing the very node out that is about to be the only voter takes an operator's `recover`.
            Event::Remove(id)
                if known(self, id)
                    && self.cluster.state.nodes.len() > 1
                    && self.conf.voters_outgoing.is_empty() =>
            {
                self.cluster.ok(Command::RemoveNode {
                    id: node_id(u128::from(id)),
                    force: true,
                });
            }
            Event::Health(id, health) if RaftId(id) != self.leader => {
                self.health.insert(RaftId(id), health);
            }
            Event::Lead(id)
                if self.conf.voters.contains(&RaftId(id)) && self.health[&RaftId(id)].alive =>
            {
                self.leader = RaftId(id);
            }
            _ => {}
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn no_step_loses_a_majority_and_peace_brings_the_right_voters(
        nodes in 1..8u128,
        events in proptest::collection::vec(event(), 0..60),
    ) {
        let mut group = Group::new(nodes);
        group.settle();
        for event in events {
            if !matches!(event, Event::Step) {
                group.suffer(event);
                continue;
            }
            // A leader without a majority gets nothing committed, so it takes no steps.
            if group.has_quorum() && let Some(step) = group.next() {
                let joint = !group.conf.voters_outgoing.is_empty();
                group.carry_out(step);
                prop_assert!(joint || group.has_quorum(), "{group:?}");
            }
        }
        for id in 1..=8 {
            group.health.insert(RaftId(id), WELL);
            if group.cluster.state.nodes.contains_key(&node_id(u128::from(id))) {
                group.cluster.join(new_node(u128::from(id)));
            }
        }
        group.settle();
        let members: BTreeSet<RaftId> = group.cluster.state.nodes.values().map(|node| node.raft_id).collect();
        let all: BTreeSet<RaftId> = group.conf.voters.union(&group.conf.learners).copied().collect();
        prop_assert_eq!(&all, &members);
        let expected: &[usize] = match members.len() {
            1 | 2 => &[1],
            3 | 4 => &[3],
            5 | 6 => &[3, 5],
            _ => &[5],
        };
        prop_assert!(expected.contains(&group.conf.voters.len()), "{group:?}");
        prop_assert!(group.conf.voters.contains(&group.leader));
    }
}
