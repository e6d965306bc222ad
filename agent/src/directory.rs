//! Who is a member and where to dial: the one place that answers for the transport, the consensus and the peers.
//!
//! The node table in the service log is the truth. Before this node has it (it has just joined), hints stand in: the
//! members that the join answer named. Addresses come from the node table, and fresher ones from gossip.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use kawanan_api::{NodeId, RaftId};
use kawanan_logic::ClusterState;
use tokio::sync::watch;

use crate::gossip::{Liveness, keys};
use crate::transport::Gate;

/// One member as others need to know it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Member {
    pub raft: RaftId,
    pub address: SocketAddr,
}

/// All members by identity.
pub type Members = Arc<BTreeMap<NodeId, Member>>;

/// The sending end is the directory's own; everybody else watches.
#[derive(Clone)]
pub struct Directory {
    members: watch::Receiver<Members>,
    addresses: watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>>,
}

/// What keeps a [`Directory`] current; run it once.
pub struct DirectoryKeeper {
    hints: BTreeMap<NodeId, Member>,
    members: watch::Sender<Members>,
    addresses: watch::Sender<Arc<BTreeMap<NodeId, SocketAddr>>>,
}

/// A directory that knows only `hints` until the node table is here.
pub fn directory(hints: BTreeMap<NodeId, Member>) -> (Directory, DirectoryKeeper) {
    let (members, members_seen) = watch::channel(Arc::new(hints.clone()));
    let (addresses, addresses_seen) = watch::channel(Arc::new(addresses_of(&hints)));
    let keeper = DirectoryKeeper {
        hints,
        members,
        addresses,
    };
    (
        Directory {
            members: members_seen,
            addresses: addresses_seen,
        },
        keeper,
    )
}

impl Directory {
    pub fn members(&self) -> watch::Receiver<Members> {
        self.members.clone()
    }

    pub fn addresses(&self) -> watch::Receiver<Arc<BTreeMap<NodeId, SocketAddr>>> {
        self.addresses.clone()
    }
}

impl Gate for Directory {
    fn admits(&self, node: NodeId) -> bool {
        self.members.borrow().contains_key(&node)
    }
}

impl DirectoryKeeper {
    /// Follows the node table and gossip until either ends.
    pub async fn run(
        self,
        mut state: watch::Receiver<Arc<ClusterState>>,
        mut liveness: watch::Receiver<Arc<Liveness>>,
    ) {
        loop {
            let members = current(
                &state.borrow_and_update(),
                &liveness.borrow_and_update(),
                &self.hints,
            );
            self.addresses
                .send_if_modified(|known| replace(known, addresses_of(&members)));
            self.members
                .send_if_modified(|known| replace(known, members));
            tokio::select! {
                biased;
                changed = state.changed() => if changed.is_err() { return },
                changed = liveness.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn replace<T: PartialEq>(known: &mut Arc<T>, newest: T) -> bool {
    let changed = **known != newest;
    if changed {
        *known = Arc::new(newest);
    }
    changed
}

fn addresses_of(members: &BTreeMap<NodeId, Member>) -> BTreeMap<NodeId, SocketAddr> {
    members
        .iter()
        .map(|(node, member)| (*node, member.address))
        .collect()
}

fn current(
    state: &ClusterState,
    liveness: &Liveness,
    hints: &BTreeMap<NodeId, Member>,
) -> BTreeMap<NodeId, Member> {
    if state.cluster.is_none() {
        return hints.clone();
    }
    // A node that said goodbye is still heard until it is removed: it may have to see itself out of the voters.
    let members = state.nodes.values().map(|node| {
        let gossiped = liveness
            .fact(node.id, keys::ADDRESS)
            .and_then(|text| text.parse().ok());
        (
            node.id,
            Member {
                raft: node.raft_id,
                address: gossiped.unwrap_or(node.facts.address),
            },
        )
    });
    members.collect()
}
