//! A node's key pair (ECDSA P-256) and what follows from it: the node id and the request for a certificate.

use std::fmt;
use std::sync::Arc;

use kawanan_api::NodeId;
use rcgen::{CertificateParams, DistinguishedName, KeyPair, PublicKeyData};
use sha2::{Digest, Sha256};

/// Bytes that are no usable key, or a library that failed to make one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    #[error("cannot make a key: {0}")]
    Make(String),
    #[error("not an ECDSA P-256 private key: {0}")]
    Parse(String),
    #[error("cannot make a signing request: {0}")]
    Request(String),
}

/// A private key. Printed only as the node id that belongs to it.
#[derive(Clone)]
pub struct NodeKey {
    pair: Arc<KeyPair>,
}

impl NodeKey {
    /// A fresh key from the operating system's randomness.
    ///
    /// # Errors
    /// When that source fails.
    pub fn generate() -> Result<Self, KeyError> {
        let pair = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|err| KeyError::Make(err.to_string()))?;
        Ok(Self {
            pair: Arc::new(pair),
        })
    }

    /// A key as [`NodeKey::pem`] printed it.
    ///
    /// # Errors
    /// When the text holds no ECDSA P-256 key.
    pub fn from_pem(text: &str) -> Result<Self, KeyError> {
        let pair = KeyPair::from_pkcs8_pem_and_sign_algo(text, &rcgen::PKCS_ECDSA_P256_SHA256)
            .map_err(|err| KeyError::Parse(err.to_string()))?;
        Ok(Self {
            pair: Arc::new(pair),
        })
    }

    /// PKCS#8 in PEM: the private key, for the key file only.
    pub fn pem(&self) -> String {
        self.pair.serialize_pem()
    }

    /// PKCS#8 in DER: the private key, for the TLS library only.
    pub fn pkcs8(&self) -> &[u8] {
        self.pair.serialized_der()
    }

    pub fn node_id(&self) -> NodeId {
        node_id_of(&self.pair.subject_public_key_info())
    }

    /// A request for a certificate, DER, signed by this key. It asks for no name: the authority derives the id from
    /// the key.
    ///
    /// # Errors
    /// When the library cannot sign.
    pub fn signing_request(&self) -> Result<Vec<u8>, KeyError> {
        let mut params = CertificateParams::default();
        params.distinguished_name = DistinguishedName::new();
        let request = params
            .serialize_request(&*self.pair)
            .map_err(|err| KeyError::Request(err.to_string()))?;
        Ok(request.der().to_vec())
    }
}

impl fmt::Debug for NodeKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "NodeKey(of {})", self.node_id())
    }
}

/// The id of the node that holds the private half of this public key (SubjectPublicKeyInfo, DER): the first 128 bits
/// of its SHA-256.
pub fn node_id_of(subject_public_key_info: &[u8]) -> NodeId {
    let digest = Sha256::digest(subject_public_key_info);
    let mut head = [0u8; 16];
    head.copy_from_slice(&digest[..16]);
    NodeId::from_bits(u128::from_be_bytes(head))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_read_back_is_the_same_node() {
        let key = NodeKey::generate().unwrap();
        let again = NodeKey::from_pem(&key.pem()).unwrap();
        assert_eq!(key.node_id(), again.node_id());
        assert_ne!(key.node_id(), NodeKey::generate().unwrap().node_id());
    }

    #[test]
    fn printing_a_key_does_not_show_it() {
        let key = NodeKey::generate().unwrap();
        let printed = format!("{key:?}");
        assert_eq!(printed, format!("NodeKey(of {})", key.node_id()));
    }

    #[test]
    fn text_that_is_no_key_is_an_error() {
        for text in [
            "",
            "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n",
        ] {
            assert!(matches!(NodeKey::from_pem(text), Err(KeyError::Parse(_))));
        }
    }
}
