//! The node is counted on, takes tasks, looks alive, and its engine answers.

use super::{Candidate, Reason};
use crate::state::{Availability, NodeStatus};

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    let room = candidate.room;
    match (room.node.status, room.node.availability) {
        (NodeStatus::Left, _) => Some(Reason::Left),
        (NodeStatus::Down, _) => Some(Reason::Down),
        (NodeStatus::Ready, Availability::Drain) => Some(Reason::Drained),
        (NodeStatus::Ready, Availability::Pause) => Some(Reason::Paused),
        (NodeStatus::Ready, Availability::Active) if !room.seen.alive => Some(Reason::Suspect),
        (NodeStatus::Ready, Availability::Active) if !room.seen.engine_ok => {
            Some(Reason::EngineDown)
        }
        (NodeStatus::Ready, Availability::Active) => None,
    }
}
