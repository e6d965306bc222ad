//! Whether a service has become what was asked for. Pure: events and the time go in, a verdict comes out.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::views::{ProgressEvent, RolloutState, SeatView, TaskState, WaitsFor};
use kawanan_api::{Revision, TaskId};
use tokio::time::Instant;

/// How long tasks stay without a place before that counts: a node may just be coming back.
const PLACING_PATIENCE: Duration = Duration::from_secs(3);
/// How long a cluster may be without a leader: elections take one or two seconds.
const LEADER_PATIENCE: Duration = Duration::from_secs(15);
/// How long a task that ended may lie there before it counts as given up.
const RESTART_PATIENCE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// Not yet.
    Wait,
    /// Everything runs, and has run long enough to count. `took` is until everything ran.
    Converged {
        took: Duration,
        stable: Duration,
    },
    /// New tasks fail.
    Failed {
        why: String,
        rollout_paused: bool,
    },
    /// The rest has no place.
    Unplaceable {
        why: String,
    },
    NoLeader,
    TimedOut,
    Removed,
}

pub struct Judge {
    started: Instant,
    /// Pictures from before the write are not looked at.
    written: Revision,
    timeout: Option<Duration>,
    /// Failures from before the write do not count, if the write did not make other containers.
    same_containers: bool,
    ended_before: Option<BTreeMap<String, u32>>,
    /// When each task was first seen running; `None` for those that had proven themselves by then.
    running_from: BTreeMap<TaskId, Option<Instant>>,
    all_ran_at: Option<Instant>,
    unplaced_from: Option<Instant>,
    leaderless_from: Option<Instant>,
    given_up_from: Option<Instant>,
}

impl Judge {
    pub fn new(
        started: Instant,
        written: Revision,
        timeout: Option<Duration>,
        same_containers: bool,
    ) -> Self {
        Self {
            started,
            written,
            timeout,
            same_containers,
            ended_before: None,
            running_from: BTreeMap::new(),
            all_ran_at: None,
            unplaced_from: None,
            leaderless_from: None,
            given_up_from: None,
        }
    }

    /// Whether the picture was taken after the write.
    pub fn is_recent(&self, event: &ProgressEvent) -> bool {
        event.applied >= self.written
    }

    /// Judges the latest picture, again and again while it stays the latest.
    pub fn judge(&mut self, event: &ProgressEvent, now: Instant) -> Verdict {
        if event.removed {
            return Verdict::Removed;
        }
        self.note(event, now);
        if event.rollout.state == RolloutState::Paused {
            let why = event
                .rollout
                .reason
                .clone()
                .unwrap_or_else(|| "new tasks fail".to_owned());
            return Verdict::Failed {
                why,
                rollout_paused: true,
            };
        }
        if let Some(verdict) = self.good(event, now).or_else(|| self.bad(event, now)) {
            return verdict;
        }
        if self
            .timeout
            .is_some_and(|timeout| now - self.started >= timeout)
        {
            return Verdict::TimedOut;
        }
        Verdict::Wait
    }

    fn note(&mut self, event: &ProgressEvent, now: Instant) {
        let same_containers = self.same_containers;
        self.ended_before.get_or_insert_with(|| {
            let seats = event.seats.iter().filter(|_| same_containers);
            seats.map(|seat| (seat.name.clone(), seat.ended)).collect()
        });
        let running: Vec<&SeatView> = event.seats.iter().filter(|seat| runs(seat)).collect();
        self.running_from
            .retain(|task, _| running.iter().any(|seat| seat.task.id == *task));
        for seat in running {
            let ran_for = seat
                .running_since
                .map_or(Duration::ZERO, |since| event.at.since(since));
            let proven = ran_for >= event.monitor.duration();
            let from = (!proven).then_some(now);
            self.running_from.entry(seat.task.id).or_insert(from);
        }
        since(&mut self.all_ran_at, event.converged, now);
        since(&mut self.leaderless_from, event.leaderless, now);
        since(&mut self.unplaced_from, is_unplaced(event), now);
        since(
            &mut self.given_up_from,
            event.seats.iter().any(gave_up),
            now,
        );
    }

    fn good(&self, event: &ProgressEvent, now: Instant) -> Option<Verdict> {
        let all_ran_at = self.all_ran_at.filter(|_| event.converged)?;
        let monitor = event.monitor.duration();
        let youngest = (event.seats.iter())
            .filter_map(|seat| *self.running_from.get(&seat.task.id)?)
            .max();
        let stable = match youngest {
            // All of them ran long before this was asked for.
            None => Duration::ZERO,
            Some(from) if now - from >= monitor => monitor,
            Some(_) => return None,
        };
        let took = all_ran_at - self.started;
        Some(Verdict::Converged { took, stable })
    }

    fn bad(&self, event: &ProgressEvent, now: Instant) -> Option<Verdict> {
        let lasted = |from: Option<Instant>, patience: Duration| {
            from.is_some_and(|from| now - from >= patience)
        };
        if lasted(self.leaderless_from, LEADER_PATIENCE) {
            return Some(Verdict::NoLeader);
        }
        if event.rollout.state == RolloutState::Steady
            && let Some(why) = self.too_many_failures(event)
        {
            return Some(Verdict::Failed {
                why,
                rollout_paused: false,
            });
        }
        if lasted(self.given_up_from, RESTART_PATIENCE) {
            let seat = event.seats.iter().find(|seat| gave_up(seat))?;
            return Some(Verdict::Failed {
                why: format!(
                    "{} ended{}: {}, and is not restarted",
                    seat.name,
                    on_node(seat),
                    reason(seat)
                ),
                rollout_paused: false,
            });
        }
        if lasted(self.unplaced_from, PLACING_PATIENCE) {
            return Some(Verdict::Unplaceable {
                why: why_unplaced(event),
            });
        }
        None
    }

    fn too_many_failures(&self, event: &ProgressEvent) -> Option<String> {
        let before = |seat: &SeatView| {
            let before = self
                .ended_before
                .as_ref()
                .and_then(|ended| ended.get(&seat.name));
            before.copied().unwrap_or(0)
        };
        let worst = event
            .seats
            .iter()
            .max_by_key(|seat| seat.ended.saturating_sub(before(seat)))?;
        let failures = worst.ended.saturating_sub(before(worst));
        (failures >= event.max_failures.max(1) && !event.converged).then(|| {
            format!(
                "{} ended {failures} times, the last time{}: {}",
                worst.name,
                on_node(worst),
                reason(worst)
            )
        })
    }
}

/// Remembers since when something holds.
fn since(from: &mut Option<Instant>, holds: bool, now: Instant) {
    *from = if holds { from.or(Some(now)) } else { None };
}

fn runs(seat: &SeatView) -> bool {
    seat.up_to_date && seat.task.state == TaskState::Running
}

fn waits_for_a_node(seat: &SeatView) -> bool {
    seat.waits_for == Some(WaitsFor::Place)
}

/// Something has no place, and nothing else is on its way.
fn is_unplaced(event: &ProgressEvent) -> bool {
    let moves = |seat: &SeatView| match seat.task.state {
        _ if waits_for_a_node(seat) => false,
        TaskState::Pending => true,
        state => !state.is_final() && state != TaskState::Running,
    };
    !event.leaderless && event.seats.iter().any(waits_for_a_node) && !event.seats.iter().any(moves)
}

/// A task that ended, with nothing to come after it.
fn gave_up(seat: &SeatView) -> bool {
    seat.waits_for == Some(WaitsFor::Nothing)
}

/// Where the last task of the seat ended. The name of a global service's seat says it already.
fn on_node(seat: &SeatView) -> String {
    match &seat.last_node {
        Some(node) if seat.task.slot.is_some() => format!(" on {node}"),
        _ => String::new(),
    }
}

fn reason(seat: &SeatView) -> String {
    let known = seat.last_error.clone().or_else(|| seat.task.error.clone());
    known.unwrap_or_else(|| "no reason is known".to_owned())
}

/// The reasons, each once, with how many tasks they hold back.
fn why_unplaced(event: &ProgressEvent) -> String {
    let waiting: Vec<&SeatView> = event
        .seats
        .iter()
        .filter(|seat| waits_for_a_node(seat))
        .collect();
    let reasons: BTreeSet<&str> = (waiting.iter())
        .filter_map(|seat| seat.task.error.as_deref().or(seat.task.message.as_deref()))
        .collect();
    let reasons: Vec<&str> = reasons.into_iter().collect();
    format!(
        "{} of {} tasks cannot be placed: {}",
        waiting.len(),
        event.wanted,
        reasons.join("; ")
    )
}

#[cfg(test)]
mod tests;
