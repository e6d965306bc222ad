//! Tests of reconcile restarts.

use std::time::Duration;

use kawanan_api::spec::RestartCondition;
use kawanan_api::{ServiceId, TaskId};

use crate::reconcile::Why;
use crate::reconcile::cleanup::HISTORY_KEPT;
use crate::state::{Desired, Task, TaskState};
use crate::testing::{Cluster, spec};

/// The one living task.
fn only(cluster: &Cluster, service: ServiceId) -> Task {
    let live = cluster.live(service);
    assert_eq!(live.len(), 1);
    live[0].clone()
}

/// Fails the living task and returns how long the next one took to come, and that one.
fn fail(cluster: &mut Cluster, service: ServiceId, state: TaskState) -> (Duration, Task) {
    let task: TaskId = only(cluster, service).id;
    cluster.report(task, state);
    let failed_at = cluster.now();
    loop {
        let plan = cluster.lead();
        if !cluster.live(service).is_empty() {
            return (cluster.now().since(failed_at), only(cluster, service));
        }
        if plan.changes.is_empty() {
            cluster.seen.now = plan.wake_at.unwrap();
        }
    }
}

#[test]
fn failures_in_a_row_wait_twice_as_long_each_up_to_a_minute() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    let waits: Vec<u64> = (0..9)
        .map(|_| fail(&mut cluster, web, TaskState::Failed).0.as_secs())
        .collect();
    assert_eq!(waits, vec![1, 2, 4, 8, 16, 32, 60, 60, 60]);
    assert_eq!(only(&cluster, web).attempt, 9);
    let over = cluster
        .state
        .tasks_of(web)
        .filter(|task| task.state.is_final());
    assert!(
        over.into_iter()
            .all(|task| task.desired == Desired::Shutdown)
    );
    let past = cluster.state.tasks_of(web).count() - 1;
    cluster.lead();
    assert_eq!(past.min(HISTORY_KEPT), HISTORY_KEPT);
    assert_eq!(cluster.state.tasks_of(web).count() - 1, HISTORY_KEPT);
}

#[test]
fn a_task_that_stayed_up_starts_a_new_row() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    fail(&mut cluster, web, TaskState::Failed);
    let (_, third) = fail(&mut cluster, web, TaskState::Failed);
    assert_eq!(third.attempt, 2);
    cluster.report(third.id, TaskState::Running);
    cluster.advance(Duration::from_secs(31));
    let (wait, fourth) = fail(&mut cluster, web, TaskState::Failed);
    assert_eq!((wait.as_secs(), fourth.attempt), (1, 0));
}

#[test]
fn the_same_node_is_tried_three_times_and_then_another() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    let home = only(&cluster, web).node;
    let nodes: Vec<_> = (0..3)
        .map(|_| fail(&mut cluster, web, TaskState::Failed).1.node)
        .collect();
    assert_eq!(nodes[..2], [home, home]);
    assert_ne!(nodes[2], home);
}

#[test]
fn a_rejected_task_is_tried_elsewhere_at_once_after_the_wait() {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    let home = only(&cluster, web).node;
    let (wait, next) = fail(&mut cluster, web, TaskState::Rejected);
    assert_eq!(wait.as_secs(), 1);
    assert_ne!(next.node, home);
    // With both nodes unwilling it goes on all the same.
    let (_, third) = fail(&mut cluster, web, TaskState::Rejected);
    assert_eq!(third.attempt, 2);
}

#[test]
fn restart_conditions_decide_what_an_end_means() {
    for (condition, state, again) in [
        (RestartCondition::None, TaskState::Complete, false),
        (RestartCondition::None, TaskState::Failed, false),
        (RestartCondition::OnFailure, TaskState::Complete, false),
        (RestartCondition::OnFailure, TaskState::Failed, true),
        (RestartCondition::Any, TaskState::Complete, true),
        (RestartCondition::Any, TaskState::Failed, true),
    ] {
        let mut cluster = Cluster::new(1);
        let mut job = spec("job", 1);
        job.restart.condition = condition;
        let job = cluster.create(job);
        cluster.lead();
        let task = only(&cluster, job).id;
        cluster.report(task, state);
        cluster.settle();
        assert_eq!(
            cluster.live(job).len() == 1,
            again,
            "{condition:?} {state:?}"
        );
    }
}

#[test]
fn a_seat_stays_down_after_as_many_failures_as_allowed() {
    let mut cluster = Cluster::new(1);
    cluster.bad_images.insert("app:1".to_owned());
    let mut web = spec("web", 1);
    web.restart.max_attempts = Some(7);
    let web = cluster.create(web);
    cluster.settle();
    assert_eq!(cluster.state.tasks_of(web).count(), 7);
    let plan = cluster.plan();
    assert!(
        matches!(
            &plan.pending[0].why,
            Why::GaveUp {
                failures: 7,
                error: Some(_)
            }
        ),
        "{plan:?}"
    );
    assert_eq!(
        plan.pending[0].why.to_string(),
        "failed 7 times and is not restarted: it broke"
    );
    // Allowing more starts it again.
    cluster.bad_images.clear();
    cluster.update(web, |spec| spec.restart.max_attempts = None);
    cluster.settle();
    assert_eq!(cluster.running(web).len(), 1);
}

#[test]
fn only_failures_within_the_window_count() {
    let mut cluster = Cluster::new(1);
    let mut web = spec("web", 1);
    web.restart.max_attempts = Some(2);
    web.restart.window = kawanan_api::duration::Span::from_secs(10);
    let web = cluster.create(web);
    cluster.lead();
    for _ in 0..4 {
        cluster.advance(Duration::from_secs(11));
        fail(&mut cluster, web, TaskState::Failed);
    }
    let task = only(&cluster, web).id;
    cluster.report(task, TaskState::Failed);
    cluster.settle();
    assert_eq!(cluster.live(web).len(), 0);
}

#[test]
fn a_waiting_seat_says_until_when_and_why() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    let task = only(&cluster, web).id;
    cluster.report(task, TaskState::Failed);
    let plan = cluster.plan();
    let until = cluster.now().saturating_add(Duration::from_secs(1));
    assert_eq!(plan.wake_at, Some(until));
    assert_eq!(
        plan.pending[0].why.to_string(),
        format!("waits until {until} to try again: it broke")
    );
}

#[test]
fn a_task_that_reports_from_the_far_future_does_not_block_its_seat() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.lead();
    let task = only(&cluster, web).id;
    // The entry's own clock is wrong by a day: another node led for a moment.
    cluster.advance(Duration::from_secs(24 * 3600));
    cluster.report(task, TaskState::Failed);
    cluster.seen.now = crate::testing::START;
    cluster.lead();
    assert_eq!(cluster.live(web).len(), 1);
}
