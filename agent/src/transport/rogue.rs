//! Somebody who speaks QUIC but keeps to no rule, for tests: believes every server, shows any certificate.

use std::net::SocketAddr;
use std::sync::Arc;

use quinn::crypto::rustls::QuicClientConfig;
use quinn::{Connection, ConnectionError};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName, UnixTime};
use rustls::{DigitallySignedStruct, Error, SignatureScheme};

use super::contract::soon;
use crate::identity::Identity;

/// Believes everybody.
#[derive(Debug)]
struct Gullible;

impl ServerCertVerifier for Gullible {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ECDSA_NISTP256_SHA256]
    }
}

pub(super) struct Rogue {
    endpoint: quinn::Endpoint,
    config: quinn::ClientConfig,
}

impl Rogue {
    /// Speaks this protocol and shows this identity's certificate, if any.
    pub(super) fn new(alpn: &[u8], identity: Option<&Identity>) -> Self {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&[&rustls::version::TLS13])
            .unwrap()
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Gullible));
        let mut tls = match identity {
            Some(identity) => {
                let chain = identity.chain.iter().cloned().map(Into::into).collect();
                let key = PrivatePkcs8KeyDer::from(identity.key.pkcs8().to_vec());
                tls.with_client_auth_cert(chain, key.into()).unwrap()
            }
            None => tls.with_no_client_auth(),
        };
        tls.alpn_protocols = vec![alpn.to_vec()];
        // Keeps every ticket and tries to use it.
        tls.enable_early_data = true;
        let crypto = QuicClientConfig::try_from(tls).unwrap();
        Self {
            endpoint: quinn::Endpoint::client("127.0.0.1:0".parse().unwrap()).unwrap(),
            config: quinn::ClientConfig::new(Arc::new(crypto)),
        }
    }

    pub(super) fn dial(&self, address: SocketAddr) -> quinn::Connecting {
        self.endpoint
            .connect_with(self.config.clone(), address, "anybody")
            .unwrap()
    }

    /// A connection, or why there is none.
    pub(super) async fn connect(&self, address: SocketAddr) -> Result<Connection, ConnectionError> {
        soon("a handshake", self.dial(address)).await
    }

    /// How a connection ends that the other side does not want.
    pub(super) async fn sent_away(&self, address: SocketAddr) -> ConnectionError {
        match self.connect(address).await {
            Ok(connection) => soon("the end of the connection", connection.closed()).await,
            Err(reason) => reason,
        }
    }
}

/// The certificates that the other side has shown.
pub(super) fn shown(connection: &Connection) -> Vec<CertificateDer<'static>> {
    *connection.peer_identity().unwrap().downcast().unwrap()
}
