//! The node is one that the service may run on.

use kawanan_api::spec::{Constraint, ConstraintKey, Operator, Placement};

use super::{Candidate, Reason};
use crate::state::Node;

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    broken(candidate.room.node, candidate.placement)
        .map(|constraint| Reason::Constraint(constraint.to_string()))
}

/// Whether a node meets all constraints, whatever else may speak against it.
pub fn meets_all(node: &Node, placement: &Placement) -> bool {
    broken(node, placement).is_none()
}

fn broken<'p>(node: &Node, placement: &'p Placement) -> Option<&'p Constraint> {
    placement
        .constraints
        .iter()
        .find(|constraint| !holds(node, constraint))
}

fn holds(node: &Node, constraint: &Constraint) -> bool {
    let equals = |text: &str| text.eq_ignore_ascii_case(&constraint.value);
    let equal = match &constraint.key {
        ConstraintKey::NodeId => equals(&node.id.to_string()),
        ConstraintKey::NodeName => equals(&node.name),
        // A label that is not there equals nothing, so `!=` holds.
        ConstraintKey::NodeLabel(label) => node.labels.get(label).is_some_and(|text| equals(text)),
        ConstraintKey::PlatformArch => equals(&node.facts.platform.arch),
        ConstraintKey::PlatformOs => equals(&node.facts.platform.os),
    };
    equal == (constraint.operator == Operator::Equal)
}
