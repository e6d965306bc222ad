//! Tasks that must leave their node: it is drained, or does not meet the service's constraints any more.
//!
//! The replacement runs before the old task is stopped, a few at a time. A service whose updates stop first is moved
//! that way too: its user said that two of its tasks must not run side by side. When nothing else fits, a drained
//! node's task stays and says why; one that breaks a constraint is stopped all the same.

use super::Why;
use super::seat::{SeatTasks, Work};
use super::service::{Keeper, Start};
use crate::place::meets_constraints;
use crate::reconcile::restart::Attempt;
use crate::state::{Seat, Task};
use kawanan_api::spec::UpdateOrder;

/// Tasks of one service that are moved at the same time.
const MOVES_AT_ONCE: u32 = 2;

/// How many moves have begun and are not over.
pub(super) fn under_way(work: &Work<'_>, wanted: &[Seat]) -> u32 {
    let misplaced = |tasks: &[&Task]| tasks.iter().any(|task| !work.is_well_placed(task));
    let moving = wanted
        .iter()
        .map(|seat| work.seat(*seat))
        .filter(|seat| match seat.live {
            [] => misplaced(seat.stopping),
            [only] => {
                let left = seat.stopping.first().or(seat.past.first());
                !only.is_running()
                    && work.is_well_placed(only)
                    && left.is_some_and(|before| misplaced(&[before]))
            }
            several => misplaced(several),
        });
    u32::try_from(moving.count()).unwrap_or(u32::MAX)
}

impl Keeper<'_, '_> {
    pub(super) fn move_away(&mut self, seat: Seat, tasks: &SeatTasks<'_, '_>, task: &Task) {
        if self.moving >= MOVES_AT_ONCE {
            return;
        }
        let work = self.work;
        let revision = if self.paused {
            task.spec_revision
        } else {
            work.service.spec_revision
        };
        let moved = match work.spec.update.order {
            UpdateOrder::StartFirst => match self.attempt(tasks, revision) {
                Attempt::Now(start) => self.create(seat, revision, &start),
                Attempt::Later { until, error } => {
                    self.wait(seat, Some(task), Why::BackOff { until, error });
                    return;
                }
                Attempt::GaveUp { .. } | Attempt::Over => {
                    self.create(seat, revision, &Start::default())
                }
            },
            UpdateOrder::StopFirst => {
                let fits = self.placer().fits(revision, work.spec_of(revision));
                if fits.is_ok() {
                    self.stop(task);
                }
                fits
            }
        };
        match moved {
            Ok(()) => self.moving += 1,
            Err(why) => {
                let forbidden = work
                    .state
                    .nodes
                    .get(&task.node)
                    .is_some_and(|node| !meets_constraints(node, &work.spec.placement));
                if forbidden {
                    self.stop(task);
                }
                let keeps = (!forbidden).then_some(task);
                self.wait(seat, keeps, Why::NoPlace(why));
            }
        }
    }
}
