//! A small cluster of QUIC endpoints on the loopback address, for tests.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use kawanan_api::{ClusterId, NodeId, RaftId, Timestamp};
use tokio::sync::watch;

use super::contract::{Peer, World};
use super::{Gate, Inbound, Quic};
use crate::clock::{Clock, SharedClock};
use crate::identity::{Authority, Identity, NodeKey};

/// When the tests take place.
pub(super) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A clock that tests set.
pub(super) struct SetClock(pub(super) Mutex<Timestamp>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

pub(super) fn clock_at(at: Timestamp) -> SharedClock {
    Arc::new(SetClock(Mutex::new(at)))
}

/// Admits everybody but those who were expelled.
#[derive(Default)]
pub(super) struct Members {
    pub(super) expelled: Mutex<BTreeSet<NodeId>>,
}

impl Gate for Members {
    fn admits(&self, node: NodeId) -> bool {
        !self.expelled.lock().unwrap().contains(&node)
    }
}

pub(super) struct Node {
    pub(super) id: NodeId,
    pub(super) quic: Arc<Quic>,
    pub(super) inbound: Inbound,
    pub(super) gate: Arc<Members>,
}

pub(super) struct Loopback {
    pub(super) cluster: ClusterId,
    pub(super) authority: Authority,
    pub(super) book: watch::Sender<Arc<BTreeMap<NodeId, SocketAddr>>>,
    alive: BTreeMap<NodeId, Arc<Quic>>,
}

impl Loopback {
    pub(super) fn new() -> Self {
        Self::of_cluster(ClusterId::from_bits(77))
    }

    pub(super) fn of_cluster(cluster: ClusterId) -> Self {
        Self {
            cluster,
            authority: Authority::found(cluster, NOW).unwrap(),
            book: watch::Sender::default(),
            alive: BTreeMap::new(),
        }
    }

    pub(super) fn identity(&self) -> Identity {
        self.identity_at(NodeKey::generate().unwrap(), NOW)
    }

    pub(super) fn identity_at(&self, key: NodeKey, now: Timestamp) -> Identity {
        let request = key.signing_request().unwrap();
        let (certificate, node) = self
            .authority
            .sign_node(&request, self.cluster, now)
            .unwrap();
        Identity {
            cluster: self.cluster,
            node,
            raft: RaftId(1),
            name: "test".to_owned(),
            key,
            chain: vec![certificate],
            authorities: vec![self.authority.certificate_der().to_vec()],
        }
    }

    pub(super) fn start(&mut self, identity: &Identity, clock: &SharedClock) -> Node {
        self.start_at("127.0.0.1:0".parse().unwrap(), identity, clock)
    }

    pub(super) fn start_at(
        &mut self,
        listen: SocketAddr,
        identity: &Identity,
        clock: &SharedClock,
    ) -> Node {
        let gate = Arc::new(Members::default());
        let (quic, inbound) = Quic::bind(
            listen,
            identity,
            Arc::<Members>::clone(&gate),
            self.book.subscribe(),
            clock,
        )
        .unwrap();
        self.tell(identity.node, quic.local_addr().unwrap());
        self.alive.insert(identity.node, Arc::clone(&quic));
        Node {
            id: identity.node,
            quic,
            inbound,
            gate,
        }
    }

    /// Writes an address into everybody's book.
    pub(super) fn tell(&self, node: NodeId, address: SocketAddr) {
        self.book.send_modify(|book| {
            Arc::make_mut(book).insert(node, address);
        });
    }

    pub(super) fn any_node(&mut self) -> Node {
        let identity = self.identity();
        self.start(&identity, &clock_at(NOW))
    }
}

impl World for Loopback {
    fn node(&mut self) -> Peer {
        let node = self.any_node();
        Peer {
            id: node.id,
            links: node.quic,
            inbound: node.inbound,
        }
    }

    async fn kill(&mut self, peer: &Peer) {
        if let Some(quic) = self.alive.remove(&peer.id) {
            quic.close().await;
        }
    }
}
