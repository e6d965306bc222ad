//! Which local tasks answer a published port. Only ports in ingress mode: those in host mode are Docker's affair.

use std::collections::BTreeMap;
use std::num::NonZeroU16;

use kawanan_api::spec::{PortMode, Protocol};
use kawanan_api::{NodeId, TaskId};

use crate::state::ClusterState;

/// Tasks by the port on the node, each with the port in its container. In the order of their ids.
pub type LocalPorts = BTreeMap<(u16, Protocol), Vec<(TaskId, NonZeroU16)>>;

/// The ingress ports that this node answers, and the tasks on it that take the connections: those that run and are
/// meant to. A task that is on its way out, or not yet healthy, gets nothing.
pub fn local_ports(state: &ClusterState, me: NodeId) -> LocalPorts {
    let mut ports = LocalPorts::new();
    for task in state.tasks_on(me).filter(|task| task.is_running()) {
        let Some(spec) = state.spec_of(task) else {
            continue;
        };
        for port in spec
            .ports
            .iter()
            .filter(|port| port.mode == PortMode::Ingress)
        {
            ports
                .entry((port.published.get(), port.protocol))
                .or_default()
                .push((task.id, port.target));
        }
    }
    ports
}
