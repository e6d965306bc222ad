//! Tests of apply tasks.

use std::time::Duration;

use kawanan_api::{ErrorCode, Revision, ServiceId, Slot, TaskId};

use crate::Command;
use crate::command::{NewTask, TaskChange, TaskReport};
use crate::state::{Desired, NodeStatus, Rollout, TaskState};
use crate::testing::{Cluster, START, node_id, spec};

fn report(cluster: &Cluster, task: TaskId, state: TaskState) -> TaskReport {
    TaskReport {
        task,
        state,
        at: cluster.now(),
        error: None,
        exit_code: None,
        gone: false,
    }
}

/// Two nodes, one service, one running task.
fn one_task() -> (Cluster, ServiceId, TaskId) {
    let mut cluster = Cluster::new(2);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let task = cluster.running(web)[0].id;
    (cluster, web, task)
}

fn new_task(cluster: &mut Cluster, service: ServiceId, slot: Option<u32>, node: u128) -> NewTask {
    NewTask {
        id: TaskId::from_bits(cluster.draw()),
        service,
        spec_revision: cluster.state.services[&service].spec_revision,
        slot: slot.map(Slot),
        node: node_id(node),
        attempt: 0,
        not_before: START,
    }
}

fn plan(cluster: &mut Cluster, changes: Vec<TaskChange>) {
    let basis = cluster.state.revision;
    cluster.ok(Command::Plan { basis, changes });
}

#[test]
fn a_plan_made_before_the_last_one_is_refused() {
    let (mut cluster, _, task) = one_task();
    let basis = cluster.state.revision;
    let change = TaskChange::SetDesired {
        task,
        desired: Desired::Shutdown,
    };
    plan(&mut cluster, vec![]);
    let error = cluster.refused(Command::Plan {
        basis,
        changes: vec![change.clone()],
    });
    assert_eq!(error.code, ErrorCode::Conflict);
    assert!(cluster.state.tasks[&task].is_running());
    // Other writes in between do no harm.
    let basis = cluster.state.revision;
    cluster.label(node_id(1), "a", "b");
    cluster.ok(Command::Plan {
        basis,
        changes: vec![change],
    });
    assert_eq!(cluster.state.tasks[&task].desired, Desired::Shutdown);
}

#[test]
fn only_tasks_that_fit_are_made() {
    let (mut cluster, web, task) = one_task();
    cluster.set_status(node_id(2), NodeStatus::Down);
    let home = cluster.state.tasks[&task].node;
    let other = if home == node_id(1) { 2 } else { 1 };
    let own = 3 - other;
    let mut wrong = vec![
        new_task(&mut cluster, web, None, 1),
        new_task(&mut cluster, web, Some(0), 1),
        new_task(&mut cluster, web, Some(10_001), 1),
        new_task(&mut cluster, web, Some(2), 2),
        new_task(&mut cluster, web, Some(2), 3),
        new_task(&mut cluster, web, Some(1), own),
    ];
    let mut strange = new_task(&mut cluster, web, Some(2), 1);
    strange.spec_revision = Revision(1);
    let mut known = new_task(&mut cluster, web, Some(2), 1);
    known.id = task;
    let mut foreign = new_task(&mut cluster, web, Some(2), 1);
    foreign.service = ServiceId::from_bits(1);
    wrong.extend([strange, known, foreign]);
    let before = cluster.state.tasks.clone();
    let changes = wrong.into_iter().map(TaskChange::Create).collect();
    plan(&mut cluster, changes);
    assert_eq!(cluster.state.tasks, before);
    let fits = new_task(&mut cluster, web, Some(2), 1);
    plan(&mut cluster, vec![TaskChange::Create(fits)]);
    assert_eq!(cluster.state.tasks.len(), 2);
}

#[test]
fn a_seat_takes_a_successor_but_no_third_task() {
    let (mut cluster, web, task) = one_task();
    let home = cluster.state.tasks[&task].node;
    let other = if home == node_id(1) { 2 } else { 1 };
    let create: Vec<_> = [other, 3 - other, other]
        .map(|node| new_task(&mut cluster, web, Some(1), node))
        .map(TaskChange::Create)
        .into();
    plan(&mut cluster, create);
    assert_eq!(cluster.live(web).len(), 2);
}

#[test]
fn states_and_wishes_only_go_forward() {
    let (mut cluster, _, task) = one_task();
    cluster.report(task, TaskState::Starting);
    assert_eq!(cluster.state.tasks[&task].state, TaskState::Running);
    cluster.report(task, TaskState::Failed);
    let failed = cluster.state.tasks[&task].clone();
    assert_eq!(failed.error.as_deref(), Some("it broke"));
    cluster.report(task, TaskState::Running);
    cluster.report(task, TaskState::Orphaned);
    assert_eq!(cluster.state.tasks[&task], failed);
    let desire = |desired| TaskChange::SetDesired { task, desired };
    plan(
        &mut cluster,
        vec![
            desire(Desired::Remove),
            desire(Desired::Shutdown),
            desire(Desired::Running),
        ],
    );
    assert_eq!(cluster.state.tasks[&task].desired, Desired::Remove);
}

#[test]
fn a_node_speaks_for_its_own_tasks_only() {
    let (mut cluster, _, task) = one_task();
    let home = cluster.state.tasks[&task].node;
    let other = if home == node_id(1) {
        node_id(2)
    } else {
        node_id(1)
    };
    let said = report(&cluster, task, TaskState::Failed);
    cluster.ok(Command::ReportTasks {
        node: other,
        reports: vec![said.clone()],
    });
    assert!(cluster.state.tasks[&task].is_running());
    let error = cluster.refused(Command::ReportTasks {
        node: node_id(9),
        reports: vec![said],
    });
    assert_eq!(error.code, ErrorCode::NotFound);
}

#[test]
fn only_a_task_that_is_to_be_removed_goes_when_it_is_gone() {
    let (mut cluster, web, task) = one_task();
    let node = cluster.state.tasks[&task].node;
    let mut gone = report(&cluster, task, TaskState::Failed);
    gone.gone = true;
    let said = Command::ReportTasks {
        node,
        reports: vec![gone.clone()],
    };
    cluster.ok(said.clone());
    assert_eq!(cluster.state.tasks[&task].state, TaskState::Failed);
    cluster.ok(Command::RemoveService { id: web });
    cluster.ok(said);
    assert!(cluster.state.tasks.is_empty() && cluster.state.services.is_empty());
}

#[test]
fn a_clock_that_is_off_is_bounded_by_what_the_log_knows() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 2));
    cluster.lead();
    cluster.advance(Duration::from_secs(10));
    let tasks: Vec<_> = cluster.live(web).iter().map(|task| task.id).collect();
    let mut early = report(&cluster, tasks[0], TaskState::Running);
    early.at = kawanan_api::Timestamp::from_millis(5);
    let mut late = report(&cluster, tasks[1], TaskState::Running);
    late.at = kawanan_api::Timestamp::from_millis(u64::MAX);
    cluster.ok(Command::ReportTasks {
        node: node_id(1),
        reports: vec![early, late],
    });
    let since = |task| cluster.state.tasks[&task].running_since;
    assert_eq!(since(tasks[0]), Some(START));
    assert_eq!(since(tasks[1]), Some(cluster.now()));
}

#[test]
fn long_errors_are_cut_between_characters() {
    let (mut cluster, _, task) = one_task();
    let mut said = report(&cluster, task, TaskState::Failed);
    said.error = Some(format!("x{}", "é".repeat(1000)));
    let node = cluster.state.tasks[&task].node;
    cluster.ok(Command::ReportTasks {
        node,
        reports: vec![said],
    });
    let kept = cluster.state.tasks[&task].error.clone().unwrap();
    assert_eq!(kept.len(), 1023);
}

#[test]
fn a_task_is_orphaned_or_forgotten_only_when_its_node_is_not_there() {
    let (mut cluster, _, task) = one_task();
    let node = cluster.state.tasks[&task].node;
    let changes = vec![TaskChange::Orphan { task }, TaskChange::Forget { task }];
    plan(&mut cluster, changes.clone());
    assert!(cluster.state.tasks[&task].is_running());
    cluster.set_status(node, NodeStatus::Down);
    plan(&mut cluster, changes[..1].to_vec());
    let orphan = &cluster.state.tasks[&task];
    assert_eq!(
        (orphan.state, orphan.desired),
        (TaskState::Orphaned, Desired::Remove)
    );
    let name = cluster.state.node_name(node);
    assert_eq!(orphan.error, Some(format!("node {name} is down")));
    plan(&mut cluster, changes[1..].to_vec());
    assert!(cluster.state.tasks.is_empty());
}

#[test]
fn a_verdict_on_a_rollout_that_is_over_is_passed_by() {
    let (mut cluster, web, _) = one_task();
    let old = cluster.state.services[&web].spec_revision;
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    let pause = |spec_revision| TaskChange::SetRollout {
        service: web,
        spec_revision,
        rollout: Rollout::Paused {
            at: START,
            reason: "no".to_owned(),
        },
    };
    plan(&mut cluster, vec![pause(old)]);
    assert!(matches!(
        cluster.state.services[&web].rollout,
        Rollout::Updating { .. }
    ));
    let now = cluster.state.services[&web].spec_revision;
    plan(&mut cluster, vec![pause(now)]);
    assert!(matches!(
        cluster.state.services[&web].rollout,
        Rollout::Paused { .. }
    ));
}
