//! The cluster's authority: the key that makes nodes members by signing their certificates.
//!
//! Its private key lies in a file of the voters and travels only between them. It signs nothing but node certificates,
//! and takes nothing from a signing request but the public key: the id follows from the key, the cluster from the caller.

use std::fmt;
use std::time::Duration;

use kawanan_api::{ClusterId, NodeId, Timestamp};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateSigningRequestParams, DistinguishedName,
    DnType, ExtendedKeyUsagePurpose, IsCa, Issuer, KeyPair, KeyUsagePurpose, PublicKeyData,
    SanType, SerialNumber, string::Ia5String,
};
use sha2::{Digest, Sha256};

use super::peer_identity::{node_uri, public_key_of, validity_of};

/// Life of the authority.
const AUTHORITY_LIFE: Duration = Duration::from_secs(3652 * 24 * 60 * 60);
/// Life of a node's certificate.
pub const NODE_LIFE: Duration = Duration::from_secs(30 * 24 * 60 * 60);
/// Certificates are dated back by this much, for peers whose clocks are behind.
pub const BACK_DATED: Duration = Duration::from_secs(60 * 60);
/// Signing requests larger than this are not even parsed; ours have about 200 bytes.
const REQUEST_BYTES_MAX: usize = 4096;
/// The first instant that a certificate cannot express, less a day: 9999-12-31.
const END_OF_TIME: Timestamp = Timestamp::from_millis(253_402_214_400_000);

/// Why the authority could not be made, read, or did not sign.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AuthorityError {
    #[error("cannot make the cluster's authority: {0}")]
    Make(String),
    #[error("the authority's key or certificate cannot be read: {0}")]
    Parse(String),
    #[error("the authority's key does not belong to its certificate")]
    OtherKey,
    #[error("the signing request is refused: {0}")]
    Request(String),
    #[error("cannot sign: {0}")]
    Sign(String),
    #[error(
        "the clock of this machine shows {now}, before the cluster was founded ({founded}): set the clock"
    )]
    Clock { now: Timestamp, founded: Timestamp },
}

/// The authority with its private key.
pub struct Authority {
    issuer: Issuer<'static, KeyPair>,
    certificate: Vec<u8>,
    not_before: Timestamp,
}

impl Authority {
    /// A new authority for a new cluster.
    ///
    /// # Errors
    /// When the cryptographic library fails.
    pub fn found(cluster: ClusterId, now: Timestamp) -> Result<Self, AuthorityError> {
        let make = |err: rcgen::Error| AuthorityError::Make(err.to_string());
        let key = KeyPair::generate_for(&rcgen::PKCS_ECDSA_P256_SHA256).map_err(make)?;
        let not_before = back_dated(now);
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(format!("kawanan cluster {cluster}"));
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
        set_validity(&mut params, not_before, now.saturating_add(AUTHORITY_LIFE));
        let certificate = params.self_signed(&key).map_err(make)?.der().to_vec();
        Ok(Self {
            issuer: Issuer::new(params, key),
            certificate,
            not_before,
        })
    }

    /// The authority from its private key (PKCS#8, DER) and certificate (DER).
    ///
    /// # Errors
    /// When either is damaged, or they do not belong together.
    pub fn from_key_and_certificate(
        key_pkcs8: &[u8],
        certificate: &[u8],
    ) -> Result<Self, AuthorityError> {
        let parse = |err: rcgen::Error| AuthorityError::Parse(err.to_string());
        let key = KeyPair::from_pkcs8_der_and_sign_algo(
            &key_pkcs8.into(),
            &rcgen::PKCS_ECDSA_P256_SHA256,
        )
        .map_err(parse)?;
        let public_key =
            public_key_of(certificate).map_err(|err| AuthorityError::Parse(err.to_string()))?;
        if public_key != key.subject_public_key_info() {
            return Err(AuthorityError::OtherKey);
        }
        let (not_before, _) =
            validity_of(certificate).map_err(|err| AuthorityError::Parse(err.to_string()))?;
        let issuer = Issuer::from_ca_cert_der(&certificate.into(), key).map_err(parse)?;
        Ok(Self {
            issuer,
            certificate: certificate.to_vec(),
            not_before,
        })
    }

    pub fn certificate_der(&self) -> &[u8] {
        &self.certificate
    }

    /// SHA-256 of the certificate: what a join token carries.
    pub fn digest(&self) -> [u8; 32] {
        digest_of(&self.certificate)
    }

    /// The private key, PKCS#8 in DER. For the key file and for nodes that are about to vote, nobody else.
    pub fn key_pkcs8(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// Signs a certificate for the node that made `request` (a PKCS#10 request, DER), and says which node that is.
    ///
    /// # Errors
    /// When the request is damaged, is not signed by the key it asks for, asks for a key of another kind, or when this
    /// machine's clock is obviously wrong.
    pub fn sign_node(
        &self,
        request: &[u8],
        cluster: ClusterId,
        now: Timestamp,
    ) -> Result<(Vec<u8>, NodeId), AuthorityError> {
        if now < self.not_before {
            return Err(AuthorityError::Clock {
                now,
                founded: self.not_before,
            });
        }
        let public_key = verified_key(request)?;
        let node = super::node_key::node_id_of(&public_key.subject_public_key_info());
        let mut params = CertificateParams::default();
        params.distinguished_name = common_name(node.to_string());
        let uri = Ia5String::try_from(node_uri(cluster, node))
            .map_err(|err| AuthorityError::Sign(err.to_string()))?;
        params.subject_alt_names = vec![SanType::URI(uri)];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![
            ExtendedKeyUsagePurpose::ServerAuth,
            ExtendedKeyUsagePurpose::ClientAuth,
        ];
        params.serial_number = Some(serial_number(node, now));
        set_validity(&mut params, back_dated(now), now.saturating_add(NODE_LIFE));
        let certificate = params
            .signed_by(&public_key, &self.issuer)
            .map_err(|err| AuthorityError::Sign(err.to_string()))?;
        Ok((certificate.der().to_vec(), node))
    }
}

impl fmt::Debug for Authority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let digest = data_encoding::HEXLOWER.encode(&self.digest()[..8]);
        write!(f, "Authority({digest})")
    }
}

/// SHA-256 of a certificate (DER).
pub fn digest_of(certificate: &[u8]) -> [u8; 32] {
    Sha256::digest(certificate).into()
}

/// The node that a signing request comes from, after checking that it holds the private key.
///
/// # Errors
/// When the request is damaged, badly signed, or for a key of another kind.
pub fn requesting_node(request: &[u8]) -> Result<NodeId, AuthorityError> {
    let public_key = verified_key(request)?;
    Ok(super::node_key::node_id_of(
        &public_key.subject_public_key_info(),
    ))
}

/// The public key of a request whose own signature holds.
fn verified_key(request: &[u8]) -> Result<rcgen::PublicKey, AuthorityError> {
    if request.len() > REQUEST_BYTES_MAX {
        return Err(AuthorityError::Request(format!(
            "{} bytes are more than the {REQUEST_BYTES_MAX} allowed",
            request.len()
        )));
    }
    let parsed = CertificateSigningRequestParams::from_der(&request.into())
        .map_err(|err| AuthorityError::Request(err.to_string()))?;
    if parsed.public_key.algorithm() != &rcgen::PKCS_ECDSA_P256_SHA256 {
        return Err(AuthorityError::Request(
            "only ECDSA P-256 keys are signed".to_owned(),
        ));
    }
    Ok(parsed.public_key)
}

/// Unique enough for people who compare certificates: nothing is looked up by it.
fn serial_number(node: NodeId, now: Timestamp) -> SerialNumber {
    let mut bytes = vec![1u8];
    bytes.extend_from_slice(&now.millis().to_be_bytes()[2..]);
    bytes.extend_from_slice(&node.bits().to_be_bytes()[..8]);
    SerialNumber::from_slice(&bytes)
}

fn common_name(name: String) -> DistinguishedName {
    let mut distinguished = DistinguishedName::new();
    distinguished.push(DnType::CommonName, name);
    distinguished
}

fn back_dated(now: Timestamp) -> Timestamp {
    Timestamp::from_millis(
        now.millis()
            .saturating_sub(u64::try_from(BACK_DATED.as_millis()).unwrap_or(0)),
    )
}

/// Whole seconds, never beyond what a certificate can write.
fn set_validity(params: &mut CertificateParams, from: Timestamp, until: Timestamp) {
    let seconds =
        |instant: Timestamp| Duration::from_secs(instant.min(END_OF_TIME).millis() / 1000);
    let epoch = rcgen::date_time_ymd(1970, 1, 1);
    params.not_before = epoch + seconds(from);
    params.not_after = epoch + seconds(until);
}

#[cfg(test)]
mod tests;
