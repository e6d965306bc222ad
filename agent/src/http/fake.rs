//! A cluster in memory behind the API, for tests of the API and of the command line.
//!
//! Entries go straight into the state, and a tokio task plays the leader and all nodes: it plans with the real
//! `reconcile` and lets tasks take one step of their lives at a time. What becomes of a task depends on its image:
//! `missing` cannot be pulled, `crash` ends with code 1, `once` ends well, `slow` takes its time; every other one runs.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{
    ApiError, ClusterId, ErrorCode, NodeId, RaftId, RequestId, Revision, TaskId, Timestamp,
};
use kawanan_logic::command::{FEATURE_LEVEL, NewNode, TaskReport};
use kawanan_logic::reconcile::reconcile;
use kawanan_logic::state::{Desired, NodeFacts, NodeStatus, Outcome, Platform, Task, TaskState};
use kawanan_logic::{ClusterState, Command, Entry, NodeSeen, Observation};
use tokio::sync::{mpsc, watch};

use super::{Backend, Standing};
use crate::clock::SharedClock;
use crate::containers::LogQuery;
use crate::peer::LogFrame;
use crate::random::SharedRandom;

/// One step of a task's life.
const STEP: Duration = Duration::from_millis(5);
/// How long a `slow` image takes.
const SLOW: Duration = Duration::from_secs(3600);

/// The cluster. Node `i` of `n1, n2, ...` has the address `10.0.0.i`.
pub struct FakeCluster {
    clock: SharedClock,
    random: SharedRandom,
    state: watch::Sender<Arc<ClusterState>>,
    world: Mutex<World>,
    reads: AtomicU64,
}

#[derive(Default)]
struct World {
    nodes: Vec<NodeId>,
    leader: Option<NodeId>,
    suspects: BTreeSet<NodeId>,
    /// Whether answers to writes get lost, how often.
    lose_answers: u32,
    logs: BTreeMap<TaskId, Vec<LogFrame>>,
    /// Nodes whose logs cannot be had.
    unreachable: BTreeSet<NodeId>,
    live_logs: BTreeMap<TaskId, mpsc::Sender<LogFrame>>,
}

impl FakeCluster {
    /// A founded cluster of that many nodes, with the first as its leader.
    pub fn new(nodes: u32, clock: SharedClock, random: SharedRandom) -> Arc<Self> {
        let fake = Arc::new(Self {
            clock,
            random,
            state: watch::Sender::new(Arc::default()),
            world: Mutex::default(),
            reads: AtomicU64::new(0),
        });
        for number in 1..=nodes {
            fake.add_node(number);
        }
        fake
    }

    fn add_node(&self, number: u32) {
        let id = NodeId::from_bits(self.random.bits());
        let node = new_node(id, number);
        let command = if number == 1 {
            Command::Found {
                cluster: ClusterId::from_bits(self.random.bits()),
                authority: b"certificate".to_vec(),
                node,
            }
        } else {
            let token = kawanan_api::TokenId::from_bits(u128::from(number));
            self.must(Command::CreateToken {
                id: token,
                secret_hash: [0; 32],
                expires_at: None,
                uses: Some(1),
                note: String::new(),
            });
            Command::AdmitNode {
                token,
                secret_hash: [0; 32],
                node,
            }
        };
        self.must(command);
        let mut world = self.world();
        world.nodes.push(id);
        world.leader.get_or_insert(id);
    }

    fn must(&self, command: Command) {
        if let Err(refused) = self.apply(command) {
            panic!("a fake cluster was set up wrongly: {refused}");
        }
    }

    /// Plays leader and nodes until it is aborted.
    pub fn live(self: &Arc<Self>) -> tokio::task::JoinHandle<()> {
        let fake = self.clone();
        tokio::spawn(async move {
            loop {
                fake.step();
                tokio::time::sleep(STEP).await;
            }
        })
    }

    pub fn node(&self, index: usize) -> NodeId {
        self.world().nodes[index]
    }

    /// The state right now.
    pub fn now(&self) -> Arc<ClusterState> {
        self.state.borrow().clone()
    }

    /// Puts a command into the log as if a leader had.
    pub fn apply(&self, command: Command) -> Outcome {
        self.put(Entry {
            request: RequestId::from_bits(self.random.bits()),
            at: self.clock.now(),
            command,
        })
    }

    pub fn set_leader(&self, leader: Option<NodeId>) {
        self.world().leader = leader;
    }

    pub fn suspect(&self, node: NodeId) {
        self.world().suspects.insert(node);
    }

    /// The answers to the next writes are lost, though they take effect.
    pub fn lose_answers(&self, count: u32) {
        self.world().lose_answers = count;
    }

    /// What a task's container has written.
    pub fn set_logs(&self, task: TaskId, lines: &[(u64, &str)]) {
        let frames = lines.iter().map(|(at, text)| line(*at, text)).collect();
        self.world().logs.insert(task, frames);
    }

    /// A line that a followed container writes now.
    pub async fn write_log(&self, task: TaskId, at: u64, text: &str) -> bool {
        let follower = self.world().live_logs.get(&task).cloned();
        match follower {
            Some(follower) => follower.send(line(at, text)).await.is_ok(),
            None => false,
        }
    }

    /// Whether somebody follows the task's output.
    pub fn is_followed(&self, task: TaskId) -> bool {
        (self.world().live_logs.get(&task)).is_some_and(|follower| !follower.is_closed())
    }

    /// Ends the followed output, as when a connection breaks.
    pub fn cut_logs(&self, task: TaskId) {
        self.world().live_logs.remove(&task);
    }

    /// Ends all followed outputs, as when the containers are gone.
    pub fn cut_all_logs(&self) {
        self.world().live_logs.clear();
    }

    pub fn set_unreachable(&self, node: NodeId) {
        self.world().unreachable.insert(node);
    }

    /// Linearizable reads so far.
    pub fn barriers(&self) -> u64 {
        self.reads.load(Ordering::Relaxed)
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, entry: Entry) -> Outcome {
        let mut outcome = Ok(Revision(0));
        self.state.send_modify(|state| {
            let index = Revision(state.revision.0 + 1);
            outcome = Arc::make_mut(state).apply(index, &entry);
        });
        outcome
    }

    /// One plan of the leader, and one step of every task. Without a leader nothing moves.
    fn step(&self) {
        if self.world().leader.is_none() {
            return;
        }
        let state = self.now();
        let mut ids = || TaskId::from_bits(self.random.bits());
        let plan = reconcile(&state, &self.observation(), &mut ids);
        if !plan.changes.is_empty() {
            let basis = state.revision;
            let planned = self.apply(Command::Plan {
                basis,
                changes: plan.changes,
            });
            tracing::trace!(?planned, "the fake leader planned");
        }
        let state = self.now();
        let mut reports: BTreeMap<NodeId, Vec<TaskReport>> = BTreeMap::new();
        for task in state.tasks.values() {
            let down =
                (state.nodes.get(&task.node)).is_none_or(|node| node.status != NodeStatus::Ready);
            if let Some(report) = self.next(&state, task).filter(|_| !down) {
                reports.entry(task.node).or_default().push(report);
            }
        }
        for (node, reports) in reports {
            let reported = self.apply(Command::ReportTasks { node, reports });
            tracing::trace!(?reported, "a fake node reported");
        }
    }

    fn next(&self, state: &ClusterState, task: &Task) -> Option<TaskReport> {
        let now = self.clock.now();
        let spec = state.spec_of(task)?;
        let image = spec.container.image.split(':').next().unwrap_or_default();
        let mut report = TaskReport {
            task: task.id,
            state: task.state,
            at: now,
            error: None,
            exit_code: None,
            gone: false,
        };
        if task.desired != Desired::Running {
            report.state = task.state.max(TaskState::Shutdown);
            report.gone = true;
            let news = !task.state.is_final() || task.desired == Desired::Remove;
            return news.then_some(report);
        }
        let age = now.since(task.state_at);
        report.state = match task.state {
            TaskState::Assigned if now < task.not_before => return None,
            TaskState::Assigned => TaskState::Preparing,
            TaskState::Preparing if image == "missing" => {
                report.error = Some(format!(
                    "image {}: not found in its registry",
                    spec.container.image
                ));
                TaskState::Rejected
            }
            TaskState::Preparing if image == "slow" && age < SLOW => return None,
            TaskState::Preparing => TaskState::Starting,
            TaskState::Starting => TaskState::Running,
            TaskState::Running if image == "crash" => {
                report.error = Some("the container exited with code 1".to_owned());
                report.exit_code = Some(1);
                TaskState::Failed
            }
            TaskState::Running if image == "once" => {
                report.exit_code = Some(0);
                TaskState::Complete
            }
            _ => return None,
        };
        Some(report)
    }
}

fn new_node(id: NodeId, number: u32) -> NewNode {
    let octet = u8::try_from(number).unwrap_or(u8::MAX);
    NewNode {
        id,
        raft_id: RaftId(u64::from(number)),
        name: format!("n{number}"),
        labels: BTreeMap::new(),
        facts: NodeFacts {
            address: ([10, 0, 0, octet], kawanan_api::DEFAULT_PORT).into(),
            platform: Platform {
                os: "linux".to_owned(),
                arch: "x86_64".to_owned(),
            },
            capacity: ResourceAmounts {
                cpus: MilliCpus(2000),
                memory: Bytes(4 << 30),
            },
            agent_version: "0.1.0".to_owned(),
            engine_version: "28.2.2".to_owned(),
            feature_level: FEATURE_LEVEL,
        },
    }
}

fn line(at: u64, text: &str) -> LogFrame {
    LogFrame::Line {
        at: Timestamp::from_millis(at),
        stderr: false,
        text: text.as_bytes().to_vec(),
    }
}

#[async_trait]
impl Backend for FakeCluster {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.state.subscribe()
    }

    fn standing(&self) -> Standing {
        let world = self.world();
        Standing {
            this_node: world.nodes[0],
            this_node_name: "n1".to_owned(),
            leader: world.leader,
            voters: world.nodes.iter().take(3).copied().collect(),
            notes: BTreeMap::new(),
        }
    }

    fn observation(&self) -> Observation {
        let mut observation = Observation::at(self.clock.now());
        for node in &self.world().suspects {
            let seen = NodeSeen {
                alive: false,
                engine_ok: true,
            };
            observation.nodes.insert(*node, seen);
        }
        observation
    }

    async fn submit(&self, entry: Entry) -> Outcome {
        if self.world().leader.is_none() {
            return Err(ApiError::new(ErrorCode::NoLeader, "no node is leader"));
        }
        let outcome = self.put(entry);
        let mut world = self.world();
        if world.lose_answers > 0 {
            world.lose_answers -= 1;
            return Err(ApiError::new(
                ErrorCode::OutcomeUnknown,
                "the answer was lost",
            ));
        }
        outcome
    }

    async fn read_barrier(&self) -> Result<(), ApiError> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        match self.world().leader {
            Some(_) => Ok(()),
            None => Err(ApiError::new(ErrorCode::NoLeader, "no node is leader")),
        }
    }

    async fn leave(&self, last: bool) -> Result<(), ApiError> {
        if last {
            return Ok(());
        }
        let command = Command::SetNodeStatus {
            id: self.standing().this_node,
            status: NodeStatus::Left,
        };
        self.apply(command).map(|_| ())
    }

    async fn logs(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogFrame>, ApiError> {
        let node = (self.now().tasks.get(&task))
            .map(|task| task.node)
            .ok_or_else(|| ApiError::not_found(format!("task {task} does not exist")))?;
        let mut world = self.world();
        if world.unreachable.contains(&node) {
            return Err(ApiError::new(
                ErrorCode::Unavailable,
                "the node cannot be reached",
            ));
        }
        let since = |frame: &&LogFrame| match frame {
            LogFrame::Line { at, .. } => query.since.is_none_or(|since| *at >= since),
            LogFrame::Failed(_) => true,
        };
        let mut frames: Vec<LogFrame> = world
            .logs
            .get(&task)
            .into_iter()
            .flatten()
            .filter(since)
            .cloned()
            .collect();
        if let Some(tail) = query.tail {
            frames.drain(..frames.len().saturating_sub(tail as usize));
        }
        let (sender, receiver) = mpsc::channel(frames.len() + 64);
        for frame in frames {
            // The channel was made large enough.
            if sender.try_send(frame).is_err() {
                break;
            }
        }
        if query.follow {
            world.live_logs.insert(task, sender);
        }
        Ok(receiver)
    }
}
