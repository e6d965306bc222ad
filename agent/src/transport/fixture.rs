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
pub(crate) const NOW: Timestamp = Timestamp::from_millis(1_800_000_000_000);

/// A clock that tests set.
pub(crate) struct SetClock(pub(crate) Mutex<Timestamp>);

impl Clock for SetClock {
    fn now(&self) -> Timestamp {
        *self.0.lock().unwrap()
    }
}

pub(crate) fn clock_at(at: Timestamp) -> SharedClock {
    Arc::new(SetClock(Mutex::new(at)))
}

/// Admits everybody but those who were expelled.
#[derive(Default)]
pub(crate) struct Members {
    pub(crate) expelled: Mutex<BTreeSet<NodeId>>,
}

impl Gate for Members {
    fn admits(&self, node: NodeId) -> bool {
        !self.expelled.lock().unwrap().contains(&node)
    }
}

pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) quic: Arc<Quic>,
    pub(crate) inbound: Inbound,
    pub(crate) gate: Arc<Members>,
}

pub(crate) struct Loopback {
    pub(crate) cluster: ClusterId,
    pub(crate) authority: Authority,
    pub(crate) book: watch::Sender<Arc<BTreeMap<NodeId, SocketAddr>>>,
    alive: BTreeMap<NodeId, Arc<Quic>>,
}

impl Loopback {
    pub(crate) fn new() -> Self {
        Self::of_cluster(ClusterId::from_bits(77))
    }

    pub(crate) fn of_cluster(cluster: ClusterId) -> Self {
        Self {
            cluster,
            authority: Authority::found(cluster, NOW).unwrap(),
            book: watch::Sender::default(),
            alive: BTreeMap::new(),
        }
    }

    pub(crate) fn identity(&self) -> Identity {
        self.identity_at(NodeKey::generate().unwrap(), NOW)
    }

    pub(crate) fn identity_at(&self, key: NodeKey, now: Timestamp) -> Identity {
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

    pub(crate) fn start(&mut self, identity: &Identity, clock: &SharedClock) -> Node {
        self.start_at("127.0.0.1:0".parse().unwrap(), identity, clock)
    }

    pub(crate) fn start_at(
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

    /// Lets go of a node that was closed, and so of its socket.
    pub(crate) fn forget_alive(&mut self, node: NodeId) {
        self.alive.remove(&node);
    }

    pub(crate) fn alive(&self, node: NodeId) -> Arc<Quic> {
        Arc::clone(&self.alive[&node])
    }

    /// Writes an address into everybody's book.
    pub(crate) fn tell(&self, node: NodeId, address: SocketAddr) {
        self.book.send_modify(|book| {
            Arc::make_mut(book).insert(node, address);
        });
    }

    pub(crate) fn any_node(&mut self) -> Node {
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

/// A QUIC server that is no agent of ours: it speaks another protocol.
pub(crate) fn foreign_server() -> quinn::Endpoint {
    let identity = Loopback::new().identity();
    let chain = identity.chain.iter().cloned().map(Into::into).collect();
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(identity.key.pkcs8().to_vec());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(chain, key.into())
        .unwrap();
    tls.alpn_protocols = vec![b"h3".to_vec()];
    let crypto = quinn::crypto::rustls::QuicServerConfig::try_from(tls).unwrap();
    let config = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = quinn::Endpoint::server(config, "127.0.0.1:0".parse().unwrap()).unwrap();
    let accepting = endpoint.clone();
    tokio::spawn(async move {
        while let Some(incoming) = accepting.accept().await {
            drop(incoming.await);
        }
    });
    endpoint
}
