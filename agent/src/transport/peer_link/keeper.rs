//! The owner of one peer's connection: dials when somebody wants to talk, takes what the peer dials, keeps one.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use kawanan_api::NodeId;
use quinn::{Connection, ConnectionError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::super::credentials::{Credentials, dialed_name};
use super::super::{AddressBook, codes, limits};
use super::{BackOff, Event, NoConnection, PeerLink};

/// What is needed to dial, and what to do with a connection that was dialed.
#[derive(Clone)]
pub(in super::super) struct Dialer {
    pub(in super::super) endpoint: quinn::Endpoint,
    pub(in super::super) config: quinn::ClientConfig,
    pub(in super::super) credentials: Arc<Credentials>,
    pub(in super::super) own: NodeId,
    /// Reads what the peer sends on it.
    pub(in super::super) serve: Arc<dyn Fn(Connection, Arc<PeerLink>) + Send + Sync>,
}

/// The connection in use.
struct Held {
    connection: Connection,
    dialed_by_us: bool,
    since: Instant,
    /// Packets sent when the last one was known to have come in, and packets that had come in then.
    sent: u64,
    received: u64,
    /// Looks in a row at which packets had gone out and none had come in.
    silent_looks: u32,
    /// Looks in a row at which nothing had been said.
    quiet_looks: u32,
}

type Dialing = Pin<Box<dyn Future<Output = Result<Connection, NoConnection>> + Send>>;

pub(super) struct Keeper {
    link: Arc<PeerLink>,
    dialer: Dialer,
    addresses: AddressBook,
    held: Option<Held>,
    dialing: Option<Dialing>,
    /// The address that was dialed last, or that the book showed when the peer dialed.
    address: Option<std::net::SocketAddr>,
    /// The dial in progress is to replace the connection in use: the peer has moved, or the connection seems dead.
    replacing: bool,
    back_off: BackOff,
}

impl Keeper {
    pub(super) fn new(link: Arc<PeerLink>, dialer: Dialer, addresses: AddressBook) -> Self {
        Self {
            link,
            dialer,
            addresses,
            held: None,
            dialing: None,
            address: None,
            replacing: false,
            back_off: BackOff::new(),
        }
    }

    pub(super) async fn run(mut self, mut inbox: mpsc::Receiver<Event>) {
        let mut book_lives = true;
        let mut look_again = Instant::now() + limits::LOOK_PERIOD;
        loop {
            let link = Arc::clone(&self.link);
            let held = self.held.as_ref().map(|held| held.connection.clone());
            tokio::select! {
                biased;
                event = inbox.recv() => match event {
                    Some(Event::Accepted(connection, arrived)) => self.on_accepted(connection, arrived),
                    None => return,
                },
                reason = closed(held.as_ref()) => self.on_closed(&reason),
                outcome = dialed(&mut self.dialing) => self.on_dialed(outcome),
                changed = self.addresses.changed(), if book_lives => match changed {
                    Ok(()) => self.on_addresses(),
                    Err(_) => book_lives = false,
                },
                () = link.wanted.notified() => self.on_wanted(),
                () = tokio::time::sleep_until(look_again), if held.is_some() => {
                    look_again = Instant::now() + limits::LOOK_PERIOD;
                    self.look();
                }
            }
        }
    }

    fn book_address(&self) -> Option<std::net::SocketAddr> {
        self.addresses.borrow().get(&self.link.peer).copied()
    }

    fn on_wanted(&mut self) {
        if self.held.is_none() && self.dialing.is_none() {
            self.dial();
        }
    }

    fn on_addresses(&mut self) {
        let address = self.book_address();
        if address == self.address || address.is_none() {
            return;
        }
        if self.held.is_some() && self.address.is_none() {
            // It dialed us before anybody told where it lives.
            self.address = address;
        } else if self.held.is_some() {
            tracing::info!(peer = %self.link.peer, ?address, "a peer has moved");
            self.replacing = true;
            self.dial();
        } else if self.dialing.is_some() {
            self.back_off.succeeded();
            self.dial();
        }
    }

    fn dial(&mut self) {
        let wait = self.back_off.wait();
        self.address = self.book_address();
        let dialer = self.dialer.clone();
        let (peer, address) = (self.link.peer, self.address);
        self.dialing = Some(Box::pin(async move {
            sleep(wait).await;
            match address {
                Some(address) => dialer.dial(peer, address).await,
                None => Err(NoConnection::Hopeless("no address is known".to_owned())),
            }
        }));
    }

    fn on_dialed(&mut self, outcome: Result<Connection, NoConnection>) {
        self.dialing = None;
        let replacing = std::mem::take(&mut self.replacing);
        match outcome {
            Ok(connection) => {
                // Both dialed at once: the connection that the lower id dialed stays.
                let ours_stays =
                    replacing || self.held.is_none() || self.dialer.own < self.link.peer;
                (self.dialer.serve)(connection.clone(), Arc::clone(&self.link));
                if ours_stays {
                    self.hold(connection, true);
                } else {
                    retire(connection);
                }
            }
            Err(failure) => {
                self.back_off.failed();
                tracing::debug!(peer = %self.link.peer, ?failure, "could not reach a peer");
                if self.held.is_none() {
                    self.publish_failure(failure);
                }
            }
        }
    }

    fn on_accepted(&mut self, connection: Connection, arrived: Instant) {
        let ours_stays = self.held.as_ref().is_some_and(|held| {
            // A peer that dials although it had a connection long since has lost that one, whatever we see of it.
            let same_time = held.since + held.connection.rtt() * 2 + limits::SAME_TIME;
            held.dialed_by_us && arrived <= same_time && self.dialer.own < self.link.peer
        });
        if ours_stays {
            retire(connection);
            return;
        }
        if self.dialer.own > self.link.peer {
            self.dialing = None;
        }
        if self.dialing.is_none() {
            self.address = self.book_address();
        }
        self.hold(connection, false);
    }

    fn hold(&mut self, connection: Connection, dialed_by_us: bool) {
        let replaced = self.held.replace(Held {
            connection: connection.clone(),
            dialed_by_us,
            since: Instant::now(),
            sent: 0,
            received: 0,
            silent_looks: 0,
            quiet_looks: 0,
        });
        self.link.state.send_modify(|state| {
            state.connection = Some(connection);
            state.failure = None;
        });
        if let Some(replaced) = replaced {
            retire(replaced.connection);
        }
    }

    fn on_closed(&mut self, reason: &ConnectionError) {
        let Some(held) = self.held.take() else {
            return;
        };
        let failure = failure_of(reason);
        tracing::debug!(peer = %self.link.peer, %reason, "a connection ended");
        // A refusal is no reason to wait longer: a peer may just not have heard yet that we were taken in.
        if held.since.elapsed() < limits::CONNECTION_LIFE_MIN {
            self.back_off.failed();
        } else {
            self.back_off.succeeded();
        }
        self.publish_failure(failure);
    }

    fn publish_failure(&self, failure: NoConnection) {
        self.link.state.send_modify(|state| {
            state.connection = None;
            state.failures += 1;
            state.failure = Some(failure);
        });
    }

    fn look(&mut self) {
        let link = Arc::clone(&self.link);
        let Some(held) = &mut self.held else {
            return;
        };
        let logs_open = link.log_streams.available_permits() < limits::LOG_STREAMS_MAX as usize;
        if link.touched.swap(false, Ordering::Relaxed) || logs_open {
            held.quiet_looks = 0;
        } else {
            held.quiet_looks += 1;
        }
        // It costs keep-alives and memory on both sides.
        if held.quiet_looks >= limits::IDLE_LOOKS {
            held.connection.close(codes::IDLE, b"nothing to say");
            return;
        }
        if held.seems_dead() && self.dialing.is_none() {
            tracing::debug!(peer = %link.peer, "a peer has fallen silent, dialing it anew");
            self.replacing = true;
            self.dial();
        }
    }
}

impl Held {
    fn seems_dead(&mut self) -> bool {
        let stats = self.connection.stats();
        if stats.udp_rx.datagrams != self.received {
            self.received = stats.udp_rx.datagrams;
            self.sent = stats.udp_tx.datagrams;
            self.silent_looks = 0;
        } else if stats.udp_tx.datagrams > self.sent + limits::UNANSWERED_PACKETS {
            self.silent_looks += 1;
        }
        self.silent_looks >= limits::SILENT_LOOKS
    }
}

async fn closed(connection: Option<&Connection>) -> ConnectionError {
    match connection {
        Some(connection) => connection.closed().await,
        None => std::future::pending().await,
    }
}

async fn dialed(dialing: &mut Option<Dialing>) -> Result<Connection, NoConnection> {
    match dialing {
        Some(dialing) => dialing.await,
        None => std::future::pending().await,
    }
}

/// Closes a connection that another one has replaced, after what is still said on it.
fn retire(connection: Connection) {
    tokio::spawn(async move {
        if timeout(limits::RETIRED_LIFE, connection.closed())
            .await
            .is_err()
        {
            connection.close(codes::SUPERSEDED, b"another connection is in use");
        }
    });
}

impl Dialer {
    async fn dial(
        &self,
        peer: NodeId,
        address: std::net::SocketAddr,
    ) -> Result<Connection, NoConnection> {
        let connecting = self
            .endpoint
            .connect_with(self.config.clone(), address, &dialed_name(peer))
            .map_err(|err| NoConnection::Unreachable(format!("{address}: {err}")))?;
        match timeout(limits::DIAL_DEADLINE, connecting).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(reason)) => Err(match self.credentials.take_distrust(peer) {
                Some(distrust) => NoConnection::Hopeless(format!("{address}: {distrust}")),
                None => at_address(address, failure_of(&reason)),
            }),
            Err(_) => Err(NoConnection::Unreachable(format!(
                "nobody answers on UDP {address}"
            ))),
        }
    }
}

fn at_address(address: std::net::SocketAddr, failure: NoConnection) -> NoConnection {
    match failure {
        NoConnection::Unreachable(cause) => {
            NoConnection::Unreachable(format!("{address}: {cause}"))
        }
        other => other,
    }
}

/// What the end of a connection means for those who want to talk to the peer.
fn failure_of(reason: &ConnectionError) -> NoConnection {
    let unreachable = |cause: &str| NoConnection::Unreachable(cause.to_owned());
    match reason {
        ConnectionError::ApplicationClosed(close) => match close.error_code {
            codes::NOT_ADMITTED | codes::NO_CERTIFICATE | codes::FORGOTTEN => NoConnection::Refused,
            codes::SHUTDOWN => unreachable("its agent is stopping"),
            codes::IDLE => unreachable("nothing was said for a long time"),
            code => NoConnection::Unreachable(format!("it closed the connection (code {code})")),
        },
        // The alert that answers our certificate.
        ConnectionError::ConnectionClosed(close) if is_certificate_alert(close.error_code) => {
            NoConnection::Refused
        }
        ConnectionError::TimedOut => unreachable("it does not answer any more"),
        ConnectionError::Reset => unreachable("its agent was restarted"),
        other => NoConnection::Unreachable(other.to_string()),
    }
}

/// Whether a transport error code carries one of TLS's alerts about certificates (RFC 8446, 6.2).
fn is_certificate_alert(code: quinn::TransportErrorCode) -> bool {
    const BAD_CERTIFICATE: u64 = 42;
    const UNKNOWN_CA: u64 = 48;
    const ACCESS_DENIED: u64 = 49;
    const CERTIFICATE_REQUIRED: u64 = 116;
    let alert = u64::from(code).checked_sub(0x100);
    alert.is_some_and(|alert| {
        (BAD_CERTIFICATE..=UNKNOWN_CA).contains(&alert)
            || alert == ACCESS_DENIED
            || alert == CERTIFICATE_REQUIRED
    })
}
