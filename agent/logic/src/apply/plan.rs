//! What the leader decided. Every step is checked against the state that it meets: between a leader's look and its
//! plan's commit a node may have gone and a user may have changed their mind.

use std::collections::BTreeMap;
use std::sync::Arc;

use kawanan_api::spec::{Mode, REPLICAS_MAX};
use kawanan_api::{ApiError, ErrorCode, Revision, ServiceId, TaskId, Timestamp};

use super::Applied;
use crate::command::{NewTask, TaskChange};
use crate::state::{Availability, ClusterState, Desired, Rollout, Seat, Service, Task, TaskState};

/// Tasks in those seats that a plan makes tasks for: one look through all tasks for the whole plan.
type Seats = BTreeMap<(ServiceId, Seat), Vec<TaskId>>;

impl ClusterState {
    pub(super) fn apply_plan(
        &mut self,
        index: Revision,
        at: Timestamp,
        basis: Revision,
        changes: &[TaskChange],
    ) -> Applied {
        if basis < self.plan_revision {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "the plan was made at revision {basis}, before the one applied at {}",
                    self.plan_revision
                ),
            ));
        }
        self.plan_revision = index;
        let mut seats = self.seats_for(changes);
        let mut forgotten = Vec::new();
        for change in changes {
            match change {
                TaskChange::Create(new) => self.create_task(at, new, &mut seats),
                TaskChange::SetDesired { task, desired } => self.set_desired(*task, *desired),
                TaskChange::Orphan { task } => self.orphan(at, *task),
                TaskChange::Forget { task } => {
                    if self.may_forget(*task) {
                        forgotten.push(*task);
                    }
                }
                TaskChange::SetRollout {
                    service,
                    spec_revision,
                    rollout,
                } => self.set_rollout(*service, *spec_revision, rollout),
            }
        }
        self.delete_tasks(forgotten);
        Ok(())
    }

    fn seats_for(&self, changes: &[TaskChange]) -> Seats {
        let mut seats: Seats = changes
            .iter()
            .filter_map(|change| match change {
                TaskChange::Create(new) => Some(((new.service, new.seat()), Vec::new())),
                _ => None,
            })
            .collect();
        if !seats.is_empty() {
            for task in self.tasks.values() {
                if let Some(tasks) = seats.get_mut(&(task.service, task.seat())) {
                    tasks.push(task.id);
                }
            }
        }
        seats
    }

    fn create_task(&mut self, at: Timestamp, new: &NewTask, seats: &mut Seats) {
        let task = Task {
            id: new.id,
            service: new.service,
            spec_revision: new.spec_revision,
            slot: new.slot,
            node: new.node,
            desired: Desired::Running,
            state: TaskState::Assigned,
            created_at: at,
            state_at: at,
            running_since: None,
            error: None,
            exit_code: None,
            attempt: new.attempt,
            not_before: new.not_before,
        };
        let seat = seats.entry((new.service, task.seat())).or_default();
        if !self.may_create(&task, seat) {
            return;
        }
        // Those before it in the seat are over: nobody waits for them to run any more.
        for id in &*seat {
            if let Some(before) = self.tasks.get_mut(id)
                && before.state.is_final()
                && before.desired == Desired::Running
            {
                Arc::make_mut(before).desired = Desired::Shutdown;
            }
        }
        seat.push(task.id);
        self.tasks.insert(task.id, Arc::new(task));
    }

    fn may_create(&self, task: &Task, in_seat: &[TaskId]) -> bool {
        let Some(service) = self.services.get(&task.service) else {
            return false;
        };
        let seat_fits = match (service.spec().mode, task.slot) {
            (Mode::Replicated { .. }, Some(slot)) => (1..=REPLICAS_MAX).contains(&slot.0),
            (Mode::Global, None) => true,
            _ => false,
        };
        let node_fits = self
            .nodes
            .get(&task.node)
            .is_some_and(|node| node.is_ready() && node.availability == Availability::Active);
        let mut live = in_seat
            .iter()
            .filter_map(|id| self.tasks.get(id))
            .filter(|task| task.is_live());
        let seat_free = match (live.next(), live.next()) {
            (None, _) => true,
            // One that is replaced runs beside its successor: another spec, or the same one on another node.
            (Some(other), None) => {
                other.node != task.node
                    || !same_containers(service, other.spec_revision, task.spec_revision)
            }
            (Some(_), Some(_)) => false,
        };
        service.is_live()
            && service.revisions.contains_key(&task.spec_revision)
            && !self.tasks.contains_key(&task.id)
            && seat_fits
            && node_fits
            && seat_free
    }

    fn set_desired(&mut self, id: TaskId, desired: Desired) {
        if let Some(task) = self.tasks.get_mut(&id)
            && desired > task.desired
        {
            Arc::make_mut(task).desired = desired;
        }
    }

    /// Its container may still run, so its node is asked to remove it whenever it comes back.
    fn orphan(&mut self, at: Timestamp, id: TaskId) {
        let Some(task) = self.tasks.get(&id) else {
            return;
        };
        if task.state.is_final() || self.node_is_ready(task.node) {
            return;
        }
        let error = format!("node {} is down", self.node_name(task.node));
        if let Some(task) = self.tasks.get_mut(&id) {
            let task = Arc::make_mut(task);
            task.state = TaskState::Orphaned;
            task.state_at = at;
            task.desired = Desired::Remove;
            task.error = Some(error);
        }
    }

    fn may_forget(&self, id: TaskId) -> bool {
        self.tasks
            .get(&id)
            .is_some_and(|task| task.state.is_final() || !self.node_is_ready(task.node))
    }

    fn set_rollout(&mut self, id: ServiceId, spec_revision: Revision, rollout: &Rollout) {
        if let Some(service) = self.services.get_mut(&id)
            && service.is_live()
            && service.spec_revision == spec_revision
            && service.rollout != *rollout
        {
            Arc::make_mut(service).rollout = rollout.clone();
        }
    }
}

fn same_containers(service: &Service, one: Revision, other: Revision) -> bool {
    match (service.revisions.get(&one), service.revisions.get(&other)) {
        (Some(one), Some(other)) => one.same_task_as(other),
        _ => one == other,
    }
}
