//! Whom TLS believes, and what it shows of ourselves.
//!
//! One value answers all four questions that the TLS library asks (our certificate as server and as client, theirs as
//! client and as server), and it can be exchanged while connections stand: a renewal drops none. It verifies chains,
//! clusters and node ids; whether a node is still a member is the [`Gate`](super::Gate)'s to say, later.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use kawanan_api::{ClusterId, NodeId, Timestamp};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, verify_server_cert_signed_by_trust_anchor};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::server::{ClientHello, ParsedCertificate, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::CertifiedKey;
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore,
    SignatureScheme,
};

use super::endpoint::ALPN_JOIN;
use crate::identity::{Identity, PeerIdentity, PeerIdentityError};

/// An identity that TLS cannot be made to use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CredentialsError {
    #[error(transparent)]
    Certificate(#[from] PeerIdentityError),
    #[error("the certificate or key cannot be used: {0}")]
    Unusable(String),
    #[error("the certificate is that of another node ({0})")]
    OtherNode(NodeId),
}

/// Why a peer's certificate is not believed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum Distrust {
    #[error(transparent)]
    Identity(#[from] PeerIdentityError),
    #[error("it belongs to another cluster ({0})")]
    OtherCluster(ClusterId),
    #[error("another node ({0}) answers at its address")]
    OtherNode(NodeId),
    #[error(
        "its certificate is not signed by this cluster's authority: it belongs to another cluster"
    )]
    OtherAuthority,
    #[error(
        "its certificate is expired, or the clock of one of the two machines is wrong (here it is {here}, the certificate ends {ends})"
    )]
    Expired { here: Timestamp, ends: Timestamp },
    #[error(
        "its certificate is not valid yet: the clock of one of the two machines is wrong (here it is {here}, the certificate begins {begins})"
    )]
    NotYet { here: Timestamp, begins: Timestamp },
    #[error("its certificate is refused: {0}")]
    Refused(String),
}

/// What is exchanged as one when the certificate is renewed.
struct Current {
    cluster: ClusterId,
    /// Shown to members: they know the authority.
    to_members: Arc<CertifiedKey>,
    /// Shown to joiners, who know only its digest: with the authorities behind it.
    to_joiners: Arc<CertifiedKey>,
    roots: Arc<RootCertStore>,
    clients: Arc<dyn ClientCertVerifier>,
    /// The clock cannot rightly be before our own certificate was made.
    own_not_before: Timestamp,
}

/// Our side of the trust between nodes.
pub(super) struct Credentials {
    provider: Arc<CryptoProvider>,
    current: RwLock<Arc<Current>>,
    /// Why dialing a node failed, in words: TLS errors lose them on their way.
    distrusted: Mutex<BTreeMap<NodeId, Distrust>>,
}

impl Credentials {
    pub(super) fn new(identity: &Identity) -> Result<Self, CredentialsError> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let current = Current::of(identity, &provider)?;
        Ok(Self {
            provider,
            current: RwLock::new(Arc::new(current)),
            distrusted: Mutex::default(),
        })
    }

    pub(super) fn provider(&self) -> Arc<CryptoProvider> {
        Arc::clone(&self.provider)
    }

    /// Uses another certificate from the next handshake on.
    pub(super) fn swap(&self, identity: &Identity) -> Result<(), CredentialsError> {
        let next = Arc::new(Current::of(identity, &self.provider)?);
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = next;
        Ok(())
    }

    /// Why the node that was just dialed is not believed, if that was the reason.
    pub(super) fn take_distrust(&self, node: NodeId) -> Option<Distrust> {
        self.distrusted
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&node)
    }

    fn current(&self) -> Arc<Current> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn check_server(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        expected: NodeId,
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let current = self.current();
        let peer = PeerIdentity::of_certificate(certificate)?;
        let now = current.time_for(&peer, now);
        let parsed = ParsedCertificate::try_from(certificate)
            .map_err(|err| Distrust::Refused(err.to_string()))?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &current.roots,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(|err| Distrust::of(&err, &peer, now))?;
        current.check_cluster(&peer)?;
        if peer.node != expected {
            return Err(Distrust::OtherNode(peer.node));
        }
        Ok(())
    }

    fn check_client(
        &self,
        certificate: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Distrust> {
        let current = self.current();
        let peer = PeerIdentity::of_certificate(certificate)?;
        let now = current.time_for(&peer, now);
        current
            .clients
            .verify_client_cert(certificate, intermediates, now)
            .map_err(|err| Distrust::of(&err, &peer, now))?;
        current.check_cluster(&peer)
    }
}

impl Current {
    fn of(identity: &Identity, provider: &Arc<CryptoProvider>) -> Result<Self, CredentialsError> {
        let unusable = |err: &dyn fmt::Display| CredentialsError::Unusable(err.to_string());
        let own = identity.certificate()?;
        let key = provider
            .key_provider
            .load_private_key(PrivatePkcs8KeyDer::from(identity.key.pkcs8().to_vec()).into())
            .map_err(|err| unusable(&err))?;
        let chain: Vec<_> = owned(&identity.chain).collect();
        let with_authorities = chain
            .iter()
            .cloned()
            .chain(owned(&identity.authorities))
            .collect();
        let mut roots = RootCertStore::empty();
        for authority in owned(&identity.authorities) {
            roots.add(authority).map_err(|err| unusable(&err))?;
        }
        let roots = Arc::new(roots);
        let clients =
            WebPkiClientVerifier::builder_with_provider(Arc::clone(&roots), Arc::clone(provider))
                .build()
                .map_err(|err| unusable(&err))?;
        Ok(Self {
            cluster: identity.cluster,
            to_members: Arc::new(CertifiedKey::new(chain, Arc::clone(&key))),
            to_joiners: Arc::new(CertifiedKey::new(with_authorities, key)),
            roots,
            clients,
            own_not_before: own.not_before,
        })
    }

    fn time_for(&self, peer: &PeerIdentity, now: UnixTime) -> UnixTime {
        believable_time(now, self.own_not_before, peer.not_before)
    }

    fn check_cluster(&self, peer: &PeerIdentity) -> Result<(), Distrust> {
        if peer.cluster == self.cluster {
            Ok(())
        } else {
            Err(Distrust::OtherCluster(peer.cluster))
        }
    }
}

/// The time at which to judge a certificate. A clock that shows a time before a certificate that we hold was made is
/// not set (a machine without battery starts in 1970): then "not valid yet" means nothing, but "expired before" does.
pub(super) fn believable_time(
    clock: UnixTime,
    earliest: Timestamp,
    peer_not_before: Timestamp,
) -> UnixTime {
    let seconds = |at: Timestamp| at.millis() / 1000;
    if clock.as_secs() >= seconds(earliest) {
        return clock;
    }
    let at = seconds(earliest).max(seconds(peer_not_before));
    UnixTime::since_unix_epoch(Duration::from_secs(at))
}

impl Distrust {
    pub(super) fn of(err: &Error, peer: &PeerIdentity, now: UnixTime) -> Self {
        let here = Timestamp::from_millis(now.as_secs().saturating_mul(1000));
        match err {
            Error::InvalidCertificate(cause) => match cause {
                CertificateError::Expired | CertificateError::ExpiredContext { .. } => {
                    Self::Expired {
                        here,
                        ends: peer.not_after,
                    }
                }
                CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                    Self::NotYet {
                        here,
                        begins: peer.not_before,
                    }
                }
                CertificateError::UnknownIssuer | CertificateError::BadSignature => {
                    Self::OtherAuthority
                }
                other => Self::Refused(other.to_string()),
            },
            other => Self::Refused(other.to_string()),
        }
    }

    /// As the TLS library wants it; the peer sees only the alert that follows from it.
    fn to_tls(&self) -> Error {
        Error::InvalidCertificate(match self {
            Self::Expired { .. } => CertificateError::Expired,
            Self::NotYet { .. } => CertificateError::NotValidYet,
            Self::OtherAuthority | Self::OtherCluster(_) => CertificateError::UnknownIssuer,
            Self::Identity(_) | Self::OtherNode(_) | Self::Refused(_) => {
                CertificateError::ApplicationVerificationFailure
            }
        })
    }
}

fn owned(certificates: &[Vec<u8>]) -> impl Iterator<Item = CertificateDer<'static>> {
    certificates.iter().cloned().map(CertificateDer::from)
}

/// The name under which a node is dialed: never sent, only carried to [`Credentials::check_server`]. The letter in
/// front keeps an id of digits from being taken for an address.
pub(super) fn dialed_name(node: NodeId) -> String {
    format!("n{node}")
}

fn dialed_node(name: &ServerName<'_>) -> Option<NodeId> {
    match name {
        ServerName::DnsName(name) => name.as_ref().strip_prefix('n')?.parse().ok(),
        _ => None,
    }
}

/// Only TLS 1.3 is ever configured.
pub(super) fn no_tls12<T>() -> Result<T, Error> {
    Err(Error::General("TLS 1.2 is not spoken here".to_owned()))
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Credentials(cluster {})", self.current().cluster)
    }
}

impl ResolvesServerCert for Credentials {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let current = self.current();
        let joins = hello
            .alpn()
            .is_some_and(|mut offered| offered.any(|name| name == ALPN_JOIN));
        Some(Arc::clone(if joins {
            &current.to_joiners
        } else {
            &current.to_members
        }))
    }
}

impl ResolvesClientCert for Credentials {
    fn resolve(
        &self,
        _root_hint_subjects: &[&[u8]],
        _schemes: &[SignatureScheme],
    ) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.current().to_members))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

impl ServerCertVerifier for Credentials {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let expected = dialed_node(server_name)
            .ok_or_else(|| Error::General("dialed without a node id".to_owned()))?;
        match self.check_server(end_entity, intermediates, expected, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(distrust) => {
                let alert = distrust.to_tls();
                self.distrusted
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .insert(expected, distrust);
                Err(alert)
            }
        }
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

impl ClientCertVerifier for Credentials {
    /// Joiners have none. Who speaks the members' protocol without one is sent away right after the handshake.
    fn client_auth_mandatory(&self) -> bool {
        false
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.check_client(end_entity, intermediates, now)
            .map(|()| ClientCertVerified::assertion())
            .map_err(|distrust| {
                tracing::info!(%distrust, "refused a peer that wants to connect");
                distrust.to_tls()
            })
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        no_tls12()
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, cert, dss, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}
