//! Writes and fresh reads from any node: asks the leader, wherever it is.
//!
//! Forwarding is ours and never Raft's, so that the answer finds who waits for it. A retry carries the same request id, so
//! it is safe after any failure; who gives up says whether the write may have happened.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ApiError, ErrorCode, NodeId, Revision};
use kawanan_logic::state::Outcome;
use kawanan_logic::{Entry, codec};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::handle::{ConsensusHandle, ENTRY_BYTES_MAX, ProposeError, ReadError};
use super::{Member, StateMachine};
use crate::peer::{Answer, Request};
use crate::random::SharedRandom;
use crate::transport::{CallError, SharedLinks};

/// How long a write is tried when the caller does not say.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// How long one attempt may take before another leader is looked for.
const ATTEMPT: Duration = Duration::from_secs(3);
/// The first wait between attempts; it doubles.
const RETRY_MIN: Duration = Duration::from_millis(25);
const RETRY_MAX: Duration = Duration::from_millis(500);

/// Asks the leader from any node. Cheap to clone.
#[derive(Clone)]
pub struct Proposer<S> {
    consensus: ConsensusHandle<S>,
    links: SharedLinks,
    random: SharedRandom,
    me: NodeId,
}

/// How an attempt ended without an answer.
enum Missed {
    /// Certainly nothing happened.
    NotDone(Option<NodeId>),
    /// It may have happened.
    Unknown,
    /// Trying again is of no use.
    Never(ApiError),
}

impl<S: StateMachine> Proposer<S> {
    pub fn new(
        consensus: ConsensusHandle<S>,
        links: SharedLinks,
        random: SharedRandom,
        me: NodeId,
    ) -> Self {
        Self {
            consensus,
            links,
            random,
            me,
        }
    }

    /// Gets `entry` into the log, trying for at most `deadline`; the outcome is what the state made of it.
    ///
    /// # Errors
    /// `NoLeader` when it certainly did not happen, `OutcomeUnknown` when it may have, `LimitReached` when it is too large.
    pub async fn submit(&self, entry: &Entry, deadline: Duration) -> Result<Outcome, ApiError> {
        let question = Question::new(Request::Propose(Box::new(entry.clone())))?;
        let size = question.encoded.len();
        if size > ENTRY_BYTES_MAX {
            let limit = ENTRY_BYTES_MAX;
            return Err(too_large(&ProposeError::TooLarge { size, limit }));
        }
        let until = Instant::now() + deadline;
        match self.ask(&question, until).await? {
            Answer::Outcome(outcome) => Ok(outcome),
            other => Err(misfit(&other)),
        }
    }

    /// A revision that is at least as new as every write acknowledged before the call; waits until the local state has
    /// reached it.
    ///
    /// # Errors
    /// `NoLeader` when no majority confirms one in time, `Unavailable` when this node's state lags.
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, ApiError> {
        let question = Question::new(Request::ReadIndex)?;
        let until = Instant::now() + deadline;
        let revision = match self.ask(&question, until).await? {
            Answer::Revision(revision) => revision,
            other => return Err(misfit(&other)),
        };
        let mut state = self.consensus.state();
        let reached = state.wait_for(|state| state.revision() >= revision);
        match timeout_at(until, reached).await {
            Ok(Ok(_)) => Ok(revision),
            Ok(Err(_)) | Err(_) => Err(ApiError::new(
                ErrorCode::Unavailable,
                "this node is behind the leader and did not catch up in time",
            )
            .with_hint("ask another node, or look at this node's agent status")),
        }
    }

    /// Tries leader after leader until one answers or the time is over.
    async fn ask(&self, question: &Question, until: Instant) -> Result<Answer, ApiError> {
        let mut in_doubt = false;
        let mut hint = None;
        let mut wait = RETRY_MIN;
        loop {
            let known = self.consensus.status().borrow().leader;
            if let Some(leader) = hint.take().or(known) {
                let attempt = until.min(Instant::now() + ATTEMPT);
                match self.attempt(question, leader, attempt).await {
                    Ok(answer) => return Ok(answer),
                    Err(Missed::Never(err)) => return Err(err),
                    // A read has no effect that could be in doubt.
                    Err(Missed::Unknown) => in_doubt |= question.writes(),
                    Err(Missed::NotDone(elsewhere)) => {
                        hint = elsewhere.filter(|node| *node != leader);
                    }
                }
            }
            let now = Instant::now();
            if now >= until {
                return Err(if in_doubt {
                    in_the_dark()
                } else {
                    self.no_leader()
                });
            }
            // A first hint is followed at once; two nodes that point at each other are not.
            if hint.is_none() || wait > RETRY_MIN {
                let pause = wait / 2 + self.random.up_to(wait / 2);
                self.pause(until.min(now + pause)).await;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Waits, but not longer than until another leader appears.
    async fn pause(&self, until: Instant) {
        let mut status = self.consensus.status();
        let before = status.borrow_and_update().leader;
        let appeared = status.wait_for(|now| now.leader.is_some() && now.leader != before);
        let owner_gone = matches!(timeout_at(until, appeared).await, Ok(Err(_)));
        if owner_gone {
            sleep_until(until).await;
        }
    }

    async fn attempt(
        &self,
        question: &Question,
        leader: NodeId,
        until: Instant,
    ) -> Result<Answer, Missed> {
        let answer = if leader == self.me {
            let answer = question.answer(&self.consensus);
            timeout_at(until, answer)
                .await
                .map_err(|_| Missed::Unknown)?
        } else {
            self.call(question, leader, until).await?
        };
        match answer {
            Answer::NotLeader { leader } => Err(Missed::NotDone(leader)),
            // The leader could not say: it was about to stop, or lost its leadership.
            Answer::Failed(err) if err.code == ErrorCode::OutcomeUnknown => Err(Missed::Unknown),
            Answer::Failed(err) if err.code == ErrorCode::Unavailable => Err(Missed::NotDone(None)),
            Answer::Failed(err) => Err(Missed::Never(err)),
            answer => Ok(answer),
        }
    }

    async fn call(
        &self,
        question: &Question,
        leader: NodeId,
        until: Instant,
    ) -> Result<Answer, Missed> {
        let deadline = until.saturating_duration_since(Instant::now());
        let bytes = self
            .links
            .call(leader, question.encoded.clone(), deadline)
            .await
            .map_err(|err| match err {
                CallError::Unreachable { .. } | CallError::Refused(_) => Missed::NotDone(None),
                CallError::NoAnswer { .. } => Missed::Unknown,
            })?;
        codec::decode(&bytes).map_err(|err| {
            tracing::warn!(%leader, %err, "the leader's answer cannot be read");
            Missed::Unknown
        })
    }

    /// Says why there is no leader, as well as this node can know.
    fn no_leader(&self) -> ApiError {
        let status = self.consensus.status().borrow().clone();
        let known: Vec<Member> = self.consensus.state().borrow().members();
        let mut lost = Vec::new();
        for voter in &status.members.voters {
            let member = known.iter().find(|member| member.raft == *voter);
            let reachable = *voter == status.raft_id
                || member.is_some_and(|member| self.links.is_connected(member.node));
            if !reachable {
                lost.push(member.map_or_else(|| voter.to_string(), |it| it.name.clone()));
            }
        }
        let voters = status.members.voters.len();
        if lost.is_empty() {
            return ApiError::new(ErrorCode::NoLeader, "no leader answered in time")
                .with_hint("the nodes may be electing one: try again in a few seconds");
        }
        let names = lost.join(", ");
        ApiError::new(
            ErrorCode::NoLeader,
            format!(
                "no leader: {} of {voters} voters cannot be reached ({names})",
                lost.len()
            ),
        )
        .with_hint("start these nodes or repair their network; what runs keeps running")
    }
}

/// What is asked of the leader.
struct Question {
    request: Request,
    encoded: Bytes,
}

impl Question {
    fn new(request: Request) -> Result<Self, ApiError> {
        let encoded = codec::encode(&request)
            .map_err(|err| ApiError::invalid(format!("this change cannot be sent: {err}")))?;
        Ok(Self {
            request,
            encoded: Bytes::from(encoded),
        })
    }

    fn writes(&self) -> bool {
        matches!(self.request, Request::Propose(_))
    }

    /// The answer of this node itself.
    async fn answer<S: StateMachine>(&self, consensus: &ConsensusHandle<S>) -> Answer {
        match &self.request {
            Request::Propose(entry) => answer_propose(consensus, entry).await,
            _ => answer_read_index(consensus).await,
        }
    }
}

fn in_the_dark() -> ApiError {
    ApiError::new(
        ErrorCode::OutcomeUnknown,
        "the leader was lost before it answered: the change may or may not take effect",
    )
    .with_hint("look at the object, or repeat the request: it is not done twice")
}

fn too_large(err: &ProposeError) -> ApiError {
    ApiError::new(
        ErrorCode::LimitReached,
        format!("the change is too large: {err}"),
    )
    .with_hint("split it up, or move large content into a volume or an image")
}

fn misfit(answer: &Answer) -> ApiError {
    tracing::warn!(?answer, "the leader answered something else");
    ApiError::new(
        ErrorCode::Internal,
        "the leader gave an answer that does not fit the question",
    )
}

/// What a node answers to another node's [`Request::Propose`].
pub async fn answer_propose<S: StateMachine>(
    consensus: &ConsensusHandle<S>,
    entry: &Entry,
) -> Answer {
    match consensus.propose(entry).await {
        Ok(outcome) => Answer::Outcome(outcome),
        Err(ProposeError::NotLeader { leader }) => Answer::NotLeader { leader },
        Err(err @ ProposeError::OutcomeUnknown) => {
            Answer::Failed(ApiError::new(ErrorCode::OutcomeUnknown, err.to_string()))
        }
        Err(err @ (ProposeError::Busy | ProposeError::Stopped)) => {
            Answer::Failed(ApiError::new(ErrorCode::Unavailable, err.to_string()))
        }
        Err(err @ ProposeError::TooLarge { .. }) => Answer::Failed(too_large(&err)),
        Err(err @ ProposeError::Unwritable(_)) => {
            Answer::Failed(ApiError::new(ErrorCode::Internal, err.to_string()))
        }
    }
}

/// What a node answers to another node's [`Request::ReadIndex`].
pub async fn answer_read_index<S: StateMachine>(consensus: &ConsensusHandle<S>) -> Answer {
    match consensus.read_index().await {
        Ok(revision) => Answer::Revision(revision),
        Err(ReadError::NotLeader { leader }) => Answer::NotLeader { leader },
        Err(err) => Answer::Failed(ApiError::new(ErrorCode::Unavailable, err.to_string())),
    }
}
