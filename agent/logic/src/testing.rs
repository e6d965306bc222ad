//! A cluster made of values, for tests: a state, a clock, and nodes that do at once what they are told.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{Mode, ResourceAmounts};
use kawanan_api::{
    ApiError, ClusterId, NodeId, RaftId, RequestId, Revision, ServiceId, ServiceSpec, TaskId,
    Timestamp, TokenId,
};

use crate::command::{NewNode, TaskReport};
use crate::reconcile::Plan;
use crate::state::{Availability, Desired, NodeFacts, NodeStatus, Platform, Task, TaskState};
use crate::{ClusterState, Command, Entry, Observation, invariants, reconcile};

/// Where every test's clock starts.
pub const START: Timestamp = Timestamp::from_millis(1_700_000_000_000);
pub const TOKEN: TokenId = TokenId::from_bits(7);
pub const SECRET_HASH: [u8; 32] = [9; 32];

pub const fn node_id(number: u128) -> NodeId {
    NodeId::from_bits(number)
}

pub fn facts() -> NodeFacts {
    NodeFacts {
        address: "10.0.0.1:7700".parse().unwrap(),
        platform: Platform {
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
        },
        capacity: ResourceAmounts {
            cpus: MilliCpus(4000),
            memory: Bytes(8 << 30),
        },
        agent_version: "0.1.0".to_owned(),
        engine_version: "28.0".to_owned(),
        feature_level: 1,
    }
}

/// Node `n1`, `n2`, ... with that number as id and raft id.
pub fn new_node(number: u128) -> NewNode {
    NewNode {
        id: node_id(number),
        raft_id: RaftId(number as u64),
        name: format!("n{number}"),
        labels: BTreeMap::new(),
        facts: facts(),
    }
}

pub fn entry(request: u128, at: Timestamp, command: Command) -> Entry {
    Entry {
        request: RequestId::from_bits(request),
        at,
        command,
    }
}

pub fn spec(name: &str, replicas: u32) -> ServiceSpec {
    let mut spec = ServiceSpec::new(name, "app:1");
    spec.mode = Mode::Replicated { replicas };
    spec
}

#[derive(Debug, Clone)]
pub struct Cluster {
    pub state: ClusterState,
    pub seen: Observation,
    /// Images whose containers end at once with exit code 1.
    pub bad_images: BTreeSet<String>,
    /// Nodes that do nothing at all.
    pub silent: BTreeSet<NodeId>,
    drawn: u128,
}

impl Cluster {
    pub fn new(nodes: u128) -> Self {
        let mut cluster = Self {
            state: ClusterState::default(),
            seen: Observation::at(START),
            bad_images: BTreeSet::new(),
            silent: BTreeSet::new(),
            drawn: 1000,
        };
        cluster.ok(Command::Found {
            cluster: ClusterId::from_bits(1),
            authority: vec![1, 2, 3],
            node: new_node(1),
        });
        cluster.ok(Command::CreateToken {
            id: TOKEN,
            secret_hash: SECRET_HASH,
            expires_at: None,
            uses: None,
            note: String::new(),
        });
        for number in 2..=nodes {
            cluster.join(new_node(number));
        }
        cluster
    }

    pub fn now(&self) -> Timestamp {
        self.seen.now
    }

    pub fn advance(&mut self, time: Duration) {
        self.seen.now = self.seen.now.saturating_add(time);
    }

    pub fn draw(&mut self) -> u128 {
        self.drawn += 1;
        self.drawn
    }

    pub fn apply(&mut self, command: Command) -> Result<Revision, ApiError> {
        let entry = entry(self.draw(), self.now(), command);
        let outcome = self
            .state
            .apply(Revision(self.state.revision.0 + 1), &entry);
        invariants::assert_holds(&self.state);
        outcome
    }

    pub fn ok(&mut self, command: Command) -> Revision {
        self.apply(command).unwrap()
    }

    pub fn refused(&mut self, command: Command) -> ApiError {
        self.apply(command).unwrap_err()
    }

    pub fn join(&mut self, node: NewNode) {
        self.ok(Command::AdmitNode {
            token: TOKEN,
            secret_hash: SECRET_HASH,
            node,
        });
    }

    pub fn create(&mut self, spec: ServiceSpec) -> ServiceId {
        let id = ServiceId::from_bits(self.draw());
        self.ok(Command::CreateService { id, spec });
        id
    }

    pub fn update(&mut self, id: ServiceId, change: impl FnOnce(&mut ServiceSpec)) {
        let mut spec = ServiceSpec::clone(self.state.services[&id].spec());
        change(&mut spec);
        self.ok(Command::UpdateService {
            id,
            spec,
            if_revision: None,
        });
    }

    pub fn scale(&mut self, id: ServiceId, replicas: u32) {
        self.ok(Command::ScaleServices {
            replicas: BTreeMap::from([(id, replicas)]),
        });
    }

    pub fn set_status(&mut self, node: NodeId, status: NodeStatus) {
        self.ok(Command::SetNodeStatus { id: node, status });
    }

    pub fn set_availability(&mut self, node: NodeId, availability: Availability) {
        self.ok(Command::UpdateNode {
            id: node,
            availability: Some(availability),
            set_labels: BTreeMap::new(),
            remove_labels: BTreeSet::new(),
        });
    }

    pub fn label(&mut self, node: NodeId, key: &str, value: &str) {
        self.ok(Command::UpdateNode {
            id: node,
            availability: None,
            set_labels: BTreeMap::from([(key.to_owned(), value.to_owned())]),
            remove_labels: BTreeSet::new(),
        });
    }

    pub fn plan(&mut self) -> Plan {
        let mut drawn = self.drawn;
        let plan = reconcile(&self.state, &self.seen, &mut || {
            drawn += 1;
            TaskId::from_bits(drawn)
        });
        self.drawn = drawn;
        plan
    }

    /// Lets the leader take one step.
    pub fn lead(&mut self) -> Plan {
        let plan = self.plan();
        if !plan.changes.is_empty() {
            self.ok(Command::Plan {
                basis: self.state.revision,
                changes: plan.changes.clone(),
            });
        }
        plan
    }

    pub fn report(&mut self, task: TaskId, state: TaskState) {
        let at = self.now();
        let failed = matches!(state, TaskState::Failed | TaskState::Rejected);
        let node = self.state.tasks[&task].node;
        self.ok(Command::ReportTasks {
            node,
            reports: vec![TaskReport {
                task,
                state,
                at,
                error: failed.then(|| "it broke".to_owned()),
                exit_code: failed.then_some(1),
                gone: false,
            }],
        });
    }

    fn reports_of(&self, node: NodeId) -> Vec<TaskReport> {
        let act = |task: &Task| {
            let image = self.state.spec_of(task).map(|spec| &spec.container.image);
            let bad = image.is_some_and(|image| self.bad_images.contains(image));
            let (state, gone) = match task.desired {
                Desired::Running if task.state >= TaskState::Running => return None,
                Desired::Running if bad => (TaskState::Failed, false),
                Desired::Running => (TaskState::Running, false),
                Desired::Shutdown if task.state.is_final() => return None,
                Desired::Shutdown => (TaskState::Shutdown, false),
                Desired::Remove => (task.state.max(TaskState::Shutdown), true),
            };
            Some(TaskReport {
                task: task.id,
                state,
                at: self.now(),
                error: (state == TaskState::Failed).then(|| "it broke".to_owned()),
                exit_code: (state == TaskState::Failed).then_some(1),
                gone,
            })
        };
        self.state
            .tasks_on(node)
            .filter_map(|task| act(task))
            .collect()
    }

    /// Lets every node that is up do what it is told, and say so. Whether anything was left to do.
    pub fn work(&mut self) -> bool {
        let mut worked = false;
        let up: Vec<NodeId> = self
            .state
            .nodes
            .values()
            .filter(|node| node.is_ready() && !self.silent.contains(&node.id))
            .map(|node| node.id)
            .collect();
        for node in up {
            let reports = self.reports_of(node);
            if !reports.is_empty() {
                worked = true;
                self.ok(Command::ReportTasks { node, reports });
            }
        }
        worked
    }

    /// Lets leader and nodes go on until nothing changes any more; time passes when everybody waits for it.
    ///
    /// # Panics
    /// When they do not come to rest within `limit`.
    pub fn settle_within(&mut self, limit: Duration) {
        let end = self.now().saturating_add(limit);
        for _ in 0..10_000 {
            let plan = self.lead();
            let worked = self.work();
            if plan.changes.is_empty() && !worked {
                match plan.wake_at {
                    None => return,
                    Some(at) => self.seen.now = at.max(self.now()),
                }
            }
            assert!(self.now() <= end, "not at rest within {limit:?}: {plan:?}");
        }
        panic!("never at rest");
    }

    pub fn settle(&mut self) {
        self.settle_within(Duration::from_secs(600));
    }

    pub fn live(&self, service: ServiceId) -> Vec<&Task> {
        let tasks = self.state.tasks_of(service).map(|task| &**task);
        tasks.filter(|task| task.is_live()).collect()
    }

    pub fn running(&self, service: ServiceId) -> Vec<&Task> {
        let tasks = self.state.tasks_of(service).map(|task| &**task);
        tasks.filter(|task| task.is_running()).collect()
    }

    /// Living tasks of a service on each node, `n1` first; nodes without any are left out.
    pub fn spread(&self, service: ServiceId) -> BTreeMap<String, usize> {
        let mut spread = BTreeMap::new();
        for task in self.live(service) {
            *spread.entry(self.state.node_name(task.node)).or_default() += 1;
        }
        spread
    }

    pub fn image_of(&self, task: &Task) -> &str {
        &self.state.spec_of(task).unwrap().container.image
    }
}
