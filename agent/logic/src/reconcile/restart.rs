//! Seats whose task is over: when the next one may start, and where it had better run.
//!
//! A task that failed is tried again on its own node at first (its image and data are there), then elsewhere; one
//! that its node rejected is tried elsewhere at once. Each failure in a row doubles the wait. What was lost with a
//! node or stopped by the leader is no failure and waits for nothing.

use std::collections::BTreeSet;
use std::time::Duration;

use kawanan_api::spec::{MountKind, RestartCondition, UpdateOrder};
use kawanan_api::{Revision, ServiceSpec, Timestamp};

use super::Why;
use super::seat::{Ended, SeatTasks};
use super::service::{Keeper, Start};
use crate::place::Wish;
use crate::state::{Rollout, Seat, Task, TaskState};

/// A task that ran this long and then failed starts a new row of failures.
pub(super) const STAYED_UP: Duration = Duration::from_secs(30);
/// The longest wait before a restart, unless the user's own delay is longer.
const BACKOFF_MAX: Duration = Duration::from_secs(60);
/// Failures on one node after which another one is preferred.
const FAILURES_BEFORE_MOVING: usize = 3;

/// Whether a seat gets another task.
#[derive(Debug, Clone)]
pub(super) enum Attempt {
    Now(Start),
    Later {
        until: Timestamp,
        error: Option<String>,
    },
    /// It did what it was there for.
    Over,
    GaveUp {
        failures: u32,
        error: Option<String>,
    },
}

impl Keeper<'_, '_> {
    /// Fills a seat that has no living task.
    pub(super) fn refill(&mut self, seat: Seat, tasks: &SeatTasks<'_, '_>) {
        let stop_first = self.work.spec.update.order == UpdateOrder::StopFirst;
        if stop_first && !tasks.stopping.is_empty() {
            return;
        }
        let revision = self.revision_for(tasks);
        match self.attempt(tasks, revision) {
            Attempt::Now(start) => {
                if let Err(why) = self.create(seat, revision, &start) {
                    self.wait(seat, None, Why::NoPlace(why));
                }
            }
            Attempt::Later { until, error } => {
                self.wait(seat, None, Why::BackOff { until, error });
            }
            Attempt::Over => {}
            Attempt::GaveUp { failures, error } => {
                self.give_up_rollout(tasks, failures);
                self.wait(seat, None, Why::GaveUp { failures, error });
            }
        }
    }

    /// Whether and how a task of this revision may start in this seat, going by those of its kind that were there.
    pub(super) fn attempt(&mut self, tasks: &SeatTasks<'_, '_>, revision: Revision) -> Attempt {
        let work = self.work;
        // A user who starts a rollout, or resumes one, starts the counting anew.
        let updating = !self.paused && matches!(work.service.rollout, Rollout::Updating { .. });
        let alike: Vec<&Task> = tasks
            .past
            .iter()
            .copied()
            .filter(|task| work.same_containers(task.spec_revision, revision))
            .filter(|task| !updating || work.is_of_rollout(task))
            .collect();
        let last = match alike.first() {
            Some(last) => *last,
            None => return Attempt::Now(self.fresh(tasks, revision)),
        };
        let ended = work.ended(last);
        if matches!(ended, Ended::Lost | Ended::Stopped) {
            return Attempt::Now(self.fresh(tasks, revision));
        }
        let policy = &work.spec.restart;
        match (policy.condition, ended) {
            (RestartCondition::None | RestartCondition::OnFailure, Ended::Complete) => {
                return Attempt::Over;
            }
            (RestartCondition::None, _) => {
                return Attempt::GaveUp {
                    failures: 1,
                    error: last.error.clone(),
                };
            }
            _ => {}
        }
        let failures = failures(&alike, last, policy.window.duration());
        if policy.max_attempts.is_some_and(|max| failures >= max) {
            return Attempt::GaveUp {
                failures,
                error: last.error.clone(),
            };
        }
        let stayed_up = stayed_up(last);
        let in_a_row = if stayed_up { 0 } else { last.attempt };
        let wait = backoff(policy.delay.duration(), in_a_row);
        let not_before = last.state_at.saturating_add(wait);
        if !self.draft.has_passed(last.state_at, wait) {
            return Attempt::Later {
                until: not_before,
                error: last.error.clone(),
            };
        }
        Attempt::Now(Start {
            attempt: if stayed_up {
                0
            } else {
                last.attempt.saturating_add(1)
            },
            not_before,
            wish: wish_after(&alike, last),
        })
    }

    /// A first attempt. Named volumes are on one node only, so a task that has some goes where the last one was.
    fn fresh(&self, tasks: &SeatTasks<'_, '_>, revision: Revision) -> Start {
        let before = tasks.stopping.first().or(tasks.past.first());
        let before = before.or(tasks.live.first());
        let prefer = before
            .filter(|_| keeps_data(self.work.spec_of(revision)))
            .map(|task| task.node);
        Start {
            attempt: 0,
            not_before: self.draft.now,
            wish: Wish {
                prefer,
                avoid: BTreeSet::new(),
            },
        }
    }
}

fn keeps_data(spec: &ServiceSpec) -> bool {
    spec.container.mounts.iter().any(|mount| {
        matches!(
            mount.kind,
            MountKind::Volume { name: Some(_) } | MountKind::Bind { .. }
        )
    })
}

fn stayed_up(task: &Task) -> bool {
    task.running_since
        .is_some_and(|since| task.state_at.since(since) >= STAYED_UP)
}

/// Whether a task ended in a way that makes the leader start another one in its place.
pub(super) fn is_failure(task: &Task) -> bool {
    matches!(
        task.state,
        TaskState::Failed | TaskState::Rejected | TaskState::Complete
    )
}

/// Failures that count against the seat: those within the window before the last one, or all of them.
fn failures(alike: &[&Task], last: &Task, window: Duration) -> u32 {
    let counted = alike.iter().filter(|task| {
        is_failure(task) && (window.is_zero() || last.state_at.since(task.state_at) <= window)
    });
    let counted = u32::try_from(counted.count()).unwrap_or(u32::MAX);
    // History is short; the row of failures that each task carries is not.
    if window.is_zero() {
        counted.max(last.attempt.saturating_add(1))
    } else {
        counted
    }
}

fn backoff(delay: Duration, failures_before: u32) -> Duration {
    let doubled = delay.saturating_mul(1 << failures_before.min(16));
    doubled.min(BACKOFF_MAX.max(delay))
}

fn wish_after(alike: &[&Task], last: &Task) -> Wish {
    let failed_on = |node| {
        alike
            .iter()
            .filter(move |task| task.node == node && task.state == TaskState::Failed)
            .filter(|task| !stayed_up(task))
            .count()
    };
    let rejected_on = |node| {
        alike
            .iter()
            .any(|task| task.node == node && task.state == TaskState::Rejected)
    };
    let avoid: BTreeSet<_> = alike
        .iter()
        .map(|task| task.node)
        .filter(|node| rejected_on(*node) || failed_on(*node) >= FAILURES_BEFORE_MOVING)
        .collect();
    Wish {
        prefer: (!avoid.contains(&last.node)).then_some(last.node),
        avoid,
    }
}
