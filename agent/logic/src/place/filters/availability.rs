//! The node is counted on, takes tasks, looks alive, and its engine answers.

use super::{Candidate, Reason};
use crate::observation::NodeSeen;
use crate::state::{Availability, Node, NodeStatus};

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    candidate.room.closed.clone()
}

/// Why a node takes no new tasks, whatever they ask for.
pub(in crate::place) fn closed(node: &Node, seen: NodeSeen) -> Option<Reason> {
    match (node.status, node.availability) {
        (NodeStatus::Left, _) => Some(Reason::Left),
        (NodeStatus::Down, _) => Some(Reason::Down),
        (NodeStatus::Ready, Availability::Drain) => Some(Reason::Drained),
        (NodeStatus::Ready, Availability::Pause) => Some(Reason::Paused),
        (NodeStatus::Ready, Availability::Active) if !seen.alive => Some(Reason::Suspect),
        (NodeStatus::Ready, Availability::Active) if !seen.engine_ok => Some(Reason::EngineDown),
        (NodeStatus::Ready, Availability::Active) => None,
    }
}
