//! The agent's API: HTTP and JSON on a unix socket, the same on every node.
//!
//! Reads come from this node's copy of the state; with `?consistent=true` they see every write that was answered
//! before them. Writes wait for the leader's answer and then until this node has applied them, so that whoever wrote
//! can read it here. A write carries an `Idempotency-Key`: repeated with the same key it is answered, not done again.
//!
//! Handlers only parse, ask and show: validation is `kawanan_api::spec`'s, projections are `kawanan_logic::view`'s,
//! decisions are nobody's here. The rest of the agent is reached through [`Backend`] alone.

mod answer;
mod backend;
mod cluster;
pub mod fake;
mod logs;
mod nodes;
mod progress;
mod serve;
mod services;
mod socket;
mod stream;
mod tasks;
mod tokens;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::routing::{get, post};
use kawanan_api::{ApiError, ErrorCode, RequestId, Revision, TaskId};
use kawanan_logic::reconcile::{Plan, reconcile};
use kawanan_logic::view::{Outlook, View};
use kawanan_logic::{ClusterState, Command, Entry, Observation};
use tokio::sync::{Semaphore, watch};

pub use backend::{Backend, Standing};
pub use serve::serve;
pub use socket::{ApiSocket, SocketError};

use crate::clock::SharedClock;
use crate::random::SharedRandom;

/// Most bytes of a request's body.
const BODY_BYTES_MAX: usize = 1 << 20;
/// Streams (logs, progress) that one agent serves at a time; each holds a few buffers.
const STREAMS_MAX: usize = 128;
/// Longest wait for the outcome of a write. The backend gives up earlier, with a better reason.
const SUBMIT_DEADLINE: Duration = Duration::from_secs(30);
/// How long a write's answer is held back until this node shows the change itself.
const CATCH_UP_DEADLINE: Duration = Duration::from_secs(2);

/// What all handlers hold.
#[derive(Clone)]
pub struct Api {
    backend: Arc<dyn Backend>,
    clock: SharedClock,
    random: SharedRandom,
    streams: Arc<Semaphore>,
    /// Turns true when the agent stops; streams end then.
    stop: watch::Receiver<bool>,
}

impl Api {
    pub fn new(
        backend: Arc<dyn Backend>,
        clock: SharedClock,
        random: SharedRandom,
        stop: watch::Receiver<bool>,
    ) -> Self {
        Self {
            backend,
            clock,
            random,
            streams: Arc::new(Semaphore::new(STREAMS_MAX)),
            stop,
        }
    }

    /// All paths.
    pub fn router(self) -> Router {
        Router::new()
            .route("/v1/version", get(cluster::version))
            .route("/v1/cluster", get(cluster::show))
            .route("/v1/leave", post(cluster::leave))
            .merge(nodes::routes())
            .merge(services::routes())
            .merge(tasks::routes())
            .merge(tokens::routes())
            .fallback(answer::no_such_path)
            .method_not_allowed_fallback(answer::no_such_method)
            .layer(DefaultBodyLimit::max(BODY_BYTES_MAX))
            .with_state(self)
    }

    fn state(&self) -> Arc<ClusterState> {
        self.backend.state().borrow().clone()
    }

    /// What this node knows beside `state`.
    fn outlook(&self, state: &ClusterState) -> Outlook {
        let standing = self.backend.standing();
        let observation = self.backend.observation();
        let suspects: BTreeSet<_> = (state.nodes.keys().copied())
            .filter(|node| !observation.node(*node).alive)
            .collect();
        Outlook {
            now: self.clock.now(),
            this_node: Some(standing.this_node),
            leader: standing.leader,
            voters: standing.voters,
            suspects,
            plan: planned(state, &observation),
            notes: standing.notes,
        }
    }

    /// Shows the state as this node has it; with `consistent`, not before it has all that was answered so far.
    async fn show<T>(
        &self,
        consistent: bool,
        project: impl FnOnce(&ClusterState, &View<'_>) -> Result<T, ApiError>,
    ) -> Result<T, ApiError> {
        if consistent {
            self.backend.read_barrier().await?;
        }
        let state = self.state();
        let outlook = self.outlook(&state);
        project(&state, &View::new(&state, &outlook))
    }

    /// Puts a command into the log, and waits until this node shows what it did.
    async fn submit(&self, request: RequestId, command: Command) -> Result<Revision, ApiError> {
        let entry = Entry {
            request,
            at: self.clock.now(),
            command,
        };
        let outcome = tokio::time::timeout(SUBMIT_DEADLINE, self.backend.submit(entry))
            .await
            .unwrap_or_else(|_| {
                Err(ApiError::new(
                    ErrorCode::OutcomeUnknown,
                    "no answer came from the leader in time; the change may still happen",
                ))
            });
        let revision = outcome?;
        let mut state = self.backend.state();
        let caught_up = state.wait_for(|state| state.revision >= revision);
        match tokio::time::timeout(CATCH_UP_DEADLINE, caught_up).await {
            Ok(Ok(_)) => {}
            Ok(Err(_)) | Err(_) => {
                tracing::debug!(%revision, "a write is answered before this node has applied it");
            }
        }
        Ok(revision)
    }

    fn draw_request_id(&self) -> RequestId {
        RequestId::from_bits(self.random.bits())
    }
}

/// What the leader would do next. The ids of its tasks are never shown, so any will do.
fn planned(state: &ClusterState, observation: &Observation) -> Plan {
    let mut drawn = 0;
    reconcile(state, observation, &mut || {
        drawn += 1;
        TaskId::from_bits(drawn)
    })
}

#[cfg(test)]
mod tests;
