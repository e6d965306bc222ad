//! What the services should be after the writes that clients were told about: a model of the log small enough to trust.
//!
//! It knows nothing of tasks, nodes or plans. It is folded over the accepted writes in the order of their revisions and
//! then compared with what the cluster says.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::spec::Mode;
use kawanan_api::{NodeId, ServiceId, ServiceSpec};
use kawanan_logic::state::Availability;
use kawanan_logic::{ClusterState, Command};

use super::ledger::Told;

/// Services and what operators set on nodes, as the clients know them.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Expected {
    pub services: BTreeMap<ServiceId, ServiceSpec>,
    pub availability: BTreeMap<NodeId, Availability>,
}

impl Expected {
    /// Folds accepted writes, which come in the order of the log.
    pub fn after(accepted: &[Told]) -> Self {
        let mut expected = Self::default();
        for told in accepted {
            expected.fold(&told.command);
        }
        expected
    }

    fn fold(&mut self, command: &Command) {
        match command {
            Command::CreateService { id, spec } | Command::UpdateService { id, spec, .. } => {
                self.services.insert(*id, spec.clone());
            }
            Command::ScaleServices { replicas } => {
                for (id, replicas) in replicas {
                    if let Some(spec) = self.services.get_mut(id) {
                        spec.mode = Mode::Replicated {
                            replicas: *replicas,
                        };
                    }
                }
            }
            Command::RemoveService { id } => {
                self.services.remove(id);
            }
            Command::UpdateNode {
                id,
                availability: Some(availability),
                ..
            } => {
                self.availability.insert(*id, *availability);
            }
            _ => {}
        }
    }

    /// I1: in what the cluster differs from the accepted writes.
    pub fn differences(&self, state: &ClusterState) -> Vec<String> {
        let live: BTreeMap<ServiceId, &ServiceSpec> = state
            .services
            .values()
            .filter(|service| service.removed_at.is_none())
            .map(|service| (service.id, &**service.spec()))
            .collect();
        let ids: BTreeSet<ServiceId> = self.services.keys().chain(live.keys()).copied().collect();
        let mut differences = Vec::new();
        for id in ids {
            match (self.services.get(&id), live.get(&id)) {
                (Some(wanted), Some(spec)) if wanted == *spec => {}
                (Some(wanted), Some(spec)) => differences.push(format!(
                    "service {} should have {} replicas of {} and has {} of {}",
                    wanted.name,
                    replicas(wanted),
                    wanted.container.image,
                    replicas(spec),
                    spec.container.image
                )),
                (Some(wanted), None) => {
                    differences.push(format!("service {} was created and is gone", wanted.name));
                }
                (None, Some(spec)) => {
                    differences.push(format!("service {} was removed and is there", spec.name));
                }
                (None, None) => {}
            }
        }
        for (node, wanted) in &self.availability {
            let actual = state.nodes.get(node).map(|node| node.availability);
            if actual.is_some_and(|actual| actual != *wanted) {
                differences.push(format!(
                    "node {node} should be {wanted:?} and is {actual:?}"
                ));
            }
        }
        differences
    }
}

fn replicas(spec: &ServiceSpec) -> String {
    spec.replicas()
        .map_or_else(|| "global".to_owned(), |replicas| replicas.to_string())
}
