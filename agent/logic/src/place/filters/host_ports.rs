//! The ports that the container itself opens on the node are free there.

use super::{Candidate, Reason};
use crate::place::host_ports;

pub(super) fn judge(candidate: &Candidate<'_, '_>) -> Option<Reason> {
    host_ports(candidate.spec)
        .find(|port| candidate.room.host_ports.contains(port))
        .map(|(port, protocol)| Reason::HostPort { port, protocol })
}
