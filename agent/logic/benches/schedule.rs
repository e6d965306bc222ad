//! How fast the brain decides: placing 10,000 tasks on 1,000 nodes, as one group and as a thousand services; the
//! whole way from a request to 10,000 assigned tasks, through reconcile and apply; and a look at a cluster at rest.

use std::collections::BTreeMap;
use std::hint::black_box;
use std::time::Duration;

use criterion::{Criterion, criterion_group, criterion_main};
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{Mode, ResourceAmounts};
use kawanan_api::{
    ClusterId, NodeId, RaftId, RequestId, Revision, ServiceId, ServiceSpec, TaskId, Timestamp,
    TokenId,
};
use kawanan_logic::command::{NewNode, TaskReport};
use kawanan_logic::place::{Placer, Wish};
use kawanan_logic::state::{NodeFacts, Platform, TaskState};
use kawanan_logic::{ClusterState, Command, Entry, Observation, reconcile};

const NODES: u64 = 1_000;
const TASKS: u32 = 10_000;
const NOW: Timestamp = Timestamp::from_millis(1_700_000_000_000);

fn apply(state: &mut ClusterState, command: Command) {
    let index = state.revision.0 + 1;
    let entry = Entry {
        request: RequestId::from_bits(u128::from(index)),
        at: NOW,
        command,
    };
    if let Err(error) = state.apply(Revision(index), &entry) {
        panic!("refused: {error}");
    }
}

fn new_node(number: u64) -> NewNode {
    NewNode {
        id: NodeId::from_bits(u128::from(number)),
        raft_id: RaftId(number),
        name: format!("n{number}"),
        labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
        facts: NodeFacts {
            address: ([10, 0, 0, 1], 7700).into(),
            platform: Platform::default(),
            capacity: ResourceAmounts {
                cpus: MilliCpus(64_000),
                memory: Bytes(256 << 30),
            },
            agent_version: "0.1.0".to_owned(),
            engine_version: String::new(),
            feature_level: 1,
        },
    }
}

fn cluster() -> ClusterState {
    let mut state = ClusterState::default();
    let token = TokenId::from_bits(1);
    apply(
        &mut state,
        Command::Found {
            cluster: ClusterId::from_bits(1),
            authority: vec![],
            node: new_node(1),
        },
    );
    apply(
        &mut state,
        Command::CreateToken {
            id: token,
            secret_hash: [0; 32],
            expires_at: None,
            uses: None,
            note: String::new(),
        },
    );
    for number in 2..=NODES {
        let node = new_node(number);
        apply(
            &mut state,
            Command::AdmitNode {
                token,
                secret_hash: [0; 32],
                node,
            },
        );
    }
    state
}

fn spec(name: &str, replicas: u32) -> ServiceSpec {
    let mut spec = ServiceSpec::new(name, "app:1");
    spec.mode = Mode::Replicated { replicas };
    spec.resources.reservations = ResourceAmounts {
        cpus: MilliCpus(100),
        memory: Bytes(64 << 20),
    };
    if let Ok(constraint) = "node.labels.disk==ssd".parse() {
        spec.placement.constraints = vec![constraint];
    }
    spec
}

fn create(state: &mut ClusterState, number: u128, replicas: u32) {
    let spec = spec(&format!("s{number}"), replicas);
    let id = ServiceId::from_bits(number);
    apply(state, Command::CreateService { id, spec });
}

/// Plans and applies until nothing is left to do; returns the number of tasks.
fn deploy(state: &mut ClusterState) -> usize {
    let seen = Observation::at(NOW);
    let mut drawn = 0;
    loop {
        let plan = reconcile(state, &seen, &mut || {
            drawn += 1;
            TaskId::from_bits(drawn)
        });
        if plan.changes.is_empty() {
            return state.tasks.len();
        }
        let basis = state.revision;
        apply(
            state,
            Command::Plan {
                basis,
                changes: plan.changes,
            },
        );
    }
}

fn place_all(state: &ClusterState, services: u32) -> usize {
    let mut placer = Placer::new(state, &Observation::at(NOW));
    let mut placed = 0;
    let spec = spec("web", TASKS);
    for _ in 0..services {
        let mut service = placer.for_service(&spec.placement, []);
        for _ in 0..TASKS / services {
            placed += usize::from(service.place(Revision(1), &spec, &Wish::default()).is_ok());
        }
    }
    assert_eq!(placed, TASKS as usize);
    placed
}

fn schedule(criterion: &mut Criterion) {
    let empty = cluster();
    let mut one = empty.clone();
    create(&mut one, 1, TASKS);
    let mut many = empty.clone();
    for number in 0..1_000 {
        create(&mut many, number, TASKS / 1_000);
    }
    let mut group = criterion.benchmark_group("10k tasks on 1k nodes");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(4));
    group.bench_function("place, one service", |bench| {
        bench.iter(|| place_all(black_box(&empty), 1));
    });
    group.bench_function("place, 1,000 services", |bench| {
        bench.iter(|| place_all(black_box(&empty), 1_000));
    });
    group.bench_function("reconcile and apply, one service", |bench| {
        bench.iter(|| assert_eq!(deploy(&mut one.clone()), TASKS as usize));
    });
    group.bench_function("reconcile and apply, 1,000 services", |bench| {
        bench.iter(|| assert_eq!(deploy(&mut many.clone()), TASKS as usize));
    });
    let mut rest = one.clone();
    deploy(&mut rest);
    for number in 1..=NODES {
        let node = NodeId::from_bits(u128::from(number));
        let reports = rest.tasks_on(node).map(|task| TaskReport {
            task: task.id,
            state: TaskState::Running,
            at: NOW,
            error: None,
            exit_code: None,
            gone: false,
        });
        let reports = reports.collect();
        apply(&mut rest, Command::ReportTasks { node, reports });
    }
    group.bench_function("reconcile at rest", |bench| {
        bench.iter(|| {
            let plan = reconcile(black_box(&rest), &Observation::at(NOW), &mut || {
                TaskId::from_bits(0)
            });
            assert!(plan.changes.is_empty());
        });
    });
    group.finish();
}

criterion_group!(benches, schedule);
criterion_main!(benches);
