//! Tests of place.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{PortMode, PortSpec, Protocol};
use kawanan_api::{NodeId, Revision, ServiceSpec};
use proptest::prelude::*;

use super::{NoPlacement, Placer, Reason, Wish};
use crate::ClusterState;
use crate::observation::{NodeSeen, Observation};
use crate::state::{Availability, Node, NodeStatus};
use crate::testing::{Cluster, START, new_node, node_id, spec};

const SPEC: Revision = Revision(1);

fn nodes(count: u128) -> Vec<Node> {
    (1..=count)
        .map(|number| {
            let new = new_node(number);
            Node {
                id: new.id,
                raft_id: new.raft_id,
                name: new.name,
                labels: BTreeMap::new(),
                availability: Availability::Active,
                status: NodeStatus::Ready,
                status_at: START,
                joined_at: START,
                facts: new.facts,
                revision: Revision(1),
            }
        })
        .collect()
}

fn state(nodes: Vec<Node>) -> ClusterState {
    let nodes = nodes.into_iter().map(|node| (node.id, Arc::new(node)));
    ClusterState {
        nodes: nodes.collect(),
        ..ClusterState::default()
    }
}

/// Places one task on an otherwise empty cluster.
fn place_one(
    state: &ClusterState,
    seen: &Observation,
    spec: &ServiceSpec,
) -> Result<NodeId, Arc<NoPlacement>> {
    let mut placer = Placer::new(state, seen);
    let mut tally = placer.tally([]);
    let mut service = placer.for_service(&spec.placement, &mut tally);
    service.place(SPEC, spec, &Wish::default())
}

/// What speaks against the only node.
fn objection(node: Node, spec: &ServiceSpec) -> Option<Reason> {
    let id = node.id;
    let state = state(vec![node]);
    let refused = place_one(&state, &Observation::at(START), spec).err()?;
    Some(refused.rejected[&id].1.clone())
}

fn one(change: impl FnOnce(&mut Node)) -> Node {
    let mut node = nodes(1).remove(0);
    change(&mut node);
    node
}

#[test]
fn a_node_must_be_ready_and_active() {
    let web = spec("web", 1);
    assert_eq!(objection(one(|_| {}), &web), None);
    for (change, reason) in [
        ((NodeStatus::Down, Availability::Active), Reason::Down),
        ((NodeStatus::Left, Availability::Drain), Reason::Left),
        ((NodeStatus::Ready, Availability::Drain), Reason::Drained),
        ((NodeStatus::Ready, Availability::Pause), Reason::Paused),
    ] {
        let node = one(|node| (node.status, node.availability) = change);
        assert_eq!(objection(node, &web), Some(reason));
    }
}

#[test]
fn suspects_and_silent_engines_get_nothing_new() {
    let state = state(nodes(2));
    for (alive, engine_ok, text) in [
        (false, true, "no node fits: 2 nodes do not answer"),
        (
            true,
            false,
            "no node fits: 2 nodes have a container engine that does not answer",
        ),
    ] {
        let mut seen = Observation::at(START);
        for id in [1, 2] {
            seen.nodes
                .insert(node_id(id), NodeSeen { alive, engine_ok });
        }
        let refused = place_one(&state, &seen, &spec("web", 1)).unwrap_err();
        assert_eq!(refused.to_string(), text);
    }
}

#[test]
fn constraints_compare_without_case_and_a_missing_label_is_unequal() {
    let node = || {
        one(|node| {
            node.labels.insert("disk".to_owned(), "SSD".to_owned());
        })
    };
    for (constraint, fits) in [
        ("node.labels.disk==ssd", true),
        ("node.labels.disk!=ssd", false),
        ("node.labels.none==x", false),
        ("node.labels.none!=x", true),
        ("node.name==N1", true),
        ("node.id==0000000000000000000000001", true),
        ("node.id==1", false),
        ("node.platform.os==linux", true),
        ("node.platform.arch==aarch64", false),
    ] {
        let mut web = spec("web", 1);
        web.placement.constraints = vec![constraint.parse().unwrap()];
        let expected = (!fits).then(|| Reason::Constraint(constraint.to_owned()));
        assert_eq!(objection(node(), &web), expected);
    }
}

#[test]
fn reservations_are_kept_within_capacity() {
    let mut web = spec("web", 1);
    web.resources.reservations.cpus = MilliCpus(1500);
    web.resources.reservations.memory = Bytes(1 << 30);
    let state = state(nodes(1));
    let seen = Observation::at(START);
    let mut placer = Placer::new(&state, &seen);
    let mut tally = placer.tally([]);
    let mut service = placer.for_service(&web.placement, &mut tally);
    for _ in 0..2 {
        assert!(service.place(SPEC, &web, &Wish::default()).is_ok());
    }
    let refused = service.place(SPEC, &web, &Wish::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no node fits: 1 node lacks processors (1.5 asked, 1 free)"
    );
    // Another service meets what the first one took.
    let mut db = spec("db", 1);
    db.resources.reservations.memory = Bytes(7 << 30);
    let mut tally = placer.tally([]);
    let mut service = placer.for_service(&db.placement, &mut tally);
    let refused = service.place(SPEC, &db, &Wish::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no node fits: 1 node lacks memory (7 GiB asked, 6 GiB free)"
    );
}

#[test]
fn host_ports_and_the_limit_per_node_hold() {
    let mut port: PortSpec = "80:8080".parse().unwrap();
    port.mode = PortMode::Host;
    let mut web = spec("web", 1);
    web.ports = vec![port];
    let state = state(nodes(2));
    let seen = Observation::at(START);
    let mut placer = Placer::new(&state, &seen);
    let mut tally = placer.tally([]);
    let mut service = placer.for_service(&web.placement, &mut tally);
    assert!(service.place(SPEC, &web, &Wish::default()).is_ok());
    assert!(service.place(SPEC, &web, &Wish::default()).is_ok());
    let refused = service.place(SPEC, &web, &Wish::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no node fits: 2 nodes have port 80/tcp in use"
    );
    // The same number for another protocol is another port.
    let mut dns = web.clone();
    dns.ports[0].protocol = Protocol::Udp;
    dns.placement.max_per_node = Some(1);
    let mut tally = placer.tally([(node_id(1), true)]);
    let mut service = placer.for_service(&dns.placement, &mut tally);
    assert_eq!(service.place(SPEC, &dns, &Wish::default()), Ok(node_id(2)));
    let refused = service.place(SPEC, &dns, &Wish::default()).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no node fits: 2 nodes have 1 task of the service already"
    );
}

#[test]
fn the_sentence_counts_nodes_by_reason_and_names_the_best() {
    let mut members = nodes(4);
    members[3].availability = Availability::Drain;
    for (node, free) in members.iter_mut().zip([64, 128, 32]) {
        node.facts.capacity.memory = Bytes(free << 20);
    }
    let mut web = spec("web", 1);
    web.resources.reservations.memory = Bytes(512 << 20);
    let refused = place_one(&state(members), &Observation::at(START), &web).unwrap_err();
    assert_eq!(
        refused.to_string(),
        "no node fits: 3 nodes lack memory (512 MiB asked, 128 MiB free at most), 1 node is drained"
    );
    assert_eq!(refused.rejected.len(), 4);
    let empty = place_one(&ClusterState::default(), &Observation::at(START), &web).unwrap_err();
    assert_eq!(empty.to_string(), "no node fits: there are no nodes");
}

#[test]
fn wishes_are_granted_as_far_as_rules_allow() {
    let mut members = nodes(3);
    members[2].availability = Availability::Drain;
    let state = state(members);
    let seen = Observation::at(START);
    let web = spec("web", 1);
    let mut placer = Placer::new(&state, &seen);
    let mut tally = placer.tally([(node_id(2), true)]);
    let mut service = placer.for_service(&web.placement, &mut tally);
    let prefer = |id| Wish {
        prefer: Some(node_id(id)),
        avoid: BTreeSet::new(),
    };
    let avoid = |ids: &[u128]| Wish {
        prefer: None,
        avoid: ids.iter().copied().map(node_id).collect(),
    };
    assert_eq!(service.place(SPEC, &web, &prefer(2)), Ok(node_id(2)));
    assert_eq!(service.place(SPEC, &web, &prefer(3)), Ok(node_id(1)));
    assert_eq!(service.place(SPEC, &web, &avoid(&[1])), Ok(node_id(2)));
    assert_eq!(service.place(SPEC, &web, &avoid(&[1, 2])), Ok(node_id(1)));
    // What was set aside is found again.
    for _ in 0..4 {
        service.place(SPEC, &web, &Wish::default()).unwrap();
    }
    assert_eq!(service.tally.here, vec![4, 5, 0]);
}

#[test]
fn among_equals_the_emptier_node_is_chosen() {
    let mut cluster = Cluster::new(3);
    let mut big = spec("big", 1);
    big.resources.reservations.memory = Bytes(2 << 30);
    big.placement.constraints = vec!["node.name==n1".parse().unwrap()];
    cluster.create(big);
    let mut small = spec("small", 2);
    small.placement.constraints = vec!["node.name==n2".parse().unwrap()];
    cluster.create(small);
    cluster.settle();
    let web = cluster.create(spec("web", 2));
    cluster.settle();
    let expected = [("n2".to_owned(), 1), ("n3".to_owned(), 1)];
    assert_eq!(cluster.spread(web), BTreeMap::from(expected));
}

fn a_member() -> impl Strategy<Value = (u64, u64, bool, bool, bool)> {
    (
        0..9u64,
        0..5u64,
        any::<bool>(),
        proptest::bool::weighted(0.9),
        proptest::bool::weighted(0.9),
    )
}

proptest! {
    #[test]
    fn every_choice_respects_every_rule_and_is_the_best_there_is(
        members in proptest::collection::vec(a_member(), 1..12),
        memory in 0..3u64,
        cpus in 0..3u64,
        only_ssd in any::<bool>(),
        max_per_node in proptest::option::of(1..4u32),
        host_port in any::<bool>(),
        tasks in 1..40usize,
        preferred in proptest::collection::vec(proptest::option::weighted(0.3, 0..12u128), 40),
    ) {
        let mut nodes = nodes(members.len() as u128);
        let mut seen = Observation::at(START);
        for (node, (gigabytes, cores, ssd, active, alive)) in nodes.iter_mut().zip(&members) {
            node.facts.capacity.memory = Bytes(gigabytes << 30);
            node.facts.capacity.cpus = MilliCpus(cores * 1000);
            if *ssd {
                node.labels.insert("disk".to_owned(), "ssd".to_owned());
            }
            if !active {
                node.availability = Availability::Pause;
            }
            seen.nodes.insert(node.id, NodeSeen { alive: *alive, engine_ok: true });
        }
        let mut web = spec("web", 1);
        web.resources.reservations.memory = Bytes(memory << 30);
        web.resources.reservations.cpus = MilliCpus(cpus * 1000);
        web.placement.max_per_node = max_per_node;
        if only_ssd {
            web.placement.constraints = vec!["node.labels.disk==ssd".parse().unwrap()];
        }
        if host_port {
            web.ports = vec!["published=80,target=80,mode=host".parse().unwrap()];
        }
        let state = state(nodes.clone());
        let mut placer = Placer::new(&state, &seen);
        let mut tally = placer.tally([]);
    let mut service = placer.for_service(&web.placement, &mut tally);
        // The same rules, worked out the slow way.
        let room_for = |place: usize, count: u64| {
            let (gigabytes, cores, ssd, active, alive) = members[place];
            active && alive
                && (ssd || !only_ssd)
                && (count + 1) * memory <= gigabytes
                && (count + 1) * cpus <= cores
                && max_per_node.is_none_or(|max| count < u64::from(max))
                && (!host_port || count == 0)
        };
        let mut counts = vec![0u64; members.len()];
        for prefer in preferred.into_iter().take(tasks) {
            let open: Vec<usize> = (0..members.len()).filter(|place| room_for(*place, counts[*place])).collect();
            let wish = Wish { prefer: prefer.map(node_id), avoid: BTreeSet::new() };
            match service.place(SPEC, &web, &wish) {
                Ok(id) => {
                    let place = nodes.iter().position(|node| node.id == id).unwrap();
                    prop_assert!(open.contains(&place));
                    let fewest = open.iter().map(|place| counts[*place]).min();
                    prop_assert!(Some(counts[place]) == fewest || wish.prefer == Some(id), "not spread");
                    counts[place] += 1;
                }
                Err(refused) => {
                    prop_assert_eq!(open, Vec::<usize>::new());
                    prop_assert_eq!(refused.rejected.len(), members.len());
                    break;
                }
            }
        }
    }
}
