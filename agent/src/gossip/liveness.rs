//! The answer of gossip: which nodes seem alive, since when, and what they say about themselves.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::NodeId;
use tokio::time::Instant;

/// One node's view of all others. Advisory.
#[derive(Debug, Clone, Default)]
pub struct Liveness {
    /// False while this node was late itself and may be wrong about everybody.
    pub untrusted: bool,
    /// Every node that gossip ever heard of since this agent started, except this one.
    pub peers: BTreeMap<NodeId, Peer>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Peer {
    pub state: PeerState,
    /// When `state` began.
    pub since: Instant,
    /// Facts the node publishes, by key; the last known ones while it is suspect.
    pub facts: BTreeMap<String, String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PeerState {
    Alive,
    /// Silent for longer than its habit.
    Suspect,
}

impl Liveness {
    /// Whether there is evidence against a node. A node never heard of is not suspect: it may just have joined.
    pub fn is_suspect(&self, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.state == PeerState::Suspect)
    }

    pub fn is_alive(&self, node: NodeId) -> bool {
        self.peers
            .get(&node)
            .is_some_and(|peer| peer.state == PeerState::Alive)
    }

    pub fn fact(&self, node: NodeId, key: &str) -> Option<&str> {
        self.peers.get(&node)?.facts.get(key).map(String::as_str)
    }

    /// The next view: `live` are the nodes that the detector takes for alive, with their facts. While the view is
    /// untrusted, nobody becomes suspect.
    pub(super) fn next(
        &self,
        live: BTreeMap<NodeId, BTreeMap<String, String>>,
        trusted: bool,
        now: Instant,
    ) -> Liveness {
        let known: BTreeSet<NodeId> = self.peers.keys().chain(live.keys()).copied().collect();
        let peers = known
            .into_iter()
            .map(|node| {
                let before = self.peers.get(&node);
                let peer = match (live.get(&node), before) {
                    (Some(facts), Some(before)) if before.state == PeerState::Alive => Peer {
                        state: PeerState::Alive,
                        since: before.since,
                        facts: facts.clone(),
                    },
                    (Some(facts), _) => Peer {
                        state: PeerState::Alive,
                        since: now,
                        facts: facts.clone(),
                    },
                    (None, Some(before)) if !trusted || before.state == PeerState::Suspect => {
                        before.clone()
                    }
                    (None, before) => Peer {
                        state: PeerState::Suspect,
                        since: now,
                        facts: before.map(|peer| peer.facts.clone()).unwrap_or_default(),
                    },
                };
                (node, peer)
            })
            .collect();
        Liveness {
            untrusted: !trusted,
            peers,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn live(nodes: &[u128]) -> BTreeMap<NodeId, BTreeMap<String, String>> {
        nodes
            .iter()
            .map(|bits| (NodeId::from_bits(*bits), BTreeMap::new()))
            .collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_node_is_suspect_only_while_we_trust_ourselves() {
        let now = Instant::now();
        let first = Liveness::default().next(live(&[1, 2]), true, now);
        assert!(first.is_alive(NodeId::from_bits(1)));
        let after_pause = first.next(live(&[]), false, now);
        assert!(!after_pause.is_suspect(NodeId::from_bits(1)));
        let later = after_pause.next(live(&[2]), true, now);
        assert!(later.is_suspect(NodeId::from_bits(1)));
        assert!(later.is_alive(NodeId::from_bits(2)));
        assert!(
            !later.is_suspect(NodeId::from_bits(3)),
            "never heard of is not suspect"
        );
    }
}
