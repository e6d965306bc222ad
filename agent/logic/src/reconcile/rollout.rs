//! Replacing outdated tasks, a batch at a time.
//!
//! A seat is in flight from the first step of its change until its new task has stayed up for the monitoring time;
//! at most `parallelism` seats are in flight. Starting first, the old task stops only after that time, so a version
//! that dies at once costs no capacity. Too many failures pause the rollout: what runs goes on running.

use std::sync::Arc;

use kawanan_api::Timestamp;
use kawanan_api::spec::{RestartCondition, UpdateOrder};

use super::restart::{Attempt, is_failure};
use super::seat::{Ended, SeatTasks, Work};
use super::service::Keeper;
use super::{Draft, Why};
use crate::command::TaskChange;
use crate::place::NoPlacement;
use crate::state::{Rollout, Seat, Task, TaskState};

/// How far a rollout has come.
#[derive(Debug, Default)]
pub(super) struct Progress {
    in_flight: u32,
    /// Seats with an outdated task that nothing was done about yet.
    untouched: Vec<Seat>,
    /// Seats whose outdated task goes on because the new one failed.
    failing: Vec<Seat>,
    /// Whether something outdated still runs, anywhere.
    unfinished: bool,
    /// When the last new task had stayed up long enough.
    last_good: Option<Timestamp>,
    /// Why the rollout must stop: too many new tasks failed.
    pub failed: Option<String>,
}

impl Progress {
    pub fn look(work: &Work<'_>, wanted: &[Seat], draft: &mut Draft) -> Self {
        let mut progress = Self::default();
        if !matches!(work.service.rollout, Rollout::Updating { .. }) {
            return progress;
        }
        for &seat in wanted {
            progress.add(work, seat, &work.seat(seat), draft);
        }
        progress.failed = too_many_failures(work, wanted);
        progress
    }

    fn add(&mut self, work: &Work<'_>, seat: Seat, tasks: &SeatTasks<'_, '_>, draft: &mut Draft) {
        match tasks.live {
            [] => self.in_flight += u32::from(changes_while_empty(work, tasks)),
            [only] if work.is_of_rollout(only) => self.watch(work, only, draft),
            [only] if work.is_current(only) => {}
            [only] => {
                self.unfinished = true;
                if !work.is_well_placed(only) {
                    // It is moved off its node, and gets the new spec with that.
                } else if tasks.past.iter().any(|task| is_failed_try(work, task)) {
                    self.in_flight += 1;
                    self.failing.push(seat);
                } else {
                    self.untouched.push(seat);
                }
            }
            several => {
                let outdated = several.iter().any(|task| !work.is_current(task));
                self.unfinished |= outdated;
                if outdated {
                    self.in_flight += 1;
                } else if let Some(newest) = several.iter().find(|task| work.is_of_rollout(task)) {
                    self.watch(work, newest, draft);
                }
            }
        }
    }

    fn watch(&mut self, work: &Work<'_>, task: &Task, draft: &mut Draft) {
        let monitor = work.spec.update.monitor.duration();
        match task.running_since {
            Some(since) if draft.has_passed(since, monitor) => {
                self.last_good = self.last_good.max(Some(since.saturating_add(monitor)));
            }
            _ => self.in_flight += 1,
        }
    }
}

/// Whether an empty seat is in the middle of its change: the old task was stopped for the new one, or that one failed
/// and will be tried again.
fn changes_while_empty(work: &Work<'_>, tasks: &SeatTasks<'_, '_>) -> bool {
    if let Some(stopping) = tasks.stopping.first() {
        return !work.is_current(stopping);
    }
    tasks.past.first().is_some_and(|last| {
        if work.is_of_rollout(last) {
            is_failed_try(work, last)
        } else {
            !work.is_current(last) && work.ended(last) == Ended::Stopped
        }
    })
}

/// Whether a task of this rollout failed before it had proven itself.
fn is_failed_try(work: &Work<'_>, task: &Task) -> bool {
    let ends_well =
        task.state == TaskState::Complete && work.spec.restart.condition != RestartCondition::Any;
    work.is_of_rollout(task)
        && is_failure(task)
        && !ends_well
        && !work.has_proven_itself(task, task.state_at)
}

fn too_many_failures(work: &Work<'_>, wanted: &[Seat]) -> Option<String> {
    let failed: Vec<&Task> = wanted
        .iter()
        .map(|seat| work.seat(*seat))
        .flat_map(|tasks| tasks.past)
        .copied()
        .filter(|task| is_failed_try(work, task))
        .collect();
    let allowed = usize::try_from(work.spec.update.max_failures.max(1)).unwrap_or(usize::MAX);
    let last = failed.iter().max_by_key(|task| (task.state_at, task.id))?;
    (failed.len() >= allowed).then(|| told(work, failed.len(), last))
}

fn told(work: &Work<'_>, failures: usize, last: &Task) -> String {
    let node = work.state.node_name(last.node);
    let many = match failures {
        1 => format!("a new task failed, on node {node}"),
        _ => format!("{failures} new tasks failed, the last one on node {node}"),
    };
    match &last.error {
        Some(error) => format!("{many}: {error}"),
        None => many,
    }
}

impl Keeper<'_, '_> {
    pub(super) fn roll_out(&mut self, progress: &Progress) {
        if !matches!(self.work.service.rollout, Rollout::Updating { .. }) {
            return;
        }
        if self.failed.is_none() {
            self.retry(&progress.failing);
        }
        if let Some(reason) = self.failed.take() {
            self.set_rollout(Rollout::Paused {
                at: self.draft.now,
                reason,
            });
            return;
        }
        if progress.in_flight == 0 && !progress.unfinished {
            self.set_rollout(Rollout::Steady);
            return;
        }
        self.next_batch(progress);
    }

    fn set_rollout(&mut self, rollout: Rollout) {
        self.draft.push(TaskChange::SetRollout {
            service: self.work.service.id,
            spec_revision: self.work.service.spec_revision,
            rollout,
        });
    }

    /// Tries again where the new task failed beside the old one.
    fn retry(&mut self, failing: &[Seat]) {
        let revision = self.work.service.spec_revision;
        for &seat in failing {
            let tasks = &self.work.seat(seat);
            let old = tasks.live.first().copied();
            match self.attempt(tasks, revision) {
                Attempt::Now(start) => {
                    if let Err(why) = self.create(seat, revision, &start) {
                        self.wait(seat, old, Why::NoPlace(why));
                    }
                }
                Attempt::Later { until, error } => {
                    self.wait(seat, old, Why::BackOff { until, error });
                }
                Attempt::Over => {
                    if let Some(old) = old {
                        self.stop(old);
                    }
                }
                Attempt::GaveUp { failures, .. } => self.give_up_rollout(tasks, failures),
            }
        }
    }

    /// A seat in which no further attempt is made stops the rollout that it belongs to.
    pub(super) fn give_up_rollout(&mut self, tasks: &SeatTasks<'_, '_>, failures: u32) {
        let failed = tasks
            .past
            .iter()
            .find(|task| is_failed_try(self.work, task));
        if let Some(last) = failed {
            let failures = usize::try_from(failures).unwrap_or(usize::MAX);
            self.failed = Some(told(self.work, failures, last));
        }
    }

    fn next_batch(&mut self, progress: &Progress) {
        let policy = &self.work.spec.update;
        let mut in_flight = progress.in_flight;
        let delay = policy.delay.duration();
        if !delay.is_zero() {
            let last_good = progress.last_good.unwrap_or_default();
            if in_flight > 0 || !self.draft.has_passed(last_good, delay) {
                return;
            }
        }
        for &seat in &progress.untouched {
            if in_flight >= policy.parallelism.max(1) || self.draft.is_full() {
                return;
            }
            let tasks = self.work.seat(seat);
            if let Some(old) = tasks.live.first() {
                self.replace(seat, &tasks, old);
                in_flight += 1;
            }
        }
    }

    /// Takes the first step of a seat's change. A seat that cannot be changed counts as in flight all the same:
    /// what has no place once will have none in the next seat, and the user should see it before half is gone.
    fn replace(&mut self, seat: Seat, tasks: &SeatTasks<'_, '_>, old: &Task) {
        let revision = self.work.service.spec_revision;
        let placed = match self.work.spec.update.order {
            UpdateOrder::StartFirst => {
                let start = match self.attempt(tasks, revision) {
                    Attempt::Now(start) => start,
                    _ => return,
                };
                self.create(seat, revision, &start)
            }
            UpdateOrder::StopFirst => self.fits_without(seat, old).map(|()| self.stop(old)),
        };
        let Err(why) = placed else { return };
        // No place beside the old task: its port or its memory is what the new one needs.
        let spec = self.work.spec_of(revision);
        let old_spec = self.work.spec_of(old.spec_revision);
        if self.placer().fits_after(old, old_spec, spec) {
            self.stop(old);
        } else {
            self.wait(seat, Some(old), Why::NoPlace(why));
        }
    }

    fn fits_without(&mut self, seat: Seat, old: &Task) -> Result<(), Arc<NoPlacement>> {
        let revision = self.work.service.spec_revision;
        let spec = self.work.spec_of(revision);
        match seat {
            Seat::Slot(_) => self.placer().fits(revision, spec),
            Seat::Node(_) => {
                let old_spec = self.work.spec_of(old.spec_revision);
                if self.placer().fits_after(old, old_spec, spec) {
                    return Ok(());
                }
                Err(self.placer().why_not_on(old.node, spec))
            }
        }
    }
}
