//! Which nodes a global service runs on: every one that takes tasks and meets the constraints. A paused node keeps
//! what it has.

use super::Draft;
use super::seat::Work;
use crate::command::TaskChange;
use crate::place::meets_constraints;
use crate::state::{Availability, Desired, Seat};

/// The seats to fill. Stops what is in the others: nothing replaces it, its node is its seat.
pub(super) fn seats(work: &Work<'_>, draft: &mut Draft) -> Vec<Seat> {
    let mut wanted = Vec::new();
    for node in work.state.nodes.values().filter(|node| node.is_ready()) {
        let seat = Seat::Node(node.id);
        let live = work.seat(seat).live;
        let takes_part = match node.availability {
            Availability::Active => true,
            Availability::Pause => !live.is_empty(),
            Availability::Drain => false,
        };
        if takes_part && meets_constraints(node, &work.spec.placement) {
            wanted.push(seat);
            continue;
        }
        for task in live {
            draft.push(TaskChange::SetDesired {
                task: task.id,
                desired: Desired::Shutdown,
            });
        }
    }
    wanted
}
