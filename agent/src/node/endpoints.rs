//! Which containers of this node answer a published port. From what the engine shows, not from what the log says: a
//! container that was restarted without a leader has another address, and must still be reachable.

use std::collections::BTreeMap;
use std::net::SocketAddr;

use kawanan_api::NodeId;
use kawanan_api::spec::PortMode;
use kawanan_logic::ClusterState;

use crate::containers::{ContainerStatus, Health, SeenContainer};
use crate::network::{PortKey, PortTable};

/// Every ingress port of a task that is meant to run here, each with the containers that are ready for connections.
/// A port whose tasks are not ready yet is in it without containers.
pub(super) fn table(
    state: &ClusterState,
    me: NodeId,
    seen: &BTreeMap<String, SeenContainer>,
) -> PortTable {
    let mut table = PortTable::new();
    for task in state.tasks_on(me).filter(|task| task.is_live()) {
        let Some(spec) = state.spec_of(task) else {
            continue;
        };
        for port in spec
            .ports
            .iter()
            .filter(|port| port.mode == PortMode::Ingress)
        {
            let key = PortKey {
                port: port.published.get(),
                protocol: port.protocol,
            };
            let backends = table.entry(key).or_default();
            let containers = seen.values().filter(|seen| seen.task == Some(task.id));
            backends.extend(
                containers
                    .filter(|seen| is_ready(seen))
                    .filter_map(|seen| Some(SocketAddr::new(seen.address?, port.target.get()))),
            );
        }
    }
    table
}

fn is_ready(seen: &SeenContainer) -> bool {
    matches!(
        seen.status,
        ContainerStatus::Running {
            health: Health::NoCheck | Health::Healthy,
            ..
        }
    )
}
