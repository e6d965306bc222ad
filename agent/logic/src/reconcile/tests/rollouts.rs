//! Tests of reconcile rollouts.

use std::time::Duration;

use kawanan_api::ServiceId;
use kawanan_api::duration::Span;
use kawanan_api::spec::{Mode, PortMode, PortSpec, UpdateOrder};

use crate::state::{Availability, Rollout, TaskState};
use crate::testing::{Cluster, node_id, spec};

fn running_images(cluster: &Cluster, service: ServiceId) -> Vec<&str> {
    let mut images: Vec<&str> = cluster
        .running(service)
        .into_iter()
        .map(|task| cluster.image_of(task))
        .collect();
    images.sort_unstable();
    images
}

fn rollout(cluster: &Cluster, service: ServiceId) -> &Rollout {
    &cluster.state.services[&service].rollout
}

/// Goes on until nothing changes, checking something after every step.
fn watch(cluster: &mut Cluster, mut check: impl FnMut(&Cluster)) {
    for _ in 0..1000 {
        // Twice, because the leader may well look again before the nodes have done anything.
        cluster.lead();
        check(cluster);
        let plan = cluster.lead();
        check(cluster);
        let worked = cluster.work();
        check(cluster);
        if plan.changes.is_empty() && !worked {
            match plan.wake_at {
                None => return,
                Some(at) => cluster.seen.now = at,
            }
        }
    }
    panic!("never at rest");
}

#[test]
fn a_rolling_update_never_runs_less_than_wanted_and_one_more_at_most() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 5));
    cluster.settle();
    let before = cluster.now();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    assert!(matches!(rollout(&cluster, web), Rollout::Updating { .. }));
    watch(&mut cluster, |cluster| {
        assert!(cluster.running(web).len() >= 5);
        assert!(cluster.live(web).len() <= 6);
    });
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 5]);
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
    // Each of the five was watched for two seconds.
    assert_eq!(cluster.now().since(before), Duration::from_secs(10));
    assert!(cluster.spread(web).values().all(|tasks| *tasks <= 2));
}

#[test]
fn parallelism_and_delay_shape_the_batches() {
    let mut cluster = Cluster::new(3);
    let mut web = spec("web", 6);
    web.update.parallelism = 3;
    web.update.delay = Span::from_secs(10);
    let web = cluster.create(web);
    cluster.settle();
    let before = cluster.now();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    let mut most = 0;
    watch(&mut cluster, |cluster| {
        most = most.max(cluster.live(web).len())
    });
    assert_eq!(most, 9);
    assert_eq!(cluster.now().since(before), Duration::from_secs(2 + 10 + 2));
}

#[test]
fn stopping_first_never_runs_two_tasks_in_a_slot() {
    let mut cluster = Cluster::new(3);
    let mut db = spec("db", 3);
    db.update.order = UpdateOrder::StopFirst;
    let db = cluster.create(db);
    cluster.settle();
    cluster.update(db, |spec| spec.container.image = "app:2".to_owned());
    watch(&mut cluster, |cluster| {
        let up = cluster
            .state
            .tasks_of(db)
            .filter(|task| !task.state.is_final());
        assert!(up.count() <= 3);
        assert!(cluster.live(db).len() >= 2);
    });
    assert_eq!(running_images(&cluster, db), vec!["app:2"; 3]);
    assert_eq!(rollout(&cluster, db), &Rollout::Steady);
}

#[test]
fn a_version_that_fails_pauses_the_rollout_and_the_old_one_goes_on() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 4));
    cluster.settle();
    let old: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    cluster.bad_images.insert("app:bad".to_owned());
    cluster.update(web, |spec| spec.container.image = "app:bad".to_owned());
    watch(&mut cluster, |cluster| {
        assert_eq!(cluster.running(web).len(), 4)
    });
    let Rollout::Paused { reason, .. } = rollout(&cluster, web) else {
        panic!("{:?}", rollout(&cluster, web));
    };
    assert!(
        reason.starts_with("3 new tasks failed, the last one on node n")
            && reason.ends_with(": it broke"),
        "{reason}"
    );
    let kept: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    assert_eq!(kept, old);
    let failed = cluster
        .state
        .tasks_of(web)
        .filter(|task| task.state == TaskState::Failed);
    assert_eq!(failed.count(), 3);
    assert_eq!(cluster.plan().changes, vec![]);
}

#[test]
fn a_paused_service_still_heals_with_the_version_that_works() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    cluster.bad_images.insert("app:bad".to_owned());
    cluster.update(web, |spec| spec.container.image = "app:bad".to_owned());
    cluster.settle();
    let lost = cluster.running(web)[0].clone();
    cluster.report(lost.id, TaskState::Failed);
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:1"; 3]);
    cluster.set_availability(node_id(2), Availability::Drain);
    cluster.scale(web, 5);
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:1"; 5]);
    assert!(!cluster.spread(web).contains_key("n2"));
    assert!(matches!(rollout(&cluster, web), Rollout::Paused { .. }));
}

#[test]
fn the_next_update_resumes_a_paused_rollout() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    cluster.bad_images.insert("app:bad".to_owned());
    cluster.update(web, |spec| spec.container.image = "app:bad".to_owned());
    cluster.settle();
    // The same spec once more, now that the image is mended.
    cluster.bad_images.clear();
    cluster.update(web, |_| {});
    assert!(matches!(rollout(&cluster, web), Rollout::Updating { .. }));
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:bad"; 3]);
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
}

#[test]
fn going_back_to_the_old_spec_keeps_the_tasks_that_still_run_it() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    let old: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    cluster.work();
    cluster.update(web, |spec| spec.container.image = "app:1".to_owned());
    cluster.settle();
    let kept: Vec<_> = cluster.running(web).iter().map(|task| task.id).collect();
    assert_eq!(kept, old);
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
}

#[test]
fn scaling_in_the_middle_of_a_rollout_is_part_of_it() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    cluster.work();
    cluster.scale(web, 6);
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 6]);
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
}

#[test]
fn changes_that_make_the_same_containers_restart_nothing() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.update(web, |spec| {
        spec.labels.insert("team".to_owned(), "blue".to_owned());
        spec.update.parallelism = 4;
    });
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
    assert_eq!(cluster.plan().changes, vec![]);
}

#[test]
fn a_host_port_makes_the_update_stop_first_where_no_other_node_is_free() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 2);
    let mut port: PortSpec = "80:80".parse().unwrap();
    port.mode = PortMode::Host;
    web.ports = vec![port];
    let web = cluster.create(web);
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    watch(&mut cluster, |cluster| {
        assert!(!cluster.live(web).is_empty())
    });
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 2]);
}

#[test]
fn memory_that_only_the_old_task_could_free_does_not_block_the_update() {
    let mut cluster = Cluster::new(1);
    let mut web = spec("web", 1);
    web.resources.reservations.memory.0 = 5 << 30;
    let web = cluster.create(web);
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"]);
    // What fits nowhere, not even then, leaves the old one running and says why.
    cluster.update(web, |spec| spec.resources.reservations.memory.0 = 9 << 30);
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"]);
    let pending = &cluster.plan().pending[0];
    assert!(pending.keeps.is_some());
    assert_eq!(
        pending.why.to_string(),
        "no node fits: 1 node lacks memory (9 GiB asked, 3 GiB free)"
    );
}

#[test]
fn a_global_service_is_updated_node_by_node() {
    let mut cluster = Cluster::new(4);
    let mut agent = spec("agent", 0);
    agent.mode = Mode::Global;
    let agent = cluster.create(agent);
    cluster.settle();
    cluster.update(agent, |spec| spec.container.image = "app:2".to_owned());
    watch(&mut cluster, |cluster| {
        assert!(cluster.running(agent).len() >= 4);
        assert!(cluster.live(agent).len() <= 5);
    });
    assert_eq!(running_images(&cluster, agent), vec!["app:2"; 4]);
    assert_eq!(cluster.spread(agent).len(), 4);
}

#[test]
fn a_node_that_goes_down_in_the_middle_does_not_stop_the_rollout() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 6));
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    cluster.work();
    cluster.silent.insert(node_id(3));
    cluster.set_status(node_id(3), crate::state::NodeStatus::Down);
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 6]);
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
}

#[test]
fn a_new_task_that_dies_while_it_is_watched_leaves_the_old_one_running() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 1);
    web.update.monitor = Span::from_secs(5);
    let web = cluster.create(web);
    cluster.settle();
    let old = cluster.running(web)[0].id;
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    cluster.work();
    cluster.advance(Duration::from_secs(4));
    cluster.lead();
    let new = cluster
        .live(web)
        .into_iter()
        .find(|task| task.id != old)
        .unwrap()
        .id;
    cluster.report(new, TaskState::Failed);
    cluster.lead();
    assert!(cluster.state.tasks[&old].is_running());
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"]);
}

#[test]
fn a_stop_first_rollout_whose_seat_gives_up_is_paused() {
    let mut cluster = Cluster::new(2);
    let mut db = spec("db", 2);
    db.update.order = UpdateOrder::StopFirst;
    db.restart.max_attempts = Some(1);
    let db = cluster.create(db);
    cluster.settle();
    cluster.bad_images.insert("app:bad".to_owned());
    cluster.update(db, |spec| spec.container.image = "app:bad".to_owned());
    cluster.settle();
    assert!(matches!(rollout(&cluster, db), Rollout::Paused { .. }));
    // The seat that was changed gets the version back that worked in it.
    assert_eq!(running_images(&cluster, db), vec!["app:1"; 2]);
}

#[test]
fn a_batch_waits_for_the_slowest_of_the_one_before() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 4);
    web.update.parallelism = 2;
    web.update.delay = Span::from_secs(10);
    let web = cluster.create(web);
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    let fresh: Vec<_> = cluster
        .live(web)
        .into_iter()
        .filter(|task| task.state == TaskState::Assigned)
        .map(|task| task.id)
        .collect();
    assert_eq!(fresh.len(), 2);
    cluster.report(fresh[0], TaskState::Running);
    cluster.advance(Duration::from_secs(60));
    cluster.lead();
    cluster.work();
    cluster.lead();
    assert_eq!(
        cluster
            .state
            .tasks_of(web)
            .filter(|task| cluster.image_of(task) == "app:2")
            .count(),
        2
    );
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 4]);
}

#[test]
fn the_last_new_task_is_watched_like_the_others() {
    let mut cluster = Cluster::new(1);
    let mut db = spec("db", 1);
    db.update.order = UpdateOrder::StopFirst;
    db.update.max_failures = 1;
    let db = cluster.create(db);
    cluster.settle();
    cluster.update(db, |spec| spec.container.image = "app:2".to_owned());
    for _ in 0..3 {
        cluster.lead();
        cluster.work();
    }
    assert_eq!(running_images(&cluster, db), vec!["app:2"]);
    cluster.lead();
    assert!(matches!(rollout(&cluster, db), Rollout::Updating { .. }));
    let new = cluster.running(db)[0].id;
    cluster.report(new, TaskState::Failed);
    cluster.settle();
    assert!(matches!(rollout(&cluster, db), Rollout::Paused { .. }));
    assert_eq!(running_images(&cluster, db), vec!["app:1"]);
}

#[test]
fn a_resumed_rollout_counts_attempts_anew() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 2);
    web.restart.max_attempts = Some(1);
    let web = cluster.create(web);
    cluster.settle();
    cluster.bad_images.insert("app:2".to_owned());
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.settle();
    assert!(matches!(rollout(&cluster, web), Rollout::Paused { .. }));
    cluster.bad_images.clear();
    cluster.update(web, |_| {});
    cluster.settle();
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 2]);
}

#[test]
fn a_paused_service_keeps_in_each_seat_what_worked_there() {
    let mut cluster = Cluster::new(3);
    let web = cluster.create(spec("web", 3));
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    // The first seat is changed well, then the image goes bad.
    while running_images(&cluster, web)
        .iter()
        .filter(|image| **image == "app:2")
        .count()
        < 1
        || cluster.live(web).len() > 3
    {
        let plan = cluster.lead();
        if !cluster.work() && plan.changes.is_empty() {
            cluster.seen.now = plan.wake_at.unwrap();
        }
    }
    cluster.bad_images.insert("app:2".to_owned());
    cluster.settle();
    assert!(matches!(rollout(&cluster, web), Rollout::Paused { .. }));
    assert_eq!(
        running_images(&cluster, web),
        vec!["app:1", "app:1", "app:2"]
    );
    let changed = cluster
        .running(web)
        .into_iter()
        .find(|task| cluster.image_of(task) == "app:2");
    let (task, slot) = changed.map(|task| (task.id, task.slot)).unwrap();
    cluster.bad_images.clear();
    cluster.report(task, TaskState::Failed);
    cluster.settle();
    let after = cluster
        .running(web)
        .into_iter()
        .find(|task| task.slot == slot)
        .unwrap();
    assert_eq!(cluster.image_of(after), "app:2");
}

#[test]
fn a_new_task_that_fails_long_after_it_was_good_is_no_failure_of_the_rollout() {
    let mut cluster = Cluster::new(2);
    let mut web = spec("web", 2);
    web.update.max_failures = 1;
    web.update.delay = Span::from_secs(60);
    let web = cluster.create(web);
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    cluster.work();
    cluster.advance(Duration::from_secs(10));
    cluster.lead();
    cluster.work();
    let new = cluster
        .running(web)
        .into_iter()
        .find(|task| cluster.image_of(task) == "app:2");
    let new = new.unwrap().id;
    assert_eq!(cluster.live(web).len(), 2);
    cluster.report(new, TaskState::Failed);
    cluster.settle();
    assert_eq!(rollout(&cluster, web), &Rollout::Steady);
    assert_eq!(running_images(&cluster, web), vec!["app:2"; 2]);
}
