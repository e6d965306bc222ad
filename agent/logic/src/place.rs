//! Chooses nodes for tasks. Pure: reads the state and an observation, and says for every node it passes over why.
//!
//! A [`Placer`] holds what is set aside on each node and lives for one plan; a [`ServicePlacer`] places the tasks of
//! one service. Within a plan nodes only fill up (what a task frees counts once its node reports it gone), so a heap
//! of candidates per spec stays right with a second look at whatever comes out of it: a task costs O(log nodes).

mod filters;
mod reason;
mod score;

#[cfg(test)]
mod tests;

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap};
use std::sync::Arc;

use kawanan_api::spec::{Placement, PortMode, Protocol, ResourceAmounts};
use kawanan_api::{NodeId, Revision, ServiceSpec};

pub use filters::constraints::meets_all as meets_constraints;
pub use reason::{NoPlacement, Reason};
use score::Score;

use crate::observation::Observation;
use crate::state::{ClusterState, Node, Task, TaskState};

/// All nodes, and what is taken on them.
#[derive(Debug)]
pub struct Placer<'a> {
    /// In the order of their ids.
    rooms: Vec<Room<'a>>,
    places: BTreeMap<NodeId, usize>,
}

/// One node as placement sees it.
#[derive(Debug, Clone)]
struct Room<'a> {
    node: &'a Node,
    /// Why it takes no new tasks of anybody.
    closed: Option<Reason>,
    /// Reservations of all tasks that are not over.
    reserved: ResourceAmounts,
    /// The scarcer resource's reserved share, in thousandths.
    reserved_share: u64,
    /// Tasks that are not over, of any service.
    tasks: u32,
    host_ports: BTreeSet<(u16, Protocol)>,
}

/// Which of the nodes that fit is wanted.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wish {
    /// Taken if it fits, whatever its score.
    pub prefer: Option<NodeId>,
    /// Taken only if nothing else fits.
    pub avoid: BTreeSet<NodeId>,
}

/// Places the tasks of one service.
#[derive(Debug)]
pub struct ServicePlacer<'p, 'a> {
    placer: &'p mut Placer<'a>,
    placement: &'p Placement,
    tally: &'p mut Tally,
}

/// What placing the tasks of one service needs to know from one task to the next.
#[derive(Debug)]
pub struct Tally {
    /// Tasks of the service that are meant to run, by place in `rooms`: what `max_per_node` counts.
    here: Vec<u32>,
    /// Those among them that will stay: what is spread evenly.
    staying: Vec<u32>,
    queues: BTreeMap<Revision, Queue>,
}

/// Candidates for tasks of one spec, the best first; and why there are none, once that was found out.
#[derive(Debug, Default)]
struct Queue {
    heap: BinaryHeap<Reverse<(Score, usize)>>,
    none: Option<Arc<NoPlacement>>,
}

/// What a filter judges.
struct Candidate<'c, 'a> {
    room: &'c Room<'a>,
    spec: &'c ServiceSpec,
    placement: &'c Placement,
    /// Tasks of the service on this node.
    here: u32,
}

impl<'a> Placer<'a> {
    pub fn new(state: &'a ClusterState, seen: &Observation) -> Self {
        let rooms: Vec<Room<'a>> = state
            .nodes
            .values()
            .map(|node| Room {
                node,
                closed: filters::availability::closed(node, seen.node(node.id)),
                reserved: ResourceAmounts::default(),
                reserved_share: 0,
                tasks: 0,
                host_ports: BTreeSet::new(),
            })
            .collect();
        let places = rooms
            .iter()
            .enumerate()
            .map(|(place, room)| (room.node.id, place))
            .collect();
        let mut placer = Self { rooms, places };
        for task in state.tasks.values() {
            // A node that came back may still run what it lost, until it reports that gone.
            if (!task.state.is_final() || task.state == TaskState::Orphaned)
                && let Some(&place) = placer.places.get(&task.node)
                && let Some(spec) = state.spec_of(task)
            {
                placer.rooms[place].take(spec);
            }
        }
        placer
    }

    /// Starts on a service. `live` are the nodes of its tasks that are meant to run, each with whether the task is to
    /// stay (it is up to date).
    pub fn tally(&self, live: impl IntoIterator<Item = (NodeId, bool)>) -> Tally {
        let mut here = vec![0; self.rooms.len()];
        let mut staying = vec![0; self.rooms.len()];
        for (node, stays) in live {
            if let Some(&place) = self.places.get(&node) {
                here[place] += 1;
                staying[place] += u32::from(stays);
            }
        }
        Tally {
            here,
            staying,
            queues: BTreeMap::new(),
        }
    }

    /// Goes on with a service. Tallies of several services may take turns.
    pub fn for_service<'p>(
        &'p mut self,
        placement: &'p Placement,
        tally: &'p mut Tally,
    ) -> ServicePlacer<'p, 'a> {
        ServicePlacer {
            placer: self,
            placement,
            tally,
        }
    }
}

impl Room<'_> {
    fn take(&mut self, spec: &ServiceSpec) {
        let asked = spec.resources.reservations;
        self.reserved.cpus.0 = self.reserved.cpus.0.saturating_add(asked.cpus.0);
        self.reserved.memory.0 = self.reserved.memory.0.saturating_add(asked.memory.0);
        self.reserved_share = score::share(self.reserved, self.node.facts.capacity);
        self.tasks = self.tasks.saturating_add(1);
        self.host_ports.extend(host_ports(spec));
    }

    /// This node as it will be once a task of this spec is gone from it.
    fn without(&self, spec: &ServiceSpec) -> Self {
        let mut room = self.clone();
        let freed = spec.resources.reservations;
        room.reserved.cpus.0 = room.reserved.cpus.0.saturating_sub(freed.cpus.0);
        room.reserved.memory.0 = room.reserved.memory.0.saturating_sub(freed.memory.0);
        room.tasks = room.tasks.saturating_sub(1);
        for port in host_ports(spec) {
            room.host_ports.remove(&port);
        }
        room
    }
}

fn host_ports(spec: &ServiceSpec) -> impl Iterator<Item = (u16, Protocol)> {
    spec.ports
        .iter()
        .filter(|port| port.mode == PortMode::Host)
        .map(|port| (port.published.get(), port.protocol))
}

impl<'p> ServicePlacer<'p, '_> {
    /// Chooses a node for one task of this spec, and counts the task as being there. `revision` names the spec: the
    /// same one must always come with the same spec.
    ///
    /// # Errors
    /// Why each node does not fit.
    pub fn place(
        &mut self,
        revision: Revision,
        spec: &ServiceSpec,
        wish: &Wish,
    ) -> Result<NodeId, Arc<NoPlacement>> {
        let preferred = wish.prefer.and_then(|id| self.placer.places.get(&id));
        let mut taken_out = false;
        let chosen = match preferred {
            Some(&place) if self.judge(place, spec).is_none() => Some(place),
            _ => {
                let best = self.best(revision, spec, &wish.avoid);
                taken_out = best.is_some();
                best
            }
        };
        match chosen {
            Some(place) => {
                self.settle(place, spec);
                if taken_out {
                    self.offer(revision, spec, place);
                }
                Ok(self.placer.rooms[place].node.id)
            }
            None => Err(self.why_none(revision, spec)),
        }
    }

    /// Places a task on this node and no other.
    ///
    /// # Errors
    /// Why it does not fit there.
    pub fn place_on(
        &mut self,
        node: NodeId,
        spec: &ServiceSpec,
    ) -> Result<NodeId, Arc<NoPlacement>> {
        match self.placer.places.get(&node) {
            Some(&place) if self.judge(place, spec).is_none() => {
                self.settle(place, spec);
                Ok(node)
            }
            _ => Err(self.why_not_on(node, spec)),
        }
    }

    /// Why a task does not fit on this node; says nothing when it does.
    pub fn why_not_on(&self, node: NodeId, spec: &ServiceSpec) -> Arc<NoPlacement> {
        let place = self.placer.places.get(&node);
        let reason = place.and_then(|&place| {
            let reason = self.judge(place, spec)?;
            Some((self.placer.rooms[place].node, reason))
        });
        Arc::new(NoPlacement::new(reason))
    }

    /// Whether a task of this spec has a place somewhere, without taking it.
    pub fn fits(&mut self, revision: Revision, spec: &ServiceSpec) -> Result<(), Arc<NoPlacement>> {
        match self.best(revision, spec, &BTreeSet::new()) {
            Some(place) => {
                self.offer(revision, spec, place);
                Ok(())
            }
            None => Err(self.why_none(revision, spec)),
        }
    }

    /// Whether a task of this spec would fit on the node of `old`, a living task of the same service, once that is gone.
    pub fn fits_after(&self, old: &Task, old_spec: &ServiceSpec, spec: &ServiceSpec) -> bool {
        let Some(&place) = self.placer.places.get(&old.node) else {
            return false;
        };
        let candidate = Candidate {
            room: &self.placer.rooms[place].without(old_spec),
            spec,
            placement: self.placement,
            here: self.tally.here[place].saturating_sub(1),
        };
        filters::judge(&candidate).is_none()
    }

    fn judge(&self, place: usize, spec: &ServiceSpec) -> Option<Reason> {
        filters::judge(&Candidate {
            room: &self.placer.rooms[place],
            spec,
            placement: self.placement,
            here: self.tally.here[place],
        })
    }

    fn score(&self, place: usize) -> Score {
        Score::of(&self.placer.rooms[place], self.tally.staying[place])
    }

    fn settle(&mut self, place: usize, spec: &ServiceSpec) {
        self.placer.rooms[place].take(spec);
        self.tally.here[place] += 1;
        self.tally.staying[place] += 1;
    }

    fn queue(&mut self, revision: Revision, spec: &ServiceSpec) -> &mut Queue {
        if !self.tally.queues.contains_key(&revision) {
            let fitting = (0..self.placer.rooms.len())
                .filter(|place| self.judge(*place, spec).is_none())
                .map(|place| Reverse((self.score(place), place)));
            let heap = fitting.collect();
            let queue = Queue { heap, none: None };
            self.tally.queues.insert(revision, queue);
        }
        self.tally.queues.entry(revision).or_default()
    }

    /// Takes the best node out of the queue; `offer` puts it back, at its new score.
    fn best(
        &mut self,
        revision: Revision,
        spec: &ServiceSpec,
        avoid: &BTreeSet<NodeId>,
    ) -> Option<usize> {
        let mut avoided = Vec::new();
        let mut found = None;
        while let Some(Reverse((score, place))) = self.queue(revision, spec).heap.pop() {
            if self.judge(place, spec).is_some() {
                continue;
            }
            if score != self.score(place) {
                self.offer(revision, spec, place);
            } else if avoid.contains(&self.placer.rooms[place].node.id) {
                avoided.push(place);
            } else {
                found = Some(place);
                break;
            }
        }
        let found = found.or_else(|| avoided.first().copied());
        for place in avoided.into_iter().filter(|place| Some(*place) != found) {
            self.offer(revision, spec, place);
        }
        found
    }

    fn offer(&mut self, revision: Revision, spec: &ServiceSpec, place: usize) {
        let entry = Reverse((self.score(place), place));
        self.queue(revision, spec).heap.push(entry);
    }

    fn why_none(&mut self, revision: Revision, spec: &ServiceSpec) -> Arc<NoPlacement> {
        if let Some(known) = self
            .tally
            .queues
            .get(&revision)
            .and_then(|queue| queue.none.clone())
        {
            return known;
        }
        let rejected = (0..self.placer.rooms.len()).filter_map(|place| {
            let reason = self.judge(place, spec)?;
            Some((self.placer.rooms[place].node, reason))
        });
        let why = Arc::new(NoPlacement::new(rejected));
        self.queue(revision, spec).none = Some(Arc::clone(&why));
        why
    }
}
