//! Tests of converge.

mod circle;

use std::time::Duration;

use kawanan_api::duration::Span;
use kawanan_api::quantity::Bytes;
use kawanan_api::spec::RestartCondition;
use kawanan_api::{NodeId, ServiceId, ServiceSpec, TaskId};

use super::{Action, ContainerSeen, ContainerStatus, Health, NodeMemory, TaskMemory, converge};
use crate::Command;
use crate::command::{TaskChange, TaskReport};
use crate::state::{Desired, NodeStatus, TaskState};
use crate::testing::{Cluster, START, node_id, spec};

const ME: NodeId = node_id(1);

const RUNNING: ContainerStatus = ContainerStatus::Running {
    health: Health::Unchecked,
    started_at: START,
};

const fn exited(code: i32) -> ContainerStatus {
    ContainerStatus::Exited {
        code,
        out_of_memory: false,
        at: START,
    }
}

fn with_health(health: Health) -> ContainerStatus {
    ContainerStatus::Running {
        health,
        started_at: START,
    }
}

/// One node, one service, one task in this state.
struct Story {
    cluster: Cluster,
    service: ServiceId,
    task: TaskId,
    memory: NodeMemory,
}

impl Story {
    fn with_spec(state: TaskState, change: impl FnOnce(&mut ServiceSpec)) -> Self {
        let mut cluster = Cluster::new(1);
        let mut web = spec("web", 1);
        change(&mut web);
        let service = cluster.create(web);
        cluster.lead();
        let task = cluster.live(service)[0].id;
        cluster.report(task, state);
        Self {
            cluster,
            service,
            task,
            memory: NodeMemory {
                now: START,
                caught_up: true,
                ..NodeMemory::default()
            },
        }
    }

    fn new(state: TaskState) -> Self {
        Self::with_spec(state, |_| {})
    }

    fn desire(&mut self, desired: Desired) {
        let basis = self.cluster.state.revision;
        let changes = vec![TaskChange::SetDesired {
            task: self.task,
            desired,
        }];
        self.cluster.ok(Command::Plan { basis, changes });
    }

    fn remember(&mut self, change: impl FnOnce(&mut TaskMemory)) {
        change(self.memory.tasks.entry(self.task).or_default());
    }

    fn see(&self, seen: &[ContainerSeen]) -> Vec<Action> {
        converge(ME, &self.cluster.state, seen, &self.memory)
    }

    fn see_one(&self, status: ContainerStatus) -> Vec<Action> {
        self.see(&[self.container(status)])
    }

    fn container(&self, status: ContainerStatus) -> ContainerSeen {
        container("c1", self.task, status)
    }

    fn told(&self, state: TaskState) -> TaskReport {
        TaskReport {
            task: self.task,
            state,
            at: START,
            error: None,
            exit_code: None,
            gone: false,
        }
    }

    fn failed(&self, error: &str, exit_code: Option<i32>) -> TaskReport {
        TaskReport {
            error: Some(error.to_owned()),
            exit_code,
            ..self.told(TaskState::Failed)
        }
    }

    fn stop(&self) -> Action {
        Action::Stop {
            container: "c1".to_owned(),
            task: Some(self.task),
            grace: Duration::from_secs(10),
        }
    }

    fn start(&self) -> Action {
        Action::Start {
            container: "c1".to_owned(),
            task: self.task,
        }
    }
}

fn container(id: &str, task: TaskId, status: ContainerStatus) -> ContainerSeen {
    ContainerSeen {
        id: id.to_owned(),
        task: Some(task),
        node: Some(ME),
        status,
    }
}

fn remove(id: &str) -> Action {
    Action::Remove {
        container: id.to_owned(),
    }
}

#[test]
fn a_new_task_is_run_and_a_created_container_started() {
    for state in [
        TaskState::Assigned,
        TaskState::Preparing,
        TaskState::Starting,
    ] {
        let story = Story::new(state);
        assert_eq!(story.see(&[]), vec![Action::Run(story.task)]);
        assert_eq!(story.see_one(ContainerStatus::Created), vec![story.start()]);
    }
}

#[test]
fn a_container_that_runs_is_told_of_once_its_check_passed() {
    let story = Story::new(TaskState::Assigned);
    let told = vec![Action::Report(story.told(TaskState::Running))];
    assert_eq!(story.see_one(RUNNING), told);
    assert_eq!(story.see_one(with_health(Health::Healthy)), told);
    assert_eq!(story.see_one(with_health(Health::Starting)), vec![]);
}

#[test]
fn a_container_that_runs_as_it_should_is_left_alone_also_right_after_a_start() {
    let mut story = Story::new(TaskState::Running);
    for (first_pass, caught_up) in [(true, false), (true, true), (false, true)] {
        story.memory.first_pass = first_pass;
        story.memory.caught_up = caught_up;
        for status in [
            RUNNING,
            with_health(Health::Healthy),
            with_health(Health::Starting),
            ContainerStatus::Paused,
        ] {
            assert_eq!(story.see_one(status), vec![]);
        }
    }
}

#[test]
fn an_end_is_told_with_its_reason() {
    let story = Story::with_spec(TaskState::Running, |spec| {
        spec.resources.limits.memory = Bytes(64 << 20);
    });
    let mut complete = story.told(TaskState::Complete);
    complete.exit_code = Some(0);
    let out_of_memory = ContainerStatus::Exited {
        code: 137,
        out_of_memory: true,
        at: START,
    };
    for (status, report) in [
        (exited(0), complete),
        (
            exited(3),
            story.failed("it ended with exit code 3", Some(3)),
        ),
        (
            exited(139),
            story.failed("it was ended by signal 11 (exit code 139)", Some(139)),
        ),
        (
            out_of_memory,
            story.failed("it ran out of memory: its limit is 64 MiB", Some(137)),
        ),
        (
            ContainerStatus::Dead,
            story.failed("the container engine lost its container", None),
        ),
    ] {
        assert_eq!(story.see_one(status), vec![Action::Report(report)]);
    }
    let gone = story.failed("its container is gone", None);
    assert_eq!(story.see(&[]), vec![Action::Report(gone)]);
}

#[test]
fn a_container_that_failed_its_check_is_told_of_and_stopped() {
    let story = Story::new(TaskState::Running);
    let report = Action::Report(story.failed("its health check failed", None));
    assert_eq!(
        story.see_one(with_health(Health::Unhealthy)),
        vec![report, story.stop()]
    );
}

#[test]
fn what_stopped_while_the_agent_was_away_is_started_again_under_its_own_name() {
    let mut story = Story::new(TaskState::Running);
    story.memory.first_pass = true;
    story.memory.caught_up = false;
    assert_eq!(story.see_one(exited(137)), vec![story.start()]);
    assert_eq!(story.see_one(exited(0)), vec![story.start()]);
    assert_eq!(story.see(&[]), vec![Action::Run(story.task)]);
}

#[test]
fn with_no_leader_to_tell_the_node_helps_itself_with_growing_waits() {
    let mut story = Story::new(TaskState::Running);
    let report = Action::Report(story.failed("it ended with exit code 1", Some(1)));
    story.remember(|known| known.unreported_for = Some(Duration::from_millis(4900)));
    assert_eq!(story.see_one(exited(1)), vec![report.clone()]);
    story.remember(|known| known.unreported_for = Some(Duration::from_secs(5)));
    assert_eq!(story.see_one(exited(1)), vec![story.start()]);
    story.remember(|known| {
        known.local_starts = 3;
        known.last_local_start = Some(START);
    });
    story.memory.now = START.saturating_add(Duration::from_secs(7));
    assert!(matches!(story.see_one(exited(1))[..], [Action::Report(_)]));
    story.memory.now = START.saturating_add(Duration::from_secs(8));
    assert_eq!(story.see_one(exited(1)), vec![story.start()]);
}

#[test]
fn restarts_without_a_leader_keep_to_the_service_s_policy() {
    for (condition, code, again) in [
        (RestartCondition::None, 1, false),
        (RestartCondition::OnFailure, 0, false),
        (RestartCondition::OnFailure, 1, true),
        (RestartCondition::Any, 0, true),
    ] {
        let mut story = Story::with_spec(TaskState::Running, |spec| {
            spec.restart.condition = condition
        });
        story.memory.first_pass = true;
        let started = story.see_one(exited(code)) == vec![story.start()];
        assert_eq!(started, again, "{condition:?} {code}");
    }
    let mut story = Story::with_spec(TaskState::Running, |spec| {
        spec.restart.max_attempts = Some(2)
    });
    story.remember(|known| {
        known.unreported_for = Some(Duration::from_secs(60));
        known.local_starts = 2;
    });
    assert!(matches!(story.see_one(exited(1))[..], [Action::Report(_)]));
}

#[test]
fn an_action_that_failed_is_told_until_the_leader_knows() {
    let mut story = Story::new(TaskState::Assigned);
    let mut verdict = story.failed("no such image: app:1", None);
    verdict.state = TaskState::Rejected;
    story.remember(|known| known.verdict = Some(verdict.clone()));
    let told = vec![Action::Report(verdict)];
    assert_eq!(story.see(&[]), told);
    assert_eq!(story.see_one(ContainerStatus::Created), told);
    // What is there counts more than a reply that said otherwise.
    let runs = vec![Action::Report(story.told(TaskState::Running))];
    assert_eq!(story.see_one(RUNNING), runs);
    story.remember(|known| known.unreported_for = Some(Duration::from_secs(9)));
    assert_eq!(story.see(&[]), vec![Action::Run(story.task)]);
}

#[test]
fn a_task_that_is_being_worked_on_is_left_alone() {
    let mut story = Story::new(TaskState::Running);
    story.remember(|known| known.busy = true);
    for seen in [
        vec![],
        vec![story.container(exited(1))],
        vec![story.container(ContainerStatus::Created)],
    ] {
        assert_eq!(story.see(&seen), vec![]);
    }
}

#[test]
fn a_task_that_is_to_shut_down_is_stopped_and_told_of() {
    let mut story = Story::with_spec(TaskState::Running, |spec| {
        spec.container.stop_grace = Some(Span::from_secs(30));
    });
    story.desire(Desired::Shutdown);
    let stop = Action::Stop {
        container: "c1".to_owned(),
        task: Some(story.task),
        grace: Duration::from_secs(30),
    };
    assert_eq!(story.see_one(RUNNING), vec![stop]);
    let mut report = story.told(TaskState::Shutdown);
    report.exit_code = Some(143);
    assert_eq!(story.see_one(exited(143)), vec![Action::Report(report)]);
    let report = story.told(TaskState::Shutdown);
    assert_eq!(story.see(&[]), vec![Action::Report(report.clone())]);
    assert_eq!(
        story.see_one(ContainerStatus::Created),
        vec![Action::Report(report)]
    );
    // Once the leader knows, the container goes.
    story.cluster.report(story.task, TaskState::Shutdown);
    assert_eq!(story.see_one(exited(143)), vec![remove("c1")]);
    assert_eq!(story.see(&[]), vec![]);
}

#[test]
fn a_task_that_is_to_go_is_stopped_removed_and_told_gone() {
    let mut story = Story::new(TaskState::Running);
    story
        .cluster
        .ok(Command::RemoveService { id: story.service });
    assert_eq!(story.see_one(RUNNING), vec![story.stop()]);
    assert_eq!(story.see_one(exited(0)), vec![remove("c1")]);
    assert_eq!(story.see_one(ContainerStatus::Removing), vec![]);
    let mut gone = story.told(TaskState::Shutdown);
    gone.gone = true;
    assert_eq!(story.see(&[]), vec![Action::Report(gone)]);
}

#[test]
fn an_orphan_is_cleaned_up_when_its_node_is_back() {
    let mut story = Story::new(TaskState::Running);
    let mut neighbor = crate::testing::new_node(2);
    neighbor.name = "other".to_owned();
    story.cluster.join(neighbor);
    story.cluster.set_status(ME, NodeStatus::Down);
    story.cluster.lead();
    story.cluster.set_status(ME, NodeStatus::Ready);
    assert_eq!(story.see_one(RUNNING), vec![story.stop()]);
    assert_eq!(story.see_one(exited(0)), vec![remove("c1")]);
    let [Action::Report(report)] = &story.see(&[])[..] else {
        panic!("not told");
    };
    assert!(report.gone && report.state == TaskState::Orphaned);
}

#[test]
fn the_newest_failure_of_a_seat_keeps_its_container_for_its_logs() {
    let mut story = Story::new(TaskState::Failed);
    assert_eq!(story.see_one(exited(1)), vec![]);
    story.cluster.advance(Duration::from_secs(2));
    story.cluster.lead();
    let second = story.cluster.live(story.service)[0].id;
    story.cluster.report(second, TaskState::Failed);
    let seen = [
        story.container(exited(1)),
        container("c2", second, exited(1)),
    ];
    assert_eq!(story.see(&seen), vec![remove("c1")]);
    // One that still runs is stopped first, whatever the leader was told.
    assert_eq!(story.see(&[container("c2", second, RUNNING)]).len(), 1);
}

#[test]
fn containers_of_unknown_tasks_are_touched_only_by_a_node_that_is_up_to_date() {
    let mut story = Story::new(TaskState::Running);
    let unknown = TaskId::from_bits(404);
    let known = story.container(RUNNING);
    let stranger = |status| [known.clone(), container("c9", unknown, status)];
    story.memory.caught_up = false;
    for status in [
        RUNNING,
        exited(0),
        ContainerStatus::Created,
        ContainerStatus::Dead,
    ] {
        assert_eq!(story.see(&stranger(status)), vec![]);
    }
    story.memory.caught_up = true;
    let stop = Action::Stop {
        container: "c9".to_owned(),
        task: None,
        grace: Duration::from_secs(10),
    };
    assert_eq!(story.see(&stranger(RUNNING)), vec![stop]);
    assert_eq!(story.see(&stranger(exited(0))), vec![remove("c9")]);
    story.memory.busy_containers.insert("c9".to_owned());
    assert_eq!(story.see(&stranger(exited(0))), vec![]);
}

#[test]
fn containers_that_say_nothing_about_a_task_are_never_touched() {
    let story = Story::new(TaskState::Running);
    let mut nameless = story.container(RUNNING);
    (nameless.id, nameless.task) = ("c9".to_owned(), None);
    assert_eq!(story.see(&[story.container(RUNNING), nameless]), vec![]);
}

#[test]
fn another_agent_s_containers_are_its_own_affair_until_it_is_gone() {
    let mut story = Story::new(TaskState::Running);
    story.cluster.join(crate::testing::new_node(2));
    let other = ContainerSeen {
        node: Some(node_id(2)),
        ..container("c9", TaskId::from_bits(404), RUNNING)
    };
    let seen = [story.container(RUNNING), other];
    assert_eq!(story.see(&seen), vec![]);
    story.cluster.set_status(node_id(2), NodeStatus::Left);
    assert_eq!(story.see(&seen).len(), 1);
    story.memory.caught_up = false;
    assert_eq!(story.see(&seen), vec![]);
}

#[test]
fn of_several_containers_of_a_task_the_one_that_runs_stays() {
    let story = Story::new(TaskState::Running);
    let seen = [
        container("c0", story.task, exited(1)),
        story.container(RUNNING),
        container("c2", story.task, ContainerStatus::Created),
    ];
    assert_eq!(story.see(&seen), vec![remove("c2"), remove("c0")]);
}
