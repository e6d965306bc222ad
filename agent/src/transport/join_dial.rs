//! How somebody without a certificate talks to a member: one request, one answer.
//!
//! The stranger knows only a digest of the cluster's authority. It checks the other side against that digest before it
//! says anything, so that a secret reaches nobody but a member of the right cluster.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, ConnectionError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_cert_signed_by_trust_anchor;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use super::credentials::{Distrust, believable_time, no_tls12};
use super::endpoint::{self, ALPN_JOIN, BindError, TlsClock};
use super::stream_kind::{FrameError, StreamKind, read_message, write_kind, write_message};
use super::{codes, limits};
use crate::clock::SharedClock;
use crate::identity::PeerIdentity;
use crate::identity::authority::digest_of;
use crate::identity::peer_identity::validity_of;

/// What one member may take to show itself. Seeds are tried one after the other, so a dead one must not cost much.
const SEED_DEADLINE: Duration = Duration::from_millis(2500);

/// Why a member gave no answer. The sentences name its address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinDialError {
    #[error(
        "nobody answers on UDP {0}: check that the agent runs there, and that no firewall drops UDP port {port} on the way",
        port = .0.port()
    )]
    NoAnswer(SocketAddr),
    #[error("the machine at {0} belongs to another cluster than the token")]
    OtherCluster(SocketAddr),
    #[error("the machine at {address} is not believed: {cause}")]
    Distrusted { address: SocketAddr, cause: String },
    #[error(
        "what answers on UDP {0} is no agent that takes in machines, or one of another version"
    )]
    NotAnAgent(SocketAddr),
    #[error(
        "the machine at {0} is busy: it takes in other machines, or its cluster has no leader; try again"
    )]
    Busy(SocketAddr),
    #[error(
        "the connection to {address} broke off: {cause}; try again, the token is still good or already used up"
    )]
    BrokeOff { address: SocketAddr, cause: String },
    #[error("this machine cannot open a UDP socket: {0}")]
    Socket(String),
}

/// Asks members in the name of a machine that is none (any more).
pub struct JoinDialer {
    authority_digest: [u8; 32],
    clock: SharedClock,
    seed_deadline: Duration,
}

impl JoinDialer {
    /// Believes only members of the cluster whose authority's certificate has this SHA-256.
    pub fn new(authority_digest: [u8; 32], clock: SharedClock) -> Self {
        Self {
            authority_digest,
            clock,
            seed_deadline: SEED_DEADLINE,
        }
    }

    /// With another patience for seeds that do not answer.
    #[cfg(test)]
    pub(crate) fn with_seed_deadline(mut self, deadline: Duration) -> Self {
        self.seed_deadline = deadline;
        self
    }

    /// Sends one request to the member at `seed` and returns its answer.
    ///
    /// # Errors
    /// When there is nobody, somebody else, or no answer in time. Only after [`JoinDialError::BrokeOff`] may the
    /// request have been carried out.
    pub async fn ask(&self, seed: SocketAddr, request: Bytes) -> Result<Bytes, JoinDialError> {
        let verifier = Arc::new(PinnedAuthority::new(self.authority_digest));
        let socket = |err: &dyn fmt::Display| JoinDialError::Socket(err.to_string());
        let endpoint = quinn::Endpoint::client(any_address(seed)).map_err(|err| socket(&err))?;
        let config = self.config(&verifier).map_err(|err| socket(&err))?;
        let connecting = endpoint
            .connect_with(config, seed, "kawanan")
            .map_err(|err| socket(&err))?;
        let connection = match timeout(self.seed_deadline, connecting).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(reason)) => return Err(verifier.explain(seed, &reason)),
            Err(_) => return Err(JoinDialError::NoAnswer(seed)),
        };
        let outcome = exchange(&connection, &request).await;
        connection.close(codes::JOIN_OVER, b"");
        // The goodbye leaves while the caller goes on: waiting for its end would cost every join a tenth of a second.
        tokio::spawn(async move {
            if timeout(limits::GOODBYE_DEADLINE, endpoint.wait_idle())
                .await
                .is_err()
            {
                tracing::trace!("the goodbye was not confirmed");
            }
        });
        outcome.map_err(|cause| cause.at(seed))
    }

    fn config(&self, verifier: &Arc<PinnedAuthority>) -> Result<quinn::ClientConfig, BindError> {
        let time = Arc::new(TlsClock(Arc::clone(&self.clock)));
        let mut tls =
            rustls::ClientConfig::builder_with_details(Arc::clone(&verifier.provider), time)
                .with_protocol_versions(&[&rustls::version::TLS13])
                .map_err(|err| BindError::Tls(err.to_string()))?
                .dangerous()
                .with_custom_certificate_verifier(Arc::<PinnedAuthority>::clone(verifier))
                .with_no_client_auth();
        tls.alpn_protocols = vec![ALPN_JOIN.to_vec()];
        endpoint::close_back_doors(&mut tls);
        endpoint::client_config(tls, endpoint::joiner_transport())
    }
}

fn any_address(towards: SocketAddr) -> SocketAddr {
    let any = match towards {
        SocketAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        SocketAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    SocketAddr::new(any, 0)
}

/// Why an exchange on a standing connection brought nothing.
enum Unanswered {
    Busy,
    BrokeOff(String),
}

impl Unanswered {
    fn at(self, address: SocketAddr) -> JoinDialError {
        match self {
            Self::Busy => JoinDialError::Busy(address),
            Self::BrokeOff(cause) => JoinDialError::BrokeOff { address, cause },
        }
    }
}

impl From<ConnectionError> for Unanswered {
    fn from(err: ConnectionError) -> Self {
        match &err {
            ConnectionError::ApplicationClosed(close) if close.error_code == codes::BUSY => {
                Self::Busy
            }
            _ => Self::BrokeOff(err.to_string()),
        }
    }
}

impl From<FrameError> for Unanswered {
    fn from(err: FrameError) -> Self {
        match err {
            FrameError::Gone(err) => err.into(),
            other => Self::BrokeOff(other.to_string()),
        }
    }
}

impl From<quinn::WriteError> for Unanswered {
    fn from(err: quinn::WriteError) -> Self {
        match err {
            quinn::WriteError::ConnectionLost(err) => err.into(),
            other => Self::BrokeOff(other.to_string()),
        }
    }
}

async fn exchange(connection: &Connection, request: &Bytes) -> Result<Bytes, Unanswered> {
    let talk = async {
        let (mut send, mut receive) = connection.open_bi().await?;
        write_kind(&mut send, StreamKind::Join).await?;
        write_message(&mut send, request).await?;
        if send.finish().is_err() {
            tracing::trace!("the member has closed the stream before its end");
        }
        let budget = Semaphore::new(limits::ASSEMBLY_BYTES);
        read_message(&mut receive, limits::JOIN_ANSWER_BYTES, &budget)
            .await?
            .ok_or_else(|| Unanswered::BrokeOff("no answer on it".to_owned()))
    };
    timeout(limits::JOIN_ANSWER_DEADLINE, talk)
        .await
        .unwrap_or_else(|_| Err(Unanswered::BrokeOff("no answer in time".to_owned())))
}

/// Believes who shows a certificate signed by the one authority whose digest is known.
struct PinnedAuthority {
    digest: [u8; 32],
    provider: Arc<CryptoProvider>,
    /// What was wrong with the other side, in words: TLS errors lose them on their way.
    verdict: Mutex<Option<Verdict>>,
}

#[derive(Clone)]
enum Verdict {
    OtherCluster,
    Distrusted(String),
}

impl PinnedAuthority {
    fn new(digest: [u8; 32]) -> Self {
        Self {
            digest,
            provider: Arc::new(rustls::crypto::ring::default_provider()),
            verdict: Mutex::new(None),
        }
    }

    fn check(
        &self,
        certificate: &CertificateDer<'_>,
        shown: &[CertificateDer<'_>],
        clock: UnixTime,
    ) -> Result<(), Verdict> {
        let distrusted = |cause: &dyn fmt::Display| Verdict::Distrusted(cause.to_string());
        let authority = shown
            .iter()
            .find(|shown| digest_of(shown) == self.digest)
            .ok_or(Verdict::OtherCluster)?;
        let mut roots = RootCertStore::empty();
        roots
            .add(authority.clone().into_owned())
            .map_err(|err| distrusted(&err))?;
        let (founded, _) = validity_of(authority).map_err(|err| distrusted(&err))?;
        let peer = PeerIdentity::of_certificate(certificate).map_err(|err| distrusted(&err))?;
        let now = believable_time(clock, founded, peer.not_before);
        let parsed = ParsedCertificate::try_from(certificate).map_err(|err| distrusted(&err))?;
        verify_server_cert_signed_by_trust_anchor(
            &parsed,
            &roots,
            &[],
            now,
            self.provider.signature_verification_algorithms.all,
        )
        .map_err(|err| distrusted(&Distrust::of(&err, &peer, now)))
    }

    /// Why the handshake failed, in the words of whoever reads the error.
    fn explain(&self, seed: SocketAddr, reason: &ConnectionError) -> JoinDialError {
        let verdict = self
            .verdict
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        match (verdict, reason) {
            (Some(Verdict::OtherCluster), _) => JoinDialError::OtherCluster(seed),
            (Some(Verdict::Distrusted(cause)), _) => JoinDialError::Distrusted {
                address: seed,
                cause,
            },
            (None, ConnectionError::TimedOut) => JoinDialError::NoAnswer(seed),
            (None, ConnectionError::ApplicationClosed(close))
                if close.error_code == codes::BUSY =>
            {
                JoinDialError::Busy(seed)
            }
            (None, ConnectionError::ConnectionClosed(close))
                if close.error_code == quinn::TransportErrorCode::CONNECTION_REFUSED =>
            {
                JoinDialError::Busy(seed)
            }
            (None, _) => JoinDialError::NotAnAgent(seed),
        }
    }
}

impl fmt::Debug for PinnedAuthority {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PinnedAuthority")
    }
}

impl ServerCertVerifier for PinnedAuthority {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        match self.check(end_entity, intermediates, now) {
            Ok(()) => Ok(ServerCertVerified::assertion()),
            Err(verdict) => {
                *self.verdict.lock().unwrap_or_else(PoisonError::into_inner) = Some(verdict);
                Err(Error::InvalidCertificate(
                    CertificateError::ApplicationVerificationFailure,
                ))
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
