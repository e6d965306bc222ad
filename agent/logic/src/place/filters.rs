//! The rules that a node must meet to get a task, one a file. A node is turned down by the first one that it breaks,
//! so the order is that in which a person would want to hear: what is wrong with the node before what it lacks.

pub(super) mod availability;
pub(super) mod constraints;
mod host_ports;
mod max_per_node;
mod resources;

use super::{Candidate, Reason};

/// Why this node does not fit; `None`: it does.
pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    availability::judge(candidate)
        .or_else(|| constraints::judge(candidate))
        .or_else(|| max_per_node::judge(candidate))
        .or_else(|| host_ports::judge(candidate))
        .or_else(|| resources::judge(candidate))
}
