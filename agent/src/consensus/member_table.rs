//! Who is behind a Raft id: links know machines by [`NodeId`], Raft counts members by number.
//!
//! The state's node table decides. Where it is silent (a joiner's state is empty, a follower that lags does not know the
//! newest nodes) the sender's word is taken, because a leader that cannot be answered could never bring the table up to
//! date; the transport has already checked that the sender is a machine of this cluster.

use std::collections::BTreeMap;

use kawanan_api::{NodeId, RaftId, Revision};

use super::{Member, StateMachine};

/// Members learnt from their own messages at most; beyond it only the state's count.
const LEARNED_MAX: usize = 256;

#[derive(Debug)]
pub(super) struct MemberTable {
    known: BTreeMap<RaftId, NodeId>,
    /// State that `known` was made from.
    revision: Revision,
    learned: BTreeMap<RaftId, NodeId>,
}

impl MemberTable {
    pub(super) fn new(hints: BTreeMap<RaftId, NodeId>) -> Self {
        Self {
            known: BTreeMap::new(),
            revision: Revision(0),
            learned: hints,
        }
    }

    /// The machine behind a Raft id.
    pub(super) fn node_of(&mut self, id: RaftId, state: &impl StateMachine) -> Option<NodeId> {
        if !self.known.contains_key(&id) {
            self.refresh(state);
        }
        self.known
            .get(&id)
            .or_else(|| self.learned.get(&id))
            .copied()
    }

    /// Whether `node` may speak as `id`.
    pub(super) fn admits(&mut self, node: NodeId, id: RaftId, state: &impl StateMachine) -> bool {
        if self.known.get(&id) != Some(&node) {
            self.refresh(state);
        }
        if let Some(owner) = self.known.get(&id) {
            return *owner == node;
        }
        if self.learned.len() >= LEARNED_MAX && !self.learned.contains_key(&id) {
            return false;
        }
        *self.learned.entry(id).or_insert(node) == node
    }

    fn refresh(&mut self, state: &impl StateMachine) {
        if self.revision == state.revision() {
            return;
        }
        self.revision = state.revision();
        self.known = state
            .members()
            .into_iter()
            .map(|Member { raft, node, .. }| (raft, node))
            .collect();
        self.learned.retain(|id, _| !self.known.contains_key(id));
    }
}
