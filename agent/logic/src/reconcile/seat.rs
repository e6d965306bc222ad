//! The tasks of one service, sorted into its seats.

use std::collections::BTreeMap;

use kawanan_api::{Revision, ServiceSpec};

use crate::place::meets_constraints;
use crate::state::{Availability, ClusterState, Desired, Rollout, Seat, Service, Task, TaskState};

/// One seat's tasks, each list with the newest first.
#[derive(Debug, Default)]
pub(super) struct SeatTasks<'a> {
    /// Meant to run and may.
    pub live: Vec<&'a Task>,
    /// Asked to stop, not stopped yet, on a node that is there.
    pub stopping: Vec<&'a Task>,
    /// Over, or lost with its node.
    pub past: Vec<&'a Task>,
}

/// A service with its tasks by seat, and what can be asked about them.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub state: &'a ClusterState,
    pub service: &'a Service,
    pub spec: &'a ServiceSpec,
    pub seats: BTreeMap<Seat, SeatTasks<'a>>,
    /// Whether tasks of a revision are up to date, by revision.
    current: BTreeMap<Revision, bool>,
}

/// How a task that is over came to its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Ended {
    /// Its node is gone.
    Lost,
    /// The leader wanted it so.
    Stopped,
    Complete,
    Failed,
    Rejected,
}

impl<'a> Work<'a> {
    pub fn new(state: &'a ClusterState, service: &'a Service, tasks: &[&'a Task]) -> Self {
        let mut seats: BTreeMap<Seat, SeatTasks<'a>> = BTreeMap::new();
        for &task in tasks {
            let seat = seats.entry(task.seat()).or_default();
            if task.state.is_final() || !state.node_is_ready(task.node) {
                seat.past.push(task);
            } else if task.is_live() {
                seat.live.push(task);
            } else {
                seat.stopping.push(task);
            }
        }
        for seat in seats.values_mut() {
            for list in [&mut seat.live, &mut seat.stopping, &mut seat.past] {
                list.sort_unstable_by_key(|task| std::cmp::Reverse((task.created_at, task.id)));
            }
        }
        let current = service
            .revisions
            .keys()
            .map(|revision| (*revision, service.is_current(*revision)))
            .collect();
        Self {
            state,
            service,
            spec: service.spec(),
            seats,
            current,
        }
    }

    /// Whether a task runs what the newest spec asks for.
    pub fn is_current(&self, task: &Task) -> bool {
        self.current
            .get(&task.spec_revision)
            .copied()
            .unwrap_or(false)
    }

    /// Whether a task was made by the rollout that is under way.
    pub fn is_of_rollout(&self, task: &Task) -> bool {
        matches!(&self.service.rollout, Rollout::Updating { since, .. } if task.spec_revision >= *since)
    }

    /// Whether two revisions make the same containers.
    pub fn same_containers(&self, one: Revision, other: Revision) -> bool {
        one == other
            || match (
                self.service.revisions.get(&one),
                self.service.revisions.get(&other),
            ) {
                (Some(one), Some(other)) => one.same_task_as(other),
                _ => false,
            }
    }

    pub fn spec_of(&self, revision: Revision) -> &'a ServiceSpec {
        self.service
            .revisions
            .get(&revision)
            .map_or(self.spec, |spec| spec)
    }

    /// Whether a task may stay where it is: its node is not being emptied and meets the constraints.
    pub fn is_well_placed(&self, task: &Task) -> bool {
        self.state.nodes.get(&task.node).is_some_and(|node| {
            node.is_ready()
                && node.availability != Availability::Drain
                && meets_constraints(node, &self.spec.placement)
        })
    }

    /// Whether a task stayed up long enough to count as good, now or before it ended.
    pub fn has_proven_itself(&self, task: &Task, until: kawanan_api::Timestamp) -> bool {
        let end = if task.state.is_final() {
            task.state_at
        } else {
            until
        };
        let monitor = self.spec.update.monitor.duration();
        task.running_since
            .is_some_and(|since| end.since(since) >= monitor)
    }

    /// How a task of a seat's past came to its end.
    pub fn ended(&self, task: &Task) -> Ended {
        match task.state {
            TaskState::Orphaned => Ended::Lost,
            state if !state.is_final() => Ended::Lost,
            _ if task.desired != Desired::Running => Ended::Stopped,
            TaskState::Complete => Ended::Complete,
            TaskState::Rejected => Ended::Rejected,
            TaskState::Shutdown => Ended::Stopped,
            _ => Ended::Failed,
        }
    }
}

impl<'a> SeatTasks<'a> {
    pub fn all(&self) -> impl Iterator<Item = &'a Task> {
        let lists = [&self.live, &self.stopping, &self.past];
        lists.into_iter().flatten().copied()
    }

    /// Whether the seat belongs to the service as it is: something lives in it, or the last that did was not taken
    /// out of it for good.
    pub fn is_held(&self) -> bool {
        if !self.live.is_empty() {
            return true;
        }
        let newest = self
            .stopping
            .iter()
            .chain(&self.past)
            .max_by_key(|task| (task.created_at, task.id));
        newest.is_some_and(|task| {
            task.desired != Desired::Remove || task.state == TaskState::Orphaned
        })
    }
}
