//! What a node wants done.

use kawanan_api::{RequestId, Revision};
use kawanan_logic::state::Outcome;

use crate::consensus::wire::Outgoing;
use crate::log_store::{MemberSets, Position, Write};

/// What the disk is to do. Done in order of the numbers; several may be done at once.
#[derive(Debug)]
pub struct Work<S> {
    pub number: u64,
    pub write: Write,
    /// Becomes the checkpoint of `write` once the state is encoded, which is left to the disk's thread.
    pub checkpoint: Option<StateToSave<S>>,
}

/// A state to be made a checkpoint.
#[derive(Debug)]
pub struct StateToSave<S> {
    pub state: S,
    pub at: Position,
    pub members: MemberSets,
    pub drop_to: Position,
}

impl<S> Work<S> {
    /// Adds later work, so that both are done at once.
    pub fn merge(&mut self, later: Self) {
        if later.write.install.is_some() {
            self.checkpoint = None;
        }
        self.number = later.number;
        self.write.merge(later.write);
        if later.checkpoint.is_some() {
            self.checkpoint = later.checkpoint;
        }
    }
}

/// What became of an entry.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    pub index: u64,
    pub request: RequestId,
    pub outcome: Outcome,
}

/// What became of a change of the members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Changed {
    pub index: u64,
    pub term: u64,
    /// Why raft-rs did not carry it out.
    pub result: Result<(), String>,
}

/// Everything the owner is to carry out.
#[derive(Debug)]
pub struct Output<S> {
    pub messages: Vec<Outgoing>,
    pub work: Vec<Work<S>>,
    pub applied: Vec<Applied>,
    pub changed: Vec<Changed>,
    /// Reads that are confirmed: their context, and the revision that must be applied before they are answered.
    pub reads: Vec<(u64, Revision)>,
    pub state_changed: bool,
}

impl<S> Default for Output<S> {
    fn default() -> Self {
        Self {
            messages: Vec::new(),
            work: Vec::new(),
            applied: Vec::new(),
            changed: Vec::new(),
            reads: Vec::new(),
            state_changed: false,
        }
    }
}
