//! Tests of reconcile drains.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::spec::UpdateOrder;

use crate::state::{Availability, TaskState};
use crate::testing::{Cluster, node_id, spec};

#[test]
fn a_drained_node_is_emptied_without_a_gap() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 9));
    cluster.settle();
    cluster.set_availability(node_id(2), Availability::Drain);
    let mut most = 0;
    loop {
        let plan = cluster.lead();
        most = most.max(cluster.live(web).len());
        let worked = cluster.work();
        assert!(cluster.running(web).len() >= 9, "{plan:?}");
        if plan.changes.is_empty() && !worked {
            break;
        }
    }
    assert_eq!(most, 11, "two at a time");
    let expected = [("n1".to_owned(), 5), ("n3".to_owned(), 4)];
    let mut spread: Vec<_> = cluster.spread(web).into_iter().collect();
    spread.sort_by_key(|(_, tasks)| std::cmp::Reverse(*tasks));
    assert_eq!(
        spread.iter().map(|it| it.1).collect::<Vec<_>>(),
        expected.map(|it| it.1)
    );
}

#[test]
fn the_old_task_stays_until_the_new_one_runs() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let old = cluster.live(web)[0].clone();
    cluster.set_availability(old.node, Availability::Drain);
    cluster.lead();
    assert_eq!(
        cluster.plan().changes,
        vec![],
        "both run until the new one is up"
    );
    let new = cluster
        .live(web)
        .into_iter()
        .find(|task| task.id != old.id)
        .cloned()
        .unwrap();
    assert_eq!(new.slot, old.slot);
    cluster.report(new.id, TaskState::Starting);
    assert_eq!(cluster.plan().changes, vec![]);
    cluster.report(new.id, TaskState::Running);
    cluster.settle();
    let left: Vec<_> = cluster.live(web).into_iter().map(|task| task.id).collect();
    assert_eq!(left, vec![new.id]);
}

#[test]
fn with_nowhere_to_go_a_drained_task_stays_and_says_why() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.set_availability(node_id(1), Availability::Drain);
    cluster.set_availability(node_id(2), Availability::Drain);
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 2);
    let pending = cluster.plan().pending;
    assert!(pending.iter().all(|it| it.keeps.is_some()));
    assert_eq!(
        pending[0].why.to_string(),
        "no node fits: 2 nodes are drained"
    );
}

#[test]
fn a_service_that_stops_first_is_moved_that_way() {
    let mut cluster = Cluster::new(2);
    let mut db = spec("db", 1);
    db.update.order = UpdateOrder::StopFirst;
    let db = cluster.create(db);
    cluster.settle();
    let home = cluster.live(db)[0].node;
    cluster.set_availability(home, Availability::Drain);
    for _ in 0..10 {
        cluster.lead();
        let up = cluster
            .state
            .tasks_of(db)
            .filter(|task| !task.state.is_final())
            .count();
        assert!(up <= 1);
        cluster.work();
    }
    assert_ne!(cluster.running(db)[0].node, home);
}

#[test]
fn changed_labels_move_tasks_to_nodes_that_meet_the_constraints() {
    let mut cluster = Cluster::new(3);
    cluster.label(node_id(1), "disk", "ssd");
    let mut db = spec("db", 2);
    db.placement.constraints = vec!["node.labels.disk==SSD".parse().unwrap()];
    let db = cluster.create(db);
    cluster.settle();
    assert_eq!(cluster.spread(db), BTreeMap::from([("n1".to_owned(), 2)]));
    cluster.label(node_id(3), "disk", "ssd");
    cluster.label(node_id(1), "disk", "hdd");
    cluster.settle();
    assert_eq!(cluster.spread(db), BTreeMap::from([("n3".to_owned(), 2)]));
    // Where nothing meets them any more, they are stopped all the same.
    cluster.label(node_id(3), "disk", "hdd");
    cluster.settle();
    assert_eq!(cluster.live(db).len(), 0);
    assert_eq!(
        cluster.plan().pending[0].why.to_string(),
        "no node fits: 3 nodes do not meet node.labels.disk==SSD"
    );
}

#[test]
fn a_paused_node_keeps_its_tasks_and_gets_none() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.set_availability(node_id(2), Availability::Pause);
    cluster.scale(web, 4);
    cluster.settle();
    let expected = [("n1".to_owned(), 3), ("n2".to_owned(), 1)];
    assert_eq!(cluster.spread(web), BTreeMap::from(expected));
}

#[test]
fn a_move_that_fails_waits_and_keeps_the_old_task() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let old = cluster.live(web)[0].clone();
    cluster.set_availability(old.node, Availability::Drain);
    cluster.lead();
    let new = cluster
        .live(web)
        .into_iter()
        .find(|task| task.id != old.id)
        .unwrap()
        .id;
    cluster.report(new, TaskState::Failed);
    let plan = cluster.lead();
    assert_eq!(plan.changes, vec![]);
    assert_eq!(plan.pending[0].keeps, Some(old.id));
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 1);
    assert_ne!(cluster.running(web)[0].node, old.node);
}

#[test]
fn a_move_that_is_called_off_ends_with_one_task() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let old = cluster.live(web)[0].clone();
    cluster.set_availability(old.node, Availability::Drain);
    cluster.lead();
    assert_eq!(cluster.live(web).len(), 2);
    cluster.set_availability(old.node, Availability::Active);
    cluster.settle();
    let ids: BTreeSet<_> = cluster.running(web).iter().map(|task| task.id).collect();
    assert_eq!(ids, BTreeSet::from([old.id]));
}
