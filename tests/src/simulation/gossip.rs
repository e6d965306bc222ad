//! Gossip without chitchat: who seems alive, computed from who could have heard whom.
//!
//! chitchat chooses its partners with randomness that cannot be seeded, so simulation replaces it at its answer, the
//! `Liveness` that every node watches. The model keeps what matters: heartbeats travel through third nodes, silence is
//! noticed after about a second and not by everybody at once, facts spread with heartbeats, and a node that stood still
//! distrusts its view (with the agent's own `Lateness`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kawanan_agent::gossip::{Lateness, Liveness, Peer, PeerState};
use kawanan_api::NodeId;
use rand::rngs::StdRng;
use tokio::sync::watch;
use tokio::time::Instant;

use super::faults::draw_between;
use super::life::Life;

/// Time between two rounds, as in a real cluster of up to 50 nodes.
pub const ROUND: Duration = Duration::from_millis(250);
/// How long a node must be silent before another one suspects it, drawn for each pair. chitchat needs about 8 mean gaps.
const SILENCE: (Duration, Duration) = (Duration::from_millis(800), Duration::from_millis(1500));

/// The gossip of all nodes. Clones share it.
#[derive(Clone, Default)]
pub struct GossipField(Arc<Mutex<BTreeMap<NodeId, Participant>>>);

struct Participant {
    life: Life,
    facts: BTreeMap<String, String>,
    view: BTreeMap<NodeId, Heard>,
    lateness: Lateness,
    liveness: watch::Sender<Arc<Liveness>>,
}

struct Heard {
    last: Instant,
    patience: Duration,
    state: PeerState,
    since: Instant,
    facts: BTreeMap<String, String>,
}

impl GossipField {
    fn participants(&self) -> MutexGuard<'_, BTreeMap<NodeId, Participant>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A node's agent starts: it knows nobody yet.
    pub fn enter(
        &self,
        node: NodeId,
        life: Life,
        facts: BTreeMap<String, String>,
    ) -> watch::Receiver<Arc<Liveness>> {
        let (liveness, seen) = watch::channel(Arc::new(Liveness::default()));
        let participant = Participant {
            life,
            facts,
            view: BTreeMap::new(),
            lateness: Lateness::new(ROUND, Instant::now()),
            liveness,
        };
        self.participants().insert(node, participant);
        seen
    }

    /// A node says something about itself.
    pub fn publish(&self, node: NodeId, key: String, value: String) {
        if let Some(participant) = self.participants().get_mut(&node) {
            participant.facts.insert(key, value);
        }
    }

    /// One round of everybody. `carries(from, to)` says whether messages arrive in that direction.
    pub fn round(&self, random: &mut StdRng, carries: impl Fn(NodeId, NodeId) -> bool) {
        let now = Instant::now();
        let mut participants = self.participants();
        let facts: BTreeMap<NodeId, BTreeMap<String, String>> = participants
            .iter()
            .filter(|(_, participant)| participant.life.is_running())
            .map(|(node, participant)| (*node, participant.facts.clone()))
            .collect();
        let running: BTreeSet<NodeId> = facts.keys().copied().collect();
        for (node, participant) in participants.iter_mut() {
            if !running.contains(node) {
                continue;
            }
            participant.lateness.tick(now);
            let trusted = participant.lateness.trusts_itself(now);
            for other in heard_by(*node, &running, &carries) {
                let news = facts.get(&other).cloned().unwrap_or_default();
                participant.hear(other, news, now, random);
            }
            participant.judge(trusted, now);
        }
    }
}

impl Participant {
    fn hear(
        &mut self,
        node: NodeId,
        facts: BTreeMap<String, String>,
        now: Instant,
        random: &mut StdRng,
    ) {
        let heard = self.view.entry(node).or_insert_with(|| Heard {
            last: now,
            patience: draw_between(random, SILENCE.0, SILENCE.1),
            state: PeerState::Alive,
            since: now,
            facts: BTreeMap::new(),
        });
        heard.last = now;
        heard.facts = facts;
    }

    fn judge(&mut self, trusted: bool, now: Instant) {
        for heard in self.view.values_mut() {
            let silent = now.duration_since(heard.last) > heard.patience;
            let state = match heard.state {
                PeerState::Alive if silent && trusted => PeerState::Suspect,
                PeerState::Suspect if !silent => PeerState::Alive,
                unchanged => unchanged,
            };
            if state != heard.state {
                heard.state = state;
                heard.since = now;
            }
        }
        let peers: BTreeMap<NodeId, Peer> = self
            .view
            .iter()
            .map(|(node, heard)| {
                let peer = Peer {
                    state: heard.state,
                    since: heard.since,
                    facts: heard.facts.clone(),
                };
                (*node, peer)
            })
            .collect();
        self.liveness.send_if_modified(|current| {
            let changed = current.untrusted == trusted || current.peers != peers;
            if changed {
                *current = Arc::new(Liveness {
                    untrusted: !trusted,
                    peers,
                });
            }
            changed
        });
    }
}

/// Nodes whose heartbeats arrive, directly or through others.
fn heard_by(
    node: NodeId,
    running: &BTreeSet<NodeId>,
    carries: &impl Fn(NodeId, NodeId) -> bool,
) -> BTreeSet<NodeId> {
    let mut heard = BTreeSet::from([node]);
    let mut edge = vec![node];
    while let Some(to) = edge.pop() {
        for from in running {
            if !heard.contains(from) && carries(*from, to) {
                heard.insert(*from);
                edge.push(*from);
            }
        }
    }
    heard.remove(&node);
    heard
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use tokio::time::advance;

    use super::*;

    fn id(bits: u128) -> NodeId {
        NodeId::from_bits(bits)
    }

    async fn rounds(
        field: &GossipField,
        random: &mut StdRng,
        count: usize,
        carries: impl Fn(NodeId, NodeId) -> bool,
    ) {
        for _ in 0..count {
            field.round(random, &carries);
            advance(ROUND).await;
        }
    }

    #[tokio::test(start_paused = true)]
    async fn heartbeats_go_round_a_cut_and_silence_is_suspected_after_a_second() {
        let field = GossipField::default();
        let mut random = StdRng::seed_from_u64(1);
        let lives: Vec<Life> = (0..3).map(|_| Life::default()).collect();
        let seen: Vec<_> = (0..3)
            .map(|n| field.enter(id(n as u128), lives[n].clone(), BTreeMap::new()))
            .collect();
        let pair_cut = |from: NodeId, to: NodeId| from.bits() + to.bits() != 1;
        rounds(&field, &mut random, 12, pair_cut).await;
        assert!(seen[0].borrow().is_alive(id(1)), "heard of through node 2");

        lives[1].end();
        rounds(&field, &mut random, 2, pair_cut).await;
        assert!(!seen[0].borrow().is_suspect(id(1)));
        rounds(&field, &mut random, 7, pair_cut).await;
        assert!(seen[0].borrow().is_suspect(id(1)));
        assert!(seen[2].borrow().is_suspect(id(1)));
    }

    #[tokio::test(start_paused = true)]
    async fn a_node_that_stood_still_suspects_nobody_at_first() {
        let field = GossipField::default();
        let mut random = StdRng::seed_from_u64(1);
        let lives = [Life::default(), Life::default()];
        let seen = field.enter(id(1), lives[0].clone(), BTreeMap::new());
        field.enter(id(2), lives[1].clone(), BTreeMap::new());
        rounds(&field, &mut random, 4, |_, _| true).await;
        lives[0].set_frozen(true);
        rounds(&field, &mut random, 20, |_, _| true).await;
        lives[0].set_frozen(false);
        rounds(&field, &mut random, 1, |_, _| false).await;
        assert!(seen.borrow().untrusted);
        assert!(!seen.borrow().is_suspect(id(2)));
        rounds(&field, &mut random, 20, |_, _| false).await;
        assert!(seen.borrow().is_suspect(id(2)));
    }
}
