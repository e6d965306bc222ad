//! One node's step: what to do so that its containers become what the state wants of this node.
//!
//! Pure and without memory of its own: [`converge`] looks at the tasks of this node and at the containers that the
//! engine shows, and returns actions. It is asked again after each of them, so it never plans ahead; one container
//! gets at most one action at a time, and those of tasks that are being worked on get none.
//!
//! What it must never do: stop a container because something is unknown. Containers of tasks that the state lacks are
//! touched only once the state is known to be up to date, and containers without a task's label never.

mod ending;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::{NodeId, ServiceId, TaskId, Timestamp};

use crate::command::TaskReport;
use crate::state::{ClusterState, Desired, Seat, Task, TaskState};

/// Docker's own grace for containers that nobody gave another.
pub const STOP_GRACE_DEFAULT: Duration = Duration::from_secs(10);
/// How long a report may find no leader before the node helps itself.
pub const UNREPORTED_MAX: Duration = Duration::from_secs(5);

/// A container with our cluster's label, as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerSeen {
    /// The engine's id for it.
    pub id: String,
    /// From its labels; `None` when they cannot be read.
    pub task: Option<TaskId>,
    /// The node that made it, from its labels. Two agents may share an engine.
    pub node: Option<NodeId>,
    pub status: ContainerStatus,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ContainerStatus {
    Created,
    Running {
        health: Health,
        started_at: Timestamp,
    },
    Paused,
    Exited {
        code: i32,
        out_of_memory: bool,
        at: Timestamp,
    },
    Removing,
    Dead,
}

/// What the container's health check says, be it the spec's or the image's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// There is no check.
    Unchecked,
    /// It has not passed yet.
    Starting,
    Healthy,
    Unhealthy,
}

/// What the node knows beside the state and the containers. The caller keeps it between passes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NodeMemory {
    pub now: Timestamp,
    /// The state is at least as new as the cluster was when this agent started: what it lacks is really gone.
    pub caught_up: bool,
    /// The first pass after the agent's start: what stopped meanwhile is started again without asking.
    pub first_pass: bool,
    pub tasks: BTreeMap<TaskId, TaskMemory>,
    /// Containers of unknown tasks that are being worked on.
    pub busy_containers: BTreeSet<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TaskMemory {
    /// An action on the task is under way.
    pub busy: bool,
    /// How an action on it failed; forgotten with the next `Run` or `Start`.
    pub verdict: Option<TaskReport>,
    /// For how long the report of its end has not reached a leader.
    pub unreported_for: Option<Duration>,
    /// Times that this node started it again by itself, and when it last did.
    pub local_starts: u32,
    pub last_local_start: Option<Timestamp>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Pull the image, create the container, start it. Doing it twice makes one container.
    Run(TaskId),
    Start {
        container: String,
        task: TaskId,
    },
    /// Ask it to stop, and end it after the grace.
    Stop {
        container: String,
        task: Option<TaskId>,
        grace: Duration,
    },
    /// Delete a container that does not run.
    Remove {
        container: String,
    },
    /// Tell the leader. Repeated in every pass until the state shows it.
    Report(TaskReport),
}

/// What this node should do now.
pub fn converge(
    me: NodeId,
    state: &ClusterState,
    seen: &[ContainerSeen],
    memory: &NodeMemory,
) -> Vec<Action> {
    let mut step = Step {
        state,
        memory,
        actions: Vec::new(),
    };
    let mut of_task: BTreeMap<TaskId, Vec<&ContainerSeen>> = BTreeMap::new();
    for container in seen {
        let mine = container.node.is_none_or(|node| node == me);
        match container.task {
            Some(task) if mine => of_task.entry(task).or_default().push(container),
            Some(task) => step.of_other_node(container, task),
            None => {}
        }
    }
    let tasks: Vec<&Task> = state.tasks_on(me).map(|task| &**task).collect();
    let for_logs = kept_for_logs(&tasks);
    for task in &tasks {
        let containers = of_task.remove(&task.id).unwrap_or_default();
        if !memory.tasks.get(&task.id).is_some_and(|known| known.busy) {
            step.task(task, containers, for_logs.contains(&task.id));
        }
    }
    for (task, containers) in of_task {
        // A task of another node with our label is nothing that we made: tasks never move.
        if memory.caught_up && !state.tasks.contains_key(&task) {
            for container in containers {
                step.retire(container, None, STOP_GRACE_DEFAULT);
            }
        }
    }
    step.actions
}

/// The newest task of each seat that ended by itself: its container stays, so that its logs can be read.
fn kept_for_logs(tasks: &[&Task]) -> BTreeSet<TaskId> {
    let mut newest: BTreeMap<(ServiceId, Seat), &Task> = BTreeMap::new();
    let ended_alone = |task: &&&Task| {
        matches!(task.state, TaskState::Failed | TaskState::Complete)
            && task.desired != Desired::Remove
    };
    for task in tasks.iter().filter(ended_alone) {
        let kept = newest.entry((task.service, task.seat())).or_insert(task);
        if (kept.created_at, kept.id) < (task.created_at, task.id) {
            *kept = task;
        }
    }
    newest.values().map(|task| task.id).collect()
}

/// Actions in the making.
struct Step<'s> {
    state: &'s ClusterState,
    memory: &'s NodeMemory,
    actions: Vec<Action>,
}

impl Step<'_> {
    fn task(&mut self, task: &Task, mut containers: Vec<&ContainerSeen>, for_logs: bool) {
        // One task has one container. Should there be more, the one that got furthest stays.
        containers.sort_by_key(|container| (rank(container.status), container.id.clone()));
        let container = containers.pop();
        for surplus in containers {
            self.retire(surplus, Some(task.id), self.grace(task));
        }
        match (task.desired, task.state.is_final()) {
            (Desired::Remove, _) => self.remove(task, container),
            (Desired::Shutdown, false) => self.shut_down(task, container),
            (Desired::Running, false) => self.keep_running(task, container),
            (Desired::Shutdown | Desired::Running, true) => {
                if let Some(container) = container
                    && (is_up(container.status) || !for_logs)
                {
                    self.retire(container, Some(task.id), self.grace(task));
                }
            }
        }
    }

    fn remove(&mut self, task: &Task, container: Option<&ContainerSeen>) {
        match container {
            Some(container) => self.retire(container, Some(task.id), self.grace(task)),
            None => {
                let mut report = self.report(task, task.state.max(TaskState::Shutdown));
                report.gone = true;
                self.actions.push(Action::Report(report));
            }
        }
    }

    fn shut_down(&mut self, task: &Task, container: Option<&ContainerSeen>) {
        match container.map(|container| (container, container.status)) {
            Some((container, status)) if is_up(status) => {
                self.retire(container, Some(task.id), self.grace(task));
            }
            Some((_, ContainerStatus::Exited { code, at, .. })) => {
                let mut report = self.report(task, TaskState::Shutdown);
                report.exit_code = Some(code);
                report.at = at;
                self.actions.push(Action::Report(report));
            }
            _ => {
                let report = self.report(task, TaskState::Shutdown);
                self.actions.push(Action::Report(report));
            }
        }
    }

    /// A task that should run: start it, tell that it runs, or see what became of it.
    fn keep_running(&mut self, task: &Task, container: Option<&ContainerSeen>) {
        let nothing = TaskMemory::default();
        let known = self.memory.tasks.get(&task.id).unwrap_or(&nothing);
        let Some(container) = container else {
            return self.without_container(task, known);
        };
        match container.status {
            ContainerStatus::Running {
                health: Health::Unhealthy,
                ..
            } => {
                let mut report = self.report(task, TaskState::Failed);
                report.error = Some("its health check failed".to_owned());
                self.actions.push(Action::Report(report));
                self.retire(container, Some(task.id), self.grace(task));
            }
            ContainerStatus::Running {
                health: Health::Unchecked | Health::Healthy,
                started_at,
            } => {
                if task.state < TaskState::Running {
                    let mut report = self.report(task, TaskState::Running);
                    report.at = started_at;
                    self.actions.push(Action::Report(report));
                }
            }
            ContainerStatus::Created if known.verdict.is_none() => self.start(task, container),
            ContainerStatus::Created | ContainerStatus::Exited { .. } | ContainerStatus::Dead => {
                self.ended(task, container, known);
            }
            // Somebody paused it by hand, or its check has not passed yet, or the engine is at work.
            ContainerStatus::Running { .. }
            | ContainerStatus::Paused
            | ContainerStatus::Removing => {}
        }
    }

    fn without_container(&mut self, task: &Task, known: &TaskMemory) {
        let report = known.verdict.clone().or_else(|| {
            (task.state == TaskState::Running).then(|| {
                let mut report = self.report(task, TaskState::Failed);
                report.error = Some("its container is gone".to_owned());
                report
            })
        });
        match report {
            Some(report) if !ending::starts_again_here(self.state, task, &report, self.memory) => {
                self.actions.push(Action::Report(report));
            }
            _ => self.actions.push(Action::Run(task.id)),
        }
    }

    fn ended(&mut self, task: &Task, container: &ContainerSeen, known: &TaskMemory) {
        let report = known.verdict.clone().unwrap_or_else(|| {
            let ended = self.report(task, TaskState::Failed);
            ending::told(self.state, task, container.status, ended)
        });
        if container.status == ContainerStatus::Dead
            || !ending::starts_again_here(self.state, task, &report, self.memory)
        {
            self.actions.push(Action::Report(report));
        } else {
            self.start(task, container);
        }
    }

    fn start(&mut self, task: &Task, container: &ContainerSeen) {
        self.actions.push(Action::Start {
            container: container.id.clone(),
            task: task.id,
        });
    }

    /// Takes a container one step further towards being gone.
    fn retire(&mut self, container: &ContainerSeen, task: Option<TaskId>, grace: Duration) {
        if self.memory.busy_containers.contains(&container.id) {
            return;
        }
        let id = container.id.clone();
        self.actions.push(match container.status {
            status if is_up(status) => Action::Stop {
                container: id,
                task,
                grace,
            },
            ContainerStatus::Removing => return,
            _ => Action::Remove { container: id },
        });
    }

    /// A container that another node's agent made on this engine. That agent looks after it, unless it is gone from
    /// the cluster or down, and the task with it: then nobody else would ever clean up.
    fn of_other_node(&mut self, container: &ContainerSeen, task: TaskId) {
        let ended = self
            .state
            .tasks
            .get(&task)
            .is_none_or(|task| task.state.is_final());
        let abandoned = container
            .node
            .is_some_and(|node| !self.state.node_is_ready(node));
        if self.memory.caught_up && ended && abandoned {
            self.retire(container, None, STOP_GRACE_DEFAULT);
        }
    }

    fn report(&self, task: &Task, state: TaskState) -> TaskReport {
        TaskReport {
            task: task.id,
            state,
            at: self.memory.now,
            error: None,
            exit_code: None,
            gone: false,
        }
    }

    fn grace(&self, task: &Task) -> Duration {
        self.state
            .spec_of(task)
            .and_then(|spec| spec.container.stop_grace)
            .map_or(STOP_GRACE_DEFAULT, |grace| grace.duration())
    }
}

fn is_up(status: ContainerStatus) -> bool {
    matches!(
        status,
        ContainerStatus::Running { .. } | ContainerStatus::Paused
    )
}

fn rank(status: ContainerStatus) -> u8 {
    match status {
        ContainerStatus::Removing => 0,
        ContainerStatus::Dead => 1,
        ContainerStatus::Created => 2,
        ContainerStatus::Exited { .. } => 3,
        ContainerStatus::Paused => 4,
        ContainerStatus::Running { .. } => 5,
    }
}
