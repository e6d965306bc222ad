//! What a cluster looks like, as a few lines that a person reads at a glance and a story can expect.

use kawanan_agent::containers::{ContainerStatus, SeenContainer};
use kawanan_api::{Slot, TaskId};
use kawanan_logic::reconcile::{Why, reconcile};
use kawanan_logic::state::{Availability, NodeStatus, Rollout, Seat, Service, Task};
use kawanan_logic::{ClusterState, Observation};

use super::machine::Machine;
use super::settled::name_of;
use super::world::World;

/// The state of the log and of the engines: a line for the time, one per machine, one per service, one per seat that
/// waits.
pub fn look(world: &World) -> Vec<String> {
    let state = world.newest();
    let mut lines = vec![headline(world, &state)];
    let machines = world.machines.iter();
    let machines: Vec<[String; 4]> = machines.map(|it| machine(&state, it)).collect();
    lines.extend(columns(&machines));
    let services = state.services.values();
    let mut services: Vec<[String; 4]> = services.map(|it| service(&state, it)).collect();
    services.sort();
    lines.extend(columns(&services));
    lines.extend(pending(world, &state));
    lines
}

fn machine(state: &ClusterState, machine: &Machine) -> [String; 4] {
    let node = state.nodes.get(&machine.node);
    let status = node.map_or("forgotten", |node| match node.status {
        NodeStatus::Ready => "ready",
        NodeStatus::Down => "down",
        NodeStatus::Left => "left",
    });
    let availability = node.map_or("", |node| match node.availability {
        Availability::Active => "active",
        Availability::Pause => "pause",
        Availability::Drain => "drain",
    });
    let starts = machine.engine.starts();
    let containers = match (machine.power.is_some(), starts) {
        (false, _) => "(off)".to_owned(),
        (true, 0) => "-".to_owned(),
        (true, _) => {
            let mut containers = machine.engine.containers();
            containers.sort_by_key(|seen| order(state, seen));
            let names: Vec<String> = containers.iter().map(|it| container(state, it)).collect();
            format!("{} ({starts} started so far)", list(&names))
        }
    };
    [
        machine.name.clone(),
        status.to_owned(),
        availability.to_owned(),
        containers,
    ]
}

/// By service, then by slot, then by age.
fn order(state: &ClusterState, seen: &SeenContainer) -> (String, Option<Slot>, String) {
    let task = seen.task.and_then(|task| state.tasks.get(&task));
    let service = task.and_then(|task| state.services.get(&task.service));
    let service = service.map_or_else(|| seen.name.clone(), |it| it.spec().name.clone());
    (service, task.and_then(|task| task.slot), seen.id.clone())
}

/// What the leader would say about seats that have to wait, as views compute it.
fn pending(world: &World, state: &ClusterState) -> Vec<String> {
    let mut ids = (1..).map(TaskId::from_bits);
    let mut draw = || ids.next().unwrap_or(TaskId::from_bits(0));
    let plan = reconcile(state, &Observation::at(world.clock.now()), &mut draw);
    let mut lines: Vec<String> = plan
        .pending
        .iter()
        .filter_map(|pending| {
            let service = state.services.get(&pending.service)?.spec().name.clone();
            let seat = match pending.seat {
                Seat::Slot(slot) => slot.to_string(),
                Seat::Node(node) => state.node_name(node),
            };
            // When exactly the next attempt comes would make every story about milliseconds.
            let why = match &pending.why {
                Why::BackOff { error, .. } => format!(
                    "will be tried again: {}",
                    error.as_deref().unwrap_or("no reason given")
                ),
                why => why.to_string(),
            };
            Some(format!("{service}.{seat} waits: {why}"))
        })
        .collect();
    lines.sort();
    lines
}

fn headline(world: &World, state: &ClusterState) -> String {
    let names = |nodes: Vec<kawanan_api::NodeId>| -> String {
        let mut names: Vec<String> = nodes.iter().map(|id| state.node_name(*id)).collect();
        names.sort();
        list(&names)
    };
    let runs = world
        .machines
        .iter()
        .filter_map(|machine| machine.run.as_ref());
    let newest = runs
        .map(|run| run.status())
        .filter(|status| status.leader.is_some())
        .max_by_key(|status| (status.term, status.applied));
    let leader = newest.as_ref().and_then(|status| status.leader);
    let voters = newest.as_ref().map(|status| {
        let nodes = state.nodes.values();
        nodes
            .filter(|node| status.members.voters.contains(&node.raft_id))
            .map(|node| node.id)
            .collect()
    });
    format!(
        "at {:.1}s: leader {}, voters {}",
        world.trace.elapsed().as_secs_f64(),
        leader.map_or("none".to_owned(), |leader| names(vec![leader])),
        voters.map_or("unknown".to_owned(), names)
    )
}

fn container(state: &ClusterState, seen: &SeenContainer) -> String {
    let task = seen.task.and_then(|task| state.tasks.get(&task));
    let name = task.map_or_else(
        || {
            // `web.2.<task>`: without the task.
            let seat = seen.name.rsplit_once('.').map(|(seat, _)| seat);
            format!("{}?", seat.unwrap_or(&seen.name))
        },
        |task| name_of(state, task),
    );
    match &seen.status {
        ContainerStatus::Running { .. } => name,
        ContainerStatus::Exited { code, .. } => format!("{name}[exited {code}]"),
        ContainerStatus::Created => format!("{name}[created]"),
        ContainerStatus::Paused => format!("{name}[paused]"),
        ContainerStatus::Removing => format!("{name}[going]"),
        ContainerStatus::Dead => format!("{name}[dead]"),
    }
}

fn service(state: &ClusterState, service: &Service) -> [String; 4] {
    let spec = service.spec();
    let running = state
        .tasks_of(service.id)
        .filter(|task| task.is_running())
        .count();
    let wanted = spec
        .replicas()
        .map_or("every node".to_owned(), |replicas| replicas.to_string());
    let rollout = match &service.rollout {
        _ if service.removed_at.is_some() => "being removed".to_owned(),
        Rollout::Steady => String::new(),
        Rollout::Updating { .. } => "updating".to_owned(),
        Rollout::Paused { reason, .. } => format!("paused: {reason}"),
    };
    let mut waiting: Vec<String> = state
        .tasks_of(service.id)
        .filter(|task| task.is_live() && !task.is_running())
        .map(|task| waiting(state, task))
        .collect();
    waiting.sort();
    [
        spec.name.clone(),
        format!("{running}/{wanted}"),
        spec.container.image.clone(),
        [rollout, list_or(&waiting, "")]
            .into_iter()
            .filter(|part| !part.is_empty())
            .collect::<Vec<_>>()
            .join(", "),
    ]
}

fn waiting(state: &ClusterState, task: &Task) -> String {
    format!(
        "{} {} on {}",
        name_of(state, task),
        format!("{:?}", task.state).to_lowercase(),
        state.node_name(task.node)
    )
}

fn list(items: &[String]) -> String {
    list_or(items, "-")
}

fn list_or(items: &[String], none: &str) -> String {
    if items.is_empty() {
        none.to_owned()
    } else {
        items.join(" ")
    }
}

/// Rows with their columns below one another; empty columns take no room.
fn columns(rows: &[[String; 4]]) -> Vec<String> {
    let widths: Vec<usize> = (0..4)
        .map(|column| rows.iter().map(|row| row[column].len()).max().unwrap_or(0))
        .collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).filter(|(_, width)| **width > 0);
            let line: Vec<String> = cells
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            line.join("  ").trim_end().to_owned()
        })
        .collect()
}
