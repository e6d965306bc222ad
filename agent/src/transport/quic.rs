//! [`PeerLinks`] over QUIC: one UDP socket, one connection per peer, mutual TLS.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use kawanan_api::NodeId;
use quinn::crypto::rustls::HandshakeData;
use quinn::{Connection, Incoming};
use rustls::pki_types::CertificateDer;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::{Instant, timeout};

use super::credentials::{Credentials, CredentialsError};
use super::endpoint::{self, ALPN_JOIN, ALPN_MEMBER, BindError};
use super::peer_link::{Dialer, PeerLink};
use super::serve::{self, Intake};
use super::{AddressBook, CallError, Channel, Gate, Inbound, PeerLinks, SendError, codes, limits};
use crate::clock::SharedClock;
use crate::identity::{Identity, PeerIdentity};

mod call;

/// The links of this node.
pub struct Quic {
    own: NodeId,
    endpoint: quinn::Endpoint,
    credentials: Arc<Credentials>,
    gate: Arc<dyn Gate>,
    addresses: AddressBook,
    intake: Arc<Intake>,
    dialer: Dialer,
    links: Mutex<BTreeMap<NodeId, Arc<PeerLink>>>,
    handshakes: Arc<Semaphore>,
    joins: Arc<Semaphore>,
}

impl Quic {
    /// Opens the socket and starts to listen. Call inside a tokio runtime.
    ///
    /// # Errors
    /// When the address cannot be listened on, or the identity is not usable.
    pub fn bind(
        listen: SocketAddr,
        identity: &Identity,
        gate: Arc<dyn Gate>,
        addresses: AddressBook,
        clock: &SharedClock,
    ) -> Result<(Arc<Self>, Inbound), BindError> {
        let credentials = Arc::new(Credentials::new(identity)?);
        let (endpoint, config) = endpoint::open(listen, identity, &credentials, clock)?;
        let (intake, inbound) = serve::intake(Arc::clone(&gate));
        let reader = Arc::clone(&intake);
        let dialer = Dialer {
            endpoint: endpoint.clone(),
            config,
            credentials: Arc::clone(&credentials),
            own: identity.node,
            serve: Arc::new(move |connection, link| {
                tokio::spawn(serve::member(Arc::clone(&reader), connection, link));
            }),
        };
        let quic = Arc::new(Self {
            own: identity.node,
            endpoint,
            credentials,
            gate,
            addresses,
            intake,
            dialer,
            links: Mutex::default(),
            handshakes: Arc::new(Semaphore::new(limits::HANDSHAKES_MAX)),
            joins: Arc::new(Semaphore::new(limits::JOINS_MAX)),
        });
        tokio::spawn(Arc::clone(&quic).accept());
        Ok((quic, inbound))
    }

    /// The address that is really listened on.
    ///
    /// # Errors
    /// When the socket is gone.
    pub fn local_addr(&self) -> std::io::Result<SocketAddr> {
        self.endpoint.local_addr()
    }

    /// Uses another certificate, and trusts other authorities, from the next handshake on. Connections stay.
    ///
    /// # Errors
    /// When the identity is not usable, or is another node's; the old one stays in use then.
    pub fn swap_certificate(&self, identity: &Identity) -> Result<(), CredentialsError> {
        if identity.node != self.own {
            return Err(CredentialsError::OtherNode(identity.node));
        }
        self.credentials.swap(identity)
    }

    /// Lets what is enqueued for Raft leave, says goodbye to every peer, and closes the socket.
    pub async fn close(&self) {
        let links: Vec<_> = self.lock_links().values().cloned().collect();
        let flushing = links.iter().map(|link| link.flush());
        let flushed = timeout(limits::FLUSH_DEADLINE, futures::future::join_all(flushing)).await;
        if flushed.is_err() {
            tracing::debug!("not every peer confirmed the last messages");
        }
        for link in &links {
            link.end(codes::SHUTDOWN);
        }
        self.lock_links().clear();
        self.endpoint
            .close(codes::SHUTDOWN, b"the agent is stopping");
        if timeout(limits::GOODBYE_DEADLINE, self.endpoint.wait_idle())
            .await
            .is_err()
        {
            tracing::debug!("not every peer confirmed the goodbye");
        }
    }

    fn lock_links(&self) -> std::sync::MutexGuard<'_, BTreeMap<NodeId, Arc<PeerLink>>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn existing_link(&self, peer: NodeId) -> Option<Arc<PeerLink>> {
        self.lock_links().get(&peer).cloned()
    }

    /// The link to a peer whose address is known, or that has dialed us.
    fn link(&self, peer: NodeId) -> Option<Arc<PeerLink>> {
        let dialable = peer != self.own && self.addresses.borrow().contains_key(&peer);
        match self.existing_link(peer) {
            Some(link) if dialable || link.is_connected() => Some(link),
            None if dialable => Some(self.make_link(peer)),
            _ => None,
        }
    }

    fn make_link(&self, peer: NodeId) -> Arc<PeerLink> {
        let mut links = self.lock_links();
        let link = links
            .entry(peer)
            .or_insert_with(|| PeerLink::start(peer, self.dialer.clone(), self.addresses.clone()));
        Arc::clone(link)
    }

    async fn accept(self: Arc<Self>) {
        while let Some(incoming) = self.endpoint.accept().await {
            let arrived = Instant::now();
            let free = self.handshakes.available_permits();
            let crowded = limits::HANDSHAKES_MAX - free >= limits::HANDSHAKES_BEFORE_RETRY;
            if crowded && !incoming.remote_address_validated() && incoming.may_retry() {
                if let Err(err) = incoming.retry() {
                    tracing::debug!(%err, "could not ask a stranger to show its address");
                }
                continue;
            }
            let Ok(permit) = Arc::clone(&self.handshakes).try_acquire_owned() else {
                incoming.refuse();
                continue;
            };
            let quic = Arc::clone(&self);
            tokio::spawn(async move {
                let connection = handshake(incoming).await;
                drop(permit);
                if let Some(connection) = connection {
                    quic.welcome(connection, arrived).await;
                }
            });
        }
    }

    async fn welcome(&self, connection: Connection, arrived: Instant) {
        match spoken(&connection).as_deref() {
            Some(ALPN_MEMBER) => self.welcome_member(connection, arrived).await,
            Some(ALPN_JOIN) => match Arc::clone(&self.joins).try_acquire_owned() {
                Ok(_place) => serve::joiner(Arc::clone(&self.intake), connection).await,
                Err(_) => connection.close(codes::BUSY, b"too many machines join at once"),
            },
            // TLS has refused every other protocol.
            _ => connection.close(codes::JOIN_OVER, b"no known protocol"),
        }
    }

    async fn welcome_member(&self, connection: Connection, arrived: Instant) {
        let Some(peer) = shown_identity(&connection) else {
            tracing::info!(from = %connection.remote_address(), "refused a connection without a certificate");
            connection.close(codes::NO_CERTIFICATE, b"a certificate is needed");
            return;
        };
        if peer.node == self.own || !self.gate.admits(peer.node) {
            tracing::info!(peer = %peer.node, "refused a connection of a node that is no member");
            connection.close(codes::NOT_ADMITTED, b"not a member");
            return;
        }
        endpoint::lift_limits(&connection);
        let link = self.make_link(peer.node);
        link.accepted(connection.clone(), arrived).await;
        serve::member(Arc::clone(&self.intake), connection, link).await;
    }
}

async fn handshake(incoming: Incoming) -> Option<Connection> {
    let from = incoming.remote_address();
    let connecting = match incoming.accept() {
        Ok(connecting) => connecting,
        Err(reason) => {
            tracing::debug!(%from, %reason, "a connection failed at its first packet");
            return None;
        }
    };
    match timeout(limits::HANDSHAKE_DEADLINE, connecting).await {
        Ok(Ok(connection)) => Some(connection),
        Ok(Err(reason)) => {
            tracing::debug!(%from, %reason, "a handshake failed");
            None
        }
        Err(_) => {
            tracing::debug!(%from, "a handshake took too long");
            None
        }
    }
}

/// The protocol that both sides agreed on.
fn spoken(connection: &Connection) -> Option<Vec<u8>> {
    let data = connection.handshake_data()?;
    data.downcast::<HandshakeData>().ok()?.protocol
}

/// Who the other side has proven to be. TLS has verified chain, signature and cluster before.
fn shown_identity(connection: &Connection) -> Option<PeerIdentity> {
    let shown = connection.peer_identity()?;
    let chain = shown.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    PeerIdentity::of_certificate(chain.first()?).ok()
}

#[async_trait]
impl PeerLinks for Quic {
    fn send(&self, to: NodeId, channel: Channel, message: Bytes) -> Result<(), SendError> {
        let link = self.link(to).ok_or(SendError::NoAddress(to))?;
        link.send(channel, message)
    }

    async fn call(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<Bytes, CallError> {
        let link = self.link(to).ok_or_else(|| no_address(to))?;
        call::call(&link, request, Instant::now() + deadline).await
    }

    async fn open(
        &self,
        to: NodeId,
        request: Bytes,
        deadline: Duration,
    ) -> Result<mpsc::Receiver<Bytes>, CallError> {
        let link = self.link(to).ok_or_else(|| no_address(to))?;
        call::open(link, request, Instant::now() + deadline).await
    }

    fn is_connected(&self, peer: NodeId) -> bool {
        self.existing_link(peer)
            .is_some_and(|link| link.is_connected())
    }

    fn forget(&self, peer: NodeId) {
        let link = self.lock_links().remove(&peer);
        if let Some(link) = link {
            link.end(codes::FORGOTTEN);
        }
    }
}

fn no_address(node: NodeId) -> CallError {
    CallError::Unreachable {
        node,
        cause: "no address is known".to_owned(),
    }
}

#[cfg(test)]
mod link_tests;
#[cfg(test)]
mod security_tests;
#[cfg(test)]
mod tests;
