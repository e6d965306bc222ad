//! Whether one run of an agent still exists, and what keeps a dead one from acting.
//!
//! All simulated agents share one runtime, so killing one must also silence what it had spawned. Every edge that an
//! agent is given goes through its [`Life`]: after the agent's death no call through it is answered, and nothing it
//! sends leaves. A frozen agent gets its answers when it thaws.

use std::future::{Future, pending};
use std::sync::Arc;

use tokio::sync::watch;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    Running,
    /// Stopped by a signal or a suspended machine; goes on later where it was.
    Frozen,
    Dead,
}

/// One run of one agent, from its start to its death.
#[derive(Debug, Clone)]
pub struct Life {
    sender: Arc<watch::Sender<Phase>>,
}

impl Default for Life {
    fn default() -> Self {
        Self {
            sender: Arc::new(watch::Sender::new(Phase::Running)),
        }
    }
}

impl Life {
    pub fn phase(&self) -> Phase {
        *self.sender.borrow()
    }

    pub fn is_running(&self) -> bool {
        self.phase() == Phase::Running
    }

    pub fn end(&self) {
        self.sender.send_replace(Phase::Dead);
    }

    /// Freezes or thaws; a dead one stays dead.
    pub fn set_frozen(&self, frozen: bool) {
        let (from, to) = if frozen {
            (Phase::Running, Phase::Frozen)
        } else {
            (Phase::Frozen, Phase::Running)
        };
        self.sender.send_if_modified(|phase| {
            let fits = *phase == from;
            if fits {
                *phase = to;
            }
            fits
        });
    }

    /// Waits until the agent runs. Never returns when it is dead.
    pub async fn running(&self) {
        self.reaches(Phase::Running).await;
    }

    /// Waits for the end.
    pub async fn ended(&self) {
        self.reaches(Phase::Dead).await;
    }

    async fn reaches(&self, wanted: Phase) {
        let mut phase = self.sender.subscribe();
        let reached = phase.wait_for(|phase| *phase == wanted).await.is_ok();
        if !reached {
            pending::<()>().await;
        }
    }

    /// What `work` returns, once the agent is there to see it; never, if it died before.
    pub async fn sees<T>(&self, work: impl Future<Output = T>) -> T {
        let value = tokio::select! {
            biased;
            () = self.ended() => pending().await,
            value = work => value,
        };
        self.running().await;
        value
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::{sleep, timeout};

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_frozen_agent_sees_answers_when_it_thaws_and_a_dead_one_never() {
        let life = Life::default();
        let seen = tokio::spawn({
            let life = life.clone();
            async move { life.sees(sleep(Duration::from_secs(1))).await }
        });
        life.set_frozen(true);
        sleep(Duration::from_secs(5)).await;
        assert!(!seen.is_finished());
        life.set_frozen(false);
        assert!(seen.await.is_ok());

        life.end();
        life.set_frozen(false);
        assert_eq!(life.phase(), Phase::Dead);
        let late = timeout(Duration::from_secs(60), life.sees(async {}));
        assert!(late.await.is_err());
    }
}
