//! Changes of the members, one at a time.

use kawanan_api::RaftId;
use raft::eraftpb::{EntryType, Message, MessageType};

use super::{Fault, LogNode, Refusal};
use crate::consensus::StateMachine;
use crate::consensus::mirror::{self, Step};
use crate::log_store::{MemberSets, Position};

impl<S: StateMachine> LogNode<S> {
    /// Proposes a change of the members. Returns where in the log it stands: it has happened when [`super::Changed`] for
    /// that place comes out.
    ///
    /// # Errors
    /// The inner one when this node does not take it; the outer one when the node cannot go on.
    pub fn change_members(&mut self, step: &Step) -> Result<Result<Position, Refusal>, Fault> {
        if !self.is_leader() {
            return Ok(Err(Refusal::NotLeader));
        }
        let half_done = self.members().is_joint() && *step != Step::LeaveJoint;
        if half_done || self.raw.raft.has_pending_conf() {
            return Ok(Err(Refusal::Busy));
        }
        if let Err(why) = check(step, self.members(), self.config.raft_id) {
            return Ok(Err(Refusal::Impossible(why)));
        }
        let entry = mirror::step_proposal(step)
            .map_err(|err| Fault(format!("a change of members cannot be written: {err}")))?;
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        match self.raw.raft.step(message) {
            Ok(()) => {}
            Err(raft::Error::ProposalDropped) => return Ok(Err(Refusal::Busy)),
            Err(err) => return Err(Fault(format!("a change of members failed: {err}"))),
        }
        // raft-rs puts an empty entry in the place of a change that it does not like, and says nothing.
        let taken = self.raw.raft.raft_log.unstable_entries().last();
        let taken = taken.filter(|entry| entry.get_entry_type() != EntryType::EntryNormal);
        let place = taken.map(|entry| Position {
            index: entry.index,
            term: entry.term,
        });
        self.drain()?;
        Ok(place.ok_or(Refusal::Busy))
    }

    /// Ends a joint change that has taken effect, whoever began it. A leader that has lost its vote, or loses it with the
    /// change, hands leadership over: raft-rs would let it lead on without a vote.
    pub(super) fn settle_members(&mut self) {
        if !self.is_leader() {
            return;
        }
        if !self.members().voters.contains(&self.config.raft_id) {
            self.hand_over();
            return;
        }
        if !self.members().is_joint() || self.raw.raft.has_pending_conf() {
            return;
        }
        let Ok(entry) = mirror::step_proposal(&Step::LeaveJoint) else {
            return;
        };
        let mut message = Message::default();
        message.set_msg_type(MessageType::MsgPropose);
        message.set_entries(vec![entry].into());
        if let Err(err) = self.raw.raft.step(message) {
            tracing::debug!(%err, "cannot end the joint change yet");
        }
    }

    /// Begins to hand leadership to the best of the others, unless that is under way already.
    pub(super) fn hand_over(&mut self) {
        if self.raw.raft.lead_transferee.is_some() {
            return;
        }
        if let Some(successor) = self.successor() {
            tracing::info!(%successor, "handing leadership over");
            self.raw.transfer_leader(successor.0);
        }
    }
}

/// Whether a change makes sense for these members. Said here because raft-rs would only say no when it is too late.
fn check(step: &Step, members: &MemberSets, me: RaftId) -> Result<(), &'static str> {
    match step {
        Step::AddLearner(id) if *id == RaftId(0) => Err("0 is no member"),
        Step::AddLearner(id) if members.is_voter(*id) => Err("it has a vote already"),
        Step::RemoveMember(id) if *id == me => {
            Err("the leader cannot remove itself: hand leadership over first")
        }
        Step::RemoveMember(id) if !members.contains(*id) => Err("it is no member"),
        Step::SetVoters { add, remove } => {
            if add.is_empty() && remove.is_empty() {
                Err("nothing would change")
            } else if remove.contains(&me) {
                Err("the leader cannot take its own vote: hand leadership over first")
            } else if !add.is_disjoint(remove) {
                Err("a member cannot gain and lose its vote at once")
            } else if !add.iter().all(|id| members.learners.contains(id)) {
                Err("only a learner can become a voter")
            } else if !remove.iter().all(|id| members.voters.contains(id)) {
                Err("only a voter can lose its vote")
            } else {
                Ok(())
            }
        }
        Step::LeaveJoint if !members.is_joint() => Err("no change of the voters is half done"),
        _ => Ok(()),
    }
}
