//! One link per peer: queues for what is to be sent, one owner for the connection, pumps that carry one to the other.
//!
//! The owner ([`keeper`]) alone decides which connection is used; everybody else reads it from a watch and asks for one
//! when there is none. Queues are bounded in messages and bytes and survive a change of connections. Nothing here looks
//! into messages or decides who is a member.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::NodeId;
use quinn::Connection;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::stream_kind::StreamKind;
use super::{AddressBook, Channel, SendError, limits};

mod keeper;
mod pump;

pub(super) use keeper::Dialer;

/// Why there is no connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum NoConnection {
    /// The peer does not take us for a member.
    Refused,
    /// Trying again soon will not help: no address, or somebody else answers there.
    Hopeless(String),
    /// No answer, or none yet.
    Unreachable(String),
}

/// What the keeper says about the connection.
#[derive(Debug, Clone, Default)]
struct State {
    connection: Option<Connection>,
    /// Failed attempts so far, and why the last one failed.
    failures: u64,
    failure: Option<NoConnection>,
}

/// What others tell the keeper.
enum Event {
    /// The peer dialed us; its first packet came at this time.
    Accepted(Connection, Instant),
}

/// A message in a queue.
enum Queued {
    Message(Bytes, Instant),
    /// Says when everything before it has arrived.
    Flush(oneshot::Sender<()>),
}

/// One queue towards the peer.
struct Lane {
    sender: mpsc::Sender<Queued>,
    /// Bytes in the queue; counted here because the queue counts only messages.
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

pub(super) struct PeerLink {
    peer: NodeId,
    state: watch::Sender<State>,
    wanted: Notify,
    events: mpsc::Sender<Event>,
    raft: Lane,
    gossip: Lane,
    snapshot: Lane,
    /// Whether anything was said since the keeper last looked.
    touched: AtomicBool,
    /// Log streams that this node may still open to the peer.
    log_streams: Arc<Semaphore>,
    /// Raft streams that the peer has opened; the latest counts.
    raft_streams: watch::Sender<u64>,
    /// Held by the reader of the peer's Raft stream.
    raft_reader: tokio::sync::Mutex<()>,
    owned: Mutex<Vec<AbortHandle>>,
}

impl PeerLink {
    /// Starts the link's tasks. Call inside a tokio runtime.
    pub(super) fn start(peer: NodeId, dialer: Dialer, addresses: AddressBook) -> Arc<Self> {
        let (raft, raft_queue) = lane(limits::RAFT_QUEUE, limits::RAFT_QUEUE_BYTES);
        let (gossip, gossip_queue) = lane(limits::GOSSIP_QUEUE, limits::GOSSIP_QUEUE_BYTES);
        let (snapshot, snapshot_queue) = lane(limits::SNAPSHOT_QUEUE, limits::SNAPSHOT_QUEUE_BYTES);
        let (events, inbox) = mpsc::channel(4);
        let link = Arc::new(Self {
            peer,
            state: watch::Sender::new(State::default()),
            wanted: Notify::new(),
            events,
            raft,
            gossip,
            snapshot,
            touched: AtomicBool::new(false),
            log_streams: Arc::new(Semaphore::new(limits::LOG_STREAMS_MAX as usize)),
            raft_streams: watch::Sender::new(0),
            raft_reader: tokio::sync::Mutex::new(()),
            owned: Mutex::default(),
        });
        let keeper = keeper::Keeper::new(Arc::clone(&link), dialer, addresses);
        let tasks = [
            tokio::spawn(keeper.run(inbox)),
            tokio::spawn(pump::raft(Arc::clone(&link), raft_queue)),
            tokio::spawn(pump::gossip(Arc::clone(&link), gossip_queue)),
            tokio::spawn(pump::snapshots(Arc::clone(&link), snapshot_queue)),
        ];
        link.lock_owned()
            .extend(tasks.iter().map(tokio::task::JoinHandle::abort_handle));
        link
    }

    fn lock_owned(&self) -> std::sync::MutexGuard<'_, Vec<AbortHandle>> {
        self.owned.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn peer(&self) -> NodeId {
        self.peer
    }

    /// Enqueues one message; see [`PeerLinks::send`](super::PeerLinks::send).
    pub(super) fn send(&self, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let (lane, kind) = match channel {
            Channel::Raft => (&self.raft, StreamKind::Raft),
            Channel::Gossip => (&self.gossip, StreamKind::Gossip),
            Channel::Snapshot => (&self.snapshot, StreamKind::Snapshot),
        };
        if message.len() > kind.message_bytes_max() {
            return Err(SendError::TooLarge {
                size: message.len(),
                limit: kind.message_bytes_max(),
            });
        }
        lane.push(message)
            .map_err(|()| SendError::QueueFull(self.peer))
    }

    /// The connection, as soon as there is one.
    ///
    /// # Errors
    /// Only when an attempt that began after this call came to nothing for good, such as a refusal.
    pub(super) async fn connection(&self) -> Result<Connection, NoConnection> {
        let mut state = self.state.subscribe();
        let failures_before = state.borrow().failures;
        loop {
            {
                let now = state.borrow_and_update();
                if let Some(connection) = usable(&now) {
                    self.touch();
                    return Ok(connection);
                }
                if now.failures > failures_before
                    && let Some(failure) = &now.failure
                    && !matches!(failure, NoConnection::Unreachable(_))
                {
                    return Err(failure.clone());
                }
            }
            self.wanted.notify_one();
            if state.changed().await.is_err() {
                return Err(NoConnection::Unreachable(
                    "the agent is stopping".to_owned(),
                ));
            }
        }
    }

    /// The connection, at the latest at `deadline`.
    pub(super) async fn connection_by(
        &self,
        deadline: Instant,
    ) -> Result<Connection, NoConnection> {
        match tokio::time::timeout_at(deadline, self.connection()).await {
            Ok(outcome) => outcome,
            Err(_) => Err(self.state.borrow().failure.clone().unwrap_or_else(|| {
                NoConnection::Unreachable("it has not answered yet".to_owned())
            })),
        }
    }

    pub(super) fn is_connected(&self) -> bool {
        usable(&self.state.borrow()).is_some()
    }

    /// Hands over a connection that the peer has dialed.
    pub(super) async fn accepted(&self, connection: Connection, arrived: Instant) {
        // Fails only when the link was forgotten meanwhile; then the connection goes with it.
        if let Err(mpsc::error::SendError(Event::Accepted(connection, _))) =
            self.events.send(Event::Accepted(connection, arrived)).await
        {
            connection.close(super::codes::FORGOTTEN, b"");
        }
    }

    /// The connection in use, to compare it with the peer's.
    #[cfg(test)]
    pub(super) fn held(&self) -> Option<Connection> {
        usable(&self.state.borrow())
    }

    pub(super) fn touch(&self) {
        self.touched.store(true, Ordering::Relaxed);
    }

    pub(super) fn log_streams(&self) -> Arc<Semaphore> {
        Arc::clone(&self.log_streams)
    }

    /// Waits until this is the only Raft stream of the peer that is read, and returns a future that ends when a newer
    /// one has come and this one has had its time to end.
    pub(super) async fn raft_turn(
        &self,
    ) -> (
        tokio::sync::MutexGuard<'_, ()>,
        impl Future<Output = ()> + use<>,
    ) {
        let mut mine = 0;
        self.raft_streams.send_modify(|latest| {
            *latest += 1;
            mine = *latest;
        });
        let mut streams = self.raft_streams.subscribe();
        let turn = self.raft_reader.lock().await;
        (turn, async move {
            // An error means that the link is gone, and the stream with it.
            if streams.wait_for(|latest| *latest > mine).await.is_ok() {
                tokio::time::sleep(limits::RAFT_SWITCH_DEADLINE).await;
            }
        })
    }

    /// Waits until what is enqueued now for Raft has arrived, if there is a connection at all.
    pub(super) async fn flush(&self) {
        if !self.is_connected() {
            return;
        }
        let (done, arrived) = oneshot::channel();
        if self.raft.sender.send(Queued::Flush(done)).await.is_ok() {
            // An error means that the pump is gone, and the queue with it.
            arrived.await.unwrap_or(());
        }
    }

    /// Closes the connection and ends the link's tasks.
    pub(super) fn end(&self, code: quinn::VarInt) {
        for task in self.lock_owned().drain(..) {
            task.abort();
        }
        self.state.send_modify(|state| {
            if let Some(connection) = state.connection.take() {
                connection.close(code, b"");
            }
            state.failures += 1;
            state.failure = Some(NoConnection::Hopeless(
                "it is no member any more".to_owned(),
            ));
        });
    }
}

fn usable(state: &State) -> Option<Connection> {
    state
        .connection
        .as_ref()
        .filter(|connection| connection.close_reason().is_none())
        .cloned()
}

impl Lane {
    fn push(&self, message: Bytes) -> Result<(), ()> {
        let size = message.len();
        let queued = self.bytes.fetch_add(size, Ordering::Relaxed);
        // A single message may be larger than the limit: it passes when it is alone.
        let fits = queued == 0 || queued + size <= self.bytes_max;
        if fits
            && self
                .sender
                .try_send(Queued::Message(message, Instant::now()))
                .is_ok()
        {
            return Ok(());
        }
        self.bytes.fetch_sub(size, Ordering::Relaxed);
        Err(())
    }
}

/// The receiving end of a [`Lane`].
struct Queue {
    receiver: mpsc::Receiver<Queued>,
    bytes: Arc<AtomicUsize>,
}

impl Queue {
    async fn next(&mut self) -> Option<Queued> {
        self.receiver.recv().await
    }

    fn sent(&self, message: &Bytes) {
        self.bytes.fetch_sub(message.len(), Ordering::Relaxed);
    }
}

fn lane(messages_max: usize, bytes_max: usize) -> (Lane, Queue) {
    let (sender, receiver) = mpsc::channel(messages_max);
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue {
        receiver,
        bytes: Arc::clone(&bytes),
    };
    let lane = Lane {
        sender,
        bytes,
        bytes_max,
    };
    (lane, queue)
}

/// A wait that doubles, halved at random so that nodes do not march in step.
#[derive(Debug)]
struct BackOff {
    failures: u32,
}

impl BackOff {
    const fn new() -> Self {
        Self { failures: 0 }
    }

    /// Nothing before the first attempt.
    fn wait(&self) -> Duration {
        if self.failures == 0 {
            return Duration::ZERO;
        }
        let doubled = limits::BACK_OFF_FIRST.saturating_mul(1 << (self.failures - 1).min(16));
        let share: f64 = rand::Rng::random_range(&mut rand::rng(), 0.5..=1.0);
        doubled.min(limits::BACK_OFF_LONGEST).mul_f64(share)
    }

    fn failed(&mut self) {
        self.failures = self.failures.saturating_add(1);
    }

    fn succeeded(&mut self) {
        self.failures = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_attempt_is_immediate_and_the_wait_grows_to_its_limit() {
        let mut back_off = BackOff::new();
        assert_eq!(back_off.wait(), Duration::ZERO);
        for _ in 0..100 {
            back_off.failed();
            let wait = back_off.wait();
            assert!(wait >= limits::BACK_OFF_FIRST / 2 && wait <= limits::BACK_OFF_LONGEST);
        }
        assert!(back_off.wait() >= limits::BACK_OFF_LONGEST / 2);
        back_off.succeeded();
        assert_eq!(back_off.wait(), Duration::ZERO);
    }

    #[test]
    fn a_lane_is_bounded_in_messages_and_in_bytes() {
        let (lane, _queue) = lane(3, 100);
        let message = |size: usize| Bytes::from(vec![0; size]);
        assert!(lane.push(message(60)).is_ok());
        assert!(lane.push(message(60)).is_err());
        assert!(lane.push(message(40)).is_ok());
        assert!(lane.push(message(0)).is_ok());
        assert!(lane.push(message(0)).is_err());
        assert_eq!(lane.bytes.load(Ordering::Relaxed), 100);
    }

    #[test]
    fn a_message_larger_than_the_queue_passes_alone() {
        let (lane, _queue) = lane(3, 100);
        assert!(lane.push(Bytes::from(vec![0; 500])).is_ok());
        assert!(lane.push(Bytes::from(vec![0; 1])).is_err());
    }
}
