//! Who seems alive, and the small facts that nodes tell about themselves: chitchat over the peer links.
//!
//! Promises: [`Liveness`] follows the cluster within about a second; nothing here waits for a slow peer. Never decides:
//! a suspicion takes a node out of traffic, only the leader's confirmed and committed verdict moves anything. Never
//! says who is a member: entries of nodes outside the node table are dropped by the readers.
//!
//! chitchat addresses its peers by socket address. Ours are identities, so a node's 128-bit id is written as an IPv6
//! address and read back by the socket ([`socket::address_of`]): gossip never learns where a node is, and renumbered
//! machines change nothing here.

mod lateness;
mod liveness;
mod owner;
mod socket;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ClusterId, NodeId};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

pub use lateness::Lateness;
pub use liveness::{Liveness, Peer, PeerState};

use crate::transport::SharedLinks;

/// Longest value that may be published. Past 64 KiB one value would block all keys of its node for ever (chitchat
/// 0.11.2 counts lengths in 16 bits), so stay far away from it.
pub const VALUE_BYTES_MAX: usize = 16 * 1024;

/// Waiting publications; the owner empties the queue within microseconds.
const PUBLISH_QUEUE: usize = 64;

/// Keys that nodes publish about themselves. Each value is written by its own node only.
pub mod keys {
    /// Where peers reach the agent, `IP:PORT`.
    pub const ADDRESS: &str = "address";
    /// `ok`, or why the container engine does not answer.
    pub const ENGINE: &str = "engine";
    /// JSON object: task id to what is being done for it right now.
    pub const PROGRESS: &str = "progress";
    /// Ids of the peers that this node has a connection to, separated by commas.
    pub const REACHES: &str = "reaches";
}

/// How to gossip.
#[derive(Debug, Clone)]
pub struct GossipConfig {
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Higher at every start of this node; made durable before it is used.
    pub generation: u64,
    /// Nodes to talk to first.
    pub seeds: Vec<NodeId>,
    /// Time between rounds. Detection of a silent node takes about phi (8) times the usual gap between its heartbeats.
    pub interval: Duration,
    /// What to publish from the first round on.
    pub facts: Vec<(String, String)>,
}

impl GossipConfig {
    /// The interval that keeps traffic under 90 kB/s and node (chitchat sends about 342 bytes per known node and
    /// round): 250 ms up to 50 nodes, slower beyond.
    pub fn interval_for(nodes: usize) -> Duration {
        Duration::from_millis(250.max(5 * nodes as u64))
    }
}

/// What the rest of the agent holds.
#[derive(Clone)]
pub struct GossipHandle {
    requests: mpsc::Sender<Request>,
    liveness: watch::Receiver<Arc<Liveness>>,
}

/// What the owner is asked.
enum Request {
    Publish(String, String),
    Ping(oneshot::Sender<()>),
}

/// A fact that could not be published.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PublishError {
    #[error(
        "the value of `{key}` has {size} bytes, more than the {VALUE_BYTES_MAX} that gossip carries"
    )]
    TooLarge { key: String, size: usize },
    #[error("gossip has stopped")]
    Stopped,
}

impl GossipHandle {
    /// Tells the cluster a fact about this node; replaces the key's old value.
    ///
    /// # Errors
    /// When the value is too large or gossip has stopped.
    pub async fn publish(&self, key: &str, value: String) -> Result<(), PublishError> {
        if value.len() > VALUE_BYTES_MAX {
            return Err(PublishError::TooLarge {
                key: key.to_owned(),
                size: value.len(),
            });
        }
        self.requests
            .send(Request::Publish(key.to_owned(), value))
            .await
            .map_err(|_| PublishError::Stopped)
    }

    /// Whether the owner's loop still turns. For the watchdog; does not answer while it is stuck.
    pub async fn is_turning(self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.requests.send(Request::Ping(answer)).await.is_ok() && answered.await.is_ok()
    }

    pub fn liveness(&self) -> watch::Receiver<Arc<Liveness>> {
        self.liveness.clone()
    }
}

/// Starts gossiping; ends when the returned task is aborted.
pub fn spawn(
    config: GossipConfig,
    links: SharedLinks,
    inbound: mpsc::Receiver<(NodeId, Bytes)>,
) -> (GossipHandle, JoinHandle<()>) {
    let (requests, asked) = mpsc::channel(PUBLISH_QUEUE);
    let (liveness_sender, liveness) = watch::channel(Arc::new(Liveness::default()));
    let owner = owner::Owner::new(config, links, inbound, asked, liveness_sender);
    let task = tokio::spawn(owner.run());
    (GossipHandle { requests, liveness }, task)
}
