//! Turns intent into tasks: runs the pure reconciler whenever something changed, and commits its plan.
//!
//! Level-triggered: a wake-up carries no data, so a restart, a timer and an event take the same path.

use std::time::Duration;

use kawanan_api::{TaskId, Timestamp};
use kawanan_logic::Command;
use kawanan_logic::reconcile::reconcile;
use tokio::time::{Instant, sleep_until};
use tracing::debug;

use super::{LeaderParts, commit, reached};

/// The plan is made anew at least this often, for what time alone changes and nobody announced.
const LOOK_AGAIN: Duration = Duration::from_secs(10);
/// Pause after a plan that was not accepted, so that a log that refuses is not hammered.
const AFTER_REFUSAL: Duration = Duration::from_millis(100);

pub(super) async fn run(parts: LeaderParts) {
    let mut state = parts.consensus.state();
    let mut liveness = parts.liveness.clone();
    if !caught_up(&parts).await {
        return;
    }
    loop {
        let current = state.borrow_and_update().clone();
        liveness.borrow_and_update();
        let mut draw = || TaskId::from_bits(parts.random.bits());
        let plan = reconcile(&current, &parts.observe(), &mut draw);
        let wake_at = if plan.changes.is_empty() {
            wake_instant(plan.wake_at, parts.clock.now())
        } else {
            debug!(changes = plan.changes.len(), basis = %current.revision, "committing a plan");
            if commit(
                &parts,
                Command::Plan {
                    basis: current.revision,
                    changes: plan.changes,
                },
            )
            .await
            {
                continue;
            }
            Instant::now() + AFTER_REFUSAL
        };
        tokio::select! {
            biased;
            changed = state.changed() => if changed.is_err() { return },
            changed = liveness.changed() => if changed.is_err() { return },
            () = sleep_until(wake_at) => {}
        }
    }
}

/// A new leader first applies everything that earlier terms committed; until then its view may be old.
async fn caught_up(parts: &LeaderParts) -> bool {
    match parts.consensus.read_index().await {
        Ok(revision) => {
            reached(&mut parts.consensus.state(), |state| {
                state.revision >= revision
            })
            .await
        }
        Err(err) => {
            debug!(%err, "leadership ended before it began");
            false
        }
    }
}

fn wake_instant(wake_at: Option<Timestamp>, now: Timestamp) -> Instant {
    let wait = wake_at.map_or(LOOK_AGAIN, |at| at.since(now).min(LOOK_AGAIN));
    Instant::now() + wait.max(Duration::from_millis(1))
}
