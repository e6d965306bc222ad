//! A network in one thread: every message takes a millisecond of virtual time, links can be cut, messages be watched.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::NodeId;
use kawanan_logic::codec;
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, sleep_until};

use super::toy::Toy;
use crate::consensus::{ConsensusHandle, answer_propose, answer_read_index};
use crate::peer::{Answer, Request};
use crate::transport::{CallError, Channel, PeerLinks, SendError};

const LATENCY: Duration = Duration::from_millis(1);

#[derive(Default)]
struct Wires {
    inboxes: BTreeMap<NodeId, mpsc::Sender<(NodeId, Bytes)>>,
    handles: BTreeMap<NodeId, ConsensusHandle<Toy>>,
    cut: BTreeSet<(NodeId, NodeId)>,
    queue: VecDeque<(Instant, NodeId, NodeId, Bytes)>,
    lose_snapshots: u32,
    snapshots_sent: u32,
    messages_sent: u64,
}

/// The network. Clones share it.
#[derive(Clone, Default)]
pub(super) struct Bus {
    wires: Arc<Mutex<Wires>>,
    sent: Arc<Notify>,
}

impl Bus {
    /// A network, delivering from now on.
    pub(super) fn start() -> Self {
        let bus = Self::default();
        tokio::spawn(bus.clone().deliver());
        bus
    }

    fn wires(&self) -> MutexGuard<'_, Wires> {
        self.wires.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn deliver(self) {
        loop {
            let next = self.wires().queue.front().map(|(at, ..)| *at);
            let Some(at) = next else {
                self.sent.notified().await;
                continue;
            };
            sleep_until(at).await;
            let mut wires = self.wires();
            let Some((_, from, to, bytes)) = wires.queue.pop_front() else {
                continue;
            };
            if wires.cut.contains(&(from, to)) {
                continue;
            }
            if let Some(inbox) = wires.inboxes.get(&to) {
                // A full inbox loses the message, as a real link does.
                drop(inbox.try_send((from, bytes)));
            }
        }
    }

    /// Plugs a machine in; its links send in its name.
    pub(super) fn plug_in(
        &self,
        node: NodeId,
    ) -> (Arc<dyn PeerLinks>, mpsc::Receiver<(NodeId, Bytes)>) {
        let (inbox, inbound) = mpsc::channel(1024);
        self.wires().inboxes.insert(node, inbox);
        let links = Links {
            from: node,
            bus: self.clone(),
        };
        (Arc::new(links), inbound)
    }

    pub(super) fn answer_calls(&self, node: NodeId, handle: ConsensusHandle<Toy>) {
        self.wires().handles.insert(node, handle);
    }

    pub(super) fn unplug(&self, node: NodeId) {
        let mut wires = self.wires();
        wires.inboxes.remove(&node);
        wires.handles.remove(&node);
    }

    pub(super) fn cut(&self, a: NodeId, b: NodeId) {
        self.wires().cut.extend([(a, b), (b, a)]);
    }

    pub(super) fn heal(&self) {
        self.wires().cut.clear();
    }

    pub(super) fn lose_next_snapshots(&self, count: u32) {
        self.wires().lose_snapshots = count;
    }

    pub(super) fn snapshots_sent(&self) -> u32 {
        self.wires().snapshots_sent
    }

    pub(super) fn messages_sent(&self) -> u64 {
        self.wires().messages_sent
    }

    /// Delivers bytes as if `from` had sent them.
    pub(super) async fn inject(&self, from: NodeId, to: NodeId, bytes: Bytes) {
        let inbox = self.wires().inboxes.get(&to).cloned();
        if let Some(inbox) = inbox {
            inbox.send((from, bytes)).await.unwrap();
        }
    }

    fn reachable(&self, from: NodeId, to: NodeId) -> bool {
        let wires = self.wires();
        wires.handles.contains_key(&to) && !wires.cut.contains(&(from, to))
    }
}

struct Links {
    from: NodeId,
    bus: Bus,
}

#[async_trait]
impl PeerLinks for Links {
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let mut wires = self.bus.wires();
        if !wires.inboxes.contains_key(&to) {
            return Err(SendError::NoAddress(to));
        }
        wires.messages_sent += 1;
        if channel == Channel::Snapshot {
            wires.snapshots_sent += 1;
            if wires.lose_snapshots > 0 {
                wires.lose_snapshots -= 1;
                return Ok(());
            }
        }
        wires
            .queue
            .push_back((Instant::now() + LATENCY, self.from, to, message));
        self.bus.sent.notify_one();
        Ok(())
    }

    async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        sleep(LATENCY).await;
        let handle = self.bus.wires().handles.get(&to).cloned();
        let Some(handle) = handle.filter(|_| self.bus.reachable(self.from, to)) else {
            return Err(CallError::Unreachable {
                node: to,
                cause: "cut".into(),
            });
        };
        let answer = async {
            let answer = match codec::decode::<Request>(&request).unwrap() {
                Request::Propose(entry) => answer_propose(&handle, &entry).await,
                Request::ReadIndex => answer_read_index(&handle).await,
                other => panic!("the bus does not carry {other:?}"),
            };
            sleep(LATENCY).await;
            answer
        };
        let answer: Answer = match tokio::time::timeout(deadline, answer).await {
            Ok(answer) if self.bus.reachable(to, self.from) => answer,
            _ => return Err(CallError::NoAnswer { node: to }),
        };
        Ok(Bytes::from(codec::encode(&answer).unwrap()))
    }

    async fn open(
        &self,
        to: NodeId,
        _: Bytes,
        _: Duration,
    ) -> Result<mpsc::Receiver<Bytes>, CallError> {
        Err(CallError::Refused(to))
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.bus.reachable(self.from, peer)
    }

    fn forget(&self, _: NodeId) {}
}
