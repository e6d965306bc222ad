//! What a node knows about its own part in the log.

use std::collections::BTreeMap;
use std::fmt;

use kawanan_api::{NodeId, RaftId, Revision};
use kawanan_logic::membership::RaftConf;

use crate::log_store::MemberSets;

/// What the node does in the log right now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Role {
    /// Not taken in yet: waits for the leader.
    Outsider,
    /// Holds everything, has no vote.
    Learner,
    Follower,
    /// Asks for votes.
    Candidate,
    Leader,
    /// Takes no part any more until the agent is restarted; the reason is a sentence for people.
    Failed(String),
}

impl Role {
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Outsider => "outsider",
            Self::Learner => "learner",
            Self::Follower => "follower",
            Self::Candidate => "candidate",
            Self::Leader => "leader",
            Self::Failed(_) => "failed",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(reason) => write!(f, "failed: {reason}"),
            role => f.pad(role.name()),
        }
    }
}

/// How far a node has come into the cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Stage {
    Outsider,
    Learner,
    Voter,
}

/// How far one member follows, seen by the leader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Last entry that is durable there, as far as the leader knows.
    pub matched: Revision,
    /// Last entry that it knows to be committed.
    pub committed: Revision,
    /// Whether it answered within the last two election timeouts.
    pub active: bool,
}

/// Published by the owner task whenever something in it changes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConsensusStatus {
    pub role: Role,
    pub raft_id: RaftId,
    pub term: u64,
    pub leader: Option<NodeId>,
    pub members: MemberSets,
    pub applied: Revision,
    pub committed: Revision,
    /// Of every other member; only on the leader, otherwise empty. As of the last tick.
    pub progress: BTreeMap<RaftId, Progress>,
    /// Messages dropped because their sender is not who they claim, or made no sense.
    pub refused_messages: u64,
}

impl ConsensusStatus {
    pub(super) fn outsider(raft_id: RaftId) -> Self {
        Self {
            role: Role::Outsider,
            raft_id,
            term: 0,
            leader: None,
            members: MemberSets::default(),
            applied: Revision(0),
            committed: Revision(0),
            progress: BTreeMap::new(),
            refused_messages: 0,
        }
    }

    pub fn is_leader(&self) -> bool {
        self.role == Role::Leader
    }

    pub fn stage(&self) -> Stage {
        if self.members.is_voter(self.raft_id) {
            Stage::Voter
        } else if self.members.contains(self.raft_id) {
            Stage::Learner
        } else {
            Stage::Outsider
        }
    }

    /// The members in the words of those who decide about them.
    pub fn raft_conf(&self) -> RaftConf {
        RaftConf {
            voters: self.members.voters.clone(),
            voters_outgoing: self.members.outgoing.clone(),
            learners: self.members.learners.clone(),
        }
    }

    /// Whether a change of the voters is half done.
    pub fn is_joint(&self) -> bool {
        self.members.is_joint()
    }
}
