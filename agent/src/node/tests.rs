//! One node over simulated engine, ports and log, in virtual time.

use std::sync::Mutex;

use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::{Mode, ResourceAmounts};
use kawanan_api::{ErrorCode, RaftId, RequestId, ServiceId, ServiceSpec, Slot, Timestamp};
use kawanan_logic::command::{Entry, NewNode, NewTask, TaskChange};
use kawanan_logic::state::{Desired, NodeFacts, Platform, Task, TaskState};
use tokio::time::{Instant, sleep};

use super::*;
use crate::clock::{Clock, SimulatedClock};
use crate::containers::simulated::{Behavior, HealthPlan, Latencies, Reply, SimulatedRuntime};
use crate::containers::{ContainerRuntime, ContainerStatus, EngineError, LogQuery, TaskContainer};
use crate::network::simulated::SimulatedPorts;
use crate::peer::LogFrame;
use crate::random::SeededRandom;

mod engine;
mod lifecycle;
mod speed;

const ME: NodeId = NodeId::from_bits(1);
const CLUSTER: ClusterId = ClusterId::from_bits(77);
const SERVICE: ServiceId = ServiceId::from_bits(500);

/// The log as this node sees it: commands take effect a little after they were submitted.
#[derive(Clone)]
struct Log {
    state: Arc<watch::Sender<Arc<ClusterState>>>,
    clock: SimulatedClock,
    inner: Arc<Mutex<LogFaults>>,
}

#[derive(Default)]
struct LogFaults {
    leaderless: bool,
    submitted: u64,
}

impl Log {
    fn found(clock: SimulatedClock) -> Self {
        let log = Self {
            state: Arc::new(watch::channel(Arc::new(ClusterState::default())).0),
            clock,
            inner: Arc::default(),
        };
        log.ok(Command::Found {
            cluster: CLUSTER,
            authority: vec![1],
            node: NewNode {
                id: ME,
                raft_id: RaftId(1),
                name: "n1".to_owned(),
                labels: BTreeMap::new(),
                facts: NodeFacts {
                    address: "127.0.0.1:7700".parse().unwrap(),
                    platform: Platform::default(),
                    capacity: ResourceAmounts {
                        cpus: MilliCpus(64_000),
                        memory: Bytes(64 << 30),
                    },
                    agent_version: String::new(),
                    engine_version: String::new(),
                    feature_level: kawanan_logic::command::FEATURE_LEVEL,
                },
            },
        });
        log
    }

    fn apply(&self, command: Command) -> Result<Revision, ApiError> {
        let mut outcome = None;
        self.state.send_modify(|state| {
            let index = Revision(state.revision.0 + 1);
            let entry = Entry {
                request: RequestId::from_bits(index.0.into()),
                at: self.clock.now(),
                command,
            };
            outcome = Some(Arc::make_mut(state).apply(index, &entry));
        });
        outcome.unwrap()
    }

    fn ok(&self, command: Command) -> Revision {
        self.apply(command).unwrap()
    }

    fn plan(&self, changes: Vec<TaskChange>) {
        let basis = self.state.borrow().revision;
        self.ok(Command::Plan { basis, changes });
    }

    fn state(&self) -> Arc<ClusterState> {
        self.state.borrow().clone()
    }

    fn task(&self, task: TaskId) -> Option<Arc<Task>> {
        self.state().tasks.get(&task).cloned()
    }

    fn state_of(&self, task: TaskId) -> Option<TaskState> {
        self.task(task).map(|task| task.state)
    }

    fn set_leaderless(&self, leaderless: bool) {
        self.inner.lock().unwrap().leaderless = leaderless;
    }

    fn submitted(&self) -> u64 {
        self.inner.lock().unwrap().submitted
    }

    /// A service with these tasks on this node.
    fn create(&self, spec: ServiceSpec, tasks: impl IntoIterator<Item = TaskId>) {
        let spec_revision = self.ok(Command::CreateService { id: SERVICE, spec });
        self.assign(spec_revision, tasks);
    }

    fn assign(&self, spec_revision: Revision, tasks: impl IntoIterator<Item = TaskId>) {
        let changes = tasks.into_iter().map(|id| {
            TaskChange::Create(NewTask {
                id,
                service: SERVICE,
                spec_revision,
                slot: Some(Slot(id.bits() as u32)),
                node: ME,
                attempt: 0,
                not_before: Timestamp::from_millis(0),
            })
        });
        self.plan(changes.collect());
    }

    fn want(&self, task: TaskId, desired: Desired) {
        self.plan(vec![TaskChange::SetDesired { task, desired }]);
    }
}

#[async_trait]
impl Submit for Log {
    async fn submit(&self, command: Command, deadline: Duration) -> Result<Revision, ApiError> {
        if self.inner.lock().unwrap().leaderless {
            sleep(deadline).await;
            return Err(ApiError::new(ErrorCode::NoLeader, "no leader"));
        }
        self.inner.lock().unwrap().submitted += 1;
        sleep(Duration::from_millis(5)).await;
        self.apply(command)
    }
}

/// Everything around one node. The node itself can be dropped and started again.
struct World {
    log: Log,
    engine: SimulatedRuntime,
    ports: SimulatedPorts,
    caught_up: watch::Sender<bool>,
    clock: SimulatedClock,
    seed: u64,
}

impl World {
    fn new(seed: u64) -> Self {
        let clock = SimulatedClock::starting_at(Timestamp::from_millis(1_700_000_000_000));
        let engine = SimulatedRuntime::new(seed, Latencies::default(), Arc::new(clock));
        engine.add_image("app");
        Self {
            log: Log::found(clock),
            engine,
            ports: SimulatedPorts::default(),
            caught_up: watch::channel(true).0,
            clock,
            seed,
        }
    }

    fn start(&self) -> Node {
        Node::spawn(NodeParts {
            cluster: CLUSTER,
            node: ME,
            name: "n1".to_owned(),
            engine: Arc::new(self.engine.clone()),
            state: self.log.state.subscribe(),
            caught_up: self.caught_up.subscribe(),
            submit: Arc::new(self.log.clone()),
            ports: Arc::new(self.ports.clone()),
            clock: Arc::new(self.clock),
            random: Arc::new(SeededRandom::new(self.seed)),
            parallel_starts: 4,
        })
    }

    /// Waits, at most `patience` of virtual time.
    async fn until(&self, what: &str, patience: Duration, holds: impl Fn() -> bool) -> Duration {
        let begun = Instant::now();
        while !holds() {
            assert!(
                begun.elapsed() < patience,
                "waited {patience:?} in vain until {what}\ncontainers: {:#?}\ntasks: {:#?}",
                self.engine.containers(),
                self.log.state().tasks,
            );
            sleep(Duration::from_millis(10)).await;
        }
        begun.elapsed()
    }

    async fn until_state(&self, task: TaskId, state: TaskState) -> Duration {
        let what = format!("task {} is {state:?}", task.bits());
        let holds = || self.log.state_of(task) == Some(state);
        self.until(&what, secs(30), holds).await
    }

    /// A container of ours that this node made in some earlier life.
    async fn leave_behind(&self, task: TaskId, spec: ServiceSpec) {
        let container = TaskContainer {
            cluster: CLUSTER,
            node: ME,
            node_name: "n1".to_owned(),
            service: SERVICE,
            task,
            slot: Some(Slot(1)),
            spec: Arc::new(spec),
        };
        let id = self.engine.create(&container).await.unwrap();
        self.engine.start(&id).await.unwrap();
    }
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

fn task(number: u128) -> TaskId {
    TaskId::from_bits(number)
}

fn spec() -> ServiceSpec {
    let mut spec = ServiceSpec::new("web", "app");
    spec.mode = Mode::Replicated { replicas: 1 };
    spec
}
