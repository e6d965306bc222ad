//! Any log, however senseless, applied anywhere.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::spec::Mode;
use kawanan_api::{
    ClusterId, RaftId, Revision, ServiceId, ServiceSpec, Slot, TaskId, Timestamp, TokenId,
};
use proptest::prelude::*;

use crate::command::{NewNode, NewTask, TaskChange, TaskReport};
use crate::state::{Availability, Desired, NodeStatus, Rollout, TaskState};
use crate::testing::{START, entry, facts, node_id, spec};
use crate::{ClusterState, Command, Observation, invariants, reconcile, snapshot};

/// One thing that happens to a log.
#[derive(Debug, Clone)]
enum Step {
    Apply {
        request: u128,
        command: Box<Command>,
    },
    Skip,
    /// A sensible leader's plan, so that the senseless rest meets states with many tasks.
    Lead,
    Restore,
}

fn a_node() -> impl Strategy<Value = NewNode> {
    (1..5u128, 0..8u64, "[a-c]").prop_map(|(id, raft_id, name)| NewNode {
        id: node_id(id),
        raft_id: RaftId(raft_id),
        name,
        labels: BTreeMap::new(),
        facts: facts(),
    })
}

fn a_spec() -> impl Strategy<Value = ServiceSpec> {
    let ports = prop_oneof![
        Just("80:80"),
        Just("81:80"),
        Just("published=80,target=80,mode=host")
    ];
    (
        "[a-d]",
        0..4u32,
        any::<bool>(),
        "app:[1-2]",
        proptest::option::of(ports),
    )
        .prop_map(|(name, replicas, global, image, port)| {
            let mut spec = spec(&name, replicas);
            spec.container.image = image;
            spec.ports = port.into_iter().map(|port| port.parse().unwrap()).collect();
            if global {
                spec.mode = Mode::Global;
            }
            spec
        })
}

fn a_state() -> impl Strategy<Value = TaskState> {
    prop_oneof![
        1 => Just(TaskState::Assigned),
        1 => Just(TaskState::Starting),
        3 => Just(TaskState::Running),
        1 => Just(TaskState::Complete),
        1 => Just(TaskState::Shutdown),
        1 => Just(TaskState::Failed),
        1 => Just(TaskState::Rejected),
        1 => Just(TaskState::Orphaned),
    ]
}

fn a_task_id() -> impl Strategy<Value = TaskId> {
    (0..24u128).prop_map(TaskId::from_bits)
}

fn a_service() -> impl Strategy<Value = ServiceId> {
    (0..4u128).prop_map(ServiceId::from_bits)
}

fn a_change() -> impl Strategy<Value = TaskChange> {
    let desired = prop_oneof![
        Just(Desired::Running),
        Just(Desired::Shutdown),
        Just(Desired::Remove)
    ];
    let rollout = prop_oneof![
        Just(Rollout::Steady),
        Just(Rollout::Updating {
            started_at: START,
            since: Revision(3)
        }),
        Just(Rollout::Paused {
            at: START,
            reason: String::new()
        }),
    ];
    let new = (
        a_task_id(),
        a_service(),
        0..40u64,
        proptest::option::of(0..4u32),
        1..5u128,
    );
    prop_oneof![
        4 => new.prop_map(|(id, service, revision, slot, node)| TaskChange::Create(NewTask {
            id,
            service,
            spec_revision: Revision(revision),
            slot: slot.map(Slot),
            node: node_id(node),
            attempt: 0,
            not_before: START,
        })),
        1 => (a_task_id(), desired).prop_map(|(task, desired)| TaskChange::SetDesired { task, desired }),
        1 => a_task_id().prop_map(|task| TaskChange::Orphan { task }),
        1 => a_task_id().prop_map(|task| TaskChange::Forget { task }),
        1 => (a_service(), 0..40u64, rollout).prop_map(|(service, revision, rollout)| {
            TaskChange::SetRollout { service, spec_revision: Revision(revision), rollout }
        }),
    ]
}

fn a_report() -> impl Strategy<Value = TaskReport> {
    (a_task_id(), a_state(), any::<u64>(), any::<bool>()).prop_map(|(task, state, at, gone)| {
        TaskReport {
            task,
            state,
            at: Timestamp::from_millis(at),
            error: None,
            exit_code: None,
            gone,
        }
    })
}

fn a_node_command() -> impl Strategy<Value = Command> {
    let availability = prop_oneof![
        3 => Just(Availability::Active),
        1 => Just(Availability::Pause),
        1 => Just(Availability::Drain)
    ];
    let status = prop_oneof![3 => Just(NodeStatus::Ready), 1 => Just(NodeStatus::Down), 1 => Just(NodeStatus::Left)];
    let node = || (1..5u128).prop_map(node_id);
    prop_oneof![
        1 => a_node().prop_map(|node| Command::Found {
            cluster: ClusterId::from_bits(1),
            authority: vec![],
            node,
        }),
        1 => (0..3u128, proptest::option::of(0..3u32)).prop_map(|(id, uses)| Command::CreateToken {
            id: TokenId::from_bits(id),
            secret_hash: [1; 32],
            expires_at: None,
            uses,
            note: String::new(),
        }),
        1 => (0..3u128).prop_map(|id| Command::RevokeToken { id: TokenId::from_bits(id) }),
        4 => (0..3u128, 0..2u8, a_node()).prop_map(|(token, secret, node)| Command::AdmitNode {
            token: TokenId::from_bits(token),
            secret_hash: [secret; 32],
            node,
        }),
        1 => (node(), proptest::option::of(availability)).prop_map(|(id, availability)| Command::UpdateNode {
            id,
            availability,
            set_labels: BTreeMap::new(),
            remove_labels: BTreeSet::new(),
        }),
        1 => (node(), 0..8u64).prop_map(|(id, raft_id)| Command::UpdateNodeFacts {
            id,
            raft_id: RaftId(raft_id),
            facts: facts(),
        }),
        3 => (node(), status).prop_map(|(id, status)| Command::SetNodeStatus { id, status }),
        1 => (node(), any::<bool>()).prop_map(|(id, force)| Command::RemoveNode { id, force }),
    ]
}

fn a_command() -> impl Strategy<Value = Command> {
    let replicas = proptest::collection::btree_map(a_service(), 0..5u32, 0..3);
    let changes = proptest::collection::vec(a_change(), 0..6);
    let reports = proptest::collection::vec(a_report(), 0..6);
    prop_oneof![
        6 => a_node_command(),
        3 => (a_service(), a_spec()).prop_map(|(id, spec)| Command::CreateService { id, spec }),
        3 => (a_service(), a_spec(), proptest::option::of(0..40u64)).prop_map(|(id, spec, revision)| {
            Command::UpdateService { id, spec, if_revision: revision.map(Revision) }
        }),
        1 => replicas.prop_map(|replicas| Command::ScaleServices { replicas }),
        1 => a_service().prop_map(|id| Command::RemoveService { id }),
        3 => (0..60u64, changes).prop_map(|(basis, changes)| Command::Plan {
            basis: Revision(basis),
            changes,
        }),
        4 => (1..5u128, reports).prop_map(|(node, reports)| Command::ReportTasks {
            node: node_id(node),
            reports,
        }),
    ]
}

fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        12 => (0..1000u128, a_command()).prop_map(|(request, command)| Step::Apply {
            request,
            command: Box::new(command),
        }),
        3 => Just(Step::Lead),
        1 => Just(Step::Skip),
        1 => Just(Step::Restore),
    ]
}

/// A cluster of two with a service, so that random commands find something to act on.
fn beginning() -> Vec<Command> {
    let node = |id: u128| NewNode {
        id: node_id(id),
        raft_id: RaftId(id as u64),
        name: format!("n{id}"),
        labels: BTreeMap::new(),
        facts: facts(),
    };
    let token = Command::CreateToken {
        id: TokenId::from_bits(0),
        secret_hash: [1; 32],
        expires_at: None,
        uses: None,
        note: String::new(),
    };
    let admit = Command::AdmitNode {
        token: TokenId::from_bits(0),
        secret_hash: [1; 32],
        node: node(2),
    };
    let service = Command::CreateService {
        id: ServiceId::from_bits(0),
        spec: spec("a", 3),
    };
    let found = Command::Found {
        cluster: ClusterId::from_bits(1),
        authority: vec![],
        node: node(1),
    };
    vec![found, token, admit, service]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(192))]

    #[test]
    fn any_log_is_applied_alike_everywhere_and_leaves_a_sound_state(
        founded in any::<bool>(),
        steps in proptest::collection::vec(a_step(), 1..60),
    ) {
        let mut one = ClusterState::default();
        // The other copy goes through a snapshot now and then, as a node that was far behind does.
        let mut other = ClusterState::default();
        let opening = if founded { beginning() } else { Vec::new() };
        let opening = (5000..).zip(opening).map(|(request, command)| Step::Apply {
            request,
            command: Box::new(command),
        });
        let mut drawn = 0;
        let mut index = 0;
        let mut now = START;
        for step in opening.chain(steps) {
            index += 1;
            now = now.saturating_add(Duration::from_millis(700));
            let (request, command) = match step {
                Step::Apply { request, command } => (request, *command),
                Step::Skip => {
                    one.skip(Revision(index));
                    other.skip(Revision(index));
                    continue;
                }
                Step::Restore => {
                    other = snapshot::decode(&snapshot::encode(&other).unwrap()).unwrap();
                    prop_assert_eq!(&one, &other);
                    continue;
                }
                Step::Lead => {
                    let mut ids = || {
                        drawn += 1;
                        TaskId::from_bits(drawn % 24)
                    };
                    let plan = reconcile(&one, &Observation::at(now), &mut ids);
                    (9000 + u128::from(index), Command::Plan { basis: one.revision, changes: plan.changes })
                }
            };
            let entry = entry(request, now, command);
            let before = one.clone();
            let outcome = one.apply(Revision(index), &entry);
            prop_assert_eq!(&outcome, &other.apply(Revision(index), &entry));
            prop_assert_eq!(one.digest, other.digest);
            prop_assert_eq!(invariants::check(&one), vec![]);
            if outcome.is_err() {
                let unchanged = ClusterState {
                    revision: before.revision,
                    digest: before.digest,
                    requests: before.requests.clone(),
                    ..one.clone()
                };
                prop_assert_eq!(unchanged, before);
            }
        }
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_damaged_snapshot_is_an_error(place in any::<prop::sample::Index>(), change in 1..=255u8, cut in any::<bool>()) {
        let mut state = ClusterState::default();
        for (index, command) in (1..).zip(beginning()) {
            prop_assert!(state.apply(Revision(index), &entry(u128::from(index), START, command)).is_ok());
        }
        let mut bytes = snapshot::encode(&state).unwrap();
        prop_assert_eq!(&snapshot::decode(&bytes).unwrap(), &state);
        let place = place.index(bytes.len());
        if cut {
            bytes.truncate(place);
        } else {
            bytes[place] ^= change;
        }
        prop_assert!(snapshot::decode(&bytes).is_err());
    }
}
