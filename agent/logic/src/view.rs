//! What people see of the state: pure projections from `(ClusterState, Outlook)` to the API's views.
//!
//! [`View`] is made for one answer and thrown away. It never decides anything: what is pending, and why, comes in with
//! the [`Outlook`]: the plan that the leader would make of this state. No view holds a password or secret.

mod cluster;
mod node;
mod progress;
mod resolve;
mod service;
mod task;
mod token;

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{NodeId, Revision, ServiceId, Slot, TaskId, Timestamp};

use crate::command::TaskChange;
use crate::reconcile::{Pending, Plan};
use crate::state::{ClusterState, Desired, Seat, Service, Task, TaskState};

pub use resolve::{did_you_mean, resolve_node, resolve_service, resolve_task, resolve_token};
pub use service::with_kept_password;

/// What an answering node knows beside the state.
#[derive(Debug, Clone, Default)]
pub struct Outlook {
    pub now: Timestamp,
    /// The node that answers.
    pub this_node: Option<NodeId>,
    pub leader: Option<NodeId>,
    pub voters: BTreeSet<NodeId>,
    /// Nodes not heard of for a moment.
    pub suspects: BTreeSet<NodeId>,
    /// What the leader would do next, computed here from the same state.
    pub plan: Plan,
    /// What nodes are doing for their tasks right now, such as pulling an image.
    pub notes: BTreeMap<TaskId, String>,
}

/// State and outlook, with the indexes that several projections need.
pub struct View<'a> {
    state: &'a ClusterState,
    outlook: &'a Outlook,
    /// Tasks of each service, by seat, in each seat the one that counts first, then the newest.
    seats: BTreeMap<ServiceId, BTreeMap<Seat, Vec<&'a Task>>>,
    pending: BTreeMap<(ServiceId, Seat), &'a Pending>,
    /// Seats that the plan fills.
    coming: BTreeSet<(ServiceId, Seat)>,
    /// Tasks that the plan takes out of their seats for good.
    going: BTreeSet<TaskId>,
    /// Services that the plan changes.
    unsettled: BTreeSet<ServiceId>,
}

impl<'a> View<'a> {
    pub fn new(state: &'a ClusterState, outlook: &'a Outlook) -> Self {
        let mut view = Self {
            state,
            outlook,
            seats: BTreeMap::new(),
            pending: BTreeMap::new(),
            coming: BTreeSet::new(),
            going: BTreeSet::new(),
            unsettled: BTreeSet::new(),
        };
        view.sort_tasks();
        view.read_plan();
        view
    }

    fn sort_tasks(&mut self) {
        for task in self.state.tasks.values() {
            let seats = self.seats.entry(task.service).or_default();
            seats.entry(task.seat()).or_default().push(task);
        }
        for (service, seats) in &mut self.seats {
            let service = self.state.services.get(service);
            let is_current =
                |task: &Task| service.is_some_and(|service| service.is_current(task.spec_revision));
            for tasks in seats.values_mut() {
                tasks.sort_by_key(|task| {
                    std::cmp::Reverse((
                        task.is_live(),
                        task.is_live() && is_current(task),
                        task.created_at,
                        task.id,
                    ))
                });
            }
        }
    }

    fn read_plan(&mut self) {
        for pending in &self.outlook.plan.pending {
            self.pending
                .insert((pending.service, pending.seat), pending);
        }
        for change in &self.outlook.plan.changes {
            let service = match change {
                TaskChange::Create(new) => {
                    let seat = new.slot.map_or(Seat::Node(new.node), Seat::Slot);
                    self.coming.insert((new.service, seat));
                    Some(new.service)
                }
                TaskChange::SetDesired { task, desired } => {
                    if *desired == Desired::Remove {
                        self.going.insert(*task);
                    }
                    self.state.tasks.get(task).map(|task| task.service)
                }
                TaskChange::Orphan { task } => self.state.tasks.get(task).map(|task| task.service),
                TaskChange::SetRollout { service, .. } => Some(*service),
                TaskChange::Forget { .. } => None,
            };
            self.unsettled.extend(service);
        }
    }

    fn node_name(&self, node: NodeId) -> String {
        match self.state.nodes.get(&node) {
            Some(node) => node.name.clone(),
            None => node.short(),
        }
    }

    fn tasks_by_seat(&self, service: ServiceId) -> impl Iterator<Item = (Seat, &[&'a Task])> {
        let seats = self.seats.get(&service).into_iter().flatten();
        seats.map(|(seat, tasks)| (*seat, tasks.as_slice()))
    }

    fn tasks_in(&self, service: ServiceId, seat: Seat) -> &[&'a Task] {
        let seats = self.seats.get(&service);
        seats
            .and_then(|seats| seats.get(&seat))
            .map_or(&[], Vec::as_slice)
    }

    fn pending(&self, service: ServiceId, seat: Seat) -> Option<&'a Pending> {
        self.pending.get(&(service, seat)).copied()
    }

    /// All seats that the service has now, whether anything fills them or not.
    fn wanted_seats(&self, service: &Service) -> Vec<Seat> {
        if !service.is_live() {
            return Vec::new();
        }
        let of_service = |(other, _): &&(ServiceId, Seat)| *other == service.id;
        let held = (self.tasks_by_seat(service.id))
            .filter(|(_, tasks)| self.holds_seat(tasks))
            .map(|(seat, _)| seat);
        let pending = self
            .pending
            .keys()
            .filter(of_service)
            .map(|(_, seat)| *seat);
        let coming = self.coming.iter().filter(of_service).map(|(_, seat)| *seat);
        let mut seats: BTreeSet<Seat> = held.chain(pending).chain(coming).collect();
        if let Some(replicas) = service.spec().replicas() {
            let wanted = usize::try_from(replicas).unwrap_or(usize::MAX);
            let mut free = (1..=replicas).map(|number| Seat::Slot(Slot(number)));
            while seats.len() < wanted
                && let Some(seat) = free.next()
            {
                seats.insert(seat);
            }
            while seats.len() > wanted {
                seats.pop_last();
            }
        }
        seats.into_iter().collect()
    }

    /// Whether the task runs, as far as its node can be believed: one that is down has nothing running.
    fn runs(&self, task: &Task) -> bool {
        task.is_running() && self.state.node_is_ready(task.node)
    }

    /// How seats are listed: slots by number, nodes by name.
    fn seat_order(&self, seat: Seat) -> (u32, String, Seat) {
        match seat {
            Seat::Slot(slot) => (slot.0, String::new(), seat),
            Seat::Node(node) => (0, self.node_name(node), seat),
        }
    }

    /// Whether the seat belongs to the service as it is: something lives in it, or the last that did was not taken out
    /// of it for good.
    fn holds_seat(&self, tasks: &[&Task]) -> bool {
        let stays = |task: &&&Task| !self.going.contains(&task.id);
        if tasks.iter().filter(stays).any(|task| task.is_live()) {
            return true;
        }
        let newest = tasks
            .iter()
            .filter(stays)
            .max_by_key(|task| (task.created_at, task.id));
        newest.is_some_and(|task| {
            task.desired != Desired::Remove || task.state == TaskState::Orphaned
        })
    }
}

/// The id of a row that stands for a task which does not exist yet: the same for as long as the row waits.
fn pending_id(service: ServiceId, seat: Seat, revision: Revision) -> TaskId {
    use sha2::{Digest, Sha256};
    let mut hash = Sha256::new();
    hash.update(b"kawanan pending task");
    hash.update(service.bits().to_be_bytes());
    match seat {
        Seat::Slot(slot) => hash.update([&[0][..], &slot.0.to_be_bytes()[..]].concat()),
        Seat::Node(node) => hash.update([&[1][..], &node.bits().to_be_bytes()[..]].concat()),
    }
    hash.update(revision.0.to_be_bytes());
    let digest = hash.finalize();
    let head = digest
        .iter()
        .take(16)
        .fold(0u128, |bits, byte| bits << 8 | u128::from(*byte));
    TaskId::from_bits(head)
}

#[cfg(test)]
mod tests;
