//! What people see of the state: pure projections from `(ClusterState, Outlook)` to the API's views.
//!
//! [`View`] is made for one answer and thrown away. It never decides anything: what is pending, and why, comes in with
//! the [`Outlook`], computed by the same function that the leader plans with. No view holds a password or secret.

mod cluster;
mod node;
mod progress;
mod resolve;
mod service;
mod task;
mod token;

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{NodeId, Revision, ServiceId, Slot, TaskId, Timestamp};

use crate::state::{ClusterState, Seat, Service, Task};

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
    /// Seats that no node can take, and why.
    pub pending: Vec<PendingSeat>,
    /// Seats that the leader's next plan fills.
    pub coming: Vec<(ServiceId, Seat)>,
    /// Services that the leader's next plan changes in any way.
    pub unsettled: BTreeSet<ServiceId>,
    /// What nodes are doing for their tasks right now, such as pulling an image.
    pub notes: BTreeMap<TaskId, String>,
}

/// A seat without a node that could take it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PendingSeat {
    pub service: ServiceId,
    pub seat: Seat,
    /// One sentence for people: what stands in the way, node by node.
    pub why: String,
}

/// State and outlook, with the indexes that several projections need.
pub struct View<'a> {
    state: &'a ClusterState,
    outlook: &'a Outlook,
    /// Tasks of each service, by seat, in each seat the newest first.
    seats: BTreeMap<ServiceId, BTreeMap<Seat, Vec<&'a Task>>>,
}

impl<'a> View<'a> {
    pub fn new(state: &'a ClusterState, outlook: &'a Outlook) -> Self {
        let mut seats: BTreeMap<ServiceId, BTreeMap<Seat, Vec<&Task>>> = BTreeMap::new();
        for task in state.tasks.values() {
            seats
                .entry(task.service)
                .or_default()
                .entry(task.seat())
                .or_default()
                .push(task);
        }
        for tasks in seats.values_mut().flat_map(BTreeMap::values_mut) {
            tasks.sort_by_key(|task| {
                std::cmp::Reverse((task.is_live(), task.spec_revision, task.created_at, task.id))
            });
        }
        Self {
            state,
            outlook,
            seats,
        }
    }

    fn node_name(&self, node: NodeId) -> String {
        match self.state.nodes.get(&node) {
            Some(node) => node.name.clone(),
            None => node.short(),
        }
    }

    fn tasks_by_seat(&self, service: ServiceId) -> impl Iterator<Item = (Seat, &[&'a Task])> {
        self.seats
            .get(&service)
            .into_iter()
            .flatten()
            .map(|(seat, tasks)| (*seat, tasks.as_slice()))
    }

    fn tasks_in(&self, service: ServiceId, seat: Seat) -> &[&'a Task] {
        self.seats
            .get(&service)
            .and_then(|seats| seats.get(&seat))
            .map_or(&[], Vec::as_slice)
    }

    fn why_pending(&self, service: ServiceId, seat: Seat) -> Option<&str> {
        self.outlook
            .pending
            .iter()
            .find(|pending| pending.service == service && pending.seat == seat)
            .map(|pending| pending.why.as_str())
    }

    fn is_coming(&self, service: ServiceId, seat: Seat) -> bool {
        self.outlook.coming.contains(&(service, seat))
    }

    /// All seats that the service should have now, whether anything fills them or not.
    fn wanted_seats(&self, service: &Service) -> Vec<Seat> {
        if service.removed_at.is_some() {
            return Vec::new();
        }
        if let Some(replicas) = service.spec().replicas() {
            return (1..=replicas).map(|slot| Seat::Slot(Slot(slot))).collect();
        }
        let filled = self
            .tasks_by_seat(service.id)
            .filter(|(_, tasks)| tasks.iter().any(|task| task.is_live()))
            .map(|(seat, _)| seat);
        let pending = (self.outlook.pending.iter())
            .filter(|pending| pending.service == service.id)
            .map(|pending| pending.seat);
        let coming = (self.outlook.coming.iter())
            .filter(|(coming, _)| *coming == service.id)
            .map(|(_, seat)| *seat);
        let seats: BTreeSet<Seat> = filled.chain(pending).chain(coming).collect();
        seats.into_iter().collect()
    }

    /// Whether the task may go on under the service's current spec.
    fn is_up_to_date(&self, service: &Service, task: &Task) -> bool {
        task.spec_revision == service.spec_revision
            || (self.state.spec_of(task)).is_some_and(|spec| spec.same_task_as(service.spec()))
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
