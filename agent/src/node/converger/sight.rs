//! What this node's containers look like, and the same in the brain's words.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kawanan_logic::converge::{
    ContainerSeen, ContainerStatus as LogicStatus, Health as LogicHealth,
};
use kawanan_logic::state::ClusterState;
use tokio::sync::watch;

use crate::containers::{ContainerStatus, Health, SeenContainer};
use crate::node::Seen;

/// The newest look at each container. Looks come in any order: a list that began before a container was touched says
/// nothing about that container.
pub(super) struct Sight {
    containers: BTreeMap<String, Looked>,
    /// Containers that went since the last list, which may still show them.
    gone: BTreeMap<String, u64>,
    /// Counts looks and touches.
    now: u64,
    publish: watch::Sender<Seen>,
}

struct Looked {
    seen: SeenContainer,
    at: u64,
}

/// When a look began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Began(u64);

impl Sight {
    pub(super) fn new(publish: watch::Sender<Seen>) -> Self {
        Self {
            containers: BTreeMap::new(),
            gone: BTreeMap::new(),
            now: 0,
            publish,
        }
    }

    pub(super) fn begin(&mut self) -> Began {
        self.now += 1;
        Began(self.now)
    }

    /// One container as it is after an action or an inspection.
    pub(super) fn saw(&mut self, seen: SeenContainer) {
        self.now += 1;
        let looked = Looked { at: self.now, seen };
        self.containers.insert(looked.seen.id.clone(), looked);
    }

    pub(super) fn gone(&mut self, container: &str) {
        self.now += 1;
        self.containers.remove(container);
        self.gone.insert(container.to_owned(), self.now);
    }

    /// Whether the container went only lately: the engine may still talk about it.
    pub(super) fn just_went(&self, container: &str) -> bool {
        self.gone.contains_key(container)
    }

    /// All containers, as a list shows them that began at `began`. `busy` ones keep the look they have.
    pub(super) fn listed(
        &mut self,
        began: Began,
        list: Vec<SeenContainer>,
        busy: &BTreeSet<String>,
    ) {
        let newer = |id: &String, looked: &Looked| looked.at > began.0 || busy.contains(id);
        self.containers.retain(|id, looked| newer(id, looked));
        self.gone.retain(|_, at| *at > began.0);
        for seen in list {
            if self.gone.contains_key(&seen.id) {
                continue;
            }
            let at = began.0;
            self.containers
                .entry(seen.id.clone())
                .or_insert(Looked { seen, at });
        }
    }

    pub(super) fn get(&self, container: &str) -> Option<&SeenContainer> {
        self.containers.get(container).map(|looked| &looked.seen)
    }

    /// Lets the others see it, if anything changed.
    pub(super) fn publish(&self) -> Seen {
        let seen: BTreeMap<String, SeenContainer> = self
            .containers
            .iter()
            .map(|(id, looked)| (id.clone(), looked.seen.clone()))
            .collect();
        self.publish.send_if_modified(|published| {
            let changed = **published != seen;
            if changed {
                *published = Arc::new(seen);
            }
            changed
        });
        self.publish.borrow().clone()
    }

    /// For the brain. A container that the engine is removing is no container any more to a task that is meant to run:
    /// it may be stuck there for hours, and its replacement must not wait.
    pub(super) fn for_logic(&self, state: &ClusterState) -> Vec<ContainerSeen> {
        let is_ghost = |seen: &SeenContainer| {
            let task = seen.task.and_then(|task| state.tasks.get(&task));
            seen.status == ContainerStatus::Removing && task.is_some_and(|task| task.is_live())
        };
        self.containers
            .values()
            .map(|looked| &looked.seen)
            .filter(|seen| !is_ghost(seen))
            .map(|seen| ContainerSeen {
                id: seen.id.clone(),
                task: seen.task,
                node: seen.node,
                status: status(&seen.status),
            })
            .collect()
    }
}

fn status(status: &ContainerStatus) -> LogicStatus {
    match *status {
        ContainerStatus::Created => LogicStatus::Created,
        ContainerStatus::Running { health, since } => LogicStatus::Running {
            health: match health {
                Health::NoCheck => LogicHealth::Unchecked,
                Health::Starting => LogicHealth::Starting,
                Health::Healthy => LogicHealth::Healthy,
                Health::Unhealthy => LogicHealth::Unhealthy,
            },
            started_at: since,
        },
        ContainerStatus::Paused => LogicStatus::Paused,
        ContainerStatus::Exited {
            code,
            out_of_memory,
            at,
            ..
        } => LogicStatus::Exited {
            code,
            out_of_memory,
            at,
        },
        ContainerStatus::Removing => LogicStatus::Removing,
        ContainerStatus::Dead => LogicStatus::Dead,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(id: &str, status: ContainerStatus) -> SeenContainer {
        SeenContainer {
            id: id.to_owned(),
            name: id.to_owned(),
            task: None,
            service: None,
            node: None,
            status,
            address: None,
        }
    }

    #[test]
    fn a_list_says_nothing_about_what_changed_after_it_began() {
        let (publish, _seen) = watch::channel(Seen::default());
        let mut sight = Sight::new(publish);
        sight.saw(seen("old", ContainerStatus::Created));
        sight.saw(seen("busy", ContainerStatus::Created));
        let began = sight.begin();
        sight.saw(seen("new", ContainerStatus::Created));
        sight.saw(seen("removed", ContainerStatus::Created));
        sight.gone("removed");
        let busy = BTreeSet::from(["busy".to_owned()]);
        sight.listed(
            began,
            ["new", "found", "removed"]
                .map(|id| seen(id, ContainerStatus::Paused))
                .to_vec(),
            &busy,
        );
        assert!(sight.get("old").is_none() && sight.get("removed").is_none());
        assert!(sight.get("busy").is_some());
        assert_eq!(sight.get("new").unwrap().status, ContainerStatus::Created);
        assert_eq!(sight.get("found").unwrap().status, ContainerStatus::Paused);
    }
}
