//! How parts of the agent put a command into the service log, from whichever node they run on.

use std::time::Duration;

use async_trait::async_trait;
use kawanan_api::{ApiError, RequestId, Revision};
use kawanan_logic::{Command, Entry};

use crate::clock::SharedClock;
use crate::consensus::ClusterProposer;
use crate::node::Submit;
use crate::random::SharedRandom;

/// Draws the idempotency key, writes the time down and hands the entry to the leader. Cheap to clone.
#[derive(Clone)]
pub struct Submitter {
    pub proposer: ClusterProposer,
    pub clock: SharedClock,
    pub random: SharedRandom,
}

impl Submitter {
    /// Commits a command and returns the revision at which it took effect.
    ///
    /// # Errors
    /// When the command is refused, when there is no leader within `deadline`, or when the outcome is unknown then.
    pub async fn submit(&self, command: Command, deadline: Duration) -> Result<Revision, ApiError> {
        self.submit_as(RequestId::from_bits(self.random.bits()), command, deadline)
            .await
    }

    /// The same under a key of the caller's, which makes a repeated call safe.
    ///
    /// # Errors
    /// As [`Submitter::submit`].
    pub async fn submit_as(
        &self,
        request: RequestId,
        command: Command,
        deadline: Duration,
    ) -> Result<Revision, ApiError> {
        let entry = Entry {
            request,
            at: self.clock.now(),
            command,
        };
        self.proposer.submit(&entry, deadline).await?
    }
}

#[async_trait]
impl Submit for Submitter {
    async fn submit(&self, command: Command, deadline: Duration) -> Result<Revision, ApiError> {
        Self::submit(self, command, deadline).await
    }
}
