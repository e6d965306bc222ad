//! Whether the container engine answers. A node whose engine hangs takes no new tasks; what runs goes on.
//!
//! Asks for a container that runs, because an engine can answer a ping and hang at everything else. One container that
//! hangs is not the engine: then the engine itself is asked before it is called unhealthy.

use std::time::Duration;

use kawanan_api::Timestamp;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::{NodeParts, Seen};
use crate::clock::SharedClock;
use crate::containers::{ContainerStatus, EngineError, EngineInfo, SharedRuntime};

/// Between two looks while all is well. With both answers' deadlines it makes 18 s until a hang is known.
const LOOK_EVERY: Duration = Duration::from_secs(8);
/// While it does not answer.
const LOOK_AGAIN: Duration = Duration::from_secs(2);
const ANSWER_DEADLINE: Duration = Duration::from_secs(5);

/// Whether the engine answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EngineHealth {
    pub ok: bool,
    /// Since when it is so.
    pub since: Timestamp,
    /// Why not, for people.
    pub error: Option<String>,
}

pub(super) fn spawn(
    parts: &NodeParts,
    seen: watch::Receiver<Seen>,
    owners: &mut JoinSet<()>,
) -> (
    watch::Receiver<EngineHealth>,
    watch::Receiver<Option<EngineInfo>>,
) {
    let (health_out, health) = watch::channel(EngineHealth {
        ok: true,
        since: parts.clock.now(),
        error: None,
    });
    let (info_out, info) = watch::channel(None);
    let watcher = EngineWatcher {
        engine: parts.engine.clone(),
        clock: parts.clock.clone(),
        seen,
        turn: 0,
        health: health_out,
        info: info_out,
    };
    owners.spawn(watcher.run());
    (health, info)
}

struct EngineWatcher {
    engine: SharedRuntime,
    clock: SharedClock,
    seen: watch::Receiver<Seen>,
    turn: usize,
    health: watch::Sender<EngineHealth>,
    info: watch::Sender<Option<EngineInfo>>,
}

impl EngineWatcher {
    async fn run(mut self) {
        loop {
            let begun = Instant::now();
            let answer = self.look().await;
            self.note(answer.err());
            let every = if self.health.borrow().ok {
                LOOK_EVERY
            } else {
                LOOK_AGAIN
            };
            sleep(every.saturating_sub(begun.elapsed())).await;
        }
    }

    async fn look(&mut self) -> Result<(), EngineError> {
        // Unknown or failed before: the engine's own words, which may have changed with an upgrade.
        if self.info.borrow().is_none() || !self.health.borrow().ok {
            return self.ask_info().await;
        }
        let Some(container) = self.next_container() else {
            return self.ask_info().await;
        };
        match timeout(ANSWER_DEADLINE, self.engine.inspect(&container)).await {
            Ok(Ok(_) | Err(EngineError::Gone(_))) => Ok(()),
            Ok(Err(_)) | Err(_) => self.ask_info().await,
        }
    }

    /// A running container of ours, another one each time.
    fn next_container(&mut self) -> Option<String> {
        let seen = self.seen.borrow();
        let running: Vec<&String> = seen
            .values()
            .filter(|seen| matches!(seen.status, ContainerStatus::Running { .. }))
            .map(|seen| &seen.id)
            .collect();
        self.turn = self.turn.wrapping_add(1);
        let index = self.turn.checked_rem(running.len())?;
        Some(running[index].clone())
    }

    async fn ask_info(&self) -> Result<(), EngineError> {
        let hung = EngineError::TimedOut {
            call: "info",
            after: ANSWER_DEADLINE,
        };
        let info = timeout(ANSWER_DEADLINE, self.engine.info()).await;
        let info = info.map_err(|_| hung)??;
        self.info.send_if_modified(|known| {
            let changed = known.as_ref() != Some(&info);
            *known = Some(info);
            changed
        });
        Ok(())
    }

    fn note(&self, error: Option<EngineError>) {
        let error = error.map(|err| err.to_string());
        let now = self.clock.now();
        self.health.send_if_modified(|health| {
            if health.error == error {
                return false;
            }
            match &error {
                Some(cause) => tracing::warn!(cause, "the container engine does not answer"),
                None => tracing::info!("the container engine answers again"),
            }
            if health.ok == error.is_some() {
                health.since = now;
            }
            health.ok = error.is_none();
            health.error = error;
            true
        });
    }
}
