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

use super::handle::{ConsensusHandle, ProposeError, ReadError};
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
    /// `NoLeader` when it certainly did not happen, `OutcomeUnknown` when it may have, `Invalid` when it is too large,
    /// `Unavailable` when this node takes no part any more and no other can be asked.
    pub async fn submit(&self, entry: &Entry, deadline: Duration) -> Result<Outcome, ApiError> {
        let until = Instant::now() + deadline;
        let request = codec::encode(&Request::Propose(Box::new(entry.clone())))
            .map(Bytes::from)
            .map_err(|err| ApiError::invalid(format!("this change cannot be sent: {err}")))?;
        let unknown = || {
            ApiError::new(
                ErrorCode::OutcomeUnknown,
                "the leader was lost before it answered: the change may or may not take effect",
            )
            .with_hint("look at the object, or repeat the request: it is not done twice")
        };
        self.ask(until, unknown, async |leader, until| {
            if leader == self.me {
                return match timeout_at(until, self.consensus.propose(entry)).await {
                    Ok(Ok(outcome)) => Ok(outcome),
                    Ok(Err(err)) => Err(missed_proposal(err)),
                    Err(_) => Err(Missed::Unknown),
                };
            }
            match self.call(leader, request.clone(), until).await? {
                Answer::Outcome(outcome) => Ok(outcome),
                other => Err(misfit(other)),
            }
        })
        .await
    }

    /// A revision that is at least as new as every write acknowledged before the call; waits until the local state has
    /// reached it.
    ///
    /// # Errors
    /// `NoLeader` when no majority confirms one in time.
    pub async fn read_index(&self, deadline: Duration) -> Result<Revision, ApiError> {
        let until = Instant::now() + deadline;
        let request = codec::encode(&Request::ReadIndex)
            .map(Bytes::from)
            .map_err(|err| ApiError::new(ErrorCode::Internal, err.to_string()))?;
        let no_leader = || self.no_leader();
        let revision = self
            .ask(until, no_leader, async |leader, until| {
                if leader == self.me {
                    return match timeout_at(until, self.consensus.read_index()).await {
                        Ok(Ok(revision)) => Ok(revision),
                        Ok(Err(ReadError::NotLeader { leader })) => Err(Missed::NotDone(leader)),
                        Ok(Err(_)) | Err(_) => Err(Missed::NotDone(None)),
                    };
                }
                match self.call(leader, request.clone(), until).await {
                    Ok(Answer::Revision(revision)) => Ok(revision),
                    Ok(other) => Err(misfit(other)),
                    // A read has no effect that could be in doubt.
                    Err(Missed::Unknown) => Err(Missed::NotDone(None)),
                    Err(missed) => Err(missed),
                }
            })
            .await?;
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
    async fn ask<T>(
        &self,
        until: Instant,
        unknown: impl Fn() -> ApiError,
        attempt: impl AsyncFn(NodeId, Instant) -> Result<T, Missed>,
    ) -> Result<T, ApiError> {
        let mut in_doubt = false;
        let mut hint = None;
        let mut wait = RETRY_MIN;
        loop {
            let known = self.consensus.status().borrow().leader;
            if let Some(leader) = hint.take().or(known) {
                let now = Instant::now();
                match attempt(leader, until.min(now + ATTEMPT)).await {
                    Ok(answer) => return Ok(answer),
                    Err(Missed::Never(err)) => return Err(err),
                    Err(Missed::Unknown) => in_doubt = true,
                    Err(Missed::NotDone(elsewhere)) => {
                        hint = elsewhere.filter(|node| *node != leader);
                    }
                }
            }
            let now = Instant::now();
            if now >= until {
                return Err(if in_doubt {
                    unknown()
                } else {
                    self.no_leader()
                });
            }
            if hint.is_none() || wait > RETRY_MIN {
                let pause = wait / 2 + self.random.up_to(wait / 2);
                self.pause(until.min(now + pause)).await;
            }
            wait = (wait * 2).min(RETRY_MAX);
        }
    }

    /// Waits, but not longer than until a leader appears.
    async fn pause(&self, until: Instant) {
        let mut status = self.consensus.status();
        let before = status.borrow_and_update().leader;
        tokio::select! {
            biased;
            appeared = status.wait_for(|now| now.leader.is_some() && now.leader != before) => {
                if appeared.is_err() {
                    sleep_until(until).await;
                }
            }
            () = sleep_until(until) => {}
        }
    }

    async fn call(&self, leader: NodeId, request: Bytes, until: Instant) -> Result<Answer, Missed> {
        let deadline = until.saturating_duration_since(Instant::now());
        let answer = self.links.call(leader, request, deadline).await;
        match answer {
            Ok(bytes) => match codec::decode(&bytes) {
                Ok(Answer::NotLeader { leader }) => Err(Missed::NotDone(leader)),
                // The leader could not say: it was about to stop, or lost its leadership.
                Ok(Answer::Failed(err)) if err.code == ErrorCode::OutcomeUnknown => {
                    Err(Missed::Unknown)
                }
                Ok(Answer::Failed(err)) if err.code == ErrorCode::Unavailable => {
                    Err(Missed::NotDone(None))
                }
                Ok(Answer::Failed(err)) => Err(Missed::Never(err)),
                Ok(answer) => Ok(answer),
                Err(_) => Err(Missed::Unknown),
            },
            Err(CallError::Unreachable { .. } | CallError::Refused(_)) => {
                Err(Missed::NotDone(None))
            }
            Err(CallError::NoAnswer { .. }) => Err(Missed::Unknown),
        }
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

fn missed_proposal(err: ProposeError) -> Missed {
    match err {
        ProposeError::NotLeader { leader } => Missed::NotDone(leader),
        ProposeError::Busy | ProposeError::Stopped => Missed::NotDone(None),
        ProposeError::OutcomeUnknown => Missed::Unknown,
        ProposeError::TooLarge { .. } => Missed::Never(too_large(&err)),
    }
}

fn too_large(err: &ProposeError) -> ApiError {
    ApiError::new(
        ErrorCode::LimitReached,
        format!("the change is too large: {err}"),
    )
    .with_hint("split it up, or move large content into a volume or an image")
}

fn misfit(answer: Answer) -> Missed {
    tracing::warn!(?answer, "the leader answered something else");
    Missed::Never(ApiError::new(
        ErrorCode::Internal,
        "the leader gave an answer that does not fit the question",
    ))
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
