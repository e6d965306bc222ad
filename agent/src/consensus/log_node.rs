//! One node of the log as a value machine: inputs go in, an [`Output`] comes out. No tokio, no clock, no disk, no sockets.
//!
//! The owner calls input methods (tick, message, propose, persisted, ...), then takes the output of all of them and carries it
//! out: sends messages, hands work to the disk, answers waiters. Promises: a message that speaks of something durable is put
//! out only after [`LogNode::persisted`] has confirmed it; entries are applied only when committed and durable here; a
//! snapshot takes effect only when durable, and until then the node hears nothing else (raft-rs panics otherwise).
//!
//! An [`Fault`] ends the node: it must not be used after one. raft-rs reports broken invariants by panicking, which the
//! owner catches and treats the same way.

mod apply;
mod members;
mod output;
mod ready;

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use kawanan_api::{NodeId, RaftId, Revision};
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, StateRole};

pub use output::{Applied, Changed, Output, StateToSave, Work};

use super::config::{ConsensusConfig, ELECTION_TICKS};
use super::member_table::MemberTable;
use super::memory_log::MemoryLog;
use super::status::{ConsensusStatus, Progress, Role};
use super::wire::{self, Outgoing};
use super::{StartError, StateMachine, raft_trace};
use crate::log_store::{HardState, MemberSets, Persisted, Position, Write};
use crate::transport::Channel;

/// How long a snapshot may be under way, in ticks (10 s), plus one second per MiB.
const SNAPSHOT_TICKS: u64 = 200;
const SNAPSHOT_TICKS_PER_MIB: u64 = 20;
/// A leader whose disk has not finished a write for so long (2 s) lets another lead.
const STUCK_TICKS: u64 = 40;
/// Snapshots under way at once; more joiners wait their turn, so that heartbeats are not starved.
const SNAPSHOTS_AT_ONCE: usize = 4;

/// The node cannot go on. The text is for people.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Fault(pub String);

/// Why an input was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refusal {
    NotLeader,
    /// Leadership is being handed over, too much waits to be committed, or another change of members is under way.
    Busy,
    /// The change is impossible with the members as they are.
    Impossible(&'static str),
}

/// A batch of raft-rs that is not durable yet.
#[derive(Debug)]
struct Held {
    ready: u64,
    /// The work that must be done first.
    needs: u64,
    messages: Vec<Outgoing>,
}

/// A leader's snapshot on its way to the disk.
#[derive(Debug)]
struct Installing<S> {
    work: u64,
    state: S,
    at: Position,
    members: MemberSets,
}

pub struct LogNode<S: StateMachine> {
    raw: RawNode<MemoryLog<S>>,
    config: ConsensusConfig,
    table: MemberTable,
    out: Output<S>,
    held: VecDeque<Held>,
    work_given: u64,
    work_done: u64,
    hard_state: HardState,
    /// Commit index in the last work given out.
    commit_given: u64,
    installing: Option<Installing<S>>,
    /// The checkpoint being written: its work and where the log then begins.
    checkpointing: Option<(u64, Position)>,
    checkpoint_at: u64,
    bytes_since_checkpoint: usize,
    /// Ticks left for each snapshot under way.
    snapshots: BTreeMap<u64, u64>,
    /// Ticks since the disk last finished something while there is work for it.
    stuck_ticks: u64,
    refused_messages: u64,
    /// Ticks since each other member was last known to answer; only on the leader.
    silent: BTreeMap<u64, u64>,
}

impl<S: StateMachine> LogNode<S> {
    /// A node with what its disk holds. `hints` name members until the state does.
    ///
    /// # Errors
    /// When the snapshot is of a version unknown here, or raft-rs does not accept the log.
    pub fn open(
        config: ConsensusConfig,
        persisted: Persisted,
        hints: BTreeMap<RaftId, NodeId>,
    ) -> Result<Self, StartError> {
        let state = match &persisted.snapshot {
            Some(snapshot) => S::restore(&snapshot.data)
                .map_err(|err| StartError::Raft(format!("the snapshot cannot be read: {err}")))?,
            None => S::default(),
        };
        let applied = persisted.snapshot.as_ref().map_or(0, |snap| snap.at.index);
        let hard_state = persisted.hard_state;
        let log = MemoryLog::new(persisted, state);
        let raw = RawNode::new(
            &config.raft(applied),
            log,
            &raft_trace::logger(config.raft_id),
        )
        .map_err(|err| StartError::Raft(err.to_string()))?;
        let mut node = Self {
            raw,
            config,
            table: MemberTable::new(hints),
            out: Output::default(),
            held: VecDeque::new(),
            work_given: 0,
            work_done: 0,
            hard_state,
            commit_given: hard_state.commit,
            installing: None,
            checkpointing: None,
            checkpoint_at: applied,
            bytes_since_checkpoint: 0,
            snapshots: BTreeMap::new(),
            stuck_ticks: 0,
            refused_messages: 0,
            silent: BTreeMap::new(),
        };
        node.begin()
            .map_err(|fault| StartError::Raft(fault.to_string()))?;
        Ok(node)
    }

    /// Applies what was committed before; an only voter need not wait for an election.
    fn begin(&mut self) -> Result<(), Fault> {
        self.drain()?;
        let me = self.config.raft_id;
        let members = self.members();
        if members.voters.len() == 1 && members.voters.contains(&me) && !members.is_joint() {
            self.give(RawNode::campaign)?;
        }
        Ok(())
    }

    /// One step of Raft's clock.
    pub fn tick(&mut self) {
        if self.installing.is_some() {
            return;
        }
        self.note_silence();
        if self.may_campaign() {
            self.raw.tick();
        }
        self.count_down_snapshots();
        self.watch_disk();
        self.settle_members();
        if self.work_done == self.work_given {
            self.save_commit_index();
        }
    }

    /// With a disk that hangs this node can still lead and commit, but not apply: nobody would get an answer.
    fn watch_disk(&mut self) {
        if self.work_done == self.work_given {
            self.stuck_ticks = 0;
            return;
        }
        self.stuck_ticks += 1;
        if self.is_leader() && self.stuck_ticks.is_multiple_of(STUCK_TICKS) {
            tracing::warn!("the disk has not finished a write for seconds");
            self.hand_over();
        }
    }

    /// Writes down how far the log is committed. Raft can do without, but a node that starts and finds no leader should
    /// know as much as it did: it is not written at once, because the next entry takes it along for free.
    pub fn save_commit_index(&mut self) {
        if self.hard_state.commit > self.commit_given {
            self.give_work(Write::default(), None);
        }
    }

    /// An only voter becomes leader the moment its patience ends; raft-rs panics when its log is not durable by then.
    fn may_campaign(&self) -> bool {
        let raft = &self.raw.raft;
        raft.state == StateRole::Leader
            || raft.raft_log.persisted == raft.raft_log.last_index()
            || !raft.prs().is_singleton()
    }

    /// A message from another machine. One that is not what it should be is dropped and counted.
    ///
    /// # Errors
    /// When the node cannot go on.
    pub fn message(&mut self, from: NodeId, bytes: &[u8]) -> Result<(), Fault> {
        if self.installing.is_some() {
            return Ok(());
        }
        let term = self.raw.raft.term;
        let message = match wire::decode(bytes, self.config.raft_id, term) {
            Ok(message) => message,
            Err(err) => {
                self.refuse(from, &err.to_string());
                return Ok(());
            }
        };
        let sender = RaftId(message.from);
        if !self
            .table
            .admits(from, sender, &self.raw.raft.store().state)
        {
            self.refuse(from, "its sender is another machine's member");
            return Ok(());
        }
        if self.usurps(&message) {
            self.refuse(from, "a member without a vote speaks as leader");
            return Ok(());
        }
        if message.get_msg_type() == MessageType::MsgHeartbeat
            && message.term >= term
            && message.commit > self.raw.raft.raft_log.last_index()
        {
            return Err(Fault(format!(
                "this node has lost log entries that it had confirmed (it ends at {}, entry {} is committed): its disk \
                 went back in time; remove its data directory and join again with a new token",
                self.raw.raft.raft_log.last_index(),
                message.commit
            )));
        }
        self.give(|raw| raw.step(message))?;
        if self.raw.snap().is_some() {
            // From here on only the disk is heard.
            self.drain()?;
        }
        Ok(())
    }

    /// While a leader is heard, nobody without a vote replaces it. Without one, anybody may: our idea of who votes may be
    /// older than the sender's.
    fn usurps(&self, message: &Message) -> bool {
        let leads = matches!(
            message.get_msg_type(),
            MessageType::MsgAppend
                | MessageType::MsgHeartbeat
                | MessageType::MsgSnapshot
                | MessageType::MsgTimeoutNow
        );
        let raft = &self.raw.raft;
        leads
            && raft.leader_id != 0
            && raft.leader_id != message.from
            && raft.election_elapsed < raft.election_timeout()
            && !self.members().is_voter(RaftId(message.from))
    }

    fn refuse(&mut self, from: NodeId, why: &str) {
        self.refused_messages += 1;
        tracing::debug!(%from, why, "dropped a raft message");
    }

    /// Puts an encoded entry into the log.
    ///
    /// # Errors
    /// The inner one when this node does not take it; the outer one when the node cannot go on.
    pub fn propose(&mut self, entry: Bytes) -> Result<Result<(), Refusal>, Fault> {
        if !self.is_leader() {
            return Ok(Err(Refusal::NotLeader));
        }
        match self.raw.propose(Vec::new(), entry.into()) {
            Ok(()) => {}
            Err(raft::Error::ProposalDropped) => return Ok(Err(Refusal::Busy)),
            Err(err) => return Err(Fault(format!("an entry could not be proposed: {err}"))),
        }
        Ok(Ok(()))
    }

    /// Asks the majority whether this node still leads. The answer comes in [`Output::reads`], or never when leadership is
    /// lost.
    ///
    /// # Errors
    /// [`Refusal::Busy`] until the first entry of this term is committed.
    pub fn read_index(&mut self, context: u64) -> Result<(), Refusal> {
        if !self.is_leader() {
            return Err(Refusal::NotLeader);
        }
        if !self.raw.raft.commit_to_current_term() {
            return Err(Refusal::Busy);
        }
        self.raw.read_index(context.to_le_bytes().to_vec());
        Ok(())
    }

    /// Hands leadership to a voter. It takes effect, or is given up, within an election timeout.
    ///
    /// # Errors
    /// When this node does not lead, or `to` has no vote.
    pub fn transfer_leadership(&mut self, to: RaftId) -> Result<(), Refusal> {
        if !self.is_leader() {
            return Err(Refusal::NotLeader);
        }
        if to == self.config.raft_id {
            return Ok(());
        }
        if !self.members().voters.contains(&to) {
            return Err(Refusal::Impossible("only a voter can lead"));
        }
        self.raw.transfer_leader(to.0);
        Ok(())
    }

    /// The other voter best suited to lead.
    pub fn successor(&self) -> Option<RaftId> {
        let progress = self.progress();
        let others = self.members().voters.iter();
        others
            .filter_map(|id| progress.get(id).map(|it| (it.active, it.matched, *id)))
            .max()
            .map(|(_, _, id)| id)
    }

    /// A message could not be sent.
    pub fn unreachable(&mut self, to: RaftId, channel: Channel) {
        if channel == Channel::Snapshot {
            self.snapshots.remove(&to.0);
            self.raw
                .report_snapshot(to.0, raft::SnapshotStatus::Failure);
        }
        self.raw.report_unreachable(to.0);
    }

    /// Everything up to this work is durable.
    pub fn persisted(&mut self, work: u64) {
        self.work_done = self.work_done.max(work);
        self.stuck_ticks = 0;
        self.release();
        if let Some((number, drop_to)) = self.checkpointing
            && number <= self.work_done
        {
            self.checkpointing = None;
            self.raw.mut_store().compact(drop_to.index);
        }
        if let Some(installing) = self
            .installing
            .take_if(|installing| installing.work <= self.work_done)
        {
            self.install(installing);
        }
    }

    /// What follows from the inputs since the last call: entries proposed one after the other go out together.
    ///
    /// # Errors
    /// When the node cannot go on.
    pub fn take_output(&mut self) -> Result<Output<S>, Fault> {
        self.drain()?;
        Ok(std::mem::take(&mut self.out))
    }

    pub fn config(&self) -> &ConsensusConfig {
        &self.config
    }

    pub fn state(&self) -> &S {
        &self.raw.store().state
    }

    pub fn applied(&self) -> Revision {
        Revision(self.raw.store().applied.index)
    }

    pub fn members(&self) -> &MemberSets {
        &self.raw.store().members
    }

    pub fn is_leader(&self) -> bool {
        self.raw.raft.state == StateRole::Leader
    }

    pub fn term(&self) -> u64 {
        self.raw.raft.term
    }

    /// The machine behind a Raft id.
    pub fn node_of(&mut self, id: RaftId) -> Option<NodeId> {
        self.table.node_of(id, &self.raw.raft.store().state)
    }

    /// The last index that is only in snapshots.
    pub fn log_start(&self) -> u64 {
        self.raw.store().start().index
    }

    pub fn status(&mut self) -> ConsensusStatus {
        let leader = match self.raw.raft.leader_id {
            0 => None,
            id if id == self.config.raft_id.0 => Some(self.config.node),
            id => self.node_of(RaftId(id)),
        };
        ConsensusStatus {
            role: self.role(),
            raft_id: self.config.raft_id,
            term: self.raw.raft.term,
            leader,
            members: self.members().clone(),
            applied: self.applied(),
            committed: Revision(self.raw.raft.raft_log.committed),
            progress: self.progress(),
            refused_messages: self.refused_messages,
        }
    }

    fn role(&self) -> Role {
        let me = self.config.raft_id;
        match self.raw.raft.state {
            StateRole::Leader => Role::Leader,
            StateRole::Candidate | StateRole::PreCandidate => Role::Candidate,
            StateRole::Follower if self.members().is_voter(me) => Role::Follower,
            StateRole::Follower if self.members().contains(me) => Role::Learner,
            StateRole::Follower => Role::Outsider,
        }
    }

    fn progress(&self) -> BTreeMap<RaftId, Progress> {
        if !self.is_leader() {
            return BTreeMap::new();
        }
        let me = self.config.raft_id.0;
        let others = self.raw.raft.prs().iter().filter(|(id, _)| **id != me);
        others
            .map(|(id, progress)| {
                let seen = Progress {
                    matched: Revision(progress.matched),
                    committed: Revision(progress.committed_index),
                    active: self.is_active(*id, progress.recent_active),
                };
                (RaftId(*id), seen)
            })
            .collect()
    }

    /// raft-rs forgets who answered at each check of its majority, so its own flag says "silent" of everybody for a
    /// moment twice per second. Looked at before the check, it tells when a member was last heard.
    fn note_silence(&mut self) {
        if !self.is_leader() {
            self.silent.clear();
            return;
        }
        let members = self.raw.raft.prs().iter();
        let silent = members.map(|(id, progress)| {
            let before = self.silent.get(id).copied().unwrap_or(0);
            let ticks = if progress.recent_active {
                0
            } else {
                before + 1
            };
            (*id, ticks)
        });
        self.silent = silent.collect();
    }

    fn is_active(&self, member: u64, answered_lately: bool) -> bool {
        let ticks = self.silent.get(&member).copied();
        answered_lately || ticks.is_some_and(|ticks| ticks < ELECTION_TICKS as u64)
    }

    fn count_down_snapshots(&mut self) {
        let raft = &self.raw.raft;
        let mut late = Vec::new();
        self.snapshots.retain(|to, ticks| {
            let under_way = raft
                .prs()
                .get(*to)
                .is_some_and(|progress| progress.state == raft::ProgressState::Snapshot);
            *ticks = ticks.saturating_sub(1);
            if under_way && *ticks == 0 {
                late.push(*to);
            }
            under_way && *ticks > 0
        });
        for to in late {
            self.raw.report_snapshot(to, raft::SnapshotStatus::Failure);
        }
        self.raw.mut_store().snapshots_allowed = self.snapshots.len() < SNAPSHOTS_AT_ONCE;
    }

    /// Gives raft-rs an input. That it refuses one is not a fault.
    fn give(
        &mut self,
        input: impl FnOnce(&mut RawNode<MemoryLog<S>>) -> raft::Result<()>,
    ) -> Result<(), Fault> {
        match input(&mut self.raw) {
            Err(err @ (raft::Error::Io(_) | raft::Error::Store(_))) => {
                Err(Fault(format!("the log failed: {err}")))
            }
            Err(err) => {
                tracing::trace!(%err, "raft refused an input");
                Ok(())
            }
            Ok(()) => Ok(()),
        }
    }
}
