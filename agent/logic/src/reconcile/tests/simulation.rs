//! Random trouble, then peace: whatever happened, the cluster comes to rest with what was asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::spec::{Mode, UpdateOrder};
use kawanan_api::{NodeId, ServiceId};
use proptest::prelude::*;

use crate::Command;
use crate::observation::NodeSeen;
use crate::reconcile::{Pending, Why};
use crate::state::{Availability, Desired, NodeStatus, Rollout, Seat, TaskState};
use crate::testing::{Cluster, node_id, spec};

const NODES: u128 = 4;

#[derive(Debug, Clone)]
enum Trouble {
    Lead,
    Work,
    Wait {
        millis: u64,
    },
    Fall(u128),
    Return(u128),
    Suspect(u128),
    Steer(u128, Availability),
    Label(u128, bool),
    Scale(usize, u32),
    Update(usize, u8),
    Break(u8),
    Mend,
    /// The nth task of all, wherever it is, ends like this.
    End(usize, TaskState),
    Remove(usize),
}

fn trouble() -> impl Strategy<Value = Trouble> {
    let node = || 1..=NODES;
    let availability = prop_oneof![
        Just(Availability::Active),
        Just(Availability::Pause),
        Just(Availability::Drain)
    ];
    let end = prop_oneof![
        Just(TaskState::Complete),
        Just(TaskState::Failed),
        Just(TaskState::Rejected)
    ];
    prop_oneof![
        12 => Just(Trouble::Lead),
        8 => Just(Trouble::Work),
        3 => (0..5000u64).prop_map(|millis| Trouble::Wait { millis }),
        1 => node().prop_map(Trouble::Fall),
        2 => node().prop_map(Trouble::Return),
        1 => node().prop_map(Trouble::Suspect),
        1 => (node(), availability).prop_map(|(node, it)| Trouble::Steer(node, it)),
        1 => (node(), any::<bool>()).prop_map(|(node, it)| Trouble::Label(node, it)),
        2 => (0..4usize, 0..6u32).prop_map(|(service, it)| Trouble::Scale(service, it)),
        2 => (0..4usize, 1..4u8).prop_map(|(service, it)| Trouble::Update(service, it)),
        1 => (1..4u8).prop_map(Trouble::Break),
        1 => Just(Trouble::Mend),
        2 => (0..20usize, end).prop_map(|(task, it)| Trouble::End(task, it)),
        1 => (0..12usize).prop_map(Trouble::Remove),
    ]
}

/// A plain service, one that stops first and is constrained, a global one, and one with a host port.
fn services(cluster: &mut Cluster) -> Vec<ServiceId> {
    let plain = spec("plain", 4);
    let mut careful = spec("careful", 2);
    careful.update.order = UpdateOrder::StopFirst;
    careful.placement.constraints = vec!["node.labels.slow!=yes".parse().unwrap()];
    let mut everywhere = spec("everywhere", 0);
    everywhere.mode = Mode::Global;
    let mut ports = spec("ports", 3);
    ports.ports = vec!["published=80,target=80,mode=host".parse().unwrap()];
    [plain, careful, everywhere, ports]
        .map(|spec| cluster.create(spec))
        .into()
}

fn suffer(cluster: &mut Cluster, services: &[ServiceId], trouble: Trouble) {
    let status = |cluster: &Cluster, node: NodeId| cluster.state.nodes[&node].status;
    match trouble {
        Trouble::Work => {
            cluster.work();
        }
        Trouble::Wait { millis } => cluster.advance(Duration::from_millis(millis)),
        Trouble::Fall(node) if status(cluster, node_id(node)) == NodeStatus::Ready => {
            cluster.set_status(node_id(node), NodeStatus::Down);
        }
        Trouble::Return(node) => {
            cluster.set_status(node_id(node), NodeStatus::Ready);
            cluster.seen.nodes.remove(&node_id(node));
        }
        Trouble::Suspect(node) => {
            let seen = NodeSeen {
                alive: false,
                engine_ok: true,
            };
            cluster.seen.nodes.insert(node_id(node), seen);
        }
        Trouble::Steer(node, availability) => cluster.set_availability(node_id(node), availability),
        Trouble::Label(node, slow) => {
            cluster.label(node_id(node), "slow", if slow { "yes" } else { "no" });
        }
        Trouble::Scale(service, replicas) => {
            let known = cluster.state.services.get(&services[service]);
            if known.is_some_and(|it| it.is_live() && it.spec().mode != Mode::Global) {
                cluster.scale(services[service], replicas);
            }
        }
        Trouble::Update(service, version) => {
            let known = cluster.state.services.get(&services[service]);
            if known.is_some_and(|it| it.is_live()) {
                cluster.update(services[service], |spec| {
                    spec.container.image = format!("app:{version}")
                });
            }
        }
        Trouble::Break(version) => {
            cluster.bad_images.insert(format!("app:{version}"));
        }
        Trouble::Mend => cluster.bad_images.clear(),
        Trouble::End(place, state) => {
            let running = cluster
                .state
                .tasks
                .values()
                .filter(|task| task.is_running());
            let task = running.map(|task| task.id).nth(place);
            if let Some(task) = task
                && status(cluster, cluster.state.tasks[&task].node) == NodeStatus::Ready
            {
                cluster.report(task, state);
            }
        }
        Trouble::Remove(service) => {
            if let Some(id) = services.get(service)
                && cluster
                    .state
                    .services
                    .get(id)
                    .is_some_and(|it| it.is_live())
            {
                cluster.ok(Command::RemoveService { id: *id });
            }
        }
        Trouble::Lead | Trouble::Fall(_) => {}
    }
}

/// Slots of a service with a task that runs on a node that is there.
fn seats_up(cluster: &Cluster, service: ServiceId) -> usize {
    let up = |node: &NodeId| cluster.state.nodes[node].is_ready();
    let running = cluster.running(service).into_iter();
    let seats: BTreeSet<Seat> = running
        .filter(|task| up(&task.node))
        .map(|task| task.seat())
        .collect();
    seats.len()
}

/// A leader's step never takes a slot out of service that nothing but the leader wants to be out of it.
fn lead_with_care(cluster: &mut Cluster, plain: ServiceId) -> Result<(), TestCaseError> {
    let before = seats_up(cluster, plain);
    cluster.lead();
    let known = cluster
        .state
        .services
        .get(&plain)
        .filter(|service| service.is_live());
    let wanted = known
        .and_then(|service| service.spec().replicas())
        .unwrap_or(0);
    prop_assert!(seats_up(cluster, plain) >= before.min(wanted as usize));
    Ok(())
}

/// Nothing is broken any more.
fn make_peace(cluster: &mut Cluster) {
    cluster.bad_images.clear();
    cluster.seen.nodes.clear();
    for node in (1..=NODES).map(node_id) {
        cluster.set_status(node, NodeStatus::Ready);
        cluster.set_availability(node, Availability::Active);
        cluster.label(node, "slow", "no");
    }
}

fn check_rest(cluster: &Cluster, services: &[ServiceId]) -> Result<(), TestCaseError> {
    let plan = cluster.clone().plan();
    prop_assert_eq!(&plan.changes, &vec![]);
    for id in services {
        let Some(service) = cluster.state.services.get(id) else {
            prop_assert_eq!(cluster.state.tasks_of(*id).count(), 0);
            continue;
        };
        prop_assert!(
            service.is_live(),
            "{} is still being removed",
            service.spec().name
        );
        let running = cluster.running(*id);
        let seats: BTreeSet<Seat> = running.iter().map(|task| task.seat()).collect();
        prop_assert_eq!(seats.len(), running.len(), "a seat holds two tasks");
        let places = NODES as usize;
        let mut wanted = service
            .spec()
            .replicas()
            .map_or(places, |count| count as usize);
        if !service.spec().ports.is_empty() {
            wanted = wanted.min(places);
        }
        prop_assert_eq!(
            running.len(),
            wanted,
            "{}: {:?}",
            &service.spec().name,
            &plan.pending
        );
        prop_assert_eq!(cluster.live(*id).len(), wanted);
        match service.rollout {
            Rollout::Steady => {
                prop_assert!(
                    running
                        .iter()
                        .all(|task| service.is_current(task.spec_revision))
                );
            }
            Rollout::Paused { .. } => {}
            // A service that asks for more places than there are waits, and says so.
            Rollout::Updating { .. } => {
                let waits = |it: &Pending| it.service == *id && matches!(it.why, Why::NoPlace(_));
                prop_assert!(plan.pending.iter().any(waits), "the rollout never ends");
            }
        }
    }
    let mut history: BTreeMap<_, usize> = BTreeMap::new();
    for task in cluster.state.tasks.values() {
        prop_assert!(task.desired == Desired::Running || task.state.is_final());
        prop_assert!(
            task.desired != Desired::Remove,
            "{task:?} was never cleaned up"
        );
        if task.state.is_final() {
            *history.entry((task.service, task.seat())).or_default() += 1;
        }
    }
    prop_assert!(history.values().all(|kept| *kept <= 5));
    Ok(())
}

/// Host ports on a node never overlap, whatever goes on.
fn check_ports(cluster: &Cluster) -> Result<(), TestCaseError> {
    let mut taken = BTreeSet::new();
    for task in cluster.state.tasks.values() {
        let ports = cluster
            .state
            .spec_of(task)
            .is_some_and(|spec| !spec.ports.is_empty());
        if ports && !task.state.is_final() {
            prop_assert!(taken.insert(task.node), "two tasks hold one port");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    #[test]
    fn after_any_trouble_the_cluster_comes_to_rest_with_what_was_asked_for(
        troubles in proptest::collection::vec(trouble(), 1..120),
    ) {
        let mut cluster = Cluster::new(NODES);
        let services = services(&mut cluster);
        for trouble in troubles {
            if matches!(trouble, Trouble::Lead) {
                lead_with_care(&mut cluster, services[0])?;
            } else {
                suffer(&mut cluster, &services, trouble);
            }
            check_ports(&cluster)?;
        }
        make_peace(&mut cluster);
        cluster.settle();
        check_rest(&cluster, &services)?;
    }
}
