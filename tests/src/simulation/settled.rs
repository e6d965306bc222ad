//! Whether a cluster has come to rest: everything runs that should, nothing runs that should not, all nodes agree.
//!
//! Looks at the log's newest state and at the engines themselves, so that a cluster which only believes that its
//! containers run does not count as settled.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_agent::consensus::{ConsensusStatus, Role};
use kawanan_agent::containers::{ContainerStatus, SeenContainer};
use kawanan_api::spec::Mode;
use kawanan_api::{NodeId, RaftId, Revision, TaskId};
use kawanan_logic::ClusterState;
use kawanan_logic::state::{Availability, Desired, Node, NodeStatus, Rollout, Service, Task};

/// What can be seen of one machine from outside.
#[derive(Debug, Clone)]
pub struct MachineSeen {
    pub name: String,
    pub node: NodeId,
    /// Power is on and its agent runs.
    pub up: bool,
    /// What its agent has applied; `None` while it is down.
    pub revision: Option<Revision>,
    /// What its agent does in the log; `None` while it is down.
    pub log: Option<ConsensusStatus>,
    pub containers: Vec<SeenContainer>,
}

/// What is still to happen, in words; nothing, when the cluster has settled.
pub fn unsettled(state: &ClusterState, machines: &[MachineSeen]) -> Vec<String> {
    let mut open = Vec::new();
    for machine in machines {
        check_machine(state, machine, &mut open);
    }
    check_voters(state, machines, &mut open);
    let running = running_containers(machines);
    for service in state.services.values() {
        check_service(state, service, &mut open);
    }
    for task in state.tasks.values() {
        let over = match task.desired {
            Desired::Running => true,
            Desired::Shutdown => task.state.is_final(),
            Desired::Remove => false,
        };
        if !over && state.node_is_ready(task.node) {
            open.push(format!("{} is to stop", name_of(state, task)));
        }
    }
    for task in state.tasks.values().filter(|task| task.is_live()) {
        let containers = running.get(&(task.node, task.id)).copied().unwrap_or(0);
        if containers != 1 {
            open.push(format!(
                "{} is to run and has {containers} running containers on {}",
                name_of(state, task),
                state.node_name(task.node)
            ));
        }
    }
    open
}

fn check_machine(state: &ClusterState, machine: &MachineSeen, open: &mut Vec<String>) {
    let name = &machine.name;
    let Some(node) = state.nodes.get(&machine.node) else {
        if machine.up {
            open.push(format!("{name} is not in the node table"));
        }
        return;
    };
    let wanted = if machine.up {
        NodeStatus::Ready
    } else {
        NodeStatus::Down
    };
    if node.status != wanted {
        open.push(format!(
            "{name} is {:?} and should be {wanted:?}",
            node.status
        ));
    }
    if let Some(log) = &machine.log
        && matches!(log.role, Role::Failed(_) | Role::Outsider | Role::Candidate)
    {
        open.push(format!("{name} is {} in the log", log.role));
    }
    if let Some(revision) = machine.revision
        && revision != state.revision
    {
        open.push(format!(
            "{name} is at revision {revision} of {}",
            state.revision
        ));
    }
    for container in machine.containers.iter().filter(|_| machine.up) {
        let task = container.task.and_then(|task| state.tasks.get(&task));
        let here = task.filter(|task| task.node == machine.node);
        let runs = matches!(container.status, ContainerStatus::Running { .. });
        let explained = if runs {
            here.is_some_and(|task| task.is_live())
        } else {
            here.is_some()
        };
        if !explained {
            open.push(format!(
                "I7: container {} on {name} is {} and nothing in the log explains it",
                container.name,
                if runs { "running" } else { "there" }
            ));
        }
    }
}

/// One, three or five voters, all of them up while there are enough nodes.
fn check_voters(state: &ClusterState, machines: &[MachineSeen], open: &mut Vec<String>) {
    let members = state
        .nodes
        .values()
        .filter(|node| node.status != NodeStatus::Left);
    let wanted = match members.count() {
        0..3 => 1,
        3..7 => 3,
        _ => 5,
    };
    let up: BTreeSet<RaftId> = machines
        .iter()
        .filter(|machine| machine.up)
        .filter_map(|machine| Some(state.nodes.get(&machine.node)?.raft_id))
        .collect();
    for machine in machines {
        let Some(log) = &machine.log else { continue };
        let voters = &log.members.voters;
        if log.is_joint() || voters.len() != wanted {
            open.push(format!(
                "{} counts {} voters, which should be {wanted}",
                machine.name,
                voters.len()
            ));
        }
        if up.len() >= wanted && !voters.is_subset(&up) {
            open.push(format!("{} counts on a voter that is down", machine.name));
        }
    }
}

fn check_service(state: &ClusterState, service: &Service, open: &mut Vec<String>) {
    let spec = service.spec();
    let name = &spec.name;
    if service.removed_at.is_some() {
        open.push(format!("{name} is removed and not gone yet"));
        return;
    }
    if service.rollout != Rollout::Steady {
        open.push(format!("{name} is {:?}", service.rollout));
    }
    let live: Vec<_> = state
        .tasks_of(service.id)
        .filter(|task| task.is_live())
        .collect();
    let wanted = match spec.mode {
        Mode::Replicated { replicas } => replicas as usize,
        Mode::Global => state
            .nodes
            .values()
            .filter(|node| takes_tasks(node))
            .count(),
    };
    let running = live.iter().filter(|task| task.is_running()).count();
    if live.len() != wanted || running != wanted {
        open.push(format!(
            "{name} has {} live tasks, {running} of them running, and should have {wanted}",
            live.len()
        ));
    }
    let seats: BTreeSet<_> = live.iter().map(|task| task.seat()).collect();
    if seats.len() != live.len() {
        open.push(format!("{name} has two live tasks in one seat"));
    }
    for task in live {
        if !state
            .nodes
            .get(&task.node)
            .is_some_and(|node| takes_tasks(node))
        {
            open.push(format!(
                "{} is on {}, which should have no tasks",
                name_of(state, task),
                state.node_name(task.node)
            ));
        }
        if !service.is_current(task.spec_revision) {
            open.push(format!("{} runs an old revision", name_of(state, task)));
        }
    }
}

fn takes_tasks(node: &Node) -> bool {
    node.status == NodeStatus::Ready && node.availability != Availability::Drain
}

/// `web.2`, or `agent.n3` for a global service.
pub fn name_of(state: &ClusterState, task: &Task) -> String {
    let service = state.services.get(&task.service);
    let service = service.map_or_else(|| task.service.short(), |it| it.spec().name.clone());
    let seat = task
        .slot
        .map_or_else(|| state.node_name(task.node), |slot| slot.to_string());
    format!("{service}.{seat}")
}

fn running_containers(machines: &[MachineSeen]) -> BTreeMap<(NodeId, TaskId), usize> {
    let mut running = BTreeMap::new();
    for machine in machines {
        for container in &machine.containers {
            if let (Some(task), ContainerStatus::Running { .. }) =
                (container.task, &container.status)
            {
                *running.entry((machine.node, task)).or_default() += 1;
            }
        }
    }
    running
}
