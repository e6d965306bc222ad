//! The edges of one agent's run, each behind its [`Life`]: links and container engine.
//!
//! What an agent asked the engine for goes on after the agent's death, as with a real engine; only the answer is lost.
//! The engine's edge also watches over two promises: nobody stops a container that the log still wants, and nobody
//! removes a container that this agent cannot explain yet.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_agent::containers::{
    ContainerRuntime, ContainerStatus, EngineError, EngineInfo, LogLine, LogQuery, SeenContainer,
    SharedRuntime, Stirred, TaskContainer,
};
use kawanan_agent::transport::{CallError, Channel, Inbound, PeerLinks, SendError, SharedLinks};
use kawanan_api::{ClusterId, NodeId, ServiceSpec, TaskId};
use tokio::sync::mpsc;

use super::ledger::Ledger;
use super::life::{Life, Phase};
use super::trace::Trace;

/// Waiting messages between the network and an agent; the real transport's queues are as bounded.
const QUEUE: usize = 1024;
/// Messages that a frozen agent had already handed to its kernel, at most.
const HELD_MAX: usize = 1024;

/// The links of one run of an agent.
pub struct FencedLinks {
    me: NodeId,
    inner: SharedLinks,
    life: Life,
    trace: Trace,
    held: Mutex<Vec<(NodeId, Channel, Bytes)>>,
}

impl FencedLinks {
    pub fn new(me: NodeId, inner: SharedLinks, life: Life, trace: Trace) -> Self {
        Self {
            me,
            inner,
            life,
            trace,
            held: Mutex::new(Vec::new()),
        }
    }

    fn held(&self) -> MutexGuard<'_, Vec<(NodeId, Channel, Bytes)>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends what was held back while the agent was frozen: the old words of a node that does not know how late it is.
    pub fn release(&self) {
        let held = std::mem::take(&mut *self.held());
        for (to, channel, message) in held {
            // Lost, as any message may be.
            self.inner.send(to, channel, message).unwrap_or_default();
        }
    }

    fn fold(&self, to: NodeId, kind: u8, message: &[u8]) {
        self.trace.fold(&self.me.bits().to_be_bytes());
        self.trace.fold(&to.bits().to_be_bytes());
        self.trace.fold(&[kind]);
        self.trace.fold(message);
    }
}

#[async_trait]
impl PeerLinks for FencedLinks {
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        match self.life.phase() {
            Phase::Running => {
                self.fold(to, channel as u8, &message);
                self.inner.send(to, channel, message)
            }
            Phase::Frozen => {
                let mut held = self.held();
                if held.len() < HELD_MAX {
                    held.push((to, channel, message));
                }
                Ok(())
            }
            Phase::Dead => Ok(()),
        }
    }

    async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        self.life.running().await;
        self.fold(to, 100, &request);
        self.life.sees(self.inner.call(to, request, deadline)).await
    }

    async fn open(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Bytes>, CallError> {
        self.life.running().await;
        self.fold(to, 101, &request);
        self.life.sees(self.inner.open(to, request, deadline)).await
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.life.is_running() && self.inner.is_connected(peer)
    }

    fn forget(&self, peer: NodeId) {
        if self.life.is_running() {
            self.inner.forget(peer);
        }
    }
}

/// Lets what arrives through to the agent only while it runs.
pub fn fence_inbound(inbound: Inbound, life: &Life) -> Inbound {
    Inbound {
        raft: fence_queue(inbound.raft, life),
        gossip: fence_queue(inbound.gossip, life),
        calls: fence_queue(inbound.calls, life),
        streams: fence_queue(inbound.streams, life),
        joins: fence_queue(inbound.joins, life),
    }
}

fn fence_queue<T: Send + 'static>(
    mut arriving: mpsc::Receiver<T>,
    life: &Life,
) -> mpsc::Receiver<T> {
    let (sender, receiver) = mpsc::channel(QUEUE);
    let life = life.clone();
    tokio::spawn(async move {
        let pump = async {
            while let Some(item) = arriving.recv().await {
                life.running().await;
                if sender.send(item).await.is_err() {
                    return;
                }
            }
        };
        tokio::select! {
            biased;
            () = life.ended() => {}
            () = pump => {}
        }
    });
    receiver
}

/// The container engine as one run of an agent sees it.
pub struct FencedRuntime {
    pub node: String,
    pub cluster: ClusterId,
    pub inner: SharedRuntime,
    pub life: Life,
    /// Ends when the machine loses power, and with it what the engine was doing.
    pub power: Life,
    pub trace: Trace,
    pub ledger: Ledger,
    tasks: Arc<Mutex<BTreeMap<String, TaskId>>>,
}

/// The machine and the agent's run that an engine's edge belongs to.
pub struct Place {
    pub node: String,
    pub cluster: ClusterId,
    pub life: Life,
    pub power: Life,
}

impl FencedRuntime {
    pub fn new(place: Place, inner: SharedRuntime, trace: Trace, ledger: Ledger) -> Self {
        Self {
            node: place.node,
            cluster: place.cluster,
            inner,
            life: place.life,
            power: place.power,
            trace,
            ledger,
            tasks: Arc::default(),
        }
    }

    fn tasks(&self) -> MutexGuard<'_, BTreeMap<String, TaskId>> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Has the engine do it, whatever becomes of the agent.
    async fn engine<T: Send + 'static>(
        &self,
        what: String,
        work: impl Future<Output = Result<T, EngineError>> + Send + 'static,
    ) -> Result<T, EngineError> {
        self.life.running().await;
        let (node, trace, power) = (self.node.clone(), self.trace.clone(), self.power.clone());
        let done = tokio::spawn(async move {
            let result = power.sees(work).await;
            match &result {
                Ok(_) => trace.note(&node, format!("engine: {what}")),
                Err(err) => trace.note(&node, format!("engine: {what} failed: {err}")),
            }
            result
        });
        match self.life.sees(done).await {
            Ok(result) => result,
            Err(err) => Err(EngineError::Failed(format!(
                "the simulated engine panicked: {err}"
            ))),
        }
    }

    /// I7 and static stability: a container that runs is stopped only when the log does not want its task any more.
    async fn check_unwanted(&self, container: &str, doing: &str) {
        let Some(seen) = self.find(container).await else {
            return;
        };
        let Some(task) = seen.task.and_then(|task| self.ledger.task(task)) else {
            return;
        };
        let runs = matches!(seen.status, ContainerStatus::Running { .. });
        if runs && task.is_live() {
            self.ledger.violated(format!(
                "{} {doing} container {} although the log wants its task to run",
                self.node, seen.name
            ));
        }
    }

    async fn find(&self, container: &str) -> Option<SeenContainer> {
        let seen = self.inner.list(self.cluster).await.ok()?;
        seen.into_iter().find(|seen| seen.id == container)
    }

    fn name_of(&self, container: &str) -> String {
        let task = self.tasks().get(container).copied();
        task.map_or_else(
            || container.to_owned(),
            |task| format!("task {}", task.short()),
        )
    }
}

#[async_trait]
impl ContainerRuntime for FencedRuntime {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        self.life.running().await;
        self.life.sees(self.inner.info()).await
    }

    async fn list(&self, cluster: ClusterId) -> Result<Vec<SeenContainer>, EngineError> {
        self.life.running().await;
        let seen = self.life.sees(self.inner.list(cluster)).await?;
        let known = seen
            .iter()
            .filter_map(|seen| Some((seen.id.clone(), seen.task?)));
        self.tasks().extend(known);
        Ok(seen)
    }

    async fn inspect(&self, container: &str) -> Result<SeenContainer, EngineError> {
        self.life.running().await;
        self.life.sees(self.inner.inspect(container)).await
    }

    async fn ensure_image(&self, spec: &ServiceSpec) -> Result<(), EngineError> {
        self.life.running().await;
        self.life.sees(self.inner.ensure_image(spec)).await
    }

    async fn create(&self, container: &TaskContainer) -> Result<String, EngineError> {
        let what = format!(
            "create {} (task {})",
            container.spec.name,
            container.task.short()
        );
        let (inner, wanted) = (Arc::clone(&self.inner), container.clone());
        let id = self
            .engine(what, async move { inner.create(&wanted).await })
            .await?;
        self.tasks().insert(id.clone(), container.task);
        Ok(id)
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let what = format!("start {}", self.name_of(container));
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        self.engine(what, async move { inner.start(&id).await })
            .await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        self.check_unwanted(container, "stops").await;
        let what = format!("stop {}", self.name_of(container));
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        self.engine(what, async move { inner.stop(&id, grace).await })
            .await
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        self.check_unwanted(container, "removes").await;
        let what = format!("remove {}", self.name_of(container));
        let (inner, id) = (Arc::clone(&self.inner), container.to_owned());
        self.engine(what, async move { inner.remove(&id).await })
            .await
    }

    async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>, EngineError> {
        self.life.running().await;
        self.life.sees(self.inner.logs(container, query)).await
    }

    async fn events(&self, cluster: ClusterId) -> Result<mpsc::Receiver<Stirred>, EngineError> {
        self.life.running().await;
        let arriving = self.life.sees(self.inner.events(cluster)).await?;
        Ok(fence_queue(arriving, &self.life))
    }
}
