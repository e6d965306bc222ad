//! What everybody but the owner holds.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{NodeId, RaftId, RequestId, Revision};
use kawanan_logic::membership::MemberStep;
use kawanan_logic::state::Outcome;
use kawanan_logic::{Entry, codec};
use tokio::sync::{mpsc, oneshot, watch};

use super::StateMachine;
use super::mirror::Step;
use super::status::ConsensusStatus;
use super::waiters::{ChangeAnswer, ProposeAnswer, ReadAnswer};

/// Most bytes of one encoded entry: what one message carries.
pub const ENTRY_BYTES_MAX: usize = 1 << 20;
/// Requests that wait for the owner.
pub(super) const INBOX_MAX: usize = 1024;
/// A leader without a majority steps down within a second and answers then; only a hanging disk takes longer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Handing leadership over, finishing the write under way.
const SHUTDOWN_DEADLINE: Duration = Duration::from_secs(4);

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    /// Leadership was lost, or the disk hangs. Repeating it with the same request id is safe.
    #[error("nobody knows whether the entry takes effect")]
    OutcomeUnknown,
    /// Nothing was written.
    #[error("the leader is busy")]
    Busy,
    /// Nothing was written.
    #[error("this node takes no part in the log any more")]
    Stopped,
    #[error("{size} bytes are more than the {limit} that an entry may have")]
    TooLarge { size: usize, limit: usize },
    #[error("the entry cannot be written down: {0}")]
    Unwritable(String),
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    #[error("the leader is busy")]
    Busy,
    #[error("no majority confirmed the read in time")]
    NoAnswer,
    #[error("this node takes no part in the log any more")]
    Stopped,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChangeError {
    #[error("this node does not lead")]
    NotLeader { leader: Option<NodeId> },
    /// Another change is under way, or leadership is being handed over. Nothing was written.
    #[error("another change of the members is under way")]
    Busy,
    #[error("the members cannot change like this: {0}")]
    Refused(String),
    #[error("nobody knows whether the members change")]
    OutcomeUnknown,
    #[error("this node takes no part in the log any more")]
    Stopped,
}

/// What the owner is asked.
pub(super) enum Request {
    Propose {
        request: RequestId,
        entry: Bytes,
        answer: ProposeAnswer,
    },
    ReadIndex {
        answer: ReadAnswer,
    },
    ChangeMembers {
        step: Step,
        answer: ChangeAnswer,
    },
    Transfer {
        to: RaftId,
        answer: ChangeAnswer,
    },
    Shutdown {
        answer: oneshot::Sender<()>,
    },
    Ping {
        answer: oneshot::Sender<()>,
    },
}

/// Access to this node's part of the log. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ConsensusHandle<S> {
    inbox: mpsc::Sender<Request>,
    status: watch::Receiver<ConsensusStatus>,
    state: watch::Receiver<Arc<S>>,
}

impl<S: StateMachine> ConsensusHandle<S> {
    pub(super) fn new(
        inbox: mpsc::Sender<Request>,
        status: watch::Receiver<ConsensusStatus>,
        state: watch::Receiver<Arc<S>>,
    ) -> Self {
        Self {
            inbox,
            status,
            state,
        }
    }

    /// Puts an entry into the log and waits until it is applied here. Only on the leader; [`super::Proposer`] finds it.
    ///
    /// A request that is remembered is answered with its first outcome, without a new entry.
    ///
    /// # Errors
    /// When this node does not lead, cannot take it, or lost leadership meanwhile.
    pub async fn propose(&self, entry: &Entry) -> Result<Outcome, ProposeError> {
        let bytes =
            codec::encode(entry).map_err(|err| ProposeError::Unwritable(err.to_string()))?;
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(ProposeError::TooLarge {
                size: bytes.len(),
                limit: ENTRY_BYTES_MAX,
            });
        }
        let (answer, outcome) = oneshot::channel();
        let request = Request::Propose {
            request: entry.request,
            entry: Bytes::from(bytes),
            answer,
        };
        self.inbox.try_send(request).map_err(|err| match err {
            mpsc::error::TrySendError::Full(_) => ProposeError::Busy,
            mpsc::error::TrySendError::Closed(_) => ProposeError::Stopped,
        })?;
        match tokio::time::timeout(ANSWER_DEADLINE, outcome).await {
            Ok(Ok(outcome)) => outcome,
            Ok(Err(_)) | Err(_) => Err(ProposeError::OutcomeUnknown),
        }
    }

    /// The revision that a state must have reached to answer a read that begins now. Confirmed by a majority, and applied
    /// here when this returns. Only on the leader.
    ///
    /// # Errors
    /// When this node does not lead, or no majority confirms it.
    pub async fn read_index(&self) -> Result<Revision, ReadError> {
        let (answer, revision) = oneshot::channel();
        self.inbox
            .try_send(Request::ReadIndex { answer })
            .map_err(|err| match err {
                mpsc::error::TrySendError::Full(_) => ReadError::Busy,
                mpsc::error::TrySendError::Closed(_) => ReadError::Stopped,
            })?;
        match tokio::time::timeout(ANSWER_DEADLINE, revision).await {
            Ok(Ok(revision)) => revision,
            Ok(Err(_)) => Err(ReadError::Stopped),
            Err(_) => Err(ReadError::NoAnswer),
        }
    }

    /// Changes the members and waits until the change is in effect here. Only on the leader. The leader ends a joint
    /// change by itself, also one that another leader began. That the number of voters stays odd is the caller's business.
    ///
    /// # Errors
    /// When this node does not lead, another change is under way, or the change is impossible.
    pub async fn change_members(&self, step: MemberStep) -> Result<(), ChangeError> {
        let step = match step {
            MemberStep::AddLearner(id) => Step::AddLearner(id),
            MemberStep::RemoveMember(id) => Step::RemoveMember(id),
            MemberStep::SetVoters { add, remove } => Step::SetVoters { add, remove },
            MemberStep::LeaveJoint => Step::LeaveJoint,
            MemberStep::TransferLeadership(to) => return self.transfer_leadership(to).await,
        };
        self.ask_for_change(|answer| Request::ChangeMembers { step, answer })
            .await
    }

    /// Begins to hand leadership to a voter; [`ConsensusHandle::status`] shows when it has happened.
    ///
    /// # Errors
    /// When this node does not lead, or `to` has no vote.
    pub async fn transfer_leadership(&self, to: RaftId) -> Result<(), ChangeError> {
        self.ask_for_change(|answer| Request::Transfer { to, answer })
            .await
    }

    async fn ask_for_change(
        &self,
        request: impl FnOnce(ChangeAnswer) -> Request,
    ) -> Result<(), ChangeError> {
        let (answer, result) = oneshot::channel();
        self.inbox
            .try_send(request(answer))
            .map_err(|err| match err {
                mpsc::error::TrySendError::Full(_) => ChangeError::Busy,
                mpsc::error::TrySendError::Closed(_) => ChangeError::Stopped,
            })?;
        match tokio::time::timeout(ANSWER_DEADLINE, result).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) | Err(_) => Err(ChangeError::OutcomeUnknown),
        }
    }

    /// Whether the owner's loop still turns. For the watchdog; does not answer while it is stuck.
    pub async fn is_turning(self) -> bool {
        let (answer, answered) = oneshot::channel();
        self.inbox.send(Request::Ping { answer }).await.is_ok() && answered.await.is_ok()
    }

    /// What this node does in the log; changes wake the receiver.
    pub fn status(&self) -> watch::Receiver<ConsensusStatus> {
        self.status.clone()
    }

    /// The state, published once per batch of entries.
    pub fn state(&self) -> watch::Receiver<Arc<S>> {
        self.state.clone()
    }

    /// Hands leadership over if this node leads, finishes the write under way, and ends the owner. Bounded by a few seconds.
    pub async fn shutdown(&self) {
        let (answer, done) = oneshot::channel();
        let asked = self.inbox.send(Request::Shutdown { answer });
        let ended = async {
            if asked.await.is_ok() && done.await.is_err() {
                tracing::debug!("the log's owner ended before it answered");
            }
        };
        if tokio::time::timeout(SHUTDOWN_DEADLINE, ended)
            .await
            .is_err()
        {
            tracing::warn!("the log's owner did not end in time");
        }
    }
}
