//! What the leader sees right now, beside what the log says: who seems alive, and what time it is.
//!
//! Observations are evidence against a node, never for one: a node that nobody has an opinion on counts as well.
//! They keep new tasks away from a node; only the log takes tasks from it.

use std::collections::BTreeMap;

use kawanan_api::{NodeId, Timestamp};

/// A look at the cluster at one instant.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observation {
    /// The leader's clock.
    pub now: Timestamp,
    pub nodes: BTreeMap<NodeId, NodeSeen>,
}

/// How one node looks from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeSeen {
    /// Not suspect.
    pub alive: bool,
    /// Its container engine answers.
    pub engine_ok: bool,
}

impl Observation {
    /// A look that sees nothing wrong.
    pub fn at(now: Timestamp) -> Self {
        Self {
            now,
            nodes: BTreeMap::new(),
        }
    }

    /// How a node looks; without evidence against it, well.
    pub fn node(&self, id: NodeId) -> NodeSeen {
        self.nodes.get(&id).copied().unwrap_or(NodeSeen {
            alive: true,
            engine_ok: true,
        })
    }
}
