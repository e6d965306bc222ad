//! chitchat's socket over the peer links. Sending only enqueues; receiving is safe to cancel.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use chitchat::transport::{Socket, Transport};
use chitchat::{ChitchatMessage, Deserializable, Serializable};
use kawanan_api::NodeId;
use tokio::sync::{Mutex, mpsc};
use tracing::debug;

use crate::transport::{Channel, SharedLinks};

/// Stands in every address that means an identity; nothing ever dials it.
const IDENTITY_PORT: u16 = 1;

/// A node's identity in the clothes of an address.
pub(super) fn address_of(node: NodeId) -> SocketAddr {
    SocketAddr::new(IpAddr::V6(Ipv6Addr::from_bits(node.bits())), IDENTITY_PORT)
}

/// The identity behind such an address; `None` for a real one, which only a forged message can contain.
pub(super) fn node_at(address: SocketAddr) -> Option<NodeId> {
    match address.ip() {
        IpAddr::V6(ip) if address.port() == IDENTITY_PORT => Some(NodeId::from_bits(ip.to_bits())),
        _ => None,
    }
}

/// The queue of arrivals, kept over restarts of chitchat's loop.
pub(super) type Arrivals = Arc<Mutex<mpsc::Receiver<(NodeId, Bytes)>>>;

pub(super) struct LinkTransport {
    pub links: SharedLinks,
    pub arrivals: Arrivals,
}

#[async_trait]
impl Transport for LinkTransport {
    async fn open(&self, _: SocketAddr) -> anyhow::Result<Box<dyn Socket>> {
        Ok(Box::new(LinkSocket {
            links: Arc::clone(&self.links),
            arrivals: Arc::clone(&self.arrivals),
        }))
    }
}

struct LinkSocket {
    links: SharedLinks,
    arrivals: Arrivals,
}

#[async_trait]
impl Socket for LinkSocket {
    async fn send(&mut self, to: SocketAddr, message: ChitchatMessage) -> anyhow::Result<()> {
        let Some(node) = node_at(to) else {
            debug!(%to, "gossip named an address that is no identity");
            return Ok(());
        };
        if let Err(err) = self
            .links
            .send(node, Channel::Gossip, message.serialize_to_vec().into())
        {
            debug!(%err, "gossip message dropped");
        }
        Ok(())
    }

    async fn recv(&mut self) -> anyhow::Result<(SocketAddr, ChitchatMessage)> {
        let mut arrivals = self.arrivals.lock().await;
        loop {
            let Some((from, bytes)) = arrivals.recv().await else {
                anyhow::bail!("the transport has stopped");
            };
            let mut rest = &bytes[..];
            match ChitchatMessage::deserialize(&mut rest) {
                Ok(message) if rest.is_empty() => return Ok((address_of(from), message)),
                Ok(_) => debug!(%from, "gossip message with bytes left over"),
                Err(err) => debug!(%from, %err, "gossip message that cannot be read"),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_survives_the_trip_through_an_address() {
        for bits in [0, 1, u128::MAX, 0x1234_5678 << 64] {
            let node = NodeId::from_bits(bits);
            assert_eq!(node_at(address_of(node)), Some(node));
        }
        assert_eq!(node_at("10.0.0.1:7700".parse().unwrap()), None);
    }
}
