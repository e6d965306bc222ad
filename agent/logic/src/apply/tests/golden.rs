//! The bytes of every command and of a snapshot, as files: they are on disks, so a change of theirs is a decision.
//!
//! After a deliberate change: `UPDATE_EXPECT=1 cargo test -p kawanan-logic golden`.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use kawanan_api::duration::Span;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{HealthCheck, HealthTest, Mount, MountKind, RegistryAuth};
use kawanan_api::{
    ClusterId, RaftId, Revision, ServiceId, ServiceSpec, Slot, TaskId, Timestamp, TokenId,
};

use crate::command::{NewTask, TaskChange, TaskReport};
use crate::state::{Availability, Desired, NodeStatus, Rollout, TaskState};
use crate::testing::{START, entry, facts, new_node, node_id, spec};
use crate::{ClusterState, Command, Entry, codec, invariants, snapshot};

fn at(millis: u64) -> Timestamp {
    Timestamp::from_millis(START.millis() + millis)
}

const SERVICE: ServiceId = ServiceId::from_bits(0xabc);
const TOKEN: TokenId = TokenId::from_bits(0xdef);

fn full_spec() -> ServiceSpec {
    let mut spec = spec("web", 2);
    spec.labels.insert("team".to_owned(), "blue".to_owned());
    spec.ports = vec![
        "8080:80".parse().unwrap(),
        "published=53,target=53,protocol=udp,mode=host"
            .parse()
            .unwrap(),
    ];
    spec.placement.constraints = vec!["node.labels.disk!=hdd".parse().unwrap()];
    spec.placement.max_per_node = Some(2);
    spec.resources.reservations.memory = Bytes(64 << 20);
    spec.resources.limits.cpus = MilliCpus(1500);
    let container = &mut spec.container;
    container.args = vec!["serve".to_owned()];
    container.env.insert("A".to_owned(), Some("1".to_owned()));
    container.env.insert("B".to_owned(), None);
    container.mounts = vec![Mount {
        target: "/data".to_owned(),
        kind: MountKind::Volume {
            name: Some("data".to_owned()),
        },
        read_only: false,
    }];
    container.health = Some(HealthCheck {
        test: HealthTest::Shell("true".to_owned()),
        interval: Some(Span::from_secs(5)),
        timeout: None,
        retries: Some(2),
        start_period: None,
    });
    container.registry_auth = Some(RegistryAuth {
        username: "user".to_owned(),
        password: "word".to_owned(),
    });
    spec
}

fn first_commands() -> Vec<(&'static str, Command)> {
    vec![
        (
            "Found",
            Command::Found {
                cluster: ClusterId::from_bits(u128::MAX),
                authority: vec![0x30, 0x82],
                node: new_node(1),
            },
        ),
        (
            "CreateToken",
            Command::CreateToken {
                id: TOKEN,
                secret_hash: [7; 32],
                expires_at: Some(at(86_400_000)),
                uses: Some(3),
                note: "lab".to_owned(),
            },
        ),
        (
            "RevokeToken",
            Command::RevokeToken {
                id: TokenId::from_bits(1),
            },
        ),
        (
            "AdmitNode",
            Command::AdmitNode {
                token: TOKEN,
                secret_hash: [7; 32],
                node: new_node(2),
            },
        ),
        (
            "UpdateNode",
            Command::UpdateNode {
                id: node_id(2),
                availability: Some(Availability::Pause),
                set_labels: BTreeMap::from([("disk".to_owned(), "ssd".to_owned())]),
                remove_labels: BTreeSet::from(["old".to_owned()]),
            },
        ),
        (
            "UpdateNodeFacts",
            Command::UpdateNodeFacts {
                id: node_id(1),
                raft_id: RaftId(u64::MAX),
                facts: facts(),
            },
        ),
        (
            "SetNodeStatus",
            Command::SetNodeStatus {
                id: node_id(2),
                status: NodeStatus::Down,
            },
        ),
        (
            "RemoveNode",
            Command::RemoveNode {
                id: node_id(9),
                force: true,
            },
        ),
    ]
}

fn service_commands() -> Vec<(&'static str, Command)> {
    vec![
        (
            "CreateService",
            Command::CreateService {
                id: SERVICE,
                spec: full_spec(),
            },
        ),
        (
            "UpdateService",
            Command::UpdateService {
                id: SERVICE,
                spec: ServiceSpec {
                    labels: BTreeMap::new(),
                    ..full_spec()
                },
                if_revision: Some(Revision(9)),
            },
        ),
        (
            "ScaleServices",
            Command::ScaleServices {
                replicas: BTreeMap::from([(SERVICE, 300)]),
            },
        ),
        (
            "RemoveService",
            Command::RemoveService {
                id: ServiceId::from_bits(4),
            },
        ),
    ]
}

fn task_commands() -> Vec<(&'static str, Command)> {
    let task = |id: u128, slot: u32| NewTask {
        id: TaskId::from_bits(id),
        service: SERVICE,
        spec_revision: Revision(9),
        slot: Some(Slot(slot)),
        node: node_id(1),
        attempt: 1,
        not_before: at(5),
    };
    let (first, second) = (TaskId::from_bits(21), TaskId::from_bits(22));
    vec![
        (
            "Plan",
            Command::Plan {
                basis: Revision(12),
                changes: vec![
                    TaskChange::Create(task(21, 1)),
                    TaskChange::Create(task(22, 2)),
                    TaskChange::SetDesired {
                        task: second,
                        desired: Desired::Shutdown,
                    },
                    TaskChange::Orphan { task: second },
                    TaskChange::Forget { task: second },
                    TaskChange::SetRollout {
                        service: SERVICE,
                        spec_revision: Revision(11),
                        rollout: Rollout::Updating {
                            started_at: at(3),
                            since: Revision(11),
                        },
                    },
                    TaskChange::SetRollout {
                        service: SERVICE,
                        spec_revision: Revision(11),
                        rollout: Rollout::Paused {
                            at: at(4),
                            reason: "broken".to_owned(),
                        },
                    },
                ],
            },
        ),
        (
            "ReportTasks",
            Command::ReportTasks {
                node: node_id(1),
                reports: vec![
                    TaskReport {
                        task: first,
                        state: TaskState::Running,
                        at: at(7),
                        error: None,
                        exit_code: None,
                        gone: false,
                    },
                    TaskReport {
                        task: second,
                        state: TaskState::Failed,
                        at: at(8),
                        error: Some("exit".to_owned()),
                        exit_code: Some(-1),
                        gone: true,
                    },
                ],
            },
        ),
    ]
}

fn entries() -> Vec<(&'static str, Entry)> {
    let commands = [first_commands(), service_commands(), task_commands()]
        .into_iter()
        .flatten();
    commands
        .enumerate()
        .map(|(number, (name, command))| {
            (name, entry(number as u128 + 1, at(number as u64), command))
        })
        .collect()
}

/// Compares with a file beside the tests, or writes it when told to.
#[expect(
    clippy::disallowed_methods,
    reason = "a test may be told to rewrite what it expects"
)]
fn check_file(name: &str, lines: &[String]) {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("tests/golden")
        .join(name);
    let text = lines.join("\n") + "\n";
    if std::env::var("UPDATE_EXPECT").is_ok() {
        std::fs::write(&path, &text).unwrap();
    }
    let expected = std::fs::read_to_string(&path).unwrap_or_default();
    for (line, expected) in text.lines().zip(expected.lines()) {
        assert_eq!(
            line, expected,
            "the bytes on disks would change; see {name}"
        );
    }
    assert_eq!(text, expected);
}

#[test]
fn golden_bytes_of_every_command_stay_as_they_are() {
    let lines: Vec<String> = entries()
        .iter()
        .map(|(name, entry)| {
            let bytes = codec::encode(entry).unwrap();
            assert_eq!(&codec::decode::<Entry>(&bytes).unwrap(), entry, "{name}");
            format!("{name} {}", data_encoding::HEXLOWER.encode(&bytes))
        })
        .collect();
    check_file("commands.txt", &lines);
}

#[test]
fn golden_samples_cover_every_command() {
    let variant = |command: &Command| codec::encode(command).unwrap()[1];
    let variants: Vec<u8> = entries()
        .iter()
        .map(|(_, entry)| variant(&entry.command))
        .collect();
    let count = variants.len() as u8;
    assert_eq!(variants, (0..count).collect::<Vec<_>>());
    let mut next = vec![1, count];
    next.extend([0; 64]);
    let error = codec::decode::<Command>(&next).unwrap_err().to_string();
    assert!(
        error.contains("variant"),
        "there are commands without a sample: {error}"
    );
}

#[test]
fn golden_log_makes_the_same_state_and_the_same_snapshot() {
    let mut state = ClusterState::default();
    let mut lines = Vec::new();
    for (index, (name, entry)) in (1..).zip(entries()) {
        let outcome = state.apply(Revision(index), &entry);
        invariants::assert_holds(&state);
        let told = outcome.map_or_else(|error| error.message, |_| "ok".to_owned());
        lines.push(format!("{name} {told} {:016x}", state.digest));
    }
    let bytes = snapshot::encode(&state).unwrap();
    assert_eq!(snapshot::decode(&bytes).unwrap(), state);
    lines.push(data_encoding::HEXLOWER.encode(&bytes));
    check_file("log.txt", &lines);
}
