//! The one UDP socket and its configurations: what is spoken there, how much, and with whom.
//!
//! Everything is set by hand: no session tickets, no resumption, no 0-RTT (a resumed session would skip the certificate
//! checks, early data could be replayed). Strangers get a window of a few kilobytes; it grows once they are members.

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use quinn::{
    ConnectionId, ConnectionIdGenerator, EndpointConfig, IdleTimeout, NoneTokenLog, NoneTokenStore,
    TokioRuntime, TransportConfig, ValidationTokenConfig, VarInt,
};
use rand::Rng;
use rustls::client::Resumption;
use rustls::pki_types::UnixTime;
use rustls::server::NoServerSessionStorage;
use rustls::time_provider::TimeProvider;

use super::credentials::{Credentials, CredentialsError};
use super::limits;
use crate::clock::SharedClock;
use crate::identity::{Identity, NodeKey};

/// What members speak.
pub(super) const ALPN_MEMBER: &[u8] = b"kwn/1";
/// What joiners speak.
pub(super) const ALPN_JOIN: &[u8] = b"kwn-join/1";

/// Why the agent cannot listen.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "UDP port {} is in use on {}: another agent runs here, or another program; stop it or give --listen another port",
        .0.port(), .0.ip()
    )]
    InUse(SocketAddr),
    #[error("no permission to listen on {0}: ports below 1024 need root or CAP_NET_BIND_SERVICE")]
    NoPermission(SocketAddr),
    #[error("{} is no address of this machine: give --listen one that it has, or 0.0.0.0", .0.ip())]
    NoSuchAddress(SocketAddr),
    #[error("cannot listen on {address}: {cause}")]
    Other {
        address: SocketAddr,
        cause: io::Error,
    },
    #[error("this node's certificate cannot be used: {0}")]
    Credentials(#[from] CredentialsError),
    #[error("the TLS library refuses its configuration: {0}")]
    Tls(String),
}

impl BindError {
    fn of(address: SocketAddr, cause: io::Error) -> Self {
        match cause.kind() {
            io::ErrorKind::AddrInUse => Self::InUse(address),
            io::ErrorKind::PermissionDenied => Self::NoPermission(address),
            io::ErrorKind::AddrNotAvailable => Self::NoSuchAddress(address),
            _ => Self::Other { address, cause },
        }
    }
}

/// Reads the agent's clock for the TLS library.
pub(super) struct TlsClock(pub(super) SharedClock);

impl std::fmt::Debug for TlsClock {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsClock")
    }
}

impl TimeProvider for TlsClock {
    fn current_time(&self) -> Option<UnixTime> {
        let now = Duration::from_millis(self.0.now().millis());
        Some(UnixTime::since_unix_epoch(now))
    }
}

/// Opens the socket and makes the endpoint. Returns it with the configuration for dialing members.
pub(super) fn open(
    listen: SocketAddr,
    identity: &Identity,
    credentials: &Arc<Credentials>,
    clock: &SharedClock,
) -> Result<(quinn::Endpoint, quinn::ClientConfig), BindError> {
    let server = server_config(server_tls(credentials, clock)?)?;
    let client = client_config(client_tls(credentials, clock)?, member_transport())?;
    let socket = UdpSocket::bind(listen).map_err(|err| BindError::of(listen, err))?;
    let endpoint = quinn::Endpoint::new(
        endpoint_config(&identity.key),
        Some(server),
        socket,
        Arc::new(TokioRuntime),
    )
    .map_err(|err| BindError::of(listen, err))?;
    Ok((endpoint, client))
}

fn tls_error(err: impl std::fmt::Display) -> BindError {
    BindError::Tls(err.to_string())
}

fn server_tls(
    credentials: &Arc<Credentials>,
    clock: &SharedClock,
) -> Result<rustls::ServerConfig, BindError> {
    let time = Arc::new(TlsClock(Arc::clone(clock)));
    let mut tls = rustls::ServerConfig::builder_with_details(credentials.provider(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .with_client_cert_verifier(Arc::<Credentials>::clone(credentials))
        .with_cert_resolver(Arc::<Credentials>::clone(credentials));
    tls.alpn_protocols = vec![ALPN_MEMBER.to_vec(), ALPN_JOIN.to_vec()];
    tls.send_tls13_tickets = 0;
    tls.session_storage = Arc::new(NoServerSessionStorage {});
    tls.max_early_data_size = 0;
    Ok(tls)
}

fn client_tls(
    credentials: &Arc<Credentials>,
    clock: &SharedClock,
) -> Result<rustls::ClientConfig, BindError> {
    let time = Arc::new(TlsClock(Arc::clone(clock)));
    let mut tls = rustls::ClientConfig::builder_with_details(credentials.provider(), time)
        .with_protocol_versions(&[&rustls::version::TLS13])
        .map_err(tls_error)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::<Credentials>::clone(credentials))
        .with_client_cert_resolver(Arc::<Credentials>::clone(credentials));
    tls.alpn_protocols = vec![ALPN_MEMBER.to_vec()];
    close_back_doors(&mut tls);
    Ok(tls)
}

/// What must be off in every client configuration. The server's name is our own notation and nobody's business.
pub(super) fn close_back_doors(tls: &mut rustls::ClientConfig) {
    tls.resumption = Resumption::disabled();
    tls.enable_early_data = false;
    tls.enable_sni = false;
}

fn server_config(tls: rustls::ServerConfig) -> Result<quinn::ServerConfig, BindError> {
    let crypto = QuicServerConfig::try_from(tls).map_err(tls_error)?;
    let mut tokens = ValidationTokenConfig::default();
    tokens.sent(0).log(Arc::new(NoneTokenLog));
    let mut server = quinn::ServerConfig::with_crypto(Arc::new(crypto));
    server
        .transport_config(Arc::new(stranger_transport()))
        .validation_token_config(tokens)
        .max_incoming(limits::INCOMING_MAX)
        .incoming_buffer_size(limits::INCOMING_BYTES)
        .incoming_buffer_size_total(limits::INCOMING_BYTES_TOTAL);
    Ok(server)
}

/// A configuration for dialing, over this transport.
pub(super) fn client_config(
    tls: rustls::ClientConfig,
    transport: TransportConfig,
) -> Result<quinn::ClientConfig, BindError> {
    let crypto = QuicClientConfig::try_from(tls).map_err(tls_error)?;
    let mut client = quinn::ClientConfig::new(Arc::new(crypto));
    client
        .transport_config(Arc::new(transport))
        .token_store(Arc::new(NoneTokenStore));
    Ok(client)
}

/// Common to all connections.
fn transport() -> TransportConfig {
    let mut transport = TransportConfig::default();
    let idle_millis =
        VarInt::from_u32(u32::try_from(limits::IDLE_TIMEOUT.as_millis()).unwrap_or(20_000));
    transport
        .keep_alive_interval(Some(limits::KEEP_ALIVE))
        .max_idle_timeout(Some(IdleTimeout::from(idle_millis)))
        .stream_receive_window(limits::STREAM_WINDOW.into())
        .send_window(u64::from(limits::CONNECTION_WINDOW))
        .datagram_receive_buffer_size(None)
        // A first packet that is lost is sent again after 0.3 s instead of 1 s; most clusters live in one data center.
        .initial_rtt(Duration::from_millis(100))
        .allow_spin(false);
    transport
}

/// For what comes in: nobody has shown a certificate yet.
fn stranger_transport() -> TransportConfig {
    let mut transport = transport();
    transport
        .receive_window(limits::STRANGER_WINDOW.into())
        .max_concurrent_bidi_streams(1u8.into())
        .max_concurrent_uni_streams(0u8.into());
    transport
}

/// For what we dial: the other side has proven who it is before it can send anything.
fn member_transport() -> TransportConfig {
    let mut transport = transport();
    transport
        .receive_window(limits::CONNECTION_WINDOW.into())
        .max_concurrent_bidi_streams(two_way_streams())
        .max_concurrent_uni_streams(limits::ONE_WAY_STREAMS_MAX.into());
    transport
}

/// For a joiner: it opens one stream and takes nothing but the answer.
pub(super) fn joiner_transport() -> TransportConfig {
    let mut transport = transport();
    transport
        .receive_window((2 * limits::STREAM_WINDOW).into())
        .max_concurrent_bidi_streams(0u8.into())
        .max_concurrent_uni_streams(0u8.into());
    transport
}

fn two_way_streams() -> VarInt {
    (limits::CALLS_MAX + limits::LOG_STREAMS_MAX).into()
}

/// Lifts a stranger that turned out to be a member to a member's limits.
pub(super) fn lift_limits(connection: &quinn::Connection) {
    connection.set_receive_window(limits::CONNECTION_WINDOW.into());
    connection.set_max_concurrent_bi_streams(two_way_streams());
    connection.set_max_concurrent_uni_streams(limits::ONE_WAY_STREAMS_MAX.into());
}

/// The reset key follows from the node's key, so that an agent that was restarted can tell its peers at once that the
/// connections of its former life are gone; with a random key they would find out after the idle timeout.
fn endpoint_config(key: &NodeKey) -> EndpointConfig {
    let secret = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, key.pkcs8());
    let reset_key = ring::hmac::sign(&secret, b"kawanan stateless reset");
    let reset_key = ring::hmac::Key::new(ring::hmac::HMAC_SHA256, reset_key.as_ref());
    let mut config = EndpointConfig::new(Arc::new(reset_key));
    config.cid_generator(|| Box::new(RandomConnectionIds));
    config
}

/// Connection ids without a mark of this process: quinn's own generator recognizes only what the same process made, and
/// would stay silent where a reset is due.
struct RandomConnectionIds;

impl ConnectionIdGenerator for RandomConnectionIds {
    fn generate_cid(&mut self) -> ConnectionId {
        ConnectionId::new(&rand::rng().random::<[u8; 8]>())
    }

    fn cid_len(&self) -> usize {
        8
    }

    fn cid_lifetime(&self) -> Option<Duration> {
        None
    }
}

#[cfg(test)]
mod tests;
