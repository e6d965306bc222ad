//! The agent as its API sees it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::{ApiError, ErrorCode, NodeId, TaskId};
use kawanan_logic::state::{NodeStatus, Outcome};
use kawanan_logic::{ClusterState, Command, Entry, Observation, codec};
use tokio::sync::{mpsc, watch};
use tokio::time::{sleep, timeout};
use tracing::{debug, info};

use crate::consensus::{ClusterLog, ClusterProposer};
use crate::containers::LogQuery;
use crate::core::LogPart;
use crate::gossip::{GossipHandle, Liveness, keys};
use crate::http::{Backend, Standing};
use crate::identity::Identity;
use crate::leader::observe;
use crate::node::{LogSource, Node};
use crate::peer::{LogFrame, StreamRequest};
use crate::submit::Submitter;
use crate::transport::{CallError, SharedLinks};

/// Longest wait for the outcome of a write.
const WRITE_DEADLINE: Duration = Duration::from_secs(10);
/// Longest wait for a linearizable read.
const READ_DEADLINE: Duration = Duration::from_secs(5);
/// Time for another node to start sending a task's output.
const LOGS_DEADLINE: Duration = Duration::from_secs(5);
/// Frames in flight between a log stream and the API.
const FRAMES: usize = 64;
/// Time for the cluster to take a leaving node out of the voters.
const FAREWELL_DEADLINE: Duration = Duration::from_secs(15);

/// Holds what answering needs; all of it handles and watches.
pub(super) struct AgentBackend {
    pub me: NodeId,
    pub name: String,
    pub log: ClusterLog,
    pub proposer: ClusterProposer,
    pub submitter: Submitter,
    pub liveness: watch::Receiver<Arc<Liveness>>,
    pub progress: watch::Receiver<BTreeMap<TaskId, String>>,
    pub links: SharedLinks,
    pub logs: LogSource,
    /// Turned true when this node has left and the agent should end.
    pub left: watch::Sender<bool>,
}

#[async_trait]
impl Backend for AgentBackend {
    fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.log.state()
    }

    fn standing(&self) -> Standing {
        let status = self.log.status().borrow().clone();
        let state = self.log.state().borrow().clone();
        let liveness = self.liveness.borrow().clone();
        let voters = state
            .nodes
            .values()
            .filter(|node| status.members.is_voter(node.raft_id));
        let mut notes: BTreeMap<TaskId, String> = liveness
            .peers
            .values()
            .filter_map(|peer| peer.facts.get(keys::PROGRESS))
            .filter_map(|json| serde_json::from_str::<BTreeMap<TaskId, String>>(json).ok())
            .flatten()
            .collect();
        notes.extend(self.progress.borrow().clone());
        Standing {
            this_node: self.me,
            this_node_name: self.name.clone(),
            leader: status.leader,
            voters: voters.map(|node| node.id).collect(),
            notes,
        }
    }

    fn observation(&self) -> Observation {
        observe(&self.liveness.borrow(), self.submitter.clock.now())
    }

    async fn submit(&self, entry: Entry) -> Outcome {
        self.proposer.submit(&entry, WRITE_DEADLINE).await?
    }

    async fn read_barrier(&self) -> Result<(), ApiError> {
        self.proposer.read_index(READ_DEADLINE).await.map(|_| ())
    }

    async fn logs(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogFrame>, ApiError> {
        let state = self.log.state().borrow().clone();
        let Some(task_row) = state.tasks.get(&task) else {
            return Err(ApiError::not_found(format!("there is no task {task}")));
        };
        let node = task_row.node;
        if node == self.me {
            return self.logs.open(task, query).await;
        }
        let name = state
            .nodes
            .get(&node)
            .map_or_else(|| node.to_string(), |node| node.name.clone());
        let request = StreamRequest::Logs {
            task,
            follow: query.follow,
            tail: query.tail,
            since: query.since,
        };
        let request = codec::encode(&request)
            .map_err(|err| ApiError::new(ErrorCode::Internal, err.to_string()))?;
        let opened = self.links.open(node, request.into(), LOGS_DEADLINE).await;
        let frames = opened.map_err(|err| unreachable_node(&name, &err))?;
        Ok(decoded(frames))
    }

    /// Says goodbye: the cluster marks this node as left, and whoever leads takes it out of the voters (this node itself
    /// does while it leads, and hands over last); then the agent ends.
    async fn leave(&self, last: bool) -> Result<(), ApiError> {
        if !last {
            let command = Command::SetNodeStatus {
                id: self.me,
                status: NodeStatus::Left,
            };
            self.submitter.submit(command, WRITE_DEADLINE).await?;
            if timeout(FAREWELL_DEADLINE, self.until_no_voter())
                .await
                .is_err()
            {
                info!("this node still counts as a voter; the cluster takes it out when it can");
            }
        }
        info!("this node has left the cluster");
        self.left.send_replace(true);
        Ok(())
    }
}

impl AgentBackend {
    pub(super) fn new(
        identity: &Identity,
        part: &LogPart,
        gossip: &GossipHandle,
        node: &Node,
        left: watch::Sender<bool>,
    ) -> Self {
        Self {
            me: identity.node,
            name: identity.name.clone(),
            log: part.log.clone(),
            proposer: part.proposer.clone(),
            submitter: part.submitter.clone(),
            liveness: gossip.liveness(),
            progress: node.progress.clone(),
            links: Arc::clone(&part.links),
            logs: node.logs.clone(),
            left,
        }
    }

    async fn until_no_voter(&self) {
        loop {
            let status = self.log.status().borrow().clone();
            if !status.members.is_voter(status.raft_id) {
                return;
            }
            sleep(Duration::from_millis(50)).await;
        }
    }
}

fn unreachable_node(name: &str, err: &CallError) -> ApiError {
    debug!(%err, "a task's output cannot be had");
    ApiError::new(
        ErrorCode::Unavailable,
        format!("node {name} cannot be reached, so its part of the output is missing"),
    )
}

/// Frames as they were meant; ends at the first that cannot be read.
fn decoded(mut frames: mpsc::Receiver<Bytes>) -> mpsc::Receiver<LogFrame> {
    let (sender, receiver) = mpsc::channel(FRAMES);
    tokio::spawn(async move {
        while let Some(frame) = frames.recv().await {
            match codec::decode::<LogFrame>(&frame) {
                Ok(frame) => {
                    if sender.send(frame).await.is_err() {
                        return;
                    }
                }
                Err(err) => {
                    debug!(%err, "a frame of output cannot be read");
                    return;
                }
            }
        }
    });
    receiver
}
