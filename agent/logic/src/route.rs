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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Desired;
    use crate::testing::{Cluster, node_id, spec};

    #[test]
    fn only_tasks_that_run_here_and_are_to_go_on_answer() {
        let mut cluster = Cluster::new(2);
        let mut web = spec("web", 4);
        web.ports = vec!["8080:80".parse().unwrap(), "53:5353/udp".parse().unwrap()];
        web.placement.constraints = vec!["node.name==n1".parse().unwrap()];
        let web = cluster.create(web);
        assert!(local_ports(&cluster.state, node_id(1)).is_empty());
        cluster.settle();
        assert!(local_ports(&cluster.state, node_id(2)).is_empty());
        let ports = local_ports(&cluster.state, node_id(1));
        let keys: Vec<_> = ports.keys().copied().collect();
        assert_eq!(keys, vec![(53, Protocol::Udp), (8080, Protocol::Tcp)]);
        let targets = |ports: &LocalPorts| -> Vec<u16> {
            ports[&(8080, Protocol::Tcp)]
                .iter()
                .map(|(_, target)| target.get())
                .collect()
        };
        assert_eq!(targets(&ports), vec![80; 4]);
        cluster.scale(web, 3);
        let plan = cluster.lead();
        assert!(matches!(
            plan.changes[..],
            [crate::command::TaskChange::SetDesired {
                desired: Desired::Remove,
                ..
            }]
        ));
        assert_eq!(
            targets(&local_ports(&cluster.state, node_id(1))),
            vec![80; 3]
        );
    }

    #[test]
    fn ports_in_host_mode_are_docker_s_affair() {
        let mut cluster = Cluster::new(1);
        let mut web = spec("web", 1);
        web.ports = vec!["published=9000,target=90,mode=host".parse().unwrap()];
        cluster.create(web);
        cluster.settle();
        assert!(local_ports(&cluster.state, node_id(1)).is_empty());
    }
}
