//! The in-memory twin of the QUIC links: many nodes in one thread, in tokio's virtual time, all chance from one seed.
//!
//! What a real network does to messages happens here on purpose: delay, loss, duplication, cuts in one or both
//! directions, crashes. Raft messages of a pair keep their order, as on their stream; a lost one is simply missing, which
//! is harsher than a stream. Calls keep the promise that everything rests on: "unreachable" is said only of a request
//! that never arrived. Given one seed, one runtime of the current-thread kind and paused time, every run is the same.

use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::NodeId;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::stream_kind::StreamKind;
use super::{CallError, Channel, Gate, Inbound, PeerLinks, SendError, SharedLinks, limits};

mod post;
mod world;

pub use world::Traffic;
use world::{Parcel, Reply, World};

/// How long a caller that cannot reach its peer waits before it tries again, as the real links redial.
const RETRY: Duration = Duration::from_millis(100);

/// What the network does to every message.
#[derive(Debug, Clone, PartialEq)]
pub struct Weather {
    /// One way; drawn evenly.
    pub delay: RangeInclusive<Duration>,
    /// Share of messages that never arrive, 0 to 1. Of calls, requests and answers alike.
    pub loss: f64,
    /// Share of one-way messages that arrive twice, 0 to 1.
    pub duplication: f64,
}

impl Weather {
    /// A good local network: 1 to 3 ms, nothing lost.
    pub fn calm() -> Self {
        Self {
            delay: Duration::from_millis(1)..=Duration::from_millis(3),
            loss: 0.0,
            duplication: 0.0,
        }
    }
}

/// All nodes and what is on its way between them. Clones share it.
#[derive(Clone)]
pub struct SimulatedNetwork {
    shared: Arc<Shared>,
}

struct Shared {
    world: Mutex<World>,
    /// Something new may be due before what the postman waits for.
    posted: Notify,
}

impl Shared {
    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn post(&self, parcel: Parcel, at: Instant) {
        self.world().post(parcel, at);
        self.posted.notify_one();
    }
}

impl SimulatedNetwork {
    /// An empty network. Call inside the tokio runtime in which its nodes run.
    pub fn new(seed: u64, weather: Weather) -> Self {
        let shared = Arc::new(Shared {
            world: Mutex::new(World::new(seed, weather)),
            posted: Notify::new(),
        });
        tokio::spawn(post::deliver(Arc::clone(&shared)));
        Self { shared }
    }

    /// Plugs a node in, for the first time or after a crash. Links of its former life go nowhere from now on.
    pub fn node(&self, id: NodeId) -> (SharedLinks, Inbound) {
        let (life, inbound) = self.shared.world().plug_in(id);
        let links = SimulatedLinks {
            shared: Arc::clone(&self.shared),
            own: id,
            life,
        };
        (Arc::new(links), inbound)
    }

    /// Has the node refuse those whom `gate` does not admit. Until then it admits everybody.
    pub fn set_gate(&self, id: NodeId, gate: Arc<dyn Gate>) {
        self.shared.world().set_gate(id, gate);
    }

    pub fn set_weather(&self, weather: Weather) {
        self.shared.world().set_weather(weather);
    }

    /// Nothing passes between the two, in either direction; what is on its way is lost.
    pub fn cut(&self, one: NodeId, other: NodeId) {
        self.cut_one_way(one, other);
        self.cut_one_way(other, one);
    }

    /// Nothing passes from one to the other; the way back stays open.
    pub fn cut_one_way(&self, from: NodeId, to: NodeId) {
        self.shared.world().cut(from, to);
    }

    /// Nothing passes between this node and any other, present or future.
    pub fn isolate(&self, node: NodeId) {
        self.shared.world().isolate(node);
    }

    /// Undoes [`SimulatedNetwork::cut`] of this pair.
    pub fn heal(&self, one: NodeId, other: NodeId) {
        self.shared.world().heal(one, other);
    }

    /// Undoes every cut and isolation. Crashed nodes stay down.
    pub fn heal_all(&self) {
        self.shared.world().heal_all();
    }

    /// Ends a node at once: its inbound queues end, what is on its way to it is lost, and nobody is told.
    pub fn crash(&self, node: NodeId) {
        self.shared.world().crash(node);
    }

    /// What was carried so far.
    pub fn traffic(&self) -> Traffic {
        self.shared.world().traffic()
    }

    /// Sends a joiner's request to a member, as somebody from outside would.
    ///
    /// # Errors
    /// When no answer came until `deadline` has passed.
    pub async fn ask_to_join(
        &self,
        member: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let until = Instant::now() + deadline;
        let (reply, answered) = oneshot::channel();
        let due = self.shared.world().due();
        self.shared.post(
            Parcel::Join {
                to: member,
                request,
                reply,
            },
            due,
        );
        wait_for_answer(member, answered, until).await
    }
}

/// One node's end of the network.
struct SimulatedLinks {
    shared: Arc<Shared>,
    own: NodeId,
    /// Which life of the node this belongs to.
    life: u64,
}

/// What to do with a request now.
enum Path {
    /// It arrives then.
    Open(Instant),
    /// The connection seems to stand, but nothing comes through: the caller cannot know.
    Silent,
    /// There is no connection, and none can be made now.
    Closed,
}

#[async_trait]
impl PeerLinks for SimulatedLinks {
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let limit = match channel {
            Channel::Raft => StreamKind::Raft,
            Channel::Snapshot => StreamKind::Snapshot,
            Channel::Gossip => StreamKind::Gossip,
        }
        .message_bytes_max();
        let size = message.len();
        if size > limit {
            return Err(SendError::TooLarge { size, limit });
        }
        let mut world = self.shared.world();
        if !world.knows(to) {
            return Err(SendError::NoAddress(to));
        }
        world.send((self.own, self.life), to, channel, message)?;
        drop(world);
        self.shared.posted.notify_one();
        Ok(())
    }

    async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let (reply, answered) = oneshot::channel();
        let until = Instant::now() + deadline;
        self.check_size(to, &request, StreamKind::Call)?;
        let from = self.own;
        let parcel = Parcel::Call {
            from,
            to,
            request,
            reply,
        };
        self.hand_over(to, parcel, until).await?;
        wait_for_answer(to, answered, until).await
    }

    async fn open(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Bytes>, CallError> {
        let (reply, answered) = oneshot::channel();
        let until = Instant::now() + deadline;
        self.check_size(to, &request, StreamKind::Logs)?;
        let from = self.own;
        let parcel = Parcel::Open {
            from,
            to,
            request,
            reply,
        };
        self.hand_over(to, parcel, until).await?;
        wait_for_answer(to, answered, until).await
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.shared.world().is_established(self.own, peer)
    }

    fn forget(&self, peer: NodeId) {
        self.shared.world().forget(self.own, peer);
    }
}

impl SimulatedLinks {
    fn check_size(&self, node: NodeId, request: &Bytes, kind: StreamKind) -> Result<(), CallError> {
        if request.len() <= kind.message_bytes_max() {
            return Ok(());
        }
        Err(CallError::Unreachable {
            node,
            cause: format!("a request of {} bytes is too large", request.len()),
        })
    }

    /// Posts a request, or fails when that is impossible until the deadline.
    async fn hand_over(
        &self,
        node: NodeId,
        parcel: Parcel,
        until: Instant,
    ) -> Result<(), CallError> {
        let unreachable = |cause: &str| CallError::Unreachable {
            node,
            cause: cause.to_owned(),
        };
        loop {
            let path = {
                let mut world = self.shared.world();
                if !world.knows(node) {
                    return Err(unreachable("no address is known"));
                }
                world.path((self.own, self.life), node)
            };
            match path {
                Path::Open(at) => {
                    self.shared.post(parcel, at);
                    return Ok(());
                }
                Path::Silent => {
                    sleep_until(until).await;
                    return Err(CallError::NoAnswer { node });
                }
                Path::Closed if Instant::now() >= until => {
                    return Err(unreachable("nobody answers"));
                }
                Path::Closed => sleep_until(until.min(Instant::now() + RETRY)).await,
            }
        }
    }
}

async fn wait_for_answer<T>(
    node: NodeId,
    answered: oneshot::Receiver<Reply<T>>,
    until: Instant,
) -> Result<T, CallError> {
    match timeout_at(until, answered).await {
        Ok(Ok(Reply::Answer(answer))) => Ok(answer),
        Ok(Ok(Reply::Dropped)) => Err(CallError::NoAnswer { node }),
        Ok(Ok(Reply::Refused)) => Err(CallError::Refused(node)),
        Ok(Ok(Reply::Overloaded)) => Err(CallError::Unreachable {
            node,
            cause: "it is overloaded".to_owned(),
        }),
        // Lost on the way, one way or the other: nothing will come any more, but only time tells.
        Ok(Err(_)) => {
            sleep_until(until).await;
            Err(CallError::NoAnswer { node })
        }
        Err(_) => Err(CallError::NoAnswer { node }),
    }
}

#[cfg(test)]
mod tests;
