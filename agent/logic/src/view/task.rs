//! Rows of `service ps` and `node ps`.

use kawanan_api::views::{DesiredState, TaskState, TaskView};
use kawanan_api::{NodeId, ServiceId, TaskId, Timestamp};

use super::{View, pending_id};
use crate::reconcile::Why;
use crate::state::{self, Seat, Service, Task};

impl View<'_> {
    /// Tasks of a service, its pending seats included: by seat, in each seat the current row first, then history.
    pub fn tasks_of(&self, service: ServiceId) -> Vec<TaskView> {
        let Some(service) = self.state.services.get(&service) else {
            return Vec::new();
        };
        let mut rows: Vec<(Seat, usize, TaskView)> = Vec::new();
        for seat in self.wanted_seats(service) {
            if self.shows_pending_row(service, seat) {
                rows.push((seat, 0, self.pending_row(service, seat)));
            }
        }
        for (seat, tasks) in self.tasks_by_seat(service.id) {
            for (age, task) in tasks.iter().enumerate().filter(|(_, task)| is_shown(task)) {
                rows.push((seat, age + 1, self.task_row(task)));
            }
        }
        rows.sort_by_cached_key(|(seat, age, _)| (self.seat_order(*seat), *age));
        rows.into_iter().map(|(_, _, row)| row).collect()
    }

    /// Tasks on one node, by service name and seat.
    pub fn tasks_on(&self, node: NodeId) -> Vec<TaskView> {
        let mut rows: Vec<_> = (self.state.tasks_on(node))
            .filter(|task| is_shown(task))
            .map(|task| self.task_row(task))
            .collect();
        rows.sort_by(|a, b| {
            (&a.service_name, a.slot, b.state_at, a.id).cmp(&(
                &b.service_name,
                b.slot,
                a.state_at,
                b.id,
            ))
        });
        rows
    }

    /// Tasks of all services, by service name.
    pub fn tasks(&self) -> Vec<TaskView> {
        let mut services: Vec<&Service> = self.state.services.values().map(AsRef::as_ref).collect();
        services.sort_by_key(|service| (&service.spec().name, service.id));
        services
            .into_iter()
            .flat_map(|service| self.tasks_of(service.id))
            .collect()
    }

    pub fn task(&self, id: TaskId) -> Option<TaskView> {
        self.state.tasks.get(&id).map(|task| self.task_row(task))
    }

    /// A seat has a row of its own for waiting when nothing fills it and something is to come.
    pub(super) fn shows_pending_row(&self, service: &Service, seat: Seat) -> bool {
        let tasks = self.tasks_in(service.id, seat);
        if tasks.iter().any(|task| task.is_live()) {
            return false;
        }
        match self.pending(service.id, seat).map(|pending| &pending.why) {
            Some(Why::NoPlace(_) | Why::BackOff { .. }) => true,
            Some(Why::GaveUp { .. }) => false,
            None => {
                self.coming.contains(&(service.id, seat))
                    || !tasks.iter().any(|task| self.is_over(service, task))
            }
        }
    }

    /// Whether a task of this kind ended in a way that makes another one unnecessary.
    fn is_over(&self, service: &Service, task: &Task) -> bool {
        task.state.is_final()
            && !matches!(
                task.state,
                state::TaskState::Orphaned | state::TaskState::Shutdown
            )
            && service.is_current(task.spec_revision)
    }

    pub(super) fn task_row(&self, task: &Task) -> TaskView {
        let service = self.state.services.get(&task.service);
        let spec = (self.state.spec_of(task)).or_else(|| service.map(|service| service.spec()));
        let service_name = spec.map_or_else(|| task.service.short(), |spec| spec.name.clone());
        let node = self.node_name(task.node);
        TaskView {
            id: task.id,
            name: match task.slot {
                Some(slot) => format!("{service_name}.{slot}"),
                None => format!("{service_name}.{node}"),
            },
            service: task.service,
            service_name,
            slot: task.slot.map(|slot| slot.0),
            node: Some(node),
            node_id: Some(task.node),
            desired_state: desired_word(task.desired),
            state: state_word(task.state),
            state_at: task.state_at,
            error: task.error.clone(),
            exit_code: task.exit_code,
            image: spec.map_or_else(String::new, |spec| spec.container.image.clone()),
            revision: task.spec_revision,
            message: self.message_of(task),
            ports: match spec {
                Some(spec) if self.runs(task) => spec.ports.clone(),
                _ => Vec::new(),
            },
        }
    }

    fn message_of(&self, task: &Task) -> Option<String> {
        if task.state.is_final() {
            return None;
        }
        if let Some(note) = self.outlook.notes.get(&task.id) {
            return Some(note.clone());
        }
        if let Some(pending) = self.pending(task.service, task.seat())
            && pending.keeps == Some(task.id)
        {
            return Some(match &pending.why {
                Why::NoPlace(why) => format!("waits for another node: {why}"),
                other => self.waits(other),
            });
        }
        let wait = task.not_before.since(self.outlook.now);
        let backs_off = task.state == state::TaskState::Assigned && wait.as_millis() > 0;
        backs_off.then(|| {
            let (seconds, failures) = (wait.as_millis().div_ceil(1000), task.attempt);
            let plural = if failures == 1 { "" } else { "s" };
            format!("starts in {seconds} s, after {failures} failure{plural} in a row")
        })
    }

    /// What a seat waits for, in words.
    pub(super) fn waits(&self, why: &Why) -> String {
        match why {
            Why::BackOff { until, error } => match error {
                Some(error) => format!("{}: {error}", self.tries_again(*until)),
                None => self.tries_again(*until),
            },
            other => other.to_string(),
        }
    }

    fn tries_again(&self, at: Timestamp) -> String {
        let seconds = at.since(self.outlook.now).as_millis().div_ceil(1000);
        format!("tries again in {seconds} s")
    }

    pub(super) fn pending_row(&self, service: &Service, seat: Seat) -> TaskView {
        let spec = service.spec();
        let (slot, node) = match seat {
            Seat::Slot(slot) => (Some(slot.0), None),
            Seat::Node(node) => (None, Some(node)),
        };
        let seat_name = match seat {
            Seat::Slot(slot) => slot.to_string(),
            Seat::Node(node) => self.node_name(node),
        };
        let last_end = (self.tasks_in(service.id, seat).iter())
            .filter(|task| task.state.is_final())
            .map(|task| task.state_at)
            .max();
        let (why, message) = match self.pending(service.id, seat).map(|pending| &pending.why) {
            Some(Why::BackOff { until, error }) => (error.clone(), Some(self.tries_again(*until))),
            Some(why) => (Some(why.to_string()), None),
            None if self.outlook.leader.is_none() => (
                Some("no node is leader at the moment, so nothing is placed".to_owned()),
                None,
            ),
            None => (None, None),
        };
        TaskView {
            id: pending_id(service.id, seat, service.spec_revision),
            name: format!("{}.{seat_name}", spec.name),
            service: service.id,
            service_name: spec.name.clone(),
            slot,
            node: node.map(|node| self.node_name(node)),
            node_id: node,
            desired_state: DesiredState::Running,
            state: TaskState::Pending,
            state_at: last_end.unwrap_or_default().max(service.updated_at),
            error: why,
            exit_code: None,
            image: spec.container.image.clone(),
            revision: service.spec_revision,
            message,
            ports: Vec::new(),
        }
    }
}

/// A task that only waits to be forgotten is nobody's business.
fn is_shown(task: &Task) -> bool {
    task.desired != state::Desired::Remove || !task.state.is_final()
}

fn desired_word(desired: state::Desired) -> DesiredState {
    match desired {
        state::Desired::Running => DesiredState::Running,
        state::Desired::Shutdown => DesiredState::Shutdown,
        state::Desired::Remove => DesiredState::Remove,
    }
}

fn state_word(state: state::TaskState) -> TaskState {
    match state {
        state::TaskState::Assigned => TaskState::Assigned,
        state::TaskState::Preparing => TaskState::Preparing,
        state::TaskState::Starting => TaskState::Starting,
        state::TaskState::Running => TaskState::Running,
        state::TaskState::Complete => TaskState::Complete,
        state::TaskState::Shutdown => TaskState::Shutdown,
        state::TaskState::Failed => TaskState::Failed,
        state::TaskState::Rejected => TaskState::Rejected,
        state::TaskState::Orphaned => TaskState::Orphaned,
    }
}
