//! Remembers what became of recent writes, so that a repeated one is answered and not done again.

use std::collections::BTreeMap;

use kawanan_api::{ApiError, RequestId, Revision, Timestamp};
use serde::{Deserialize, Serialize};

/// What an entry did: it took effect at this revision, or was refused and changed nothing.
pub type Outcome = Result<Revision, ApiError>;

/// Writes that are remembered at most. A client retries within seconds; the busiest cluster makes far fewer in a minute.
pub const REQUESTS_KEPT_MAX: usize = 4096;

/// Outcomes by idempotency key, the oldest forgotten first.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct RequestTable {
    outcomes: BTreeMap<RequestId, (Revision, Timestamp, Outcome)>,
    by_age: BTreeMap<Revision, RequestId>,
}

impl RequestTable {
    pub fn get(&self, request: RequestId) -> Option<&Outcome> {
        self.outcomes.get(&request).map(|(_, _, outcome)| outcome)
    }

    /// Keeps the outcome of the entry at `revision`, and forgets the oldest beyond the limit.
    pub fn remember(
        &mut self,
        request: RequestId,
        revision: Revision,
        at: Timestamp,
        outcome: Outcome,
    ) {
        if self
            .outcomes
            .insert(request, (revision, at, outcome))
            .is_none()
        {
            self.by_age.insert(revision, request);
        }
        while self.by_age.len() > REQUESTS_KEPT_MAX {
            if let Some((_, oldest)) = self.by_age.pop_first() {
                self.outcomes.remove(&oldest);
            }
        }
    }

    pub fn len(&self) -> usize {
        self.outcomes.len()
    }

    pub fn is_empty(&self) -> bool {
        self.outcomes.is_empty()
    }
}
