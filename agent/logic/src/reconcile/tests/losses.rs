//! Tests of reconcile losses.

use std::collections::BTreeMap;

use kawanan_api::Slot;

use crate::Command;
use crate::observation::NodeSeen;
use crate::state::{Desired, NodeStatus, Seat, TaskState};
use crate::testing::{Cluster, node_id, spec};

#[test]
fn tasks_of_a_node_that_is_down_run_elsewhere_at_once() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 6));
    cluster.settle();
    let before = cluster.now();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.settle();
    assert_eq!(cluster.now(), before, "there was something to wait for");
    let expected = [("n1".to_owned(), 3), ("n3".to_owned(), 3)];
    assert_eq!(cluster.spread(web), BTreeMap::from(expected));
    let orphans: Vec<_> = cluster
        .state
        .tasks_on(node_id(2))
        .map(|task| (task.state, task.desired))
        .collect();
    assert_eq!(orphans, vec![(TaskState::Orphaned, Desired::Remove); 2]);
    for task in cluster.running(web) {
        assert_eq!(task.attempt, 0);
    }
}

#[test]
fn a_node_that_returns_drops_what_it_lost_and_nothing_else_is_touched() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 6));
    cluster.settle();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.settle();
    let good: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    cluster.silent.clear();
    cluster.set_status(node_id(2), NodeStatus::Ready);
    cluster.settle();
    let after: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    assert_eq!(good, after);
    assert_eq!(cluster.state.tasks_on(node_id(2)).count(), 0);
}

#[test]
fn suspicion_moves_nothing_but_takes_no_new_tasks() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    let suspect = NodeSeen {
        alive: false,
        engine_ok: true,
    };
    cluster.seen.nodes.insert(node_id(2), suspect);
    assert_eq!(cluster.plan().changes, vec![]);
    cluster.scale(web, 4);
    cluster.settle();
    let expected = [("n1".to_owned(), 3), ("n2".to_owned(), 1)];
    assert_eq!(cluster.spread(web), BTreeMap::from(expected));
}

#[test]
fn a_forgotten_node_takes_its_tasks_with_it() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.ok(Command::RemoveNode {
        id: node_id(2),
        force: false,
    });
    cluster.settle();
    assert_eq!(cluster.spread(web), BTreeMap::from([("n1".to_owned(), 2)]));
}

#[test]
fn a_removed_service_does_not_wait_for_a_node_that_is_down() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.ok(Command::RemoveService { id: web });
    cluster.settle();
    assert!(cluster.state.services.is_empty());
    assert!(cluster.state.tasks.is_empty());
}

#[test]
fn with_nowhere_to_go_lost_tasks_wait_and_come_back() {
    let mut cluster = Cluster::new(2);
    let mut pinned = spec("pinned", 2);
    pinned.placement.constraints = vec!["node.name==n2".parse().unwrap()];
    let pinned = cluster.create(pinned);
    cluster.settle();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.settle();
    assert_eq!(cluster.live(pinned).len(), 0);
    let pending = cluster.plan().pending;
    assert_eq!(pending.len(), 2);
    assert_eq!(
        pending[0].why.to_string(),
        "no node fits: 1 node does not meet node.name==n2, 1 node is down"
    );
    cluster.silent.clear();
    cluster.set_status(node_id(2), NodeStatus::Ready);
    cluster.settle();
    assert_eq!(cluster.running(pinned).len(), 2);
}

#[test]
fn what_a_returning_node_still_runs_holds_its_ports_until_it_is_gone() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 2);
    web.ports = vec!["published=80,target=80,mode=host".parse().unwrap()];
    let web = cluster.create(web);
    cluster.settle();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.lead();
    cluster.set_status(node_id(2), NodeStatus::Ready);
    let plan = cluster.lead();
    assert_eq!(
        plan.pending[0].why.to_string(),
        "no node fits: 2 nodes have port 80/tcp in use"
    );
    cluster.silent.clear();
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 2);
}

#[test]
fn a_lost_slot_keeps_its_number() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 4));
    cluster.lead();
    let idle = cluster.live(web)[0].clone();
    let others: Vec<_> = cluster.live(web)[1..].iter().map(|task| task.id).collect();
    for task in others {
        cluster.report(task, TaskState::Running);
    }
    cluster.scale(web, 3);
    cluster.settle();
    let slots = |cluster: &Cluster| -> Vec<_> {
        let mut slots: Vec<_> = cluster.live(web).iter().map(|task| task.slot).collect();
        slots.sort_unstable();
        slots
    };
    let before = slots(&cluster);
    assert!(!before.contains(&idle.slot));
    let highest = cluster
        .live(web)
        .into_iter()
        .max_by_key(|task| task.slot)
        .unwrap()
        .node;
    cluster.silent.insert(highest);
    cluster.set_status(highest, NodeStatus::Down);
    cluster.settle();
    assert_eq!(slots(&cluster), before);
    // Scaled away, nothing waits for the node that is down.
    cluster.scale(web, 0);
    cluster.settle();
    assert!(cluster.state.tasks.is_empty());
}

#[test]
fn a_lost_slot_that_must_wait_keeps_its_number_too() {
    let mut cluster = Cluster::new(2);
    let mut pinned = spec("pinned", 3);
    pinned.placement.constraints = vec!["node.name==n2".parse().unwrap()];
    let pinned = cluster.create(pinned);
    cluster.lead();
    let first = cluster
        .live(pinned)
        .into_iter()
        .min_by_key(|task| task.slot)
        .unwrap()
        .id;
    let others = cluster.live(pinned).into_iter().map(|task| task.id);
    for task in others.filter(|id| *id != first).collect::<Vec<_>>() {
        cluster.report(task, TaskState::Running);
    }
    cluster.scale(pinned, 2);
    cluster.settle();
    cluster.silent.insert(node_id(2));
    cluster.set_status(node_id(2), NodeStatus::Down);
    cluster.settle();
    let waiting: Vec<_> = cluster.plan().pending.iter().map(|it| it.seat).collect();
    assert_eq!(waiting, [2, 3].map(|slot| Seat::Slot(Slot(slot))));
}
