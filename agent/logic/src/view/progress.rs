//! How far a service has come towards what is wanted.

use std::collections::BTreeSet;

use kawanan_api::views::{ProgressEvent, RolloutState, SeatView, TaskState, WaitsFor};
use kawanan_api::{ApiError, ServiceId};

use super::View;
use super::service::rollout_view;
use crate::reconcile::Why;
use crate::state::{self, Seat, Service, Task};

impl View<'_> {
    /// # Errors
    /// `not_found` when the service is gone for good.
    pub fn progress(&self, id: ServiceId) -> Result<ProgressEvent, ApiError> {
        let service = self.known_service(id)?;
        let mut seats = self.wanted_seats(service);
        seats.sort_by_cached_key(|seat| self.seat_order(*seat));
        let seats: Vec<SeatView> = (seats.into_iter())
            .map(|seat| self.seat(service, seat))
            .collect();
        let count = |fits: fn(&SeatView) -> bool| {
            let fitting = seats.iter().filter(|seat| seat.up_to_date && fits(seat));
            u32::try_from(fitting.count()).unwrap_or(u32::MAX)
        };
        let running = count(|seat| seat.running_since.is_some());
        let complete = count(|seat| seat.task.state == TaskState::Complete);
        let wanted = u32::try_from(seats.len()).unwrap_or(u32::MAX);
        let leaving = self.leaving(service);
        let rollout = rollout_view(&service.rollout);
        let settled = rollout.state == RolloutState::Steady
            && leaving == 0
            && self.outlook.leader.is_some()
            && !self.unsettled.contains(&id)
            && !self.pending.keys().any(|(service, _)| *service == id);
        Ok(ProgressEvent {
            at: self.outlook.now,
            applied: self.state.revision,
            service: id,
            name: service.spec().name.clone(),
            revision: service.spec_revision,
            wanted,
            running,
            complete,
            rollout,
            monitor: service.spec().update.monitor,
            max_failures: service.spec().update.max_failures,
            seats,
            leaving,
            converged: settled && running.saturating_add(complete) == wanted,
            addresses: self.addresses_of(service),
            leaderless: self.outlook.leader.is_none(),
            removed: service.removed_at.is_some(),
        })
    }

    fn seat(&self, service: &Service, seat: Seat) -> SeatView {
        let tasks = self.tasks_in(service.id, seat);
        let newest = tasks
            .first()
            .filter(|_| !self.shows_pending_row(service, seat));
        let row = match newest {
            Some(task) => self.task_row(task),
            None => self.pending_row(service, seat),
        };
        let ended: Vec<_> = (tasks.iter())
            .filter(|task| ended_by_itself(task) && service.is_current(task.spec_revision))
            .collect();
        let counted = u32::try_from(ended.len()).unwrap_or(u32::MAX);
        let last_ended = ended.iter().max_by_key(|task| (task.state_at, task.id));
        SeatView {
            name: row.name.clone(),
            up_to_date: newest.is_none_or(|task| service.is_current(task.spec_revision)),
            older_runs: (tasks.iter().skip(1)).any(|task| task.state == state::TaskState::Running),
            ended: counted.max(newest.map_or(0, |task| task.attempt)),
            last_error: last_ended.map(|task| why_ended(task)),
            last_node: last_ended.map(|task| self.node_name(task.node)),
            running_since: newest
                .filter(|task| self.runs(task))
                .map(|task| task.running_since.unwrap_or(task.state_at)),
            waits_for: self
                .pending(service.id, seat)
                .map(|pending| match pending.why {
                    Why::NoPlace(_) => WaitsFor::Place,
                    Why::BackOff { .. } => WaitsFor::Retry,
                    Why::GaveUp { .. } => WaitsFor::Nothing,
                }),
            task: row,
        }
    }

    /// Tasks that still have to stop: told to, replaced by a newer one, or in no seat that is wanted.
    fn leaving(&self, service: &Service) -> u32 {
        let wanted: BTreeSet<Seat> = self.wanted_seats(service).into_iter().collect();
        let mut leaving = 0;
        for (seat, tasks) in self.tasks_by_seat(service.id) {
            let stays =
                |age: usize, task: &Task| age == 0 && task.is_live() && wanted.contains(&seat);
            let count = (tasks.iter().enumerate())
                .filter(|(age, task)| !task.state.is_final() && !stays(*age, task))
                .count();
            leaving += u32::try_from(count).unwrap_or(u32::MAX);
        }
        leaving
    }
}

fn ended_by_itself(task: &Task) -> bool {
    matches!(
        task.state,
        state::TaskState::Failed | state::TaskState::Rejected | state::TaskState::Complete
    )
}

fn why_ended(task: &Task) -> String {
    match (&task.error, task.exit_code) {
        (Some(error), _) => error.clone(),
        (None, Some(code)) => format!("exited with code {code}"),
        (None, None) => "ended".to_owned(),
    }
}
