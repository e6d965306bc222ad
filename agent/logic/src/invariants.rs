//! What must be true of every state that a log can make. Tests and simulations check it after each step; the agent
//! may check it after reading a snapshot.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kawanan_api::spec::{Mode, PortMode};
use kawanan_api::{RaftId, ServiceId, TaskId};

use crate::state::{ClusterState, Desired, Seat, Service, TaskState};

/// Something that must not be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Violation {
    NotFounded,
    WrongKey(String),
    NoCurrentSpec(ServiceId),
    SpareRevision(ServiceId),
    RemovedServiceWithoutTasks(ServiceId),
    RemovedServiceWithWantedTask(TaskId),
    SharedName(String),
    SharedPort(String),
    SharedRaftId(RaftId),
    TaskWithoutService(TaskId),
    TaskWithoutSpec(TaskId),
    TaskWithoutNode(TaskId),
    SeatOfOtherMode(TaskId),
    TooManyLive { service: ServiceId, seat: Seat },
    WantedOrphan(TaskId),
    RunningNever(TaskId),
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NotFounded => f.write_str("there are objects, but no cluster"),
            Self::WrongKey(what) => write!(f, "{what} is filed under another id"),
            Self::NoCurrentSpec(id) => write!(f, "service {id} lacks its current spec"),
            Self::SpareRevision(id) => write!(
                f,
                "service {id} keeps a revision newer than its current one"
            ),
            Self::RemovedServiceWithoutTasks(id) => {
                write!(
                    f,
                    "service {id} is removed, has no tasks and is still there"
                )
            }
            Self::RemovedServiceWithWantedTask(id) => {
                write!(f, "task {id} of a removed service is not to be removed")
            }
            Self::SharedName(name) => write!(f, "two services are named {name}"),
            Self::SharedPort(port) => write!(f, "two services publish port {port}"),
            Self::SharedRaftId(id) => write!(f, "two nodes have the raft id {id}"),
            Self::TaskWithoutService(id) => write!(f, "task {id} belongs to no service"),
            Self::TaskWithoutSpec(id) => write!(f, "the spec of task {id} is gone"),
            Self::TaskWithoutNode(id) => write!(f, "task {id} is on no node"),
            Self::SeatOfOtherMode(id) => {
                write!(f, "task {id} has a seat of another kind of service")
            }
            Self::TooManyLive { service, seat } => {
                write!(
                    f,
                    "more than two live tasks in {seat:?} of service {service}"
                )
            }
            Self::WantedOrphan(id) => write!(f, "orphaned task {id} is not to be removed"),
            Self::RunningNever(id) => write!(f, "task {id} runs since no instant"),
        }
    }
}

/// All that is wrong with a state; nothing, if it came out of a log.
pub fn check(state: &ClusterState) -> Vec<Violation> {
    let mut found = Vec::new();
    let empty = state.nodes.is_empty()
        && state.services.is_empty()
        && state.tasks.is_empty()
        && state.tokens.is_empty();
    if state.cluster.is_none() && !empty {
        found.push(Violation::NotFounded);
    }
    check_keys(state, &mut found);
    check_nodes(state, &mut found);
    check_services(state, &mut found);
    check_tasks(state, &mut found);
    found
}

fn check_keys(state: &ClusterState, found: &mut Vec<Violation>) {
    let nodes = state.nodes.iter().filter(|(id, node)| **id != node.id);
    found.extend(nodes.map(|(id, _)| Violation::WrongKey(format!("{id:?}"))));
    let services = state.services.iter().filter(|(id, it)| **id != it.id);
    found.extend(services.map(|(id, _)| Violation::WrongKey(format!("{id:?}"))));
    let tasks = state.tasks.iter().filter(|(id, task)| **id != task.id);
    found.extend(tasks.map(|(id, _)| Violation::WrongKey(format!("{id:?}"))));
    let tokens = state.tokens.iter().filter(|(id, token)| **id != token.id);
    found.extend(tokens.map(|(id, _)| Violation::WrongKey(format!("{id:?}"))));
}

fn check_nodes(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut raft_ids = BTreeSet::new();
    for node in state.nodes.values() {
        if !raft_ids.insert(node.raft_id) {
            found.push(Violation::SharedRaftId(node.raft_id));
        }
    }
}

fn check_services(state: &ClusterState, found: &mut Vec<Violation>) {
    let with_tasks: BTreeSet<ServiceId> = state.tasks.values().map(|task| task.service).collect();
    let mut live: Vec<&Service> = Vec::new();
    for service in state.services.values() {
        if !service.revisions.contains_key(&service.spec_revision) {
            found.push(Violation::NoCurrentSpec(service.id));
            continue;
        }
        let newest = service.revisions.keys().next_back();
        if newest != Some(&service.spec_revision) || service.spec_revision > state.revision {
            found.push(Violation::SpareRevision(service.id));
        }
        if service.is_live() {
            live.push(service);
        } else if !with_tasks.contains(&service.id) {
            found.push(Violation::RemovedServiceWithoutTasks(service.id));
        }
    }
    let mut names = BTreeSet::new();
    // The first owner of a port, and whether it publishes it in ingress mode.
    let mut ports = BTreeMap::new();
    for service in live {
        let spec = service.spec();
        if !names.insert(&spec.name) {
            found.push(Violation::SharedName(spec.name.clone()));
        }
        for port in &spec.ports {
            let ingress = port.mode == PortMode::Ingress;
            let key = (port.published, port.protocol);
            let (owner, other_ingress) = *ports.entry(key).or_insert((service.id, ingress));
            if owner != service.id && (ingress || other_ingress) {
                found.push(Violation::SharedPort(port.to_string()));
            }
        }
    }
}

fn check_tasks(state: &ClusterState, found: &mut Vec<Violation>) {
    let mut live_in: BTreeMap<(ServiceId, Seat), u32> = BTreeMap::new();
    for task in state.tasks.values() {
        let Some(service) = state.services.get(&task.service) else {
            found.push(Violation::TaskWithoutService(task.id));
            continue;
        };
        let Some(spec) = service.revisions.get(&task.spec_revision) else {
            found.push(Violation::TaskWithoutSpec(task.id));
            continue;
        };
        if (spec.mode == Mode::Global) != task.slot.is_none() {
            found.push(Violation::SeatOfOtherMode(task.id));
        }
        if !state.nodes.contains_key(&task.node) {
            found.push(Violation::TaskWithoutNode(task.id));
        }
        if !service.is_live() && task.desired != Desired::Remove {
            found.push(Violation::RemovedServiceWithWantedTask(task.id));
        }
        if task.state == TaskState::Orphaned && task.desired != Desired::Remove {
            found.push(Violation::WantedOrphan(task.id));
        }
        if task.state == TaskState::Running && task.running_since.is_none() {
            found.push(Violation::RunningNever(task.id));
        }
        if task.is_live() {
            let count = live_in.entry((task.service, task.seat())).or_default();
            *count += 1;
            if *count == 3 {
                found.push(Violation::TooManyLive {
                    service: task.service,
                    seat: task.seat(),
                });
            }
        }
    }
}

/// Panics when a state breaks a rule, with all that is wrong. For tests and simulations.
///
/// # Panics
/// When [`check`] finds something.
pub fn assert_holds(state: &ClusterState) {
    let found = check(state);
    let told: Vec<String> = found.iter().map(ToString::to_string).collect();
    assert!(
        told.is_empty(),
        "at revision {}: {}",
        state.revision,
        told.join("; ")
    );
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Cluster, spec};

    /// What is found after a state was bent like this.
    fn found(bend: impl FnOnce(&mut ClusterState)) -> Vec<String> {
        let mut cluster = Cluster::new(2);
        cluster.create(spec("web", 1));
        cluster.create(spec("api", 1));
        cluster.settle();
        bend(&mut cluster.state);
        check(&cluster.state)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_sound_state_has_nothing_to_find() {
        assert_eq!(found(|_| {}), Vec::<String>::new());
    }

    #[test]
    fn each_way_to_bend_a_state_is_noticed() {
        let first_task = |state: &mut ClusterState, bend: fn(&mut crate::state::Task)| {
            let task = state.tasks.values_mut().next().unwrap();
            bend(Arc::make_mut(task));
        };
        let cases: Vec<(&str, Vec<String>)> = vec![
            ("no cluster", found(|state| state.cluster = None)),
            ("is on no node", found(|state| state.nodes.clear())),
            (
                "belongs to no service",
                found(|state| state.services.clear()),
            ),
            (
                "have the raft id",
                found(|state| {
                    for node in state.nodes.values_mut() {
                        Arc::make_mut(node).raft_id = RaftId(5);
                    }
                }),
            ),
            (
                "is still there",
                found(|state| {
                    state.tasks.clear();
                    for service in state.services.values_mut() {
                        Arc::make_mut(service).removed_at = Some(crate::testing::START);
                    }
                }),
            ),
            (
                "is not to be removed",
                found(|state| {
                    first_task(state, |task| task.state = TaskState::Orphaned);
                }),
            ),
            (
                "another kind of service",
                found(|state| first_task(state, |task| task.slot = None)),
            ),
            (
                "runs since no instant",
                found(|state| {
                    first_task(state, |task| task.running_since = None);
                }),
            ),
            (
                "lacks its current spec",
                found(|state| {
                    for service in state.services.values_mut() {
                        Arc::make_mut(service).revisions.clear();
                    }
                }),
            ),
            (
                "more than two live tasks",
                found(|state| {
                    let task = state.tasks.values().next().unwrap().clone();
                    for id in 1..3 {
                        let mut copy = crate::state::Task::clone(&task);
                        copy.id = TaskId::from_bits(id);
                        state.tasks.insert(copy.id, Arc::new(copy));
                    }
                }),
            ),
            (
                "is filed under another id",
                found(|state| {
                    first_task(state, |task| task.id = TaskId::from_bits(1));
                }),
            ),
        ];
        for (expected, found) in cases {
            assert!(
                found.iter().any(|told| told.contains(expected)),
                "{expected}: {found:?}"
            );
        }
    }
}
