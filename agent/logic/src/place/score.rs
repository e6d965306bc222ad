//! Which of the nodes that fit is best: the lowest score.

use kawanan_api::spec::ResourceAmounts;

use super::Room;

/// Compared field by field: first spread the service, then even out reservations, then the number of tasks. Equal
/// scores are decided by the node's id, so that every leader chooses alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Score {
    /// Tasks of the service that stay on this node.
    of_service: u32,
    /// The scarcer resource's reserved share, in thousandths.
    reserved: u64,
    /// Tasks of all services.
    tasks: u32,
}

impl Score {
    pub(super) fn of(room: &Room<'_>, of_service: u32) -> Self {
        Self {
            of_service,
            reserved: room.reserved_share,
            tasks: room.tasks,
        }
    }
}

/// How much of a node is reserved, by the scarcer resource, in thousandths.
pub(super) fn share(reserved: ResourceAmounts, capacity: ResourceAmounts) -> u64 {
    let thousandths = |part: u64, whole: u64| part.saturating_mul(1000) / whole.max(1);
    thousandths(reserved.cpus.0, capacity.cpus.0)
        .max(thousandths(reserved.memory.0, capacity.memory.0))
}
