//! Who waits for what: kept beside the replicated state, by request id, so an answer finds its asker whichever entry brings
//! it. "Unknown" is a legal answer.

use std::collections::BTreeMap;

use kawanan_api::{NodeId, RequestId, Revision};
use kawanan_logic::state::Outcome;
use tokio::sync::oneshot;

use super::handle::{ChangeError, ProposeError, ReadError};
use super::log_node::{Applied, Changed};
use crate::log_store::Position;

/// Requests that wait for their entry at most.
const PROPOSALS_MAX: usize = 4096;
/// Reads that wait at most.
const READS_MAX: usize = 4096;

pub(super) type ProposeAnswer = oneshot::Sender<Result<Outcome, ProposeError>>;
pub(super) type ReadAnswer = oneshot::Sender<Result<Revision, ReadError>>;
pub(super) type ChangeAnswer = oneshot::Sender<Result<(), ChangeError>>;

#[derive(Default)]
pub(super) struct Waiters {
    proposals: BTreeMap<RequestId, Vec<ProposeAnswer>>,
    changes: BTreeMap<u64, (u64, ChangeAnswer)>,
    /// Reads not yet put to the majority.
    asked: Vec<ReadAnswer>,
    /// Reads put to the majority under the context.
    put: Option<(u64, Vec<ReadAnswer>)>,
    /// Confirmed reads, by the index that must be applied first.
    confirmed: BTreeMap<Revision, Vec<ReadAnswer>>,
    context: u64,
}

impl Waiters {
    /// Whether a request's entry is on its way already; then `answer` waits for the same one.
    pub(super) fn join(
        &mut self,
        request: RequestId,
        answer: ProposeAnswer,
    ) -> Option<ProposeAnswer> {
        match self.proposals.get_mut(&request) {
            Some(answers) => {
                answers.push(answer);
                None
            }
            None => Some(answer),
        }
    }

    pub(super) fn is_full(&self) -> bool {
        self.proposals.len() >= PROPOSALS_MAX
    }

    pub(super) fn wait_for(&mut self, request: RequestId, answer: ProposeAnswer) {
        self.proposals.entry(request).or_default().push(answer);
    }

    pub(super) fn wait_for_change(&mut self, place: Position, answer: ChangeAnswer) {
        self.changes.insert(place.index, (place.term, answer));
    }

    pub(super) fn ask(&mut self, answer: ReadAnswer) {
        if self.asked.len() < READS_MAX {
            self.asked.push(answer);
        } else {
            reply(answer, Err(ReadError::Busy));
        }
    }

    /// The context under which to put the waiting reads to the majority, all at once; one such question at a time.
    pub(super) fn reads_to_put(&self) -> Option<u64> {
        (!self.asked.is_empty() && self.put.is_none()).then_some(self.context + 1)
    }

    pub(super) fn reads_were_put(&mut self, context: u64) {
        self.context = context;
        self.put = Some((context, std::mem::take(&mut self.asked)));
    }

    pub(super) fn confirmed(&mut self, context: u64, index: Revision) {
        if let Some((_, answers)) = self.put.take_if(|(put, _)| *put == context) {
            self.confirmed.entry(index).or_default().extend(answers);
        }
    }

    pub(super) fn applied(&mut self, applied: Vec<Applied>) {
        for Applied {
            request, outcome, ..
        } in applied
        {
            for answer in self.proposals.remove(&request).unwrap_or_default() {
                reply(answer, Ok(outcome.clone()));
            }
        }
    }

    pub(super) fn changed(&mut self, changed: Vec<Changed>) {
        for Changed {
            index,
            term,
            result,
        } in changed
        {
            if let Some((expected, answer)) = self.changes.remove(&index) {
                let result = if expected == term {
                    result.map_err(ChangeError::Refused)
                } else {
                    Err(ChangeError::OutcomeUnknown)
                };
                reply(answer, result);
            }
        }
    }

    /// The state has come to `revision`: answers the reads that waited for it.
    pub(super) fn reached(&mut self, revision: Revision) {
        while let Some(first) = self.confirmed.first_entry() {
            if *first.key() > revision {
                return;
            }
            for answer in first.remove() {
                reply(answer, Ok(revision));
            }
        }
    }

    /// This node leads no more: what waits may still happen or not.
    pub(super) fn lost_leadership(&mut self, leader: Option<NodeId>) {
        for answer in std::mem::take(&mut self.proposals).into_values().flatten() {
            reply(answer, Err(ProposeError::OutcomeUnknown));
        }
        for (_, answer) in std::mem::take(&mut self.changes).into_values() {
            reply(answer, Err(ChangeError::OutcomeUnknown));
        }
        for answer in self.unconfirmed() {
            reply(answer, Err(ReadError::NotLeader { leader }));
        }
    }

    /// This node takes no part any more.
    pub(super) fn stopped(&mut self) {
        self.lost_leadership(None);
        for answer in std::mem::take(&mut self.confirmed).into_values().flatten() {
            reply(answer, Err(ReadError::Stopped));
        }
    }

    fn unconfirmed(&mut self) -> Vec<ReadAnswer> {
        let mut reads = std::mem::take(&mut self.asked);
        if let Some((_, put)) = self.put.take() {
            reads.extend(put);
        }
        reads
    }
}

/// Answers somebody who may have gone.
pub(super) fn reply<T>(answer: oneshot::Sender<T>, value: T) {
    if answer.send(value).is_err() {
        tracing::trace!("nobody waits for this answer any more");
    }
}
