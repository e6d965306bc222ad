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
    let held: Vec<(Seat, SeatTasks<'_, '_>)> =
        work.seats().filter(|(_, tasks)| tasks.is_held()).collect();
    let surplus = surplus(work, &held, held.len().saturating_sub(wanted_count));
    let mut wanted: Vec<Seat> = held
        .into_iter()
        .map(|(seat, _)| seat)
        .filter(|seat| !surplus.contains(seat))
        .collect();
    let free = (1..=u32::MAX)
        .map(|number| Seat::Slot(Slot(number)))
        .filter(|seat| wanted.binary_search(seat).is_err());
    let new: Vec<Seat> = free.take(wanted_count - wanted.len()).collect();
    wanted.extend(new);
    wanted.sort_unstable();
    for (seat, tasks) in work.seats() {
        if wanted.binary_search(&seat).is_err() {
            take_out(work, tasks, draft);
        }
    }
    wanted
}

fn take_out(work: &Work<'_>, tasks: SeatTasks<'_, '_>, draft: &mut Draft) {
    for task in tasks.all() {
        if task.desired != Desired::Remove && work.state.node_is_ready(task.node) {
            draft.push(TaskChange::SetDesired {
                task: task.id,
                desired: Desired::Remove,
            });
        }
    }
}

/// The `count` seats that are missed least.
fn surplus(work: &Work<'_>, held: &[(Seat, SeatTasks<'_, '_>)], count: usize) -> BTreeSet<Seat> {
    let mut surplus = BTreeSet::new();
    if count == 0 {
        return surplus;
    }
    let mut idle: Vec<(bool, Seat)> = Vec::new();
    let mut busy: BTreeMap<NodeId, Vec<Seat>> = BTreeMap::new();
    for (seat, tasks) in held {
        match tasks.live.iter().find(|task| task.is_running()) {
            Some(task) if work.is_well_placed(task) => {
                busy.entry(task.node).or_default().push(*seat);
            }
            misplaced => idle.push((misplaced.is_none(), *seat)),
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
