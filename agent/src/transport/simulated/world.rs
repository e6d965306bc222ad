//! The state of the simulated network: who is plugged in, what is cut, what is on its way.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::super::serve::{Intake, intake};
use super::super::{Channel, Gate, Inbound, SendError};
use super::{Path, Weather, limits};

/// What came of a request.
pub(super) enum Reply<T> {
    Answer(T),
    /// The peer let go of the answer.
    Dropped,
    /// The peer does not take the caller for a member.
    Refused,
    /// The peer's queue is full.
    Overloaded,
}

/// Something on its way.
pub(super) enum Parcel {
    Message {
        from: NodeId,
        to: NodeId,
        channel: Channel,
        message: Bytes,
    },
    Call {
        from: NodeId,
        to: NodeId,
        request: Bytes,
        reply: oneshot::Sender<Reply<Bytes>>,
    },
    Open {
        from: NodeId,
        to: NodeId,
        request: Bytes,
        reply: oneshot::Sender<Reply<mpsc::Receiver<Bytes>>>,
    },
    Join {
        to: NodeId,
        request: Bytes,
        reply: oneshot::Sender<Reply<Bytes>>,
    },
    /// The way back of a call.
    Answer {
        from: NodeId,
        to: NodeId,
        answer: Reply<Bytes>,
        reply: oneshot::Sender<Reply<Bytes>>,
    },
    /// The way back of an opening.
    Opened {
        from: NodeId,
        to: NodeId,
        answer: Reply<mpsc::Receiver<Bytes>>,
        reply: oneshot::Sender<Reply<mpsc::Receiver<Bytes>>>,
    },
}

/// What was carried, in messages and bytes: requests and answers of calls count as messages too, frames do not.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Traffic {
    pub sent: u64,
    pub sent_bytes: u64,
    pub delivered: u64,
    /// By chance, by a cut, or because nobody was there any more.
    pub lost: u64,
    pub duplicated: u64,
    /// Because the receiver did not read fast enough.
    pub overrun: u64,
}

/// A node that is plugged in.
pub(super) struct Port {
    pub(super) life: u64,
    pub(super) intake: Arc<Intake>,
    pub(super) gate: Arc<dyn Gate>,
}

struct Everybody;

impl Gate for Everybody {
    fn admits(&self, _node: NodeId) -> bool {
        true
    }
}

/// Two nodes, in either order.
type Pair = (NodeId, NodeId);

/// What both ends believe to be a connection.
#[derive(Debug, Clone, Copy, Default)]
struct Connection {
    /// Since when nothing has come through.
    silent_since: Option<Instant>,
}

pub(super) struct World {
    random: StdRng,
    weather: Weather,
    ports: BTreeMap<NodeId, Port>,
    /// Every node that was ever plugged in: its address stays in everybody's book.
    known: BTreeSet<NodeId>,
    lives: u64,
    cuts: BTreeSet<(NodeId, NodeId)>,
    isolated: BTreeSet<NodeId>,
    connections: BTreeMap<Pair, Connection>,
    /// No Raft message from one to the other arrives before this.
    raft_not_before: BTreeMap<(NodeId, NodeId), Instant>,
    /// Messages on their way from one to the other.
    under_way: BTreeMap<(NodeId, NodeId), usize>,
    mail: BTreeMap<(Instant, u64), Parcel>,
    posted: u64,
    pub(super) traffic: Traffic,
}

impl World {
    pub(super) fn new(seed: u64, weather: Weather) -> Self {
        Self {
            random: StdRng::seed_from_u64(seed),
            weather,
            ports: BTreeMap::new(),
            known: BTreeSet::new(),
            lives: 0,
            cuts: BTreeSet::new(),
            isolated: BTreeSet::new(),
            connections: BTreeMap::new(),
            raft_not_before: BTreeMap::new(),
            under_way: BTreeMap::new(),
            mail: BTreeMap::new(),
            posted: 0,
            traffic: Traffic::default(),
        }
    }

    pub(super) fn plug_in(&mut self, id: NodeId) -> (u64, Inbound) {
        self.crash(id);
        // Who starts tells its peers that their connections are gone.
        self.connections
            .retain(|(one, other), _| *one != id && *other != id);
        self.lives += 1;
        let gate: Arc<dyn Gate> = Arc::new(Everybody);
        let (intake, inbound) = intake(Arc::clone(&gate));
        let port = Port {
            life: self.lives,
            intake,
            gate,
        };
        self.ports.insert(id, port);
        self.known.insert(id);
        (self.lives, inbound)
    }

    pub(super) fn set_gate(&mut self, id: NodeId, gate: Arc<dyn Gate>) {
        if let Some(port) = self.ports.get_mut(&id) {
            port.gate = gate;
        }
    }

    pub(super) fn set_weather(&mut self, weather: Weather) {
        self.weather = weather;
    }

    pub(super) fn cut(&mut self, from: NodeId, to: NodeId) {
        self.cuts.insert((from, to));
    }

    pub(super) fn isolate(&mut self, node: NodeId) {
        self.isolated.insert(node);
    }

    pub(super) fn heal(&mut self, one: NodeId, other: NodeId) {
        self.cuts.remove(&(one, other));
        self.cuts.remove(&(other, one));
    }

    pub(super) fn heal_all(&mut self) {
        self.cuts.clear();
        self.isolated.clear();
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        self.ports.remove(&node);
    }

    pub(super) fn traffic(&self) -> Traffic {
        self.traffic
    }

    pub(super) fn knows(&self, node: NodeId) -> bool {
        self.known.contains(&node)
    }

    pub(super) fn port(&self, node: NodeId) -> Option<&Port> {
        self.ports.get(&node)
    }

    /// Whether something that is sent, or arrives, right now gets through.
    pub(super) fn passes(&self, from: NodeId, to: NodeId) -> bool {
        self.ports.contains_key(&to)
            && !self.cuts.contains(&(from, to))
            && !(from != to && (self.isolated.contains(&from) || self.isolated.contains(&to)))
    }

    fn lives(&self, (node, life): (NodeId, u64)) -> bool {
        self.ports.get(&node).is_some_and(|port| port.life == life)
    }

    fn chance(&mut self, share: f64) -> bool {
        // Always drawn, so that a change of weather does not shift all later chance.
        self.random.random::<f64>() < share
    }

    pub(super) fn due(&mut self) -> Instant {
        let delay = self.weather.delay.clone();
        let micros = |duration: &Duration| u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        let drawn = self
            .random
            .random_range(micros(delay.start())..=micros(delay.end()));
        Instant::now() + Duration::from_micros(drawn)
    }

    pub(super) fn is_lost_by_chance(&mut self) -> bool {
        self.chance(self.weather.loss)
    }

    pub(super) fn post(&mut self, parcel: Parcel, at: Instant) {
        self.posted += 1;
        self.mail.insert((at, self.posted), parcel);
    }

    /// When the next parcel is due.
    pub(super) fn next_due(&self) -> Option<Instant> {
        self.mail.first_key_value().map(|((at, _), _)| *at)
    }

    /// Takes the next parcel that is due now.
    pub(super) fn take_due(&mut self) -> Option<Parcel> {
        let entry = self.mail.first_entry()?;
        (entry.key().0 <= Instant::now()).then(|| entry.remove())
    }

    /// Sends one message on its way, or lets it disappear.
    pub(super) fn send(
        &mut self,
        sender: (NodeId, u64),
        to: NodeId,
        channel: Channel,
        message: Bytes,
    ) -> Result<(), SendError> {
        let from = sender.0;
        let under_way = self.under_way.get(&(from, to)).copied().unwrap_or(0);
        if channel != Channel::Gossip && under_way >= limits::RAFT_QUEUE {
            return Err(SendError::QueueFull(to));
        }
        if !self.lives(sender) {
            return Ok(());
        }
        self.traffic.sent += 1;
        self.traffic.sent_bytes += message.len() as u64;
        let lost = self.is_lost_by_chance();
        if lost || !self.note_passage(from, to) {
            self.traffic.lost += 1;
            return Ok(());
        }
        let twice = self.chance(self.weather.duplication);
        if twice {
            self.traffic.duplicated += 1;
        }
        for _ in 0..=usize::from(twice) {
            let mut at = self.due();
            if channel == Channel::Raft {
                let not_before = self.raft_not_before.entry((from, to)).or_insert(at);
                at = at.max(*not_before);
                *not_before = at;
            }
            *self.under_way.entry((from, to)).or_default() += 1;
            let message = message.clone();
            self.post(
                Parcel::Message {
                    from,
                    to,
                    channel,
                    message,
                },
                at,
            );
        }
        Ok(())
    }

    pub(super) fn arrived(&mut self, from: NodeId, to: NodeId) {
        if let Some(under_way) = self.under_way.get_mut(&(from, to)) {
            *under_way = under_way.saturating_sub(1);
        }
    }

    /// What becomes of a request that is sent now.
    pub(super) fn path(&mut self, sender: (NodeId, u64), to: NodeId) -> Path {
        let from = sender.0;
        if !self.lives(sender) {
            return Path::Closed;
        }
        let was_established = self.is_established(from, to);
        // A handshake needs the way back as well.
        let both_ways = was_established || self.passes(to, from);
        if both_ways && self.note_passage(from, to) {
            self.traffic.sent += 1;
            if self.is_lost_by_chance() {
                self.traffic.lost += 1;
                return Path::Silent;
            }
            return Path::Open(self.due());
        }
        if self.is_established(from, to) {
            Path::Silent
        } else {
            Path::Closed
        }
    }

    /// Whether something gets through now; keeps book about what both ends believe to be a connection.
    fn note_passage(&mut self, from: NodeId, to: NodeId) -> bool {
        let passes = self.passes(from, to);
        let pair = pair(from, to);
        if passes {
            self.connections.insert(pair, Connection::default());
        } else if let Some(connection) = self.connections.get_mut(&pair) {
            connection.silent_since.get_or_insert_with(Instant::now);
        }
        passes
    }

    /// Whether the two believe that a connection stands. They notice a silent one only after the idle timeout.
    pub(super) fn is_established(&self, one: NodeId, other: NodeId) -> bool {
        self.connections
            .get(&pair(one, other))
            .is_some_and(|connection| {
                connection
                    .silent_since
                    .is_none_or(|since| since.elapsed() < limits::IDLE_TIMEOUT)
            })
    }

    pub(super) fn forget(&mut self, one: NodeId, other: NodeId) {
        self.connections.remove(&pair(one, other));
    }
}

fn pair(one: NodeId, other: NodeId) -> Pair {
    (one.min(other), one.max(other))
}
