//! Why a task has no place: told node by node, printed as one sentence.

use std::collections::BTreeMap;
use std::fmt;

use kawanan_api::NodeId;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::Protocol;

use crate::state::Node;

/// Why one node does not fit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    Memory {
        asked: Bytes,
        free: Bytes,
    },
    Cpus {
        asked: MilliCpus,
        free: MilliCpus,
    },
    HostPort {
        port: u16,
        protocol: Protocol,
    },
    Full {
        max: u32,
    },
    /// The constraint that does not hold, as the user wrote it.
    Constraint(String),
    Drained,
    Paused,
    Suspect,
    EngineDown,
    Down,
    Left,
}

/// No node fits.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NoPlacement {
    /// Each node's name and what speaks against it.
    pub rejected: BTreeMap<NodeId, (String, Reason)>,
}

impl NoPlacement {
    pub(super) fn new<'n>(rejected: impl IntoIterator<Item = (&'n Node, Reason)>) -> Self {
        let rejected = rejected
            .into_iter()
            .map(|(node, reason)| (node.id, (node.name.clone(), reason)))
            .collect();
        Self { rejected }
    }
}

impl Reason {
    /// The same reason without what differs from node to node.
    fn group(&self) -> Self {
        match self {
            Self::Memory { asked, .. } => Self::Memory {
                asked: *asked,
                free: Bytes(0),
            },
            Self::Cpus { asked, .. } => Self::Cpus {
                asked: *asked,
                free: MilliCpus(0),
            },
            other => other.clone(),
        }
    }

    /// The predicate for `nodes` nodes, of which the best has this reason.
    fn sentence(&self, nodes: usize) -> String {
        let one = nodes == 1;
        let are = if one { "is" } else { "are" };
        let have = if one { "has" } else { "have" };
        let most = if one { "" } else { " at most" };
        match self {
            Self::Memory { asked, free } => {
                let lack = if one { "lacks" } else { "lack" };
                format!("{lack} memory ({asked} asked, {free} free{most})")
            }
            Self::Cpus { asked, free } => {
                let lack = if one { "lacks" } else { "lack" };
                format!("{lack} processors ({asked} asked, {free} free{most})")
            }
            Self::HostPort { port, protocol } => {
                format!("{have} port {port}/{protocol} in use")
            }
            Self::Full { max } => {
                let tasks = if *max == 1 { "task" } else { "tasks" };
                format!("{have} {max} {tasks} of the service already")
            }
            Self::Constraint(constraint) => {
                let does = if one { "does" } else { "do" };
                format!("{does} not meet {constraint}")
            }
            Self::Drained => format!("{are} drained"),
            Self::Paused => format!("{are} paused"),
            Self::Suspect => format!("{} not answer", if one { "does" } else { "do" }),
            Self::EngineDown => {
                format!("{have} a container engine that does not answer")
            }
            Self::Down => format!("{are} down"),
            Self::Left => format!("{have} left the cluster"),
        }
    }
}

/// What one node lacks: `lacks memory (1 GiB asked, 128 MiB free)`.
impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.sentence(1))
    }
}

impl fmt::Display for NoPlacement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.rejected.is_empty() {
            return f.write_str("no node fits: there are no nodes");
        }
        // The largest reason of a group is the one with the most left.
        let mut groups: BTreeMap<Reason, (usize, &Reason)> = BTreeMap::new();
        for (_, reason) in self.rejected.values() {
            let group = groups.entry(reason.group()).or_insert((0, reason));
            *group = (group.0 + 1, group.1.max(reason));
        }
        let mut groups: Vec<_> = groups.into_values().collect();
        groups.sort_by_key(|(nodes, _)| std::cmp::Reverse(*nodes));
        f.write_str("no node fits: ")?;
        for (place, (nodes, reason)) in groups.into_iter().enumerate() {
            let comma = if place == 0 { "" } else { ", " };
            let noun = if nodes == 1 { "node" } else { "nodes" };
            write!(f, "{comma}{nodes} {noun} {}", reason.sentence(nodes))?;
        }
        Ok(())
    }
}

impl std::error::Error for NoPlacement {}
