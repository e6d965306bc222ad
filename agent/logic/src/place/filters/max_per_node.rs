//! The service has not yet as many tasks on the node as it allows itself.

use super::{Candidate, Reason};

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    let max = candidate.placement.max_per_node?;
    (candidate.here >= max).then_some(Reason::Full { max })
}
