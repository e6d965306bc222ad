//! Which slots a replicated service has: as many as its user asked for.
//!
//! Slots keep their numbers for as long as they last. Scaling down takes those first that do no good, then from the
//! nodes with most tasks, then the highest numbers; scaling up takes the lowest free numbers.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{NodeId, Slot};

use super::Draft;
use super::seat::{SeatTasks, Work};
use crate::command::TaskChange;
use crate::state::{Desired, Seat};

/// The slots to fill, by number. Takes out what is in the others.
pub(super) fn seats(work: &Work<'_>, replicas: u32, draft: &mut Draft) -> Vec<Seat> {
    let wanted_count = usize::try_from(replicas).unwrap_or(usize::MAX);
    let held: BTreeMap<Seat, &SeatTasks<'_>> = work
        .seats
        .iter()
        .filter(|(_, tasks)| tasks.is_held())
        .map(|(seat, tasks)| (*seat, tasks))
        .collect();
    let surplus = surplus(work, &held, held.len().saturating_sub(wanted_count));
    let mut wanted: BTreeSet<Seat> = held
        .into_keys()
        .filter(|seat| !surplus.contains(seat))
        .collect();
    let mut number = 0;
    while wanted.len() < wanted_count && number < u32::MAX {
        number += 1;
        wanted.insert(Seat::Slot(Slot(number)));
    }
    let emptied = work.seats.iter().filter(|(seat, _)| !wanted.contains(seat));
    for task in emptied.flat_map(|(_, tasks)| tasks.all()) {
        if task.desired != Desired::Remove && work.state.node_is_ready(task.node) {
            draft.push(TaskChange::SetDesired {
                task: task.id,
                desired: Desired::Remove,
            });
        }
    }
    wanted.into_iter().collect()
}

/// The `count` seats that are missed least.
fn surplus(work: &Work<'_>, held: &BTreeMap<Seat, &SeatTasks<'_>>, count: usize) -> BTreeSet<Seat> {
    let mut surplus = BTreeSet::new();
    if count == 0 {
        return surplus;
    }
    let mut idle: Vec<(bool, Seat)> = Vec::new();
    let mut busy: BTreeMap<NodeId, Vec<Seat>> = BTreeMap::new();
    for (&seat, tasks) in held {
        match tasks.live.iter().find(|task| task.is_running()) {
            Some(task) if work.is_well_placed(task) => {
                busy.entry(task.node).or_default().push(seat);
            }
            misplaced => idle.push((misplaced.is_none(), seat)),
        }
    }
    // Those that do not run before those that run where they must not stay.
    idle.sort_unstable();
    surplus.extend(idle.into_iter().rev().take(count).map(|(_, seat)| seat));
    // The node with most tasks comes last; among equals the one with the highest slot.
    let mut nodes: BTreeSet<(usize, Option<Seat>, NodeId)> = busy
        .iter()
        .map(|(node, seats)| (seats.len(), seats.last().copied(), *node))
        .collect();
    while surplus.len() < count
        && let Some((_, _, node)) = nodes.pop_last()
        && let Some(seats) = busy.get_mut(&node)
    {
        surplus.extend(seats.pop());
        if !seats.is_empty() {
            nodes.insert((seats.len(), seats.last().copied(), node));
        }
    }
    surplus
}
