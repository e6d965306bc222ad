//! What a certificate says about its holder. The one place that reads identities out of certificates.
//!
//! Reading proves nothing: only a certificate whose chain and signature the TLS layer has verified may be believed.

use kawanan_api::{ClusterId, NodeId, Timestamp};
use x509_parser::certificate::X509Certificate;
use x509_parser::extensions::GeneralName;
use x509_parser::prelude::FromDer;
use x509_parser::time::ASN1Time;

use super::node_key::node_id_of;

/// Scheme of the URI under which a certificate names its node.
const URI_PREFIX: &str = "kawanan://";

/// The node that a certificate names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PeerIdentity {
    pub cluster: ClusterId,
    pub node: NodeId,
    pub not_before: Timestamp,
    pub not_after: Timestamp,
}

/// Why a certificate names no node.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PeerIdentityError {
    #[error("no certificate")]
    None,
    #[error("not a certificate: {0}")]
    Malformed(String),
    #[error(
        "the certificate names no node: it needs exactly one name of the form {URI_PREFIX}<cluster>/node/<id>"
    )]
    NoName,
    #[error("the certificate's name `{0}` is not a node's")]
    BadName(String),
    #[error("the certificate names node {named}, but its key belongs to node {key}")]
    OtherKey { named: NodeId, key: NodeId },
    #[error("the certificate is that of node {node} of cluster {cluster}")]
    Another { cluster: ClusterId, node: NodeId },
}

impl PeerIdentity {
    /// Reads the identity out of one certificate (DER). Believe it only after verifying the chain.
    ///
    /// # Errors
    /// When the bytes are no certificate, or one that does not name a node of ours by its own key.
    pub fn of_certificate(der: &[u8]) -> Result<Self, PeerIdentityError> {
        let (rest, certificate) = X509Certificate::from_der(der)
            .map_err(|err| PeerIdentityError::Malformed(err.to_string()))?;
        if !rest.is_empty() {
            return Err(PeerIdentityError::Malformed(
                "bytes after its end".to_owned(),
            ));
        }
        let (cluster, node) = parse_uri(only_uri(&certificate)?)?;
        let key = node_id_of(certificate.public_key().raw);
        if key != node {
            return Err(PeerIdentityError::OtherKey { named: node, key });
        }
        Ok(Self {
            cluster,
            node,
            not_before: timestamp(certificate.validity().not_before),
            not_after: timestamp(certificate.validity().not_after),
        })
    }
}

/// The name that a node's certificate carries.
pub fn node_uri(cluster: ClusterId, node: NodeId) -> String {
    format!("{URI_PREFIX}{cluster}/node/{node}")
}

/// Since when and until when a certificate (DER) of any kind is valid.
///
/// # Errors
/// When the bytes are no certificate.
pub fn validity_of(der: &[u8]) -> Result<(Timestamp, Timestamp), PeerIdentityError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|err| PeerIdentityError::Malformed(err.to_string()))?;
    let validity = certificate.validity();
    Ok((
        timestamp(validity.not_before),
        timestamp(validity.not_after),
    ))
}

/// The public key (SubjectPublicKeyInfo, DER) of a certificate.
///
/// # Errors
/// When the bytes are no certificate.
pub(super) fn public_key_of(der: &[u8]) -> Result<Vec<u8>, PeerIdentityError> {
    let (_, certificate) = X509Certificate::from_der(der)
        .map_err(|err| PeerIdentityError::Malformed(err.to_string()))?;
    Ok(certificate.public_key().raw.to_vec())
}

/// Exactly one name, and that a URI: a certificate with several could mean different nodes to different readers.
fn only_uri<'a>(certificate: &'a X509Certificate<'_>) -> Result<&'a str, PeerIdentityError> {
    let names = certificate
        .subject_alternative_name()
        .map_err(|err| PeerIdentityError::Malformed(err.to_string()))?
        .ok_or(PeerIdentityError::NoName)?;
    match names.value.general_names.as_slice() {
        [GeneralName::URI(uri)] => Ok(uri),
        _ => Err(PeerIdentityError::NoName),
    }
}

fn parse_uri(uri: &str) -> Result<(ClusterId, NodeId), PeerIdentityError> {
    let parse = || {
        let (cluster, rest) = uri.strip_prefix(URI_PREFIX)?.split_once('/')?;
        let node = rest.strip_prefix("node/")?;
        Some((cluster.parse().ok()?, node.parse().ok()?))
    };
    parse().ok_or_else(|| PeerIdentityError::BadName(uri.to_owned()))
}

fn timestamp(time: ASN1Time) -> Timestamp {
    let seconds = u64::try_from(time.timestamp()).unwrap_or(0);
    Timestamp::from_millis(seconds.saturating_mul(1000))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::identity::{Authority, NodeKey};

    fn certificate() -> (Vec<u8>, NodeId) {
        let now = Timestamp::from_millis(1_700_000_000_000);
        let cluster = ClusterId::from_bits(7);
        let authority = Authority::found(cluster, now).unwrap();
        let key = NodeKey::generate().unwrap();
        let request = key.signing_request().unwrap();
        let (der, node) = authority.sign_node(&request, cluster, now).unwrap();
        assert_eq!(node, key.node_id());
        (der, node)
    }

    #[test]
    fn a_signed_certificate_names_its_node_and_cluster() {
        let (der, node) = certificate();
        let identity = PeerIdentity::of_certificate(&der).unwrap();
        assert_eq!(identity.node, node);
        assert_eq!(identity.cluster, ClusterId::from_bits(7));
        assert!(identity.not_before < identity.not_after);
    }

    #[test]
    fn an_authority_s_certificate_names_no_node() {
        let authority = Authority::found(ClusterId::from_bits(1), Timestamp::default()).unwrap();
        assert_eq!(
            PeerIdentity::of_certificate(authority.certificate_der()),
            Err(PeerIdentityError::NoName)
        );
    }

    #[test]
    fn names_that_are_nearly_right_are_refused() {
        let id = NodeId::from_bits(5).to_string();
        for uri in [
            String::new(),
            format!("kawanan://{id}"),
            format!("kawanan://{id}/node/"),
            format!("kawanan://{id}/node/{id}/more"),
            format!("kawanan://{id}/Node/{id}"),
            format!("https://{id}/node/{id}"),
            format!("kawanan:///node/{id}"),
        ] {
            assert!(parse_uri(&uri).is_err(), "{uri}");
        }
        assert!(parse_uri(&format!("kawanan://{id}/node/{id}")).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..600)) {
            let read = PeerIdentity::of_certificate(&bytes);
            prop_assert!(read.is_err());
        }

        #[test]
        fn a_damaged_certificate_is_read_without_a_panic(
            flips in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
            cut in any::<prop::sample::Index>(),
        ) {
            static DER: std::sync::OnceLock<(Vec<u8>, NodeId)> = std::sync::OnceLock::new();
            let (der, node) = DER.get_or_init(certificate);
            let mut damaged = der.clone();
            for (place, value) in flips {
                let place = place.index(damaged.len());
                damaged[place] = value;
            }
            // The name must follow from the key, so damage never turns one node into another.
            if let Ok(identity) = PeerIdentity::of_certificate(&damaged) {
                prop_assert_eq!(identity.node, *node);
            }
            damaged.truncate(cut.index(der.len()));
            prop_assert!(PeerIdentity::of_certificate(&damaged).is_err());
        }
    }
}
