//! The tasks of one service, sorted into its seats.

use std::cmp::Reverse;
use std::ops::Range;

use kawanan_api::{Revision, ServiceSpec, Timestamp};

use crate::place::meets_constraints;
use crate::state::{Availability, ClusterState, Desired, Rollout, Seat, Service, Task, TaskState};

/// One seat's tasks, each list with the newest first.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct SeatTasks<'w, 'a> {
    /// Meant to run and may.
    pub live: &'w [&'a Task],
    /// Asked to stop, not stopped yet, on a node that is there.
    pub stopping: &'w [&'a Task],
    /// Over, or lost with its node.
    pub past: &'w [&'a Task],
}

/// A service with its tasks by seat, and what can be asked about them.
#[derive(Debug)]
pub(super) struct Work<'a> {
    pub state: &'a ClusterState,
    pub service: &'a Service,
    pub spec: &'a ServiceSpec,
    /// By seat, within a seat by part, within a part the newest first.
    tasks: Vec<&'a Task>,
    seats: Vec<(Seat, SeatRange)>,
    /// Whether tasks of a revision are up to date. There are two or three revisions.
    current: Vec<(Revision, bool)>,
}

/// Where in the list of all tasks a seat's are.
#[derive(Debug, Clone)]
struct SeatRange {
    live: Range<usize>,
    stopping: Range<usize>,
    past: Range<usize>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Part {
    Live,
    Stopping,
    Past,
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
        let part = |task: &Task| {
            if task.state.is_final() || !state.node_is_ready(task.node) {
                Part::Past
            } else if task.is_live() {
                Part::Live
            } else {
                Part::Stopping
            }
        };
        let mut sorted: Vec<_> = tasks
            .iter()
            .map(|task| {
                let age = Reverse((task.created_at, task.id));
                ((task.seat(), part(task), age), *task)
            })
            .collect();
        sorted.sort_unstable_by_key(|(place, _)| *place);
        let mut seats = Vec::new();
        let mut start = 0;
        for group in sorted.chunk_by(|((one, ..), _), ((other, ..), _)| one == other) {
            let ((seat, ..), _) = group[0];
            let count = |wanted| {
                group
                    .iter()
                    .filter(|((_, part, _), _)| *part == wanted)
                    .count()
            };
            let stopping = start + count(Part::Live);
            let past = stopping + count(Part::Stopping);
            let end = start + group.len();
            let range = SeatRange {
                live: start..stopping,
                stopping: stopping..past,
                past: past..end,
            };
            seats.push((seat, range));
            start = end;
        }
        let revisions = service.revisions.keys();
        Self {
            state,
            service,
            spec: service.spec(),
            tasks: sorted.into_iter().map(|(_, task)| task).collect(),
            seats,
            current: revisions
                .map(|revision| (*revision, service.is_current(*revision)))
                .collect(),
        }
    }

    /// All seats that have tasks, in their order.
    pub fn seats(&self) -> impl Iterator<Item = (Seat, SeatTasks<'_, 'a>)> {
        self.seats
            .iter()
            .map(|(seat, range)| (*seat, self.tasks_in(range)))
    }

    /// The tasks of one seat, maybe none.
    pub fn seat(&self, seat: Seat) -> SeatTasks<'_, 'a> {
        self.seats
            .binary_search_by_key(&seat, |(known, _)| *known)
            .map_or_else(
                |_| SeatTasks::default(),
                |at| self.tasks_in(&self.seats[at].1),
            )
    }

    fn tasks_in(&self, range: &SeatRange) -> SeatTasks<'_, 'a> {
        SeatTasks {
            live: &self.tasks[range.live.clone()],
            stopping: &self.tasks[range.stopping.clone()],
            past: &self.tasks[range.past.clone()],
        }
    }

    /// Whether a task runs what the newest spec asks for.
    pub fn is_current(&self, task: &Task) -> bool {
        self.current.contains(&(task.spec_revision, true))
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
    pub fn has_proven_itself(&self, task: &Task, until: Timestamp) -> bool {
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

impl<'a> SeatTasks<'_, 'a> {
    pub fn all(&self) -> impl Iterator<Item = &'a Task> {
        let lists = [self.live, self.stopping, self.past];
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
            .chain(self.past)
            .max_by_key(|task| (task.created_at, task.id));
        newest.is_some_and(|task| {
            task.desired != Desired::Remove || task.state == TaskState::Orphaned
        })
    }
}
