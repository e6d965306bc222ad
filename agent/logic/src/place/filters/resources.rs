//! The node has as much left as the service sets aside. What others use without a reservation does not count.

use kawanan_api::quantity::{Bytes, MilliCpus};

use super::{Candidate, Reason};

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    let asked = candidate.spec.resources.reservations;
    let (capacity, reserved) = (candidate.room.node.facts.capacity, candidate.room.reserved);
    let cpus = MilliCpus(capacity.cpus.0.saturating_sub(reserved.cpus.0));
    let memory = Bytes(capacity.memory.0.saturating_sub(reserved.memory.0));
    if asked.memory > memory {
        return Some(Reason::Memory {
            asked: asked.memory,
            free: memory,
        });
    }
    (asked.cpus > cpus).then_some(Reason::Cpus {
        asked: asked.cpus,
        free: cpus,
    })
}
