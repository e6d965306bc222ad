//! Who this machine is: its key, the certificate that a cluster gave it, and the authority that signs certificates.
//!
//! A node *is* its key: [`NodeId`] is a digest of the public half, and the certificate says to which cluster it belongs.
//! Addresses and names are not identity. This module makes and reads certificates (rcgen, x509-parser) and keeps them on
//! disk; it never talks to the network except through `transport`'s join dialer, and never decides who is a member.

pub mod authority;
pub mod join;
pub mod node_key;
pub mod peer_identity;
pub mod renewal;
pub mod store;

use kawanan_api::{ClusterId, NodeId, RaftId};

pub use authority::{Authority, AuthorityError};
pub use node_key::{KeyError, NodeKey};
pub use peer_identity::{PeerIdentity, PeerIdentityError};
pub use store::{IdentityStore, StoreError};

/// A certificate in DER.
pub type CertificateBytes = Vec<u8>;

/// This machine as a member of a cluster.
#[derive(Debug, Clone)]
pub struct Identity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub raft: RaftId,
    /// For people; another machine may have the same.
    pub name: String,
    pub key: NodeKey,
    /// This node's certificate first; what may follow are the authorities between it and a trusted one (none today).
    pub chain: Vec<CertificateBytes>,
    /// Authorities that are trusted. The first signs; a second one is there while the authority is being replaced.
    pub authorities: Vec<CertificateBytes>,
}

impl Identity {
    /// This identity with another certificate chain and set of authorities: what a renewal brings.
    ///
    /// # Errors
    /// When the new chain does not name this node of this cluster.
    pub fn renewed(
        &self,
        chain: Vec<CertificateBytes>,
        authorities: Vec<CertificateBytes>,
    ) -> Result<Self, PeerIdentityError> {
        let renewed = Self {
            chain,
            authorities,
            ..self.clone()
        };
        renewed.certificate()?;
        Ok(renewed)
    }

    /// What this node's own certificate says.
    ///
    /// # Errors
    /// When there is none, or it is not this node's.
    pub fn certificate(&self) -> Result<PeerIdentity, PeerIdentityError> {
        let leaf = self.chain.first().ok_or(PeerIdentityError::None)?;
        let named = PeerIdentity::of_certificate(leaf)?;
        if (named.cluster, named.node) != (self.cluster, self.node) {
            return Err(PeerIdentityError::Another {
                cluster: named.cluster,
                node: named.node,
            });
        }
        Ok(named)
    }
}
