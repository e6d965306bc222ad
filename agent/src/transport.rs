//! Bytes between nodes: what the rest of the agent may ask of the network, and what arrives from it.
//!
//! Peers are named by identity ([`NodeId`]), never by address: the implementation looks the address up in the
//! [`AddressBook`], dials, and checks that who answers holds that node's key. Four ways to talk:
//!
//! * [`PeerLinks::send`]: one message, enqueued at once, lost without notice when the peer cannot keep up (Raft, gossip);
//!   Raft messages to one peer arrive in order.
//! * [`PeerLinks::call`]: a request and its answer, with a deadline.
//! * [`PeerLinks::open`]: a request answered by a stream of frames (logs).
//! * joiners, who hold no certificate yet, come in as [`JoinCall`].
//!
//! This module never decides who is a member: [`Gate`] tells it.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::NodeId;
use tokio::sync::{mpsc, oneshot, watch};

mod codes;
#[cfg(test)]
pub(crate) mod contract;
mod credentials;
mod endpoint;
#[cfg(test)]
pub(crate) mod fixture;
mod join_dial;
mod limits;
mod peer_link;
mod quic;
#[cfg(test)]
mod rogue;
mod serve;
pub mod simulated;
mod stream_kind;

pub use credentials::CredentialsError;
pub use endpoint::BindError;
pub use join_dial::{JoinDialError, JoinDialer};
pub use quic::Quic;

/// Where to dial each node. Hints: gossip and the node table keep it fresh.
pub type AddressBook = watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>;

/// Says whether a node with a valid certificate may still talk to us. Asked for every new connection and stream, so a
/// removed node is cut off at its next word.
pub trait Gate: Send + Sync + 'static {
    fn admits(&self, node: NodeId) -> bool;
}

/// The one-way traffic classes. Raft goes first when the link is busy.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Channel {
    /// In order, on one long-lived stream.
    Raft,
    /// Raft messages that carry a snapshot: a stream each, behind everything else.
    Snapshot,
    /// A stream each.
    Gossip,
}

/// The message was not even enqueued.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SendError {
    #[error("no address is known for node {0}")]
    NoAddress(NodeId),
    #[error("the queue to node {0} is full")]
    QueueFull(NodeId),
    #[error("a message of {size} bytes is larger than the {limit} that its channel carries")]
    TooLarge { size: usize, limit: usize },
}

/// A call that brought no answer.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request did not reach the peer: repeating it is safe.
    #[error("cannot reach node {node}: {cause}")]
    Unreachable { node: NodeId, cause: String },
    /// The request may have been carried out.
    #[error("node {node} did not answer in time")]
    NoAnswer { node: NodeId },
    /// The peer refused the stream: it does not take us for a member.
    #[error("node {0} refuses to talk to this node")]
    Refused(NodeId),
}

#[async_trait]
pub trait PeerLinks: Send + Sync + 'static {
    /// Enqueues one message. Never waits; delivery is not promised.
    ///
    /// # Errors
    /// When the peer's address is unknown or its queue is full.
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError>;

    /// Asks and waits for the answer, at most `deadline` in all, dialing included.
    async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError>;

    /// Asks and returns the frames of the answer as they come; the channel ends with the stream. `deadline` is for the
    /// opening only. Dropping the receiver ends the stream at the other side.
    async fn open(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Bytes>, CallError>;

    /// Whether a connection to the peer stands right now.
    fn is_connected(&self, peer: NodeId) -> bool;

    /// Closes the connection to a node that is no member any more.
    fn forget(&self, peer: NodeId);
}

/// How parts of the agent hold the links.
pub type SharedLinks = Arc<dyn PeerLinks>;

/// What arrives, one bounded queue per kind. Each has exactly one reader.
pub struct Inbound {
    pub raft: mpsc::Receiver<(NodeId, Bytes)>,
    pub gossip: mpsc::Receiver<(NodeId, Bytes)>,
    pub calls: mpsc::Receiver<Call>,
    pub streams: mpsc::Receiver<StreamCall>,
    pub joins: mpsc::Receiver<JoinCall>,
}

/// A request of a member. Dropping `answer` closes the stream without one.
pub struct Call {
    pub from: NodeId,
    pub request: Bytes,
    pub answer: oneshot::Sender<Bytes>,
}

/// A request of a member for a stream of frames. The stream ends when `frames` is dropped; `frames` closes when the
/// other side went away.
pub struct StreamCall {
    pub from: NodeId,
    pub request: Bytes,
    pub frames: mpsc::Sender<Bytes>,
}

/// A request of somebody who is no member: to join, or to renew an expired certificate by proving its key.
pub struct JoinCall {
    pub from: SocketAddr,
    pub request: Bytes,
    pub answer: oneshot::Sender<Bytes>,
}
