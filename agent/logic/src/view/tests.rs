//! Tests of view.

use std::collections::BTreeSet;
use std::time::Duration;

use kawanan_api::ErrorCode;
use kawanan_api::spec::{Mode, RegistryAuth};
use kawanan_api::views::{RolloutState, TaskState, WaitsFor};
use proptest::prelude::*;

use super::*;
use crate::command::{Command, TaskReport};
use crate::state::Availability;
use crate::testing::{Cluster, node_id, spec};

fn outlook(cluster: &mut Cluster) -> Outlook {
    let plan = cluster.plan();
    Outlook {
        now: cluster.now(),
        this_node: Some(node_id(1)),
        leader: Some(node_id(1)),
        voters: cluster.state.nodes.keys().copied().take(3).collect(),
        suspects: BTreeSet::new(),
        plan,
        notes: BTreeMap::new(),
    }
}

/// Looks at the cluster as it is.
fn look<T>(cluster: &mut Cluster, with: impl FnOnce(&View<'_>) -> T) -> T {
    let outlook = outlook(cluster);
    with(&View::new(&cluster.state, &outlook))
}

#[test]
fn an_object_is_found_by_id_then_name_then_the_beginning_of_its_id() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    let other = cluster.create(spec("other", 1));
    // A service that is called like another one's id begins.
    let begins = web.to_string()[..24].to_owned();
    let odd = cluster.create(spec(&begins, 1));
    let state = &cluster.state;
    assert_eq!(resolve_service(state, &web.to_string()), Ok(web));
    assert_eq!(resolve_service(state, "web"), Ok(web));
    assert_eq!(resolve_service(state, &begins), Ok(odd));
    assert_eq!(resolve_service(state, &other.to_string()), Ok(other));
    let ambiguous = resolve_service(state, "000").unwrap_err();
    assert_eq!(ambiguous.code, ErrorCode::Ambiguous);
    assert!(ambiguous.hint.unwrap().contains(&format!("{web} (web)")));
    assert_eq!(
        resolve_service(state, "").unwrap_err().code,
        ErrorCode::Invalid
    );
}

#[test]
fn nodes_of_one_name_are_told_apart_by_their_ids() {
    let mut cluster = Cluster::new(2);
    let mut twin = crate::testing::new_node(3);
    twin.name = "n2".to_owned();
    cluster.join(twin);
    let ambiguous = resolve_node(&cluster.state, "n2").unwrap_err();
    assert_eq!(ambiguous.message, "`n2` fits 2 nodes");
    assert_eq!(
        resolve_node(&cluster.state, &node_id(3).to_string()),
        Ok(node_id(3))
    );
}

#[test]
fn suggestions_are_close_or_none() {
    let names = || ["web", "website", "database"].into_iter();
    assert_eq!(did_you_mean("wbe", names()), Some("web"));
    assert_eq!(did_you_mean("WEB", names()), Some("web"));
    assert_eq!(did_you_mean("datab", names()), Some("database"));
    assert_eq!(did_you_mean("databsae", names()), Some("database"));
    assert_eq!(did_you_mean("x", names()), None);
    assert_eq!(did_you_mean("cache", names()), None);
}

#[test]
fn a_task_is_found_by_its_seat_and_the_living_one_is_meant() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    let mut everywhere = spec("everywhere", 0);
    everywhere.mode = Mode::Global;
    cluster.create(everywhere);
    cluster.settle();
    let old = resolve_task(&cluster.state, "web.2").unwrap();
    cluster.report(old, crate::state::TaskState::Failed);
    cluster.settle();
    let new = resolve_task(&cluster.state, "web.2").unwrap();
    assert_ne!(new, old);
    assert_eq!(
        resolve_task(&cluster.state, &format!("web.2.{}", old.short()))
            .unwrap_err()
            .code,
        ErrorCode::Ambiguous
    );
    assert_eq!(
        resolve_task(&cluster.state, &format!("web.2.{old}")),
        Ok(old)
    );
    let global = resolve_task(&cluster.state, "everywhere.n2").unwrap();
    assert_eq!(cluster.state.tasks[&global].node, node_id(2));
    assert!(resolve_task(&cluster.state, "web.3").is_err());
    assert_eq!(look(&mut cluster, |view| view.tasks_of(web).len()), 3);
}

#[test]
fn a_seat_without_a_place_is_a_row_with_the_same_id_until_something_changes() {
    let mut cluster = Cluster::new(1);
    let mut big = spec("big", 2);
    big.resources.reservations.memory.0 = 5 << 30;
    let big = cluster.create(big);
    cluster.settle();
    let rows = look(&mut cluster, |view| view.tasks_of(big));
    assert_eq!(
        (rows[0].state, rows[1].state),
        (TaskState::Running, TaskState::Pending)
    );
    assert!(
        rows[1].error.as_ref().unwrap().contains("memory"),
        "{rows:?}"
    );
    let again = look(&mut cluster, |view| view.tasks_of(big));
    assert_eq!(rows[1].id, again[1].id);
    cluster.update(big, |spec| spec.container.image = "app:2".to_owned());
    let changed = look(&mut cluster, |view| view.tasks_of(big));
    assert!(changed.iter().all(|row| row.id != rows[1].id));
}

#[test]
fn what_waits_for_its_next_try_says_when_and_why() {
    let mut cluster = Cluster::new(1);
    cluster.bad_images.insert("app:1".to_owned());
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    cluster.work();
    cluster.advance(Duration::from_millis(400));
    let event = look(&mut cluster, |view| view.progress(web)).unwrap();
    let seat = &event.seats[0];
    assert_eq!(seat.waits_for, Some(WaitsFor::Retry));
    assert_eq!(seat.task.message.as_deref(), Some("tries again in 1 s"));
    assert_eq!(
        (seat.task.error.as_deref(), seat.last_error.as_deref()),
        (Some("it broke"), Some("it broke"))
    );
    assert_eq!((seat.ended, event.converged), (1, false));
}

#[test]
fn a_seat_that_was_given_up_shows_the_task_that_failed() {
    let mut cluster = Cluster::new(1);
    cluster.bad_images.insert("app:1".to_owned());
    let mut once = spec("once", 1);
    once.restart.condition = kawanan_api::spec::RestartCondition::None;
    let once = cluster.create(once);
    cluster.settle();
    let event = look(&mut cluster, |view| view.progress(once)).unwrap();
    assert_eq!(event.seats[0].waits_for, Some(WaitsFor::Nothing));
    assert_eq!(event.seats[0].task.state, TaskState::Failed);
    assert!(!event.converged);
    assert_eq!(look(&mut cluster, |view| view.tasks_of(once)).len(), 1);
}

#[test]
fn while_a_service_is_updated_the_older_tasks_show_as_such() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    cluster.lead();
    let event = look(&mut cluster, |view| view.progress(web)).unwrap();
    assert_eq!(event.rollout.state, RolloutState::Updating);
    assert_eq!((event.running, event.wanted, event.leaving), (0, 2, 1));
    assert_eq!(event.seats.iter().filter(|seat| seat.older_runs).count(), 1);
    assert_eq!(
        event.seats.iter().filter(|seat| !seat.up_to_date).count(),
        1
    );
    let listed = look(&mut cluster, |view| view.services());
    assert_eq!(
        (listed[0].running, listed[0].replicas),
        (2, 2),
        "it still answers with both"
    );
    cluster.settle();
    assert!(
        look(&mut cluster, |view| view.progress(web))
            .unwrap()
            .converged
    );
}

#[test]
fn a_drain_lists_what_is_left_and_what_has_nowhere_to_go() {
    let mut cluster = Cluster::new(2);
    let mut pinned = spec("pinned", 1);
    pinned
        .placement
        .constraints
        .push("node.name==n2".parse().unwrap());
    cluster.create(pinned);
    cluster.create(spec("web", 2));
    cluster.settle();
    cluster.set_availability(node_id(2), Availability::Drain);
    cluster.settle();
    let event = look(&mut cluster, |view| view.drain(node_id(2))).unwrap();
    let left: Vec<&str> = event
        .remaining
        .iter()
        .map(|task| task.name.as_str())
        .collect();
    assert_eq!(left, ["pinned.1"]);
    assert_eq!(event.waiting.len(), 1);
    assert!(
        event.waiting[0].starts_with("pinned.1: no node fits"),
        "{event:?}"
    );
    let row = look(&mut cluster, |view| view.tasks_on(node_id(2)));
    assert!(
        row[0]
            .message
            .as_ref()
            .unwrap()
            .starts_with("waits for another node: "),
        "{row:?}"
    );
}

#[test]
fn health_names_what_is_wrong() {
    let mut cluster = Cluster::new(3);
    cluster.create(spec("web", 3));
    cluster.settle();
    let good = look(&mut cluster, |view| view.cluster(node_id(1)));
    assert!(good.healthy, "{:?}", good.problems);
    assert_eq!(
        (good.voters_ready, good.losses_tolerated, good.tasks_running),
        (3, 1, 3)
    );
    cluster.set_status(node_id(3), crate::state::NodeStatus::Down);
    let mut outlook = outlook(&mut cluster);
    outlook.leader = None;
    outlook.suspects.insert(node_id(2));
    let bad = View::new(&cluster.state, &outlook).cluster(node_id(1));
    assert_eq!(
        (bad.voters_ready, bad.losses_tolerated, bad.nodes_ready),
        (1, 0, 1)
    );
    for word in [
        "no node is leader",
        "n2 is not heard of",
        "n3 is down",
        "web: 2 of 3",
    ] {
        assert!(
            bad.problems.iter().any(|problem| problem.contains(word)),
            "{word}: {:?}",
            bad.problems
        );
    }
}

#[test]
fn views_hold_no_password_and_an_update_keeps_the_stored_one() {
    let mut cluster = Cluster::new(1);
    let auth = |user: &str, password: &str| RegistryAuth {
        username: user.to_owned(),
        password: password.to_owned(),
    };
    let mut web = spec("web", 1);
    web.container.registry_auth = Some(auth("ann", "s3cret"));
    let web = cluster.create(web);
    let detail = look(&mut cluster, |view| view.service(web)).unwrap();
    assert!(!serde_json::to_string(&detail).unwrap().contains("s3cret"));
    let stored = cluster.state.services[&web].spec();
    let kept = with_kept_password(detail.spec.clone(), Some(stored)).unwrap();
    assert_eq!(kept, **stored);
    let mut other = detail.spec.clone();
    other.container.registry_auth = Some(auth("bob", ""));
    assert!(with_kept_password(other.clone(), Some(stored)).is_err());
    assert!(with_kept_password(other, None).is_err());
    let mut fresh = detail.spec;
    fresh.container.registry_auth = Some(auth("bob", "new"));
    assert_eq!(with_kept_password(fresh.clone(), Some(stored)), Ok(fresh));
}

/// Something that happens to a cluster.
#[derive(Debug, Clone)]
enum Step {
    Scale(u32),
    Image(bool),
    Drain(u128, bool),
    Down(u128, bool),
    End(prop::sample::Index, bool),
    Lead,
    Work,
    Wait(u64),
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        1 => (0..7u32).prop_map(Step::Scale),
        1 => any::<bool>().prop_map(Step::Image),
        1 => (1..4u128, any::<bool>()).prop_map(|(node, drain)| Step::Drain(node, drain)),
        1 => (1..4u128, any::<bool>()).prop_map(|(node, down)| Step::Down(node, down)),
        1 => (any::<prop::sample::Index>(), any::<bool>()).prop_map(|(task, well)| Step::End(task, well)),
        3 => Just(Step::Lead),
        3 => Just(Step::Work),
        1 => (0..5000u64).prop_map(Step::Wait),
    ]
}

fn take(cluster: &mut Cluster, web: ServiceId, step: &Step) {
    match step {
        Step::Scale(replicas) => cluster.scale(web, *replicas),
        Step::Image(bad) => {
            let image = if *bad { "bad:1" } else { "app:2" };
            cluster.update(web, |spec| spec.container.image = image.to_owned());
        }
        Step::Drain(node, drain) => {
            let availability = if *drain {
                Availability::Drain
            } else {
                Availability::Active
            };
            cluster.set_availability(node_id(*node), availability);
        }
        Step::Down(node, down) => {
            use crate::state::NodeStatus;
            cluster.set_status(
                node_id(*node),
                if *down {
                    NodeStatus::Down
                } else {
                    NodeStatus::Ready
                },
            );
        }
        Step::End(index, well) => {
            let running: Vec<_> = cluster
                .running(web)
                .iter()
                .map(|task| (task.id, task.node))
                .collect();
            if !running.is_empty() {
                let (task, node) = *index.get(&running);
                let at = cluster.now();
                let state = if *well {
                    crate::state::TaskState::Complete
                } else {
                    crate::state::TaskState::Failed
                };
                let report = TaskReport {
                    task,
                    state,
                    at,
                    error: None,
                    exit_code: Some(i32::from(!well)),
                    gone: false,
                };
                cluster.ok(Command::ReportTasks {
                    node,
                    reports: vec![report],
                });
            }
        }
        Step::Lead => {
            cluster.lead();
        }
        Step::Work => {
            cluster.work();
        }
        Step::Wait(millis) => cluster.advance(Duration::from_millis(*millis)),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever happens: as many seats as asked for, each once, and `converged` is never said too early.
    #[test]
    fn the_picture_fits_the_cluster_at_every_step(steps in prop::collection::vec(step(), 1..60)) {
        let mut cluster = Cluster::new(3);
        cluster.bad_images.insert("bad:1".to_owned());
        let web = cluster.create(spec("web", 3));
        for step in &steps {
            take(&mut cluster, web, step);
            let plan = cluster.plan();
            let (event, rows) = look(&mut cluster, |view| (view.progress(web).unwrap(), view.tasks_of(web)));
            let replicas = cluster.state.services[&web].spec().replicas().unwrap();
            prop_assert_eq!(event.wanted, replicas, "{:?}", step);
            let seats: BTreeSet<&str> = event.seats.iter().map(|seat| seat.name.as_str()).collect();
            prop_assert_eq!(seats.len(), replicas as usize);
            let ids: BTreeSet<TaskId> = rows.iter().map(|row| row.id).collect();
            prop_assert_eq!(ids.len(), rows.len(), "a row twice");
            if event.converged {
                prop_assert!(plan.pending.is_empty());
                let moving = plan.changes.iter().any(|change| !matches!(change, TaskChange::Forget { .. }));
                prop_assert!(!moving, "{:?}", plan);
                let service = cluster.state.services[&web].clone();
                let live = cluster.live(web);
                prop_assert_eq!(live.len(), replicas as usize);
                for task in live {
                    prop_assert!(task.is_running() && service.is_current(task.spec_revision));
                }
            }
        }
    }

    /// Left alone on healthy nodes with a good image, it converges.
    #[test]
    fn a_cluster_left_alone_converges(steps in prop::collection::vec(step(), 1..40)) {
        let mut cluster = Cluster::new(3);
        cluster.bad_images.insert("bad:1".to_owned());
        let web = cluster.create(spec("web", 3));
        for step in &steps {
            take(&mut cluster, web, step);
        }
        for node in 1..4 {
            take(&mut cluster, web, &Step::Down(node, false));
            take(&mut cluster, web, &Step::Drain(node, false));
        }
        cluster.update(web, |spec| spec.container.image = "app:3".to_owned());
        cluster.settle_within(Duration::from_secs(3600));
        let event = look(&mut cluster, |view| view.progress(web)).unwrap();
        prop_assert!(event.converged, "{:?}", event);
    }
}
