//! Tests of reconcile replicas.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::Slot;
use kawanan_api::spec::{Mode, PortMode};

use crate::Command;
use crate::command::TaskChange;
use crate::reconcile::{CHANGES_MAX, Why};
use crate::state::{Availability, Desired, Seat, TaskState};
use crate::testing::{Cluster, node_id, spec};

fn slots(cluster: &Cluster, service: kawanan_api::ServiceId) -> BTreeSet<u32> {
    let live = cluster.live(service);
    live.iter()
        .filter_map(|task| task.slot)
        .map(|slot| slot.0)
        .collect()
}

#[test]
fn a_new_service_gets_its_replicas_spread_over_the_nodes() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 7));
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 7);
    assert_eq!(slots(&cluster, web), (1..=7).collect());
    assert!(
        cluster
            .spread(web)
            .values()
            .all(|tasks| (2..=3).contains(tasks))
    );
}

#[test]
fn a_cluster_that_is_as_it_should_be_is_left_alone() {
    let mut cluster = Cluster::new(3);
    cluster.create(spec("web", 5));
    let mut agent = spec("agent", 0);
    agent.mode = Mode::Global;
    cluster.create(agent);
    cluster.settle();
    let plan = cluster.plan();
    assert_eq!(plan.changes, vec![]);
    assert_eq!(plan.pending, vec![]);
    assert_eq!(plan.wake_at, None);
}

#[test]
fn scaling_down_takes_from_the_fullest_nodes_and_keeps_slot_numbers() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    cluster.set_availability(node_id(2), Availability::Drain);
    cluster.set_availability(node_id(3), Availability::Drain);
    cluster.settle();
    assert_eq!(cluster.spread(web), BTreeMap::from([("n1".to_owned(), 3)]));
    cluster.set_availability(node_id(2), Availability::Active);
    cluster.set_availability(node_id(3), Availability::Active);
    cluster.scale(web, 5);
    cluster.settle();
    let before = slots(&cluster, web);
    assert_eq!(before, (1..=5).collect());
    cluster.scale(web, 3);
    cluster.settle();
    assert!(
        cluster.spread(web).values().all(|tasks| *tasks == 1),
        "{:?}",
        cluster.spread(web)
    );
    assert!(slots(&cluster, web).is_subset(&before));
    cluster.scale(web, 4);
    cluster.settle();
    let free = (1..).find(|slot| !slots(&cluster, web).contains(slot));
    assert!(slots(&cluster, web).len() == 4 && free > Some(4) || slots(&cluster, web).contains(&1));
}

#[test]
fn scaling_down_takes_those_that_do_not_run_first() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 3));
    cluster.lead();
    let first = cluster
        .live(web)
        .into_iter()
        .find(|task| task.slot == Some(Slot(1)));
    let (idle, others): (Vec<_>, Vec<_>) = cluster
        .live(web)
        .into_iter()
        .map(|task| task.id)
        .partition(|id| Some(*id) == first.map(|task| task.id));
    for task in others {
        cluster.report(task, TaskState::Running);
    }
    cluster.scale(web, 2);
    cluster.lead();
    assert_eq!(cluster.state.tasks[&idle[0]].desired, Desired::Remove);
    assert_eq!(slots(&cluster, web), BTreeSet::from([2, 3]));
}

#[test]
fn a_scaled_up_service_takes_the_lowest_free_numbers() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 3));
    cluster.lead();
    let tasks: Vec<_> = cluster
        .live(web)
        .into_iter()
        .map(|task| (task.slot, task.id))
        .collect();
    for (slot, task) in tasks {
        if slot != Some(Slot(2)) {
            cluster.report(task, TaskState::Running);
        }
    }
    cluster.scale(web, 2);
    cluster.settle();
    assert_eq!(slots(&cluster, web), BTreeSet::from([1, 3]));
    cluster.scale(web, 4);
    cluster.settle();
    assert_eq!(slots(&cluster, web), BTreeSet::from([1, 2, 3, 4]));
}

#[test]
fn zero_replicas_and_removal_leave_nothing_behind() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 4));
    cluster.settle();
    cluster.scale(web, 0);
    cluster.settle();
    assert_eq!(cluster.state.tasks.len(), 0);
    cluster.scale(web, 2);
    cluster.settle();
    cluster.ok(Command::RemoveService { id: web });
    cluster.settle();
    assert!(cluster.state.tasks.is_empty() && cluster.state.services.is_empty());
}

#[test]
fn a_global_service_runs_once_on_every_node_that_takes_tasks() {
    let mut cluster = Cluster::new(4);
    cluster.set_availability(node_id(4), Availability::Drain);
    let mut agent = spec("agent", 0);
    agent.mode = Mode::Global;
    agent.placement.constraints = vec!["node.name!=n2".parse().unwrap()];
    let agent = cluster.create(agent);
    cluster.settle();
    let expected = [("n1".to_owned(), 1), ("n3".to_owned(), 1)];
    assert_eq!(cluster.spread(agent), BTreeMap::from(expected));
    assert_eq!(cluster.plan().pending, vec![]);
    cluster.set_availability(node_id(4), Availability::Active);
    cluster.set_availability(node_id(1), Availability::Drain);
    cluster.set_availability(node_id(3), Availability::Pause);
    cluster.settle();
    let expected = [("n3".to_owned(), 1), ("n4".to_owned(), 1)];
    assert_eq!(cluster.spread(agent), BTreeMap::from(expected));
}

#[test]
fn a_task_without_a_place_says_why() {
    let mut cluster = Cluster::new(2);
    cluster.set_availability(node_id(2), Availability::Drain);
    let mut big = spec("big", 1);
    big.resources.reservations.memory.0 = 9 << 30;
    let big = cluster.create(big);
    let plan = cluster.lead();
    assert_eq!(plan.changes, vec![]);
    let [pending] = plan.pending.as_slice() else {
        panic!("{plan:?}");
    };
    assert_eq!((pending.service, pending.seat), (big, Seat::Slot(Slot(1))));
    assert_eq!(
        pending.why.to_string(),
        "no node fits: 1 node lacks memory (9 GiB asked, 8 GiB free), 1 node is drained"
    );
}

#[test]
fn two_services_share_a_host_port_by_running_on_different_nodes() {
    let mut cluster = Cluster::new(2);
    for name in ["a", "b"] {
        let mut service = spec(name, 1);
        let mut port: kawanan_api::spec::PortSpec = "80:80".parse().unwrap();
        port.mode = PortMode::Host;
        service.ports = vec![port];
        cluster.create(service);
    }
    cluster.settle();
    let nodes: BTreeSet<_> = cluster.state.tasks.values().map(|task| task.node).collect();
    assert_eq!(nodes.len(), 2);
}

#[test]
fn a_large_plan_comes_in_parts() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1200));
    let plan = cluster.lead();
    assert_eq!(plan.changes.len(), CHANGES_MAX);
    assert_eq!(plan.wake_at, Some(cluster.now()));
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 1200);
    let history = cluster.state.tasks.len();
    assert_eq!(history, 1200);
}

#[test]
fn steps_that_no_longer_fit_are_skipped_and_planned_anew() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 4));
    let plan = cluster.plan();
    cluster.set_availability(node_id(2), Availability::Drain);
    cluster.ok(Command::Plan {
        basis: cluster.state.revision,
        changes: plan.changes.clone(),
    });
    assert_eq!(cluster.live(web).len(), 2);
    let created = |change: &TaskChange| matches!(change, TaskChange::Create(_));
    assert!(plan.changes.iter().all(created));
    cluster.settle();
    assert_eq!(cluster.spread(web), BTreeMap::from([("n1".to_owned(), 4)]));
    assert!(
        cluster
            .plan()
            .pending
            .iter()
            .all(|it| !matches!(it.why, Why::NoPlace(_)))
    );
}

#[test]
fn a_paused_node_whose_global_task_ended_waits_for_nothing() {
    let mut cluster = Cluster::new(2);
    let mut agent = spec("agent", 0);
    agent.mode = Mode::Global;
    let agent = cluster.create(agent);
    cluster.settle();
    cluster.set_availability(node_id(2), Availability::Pause);
    let task = cluster
        .running(agent)
        .into_iter()
        .find(|task| task.node == node_id(2));
    let task = task.unwrap().id;
    cluster.report(task, TaskState::Failed);
    cluster.settle();
    assert_eq!(cluster.plan().pending, vec![]);
    cluster.set_availability(node_id(2), Availability::Active);
    cluster.settle();
    assert_eq!(cluster.running(agent).len(), 2);
}
