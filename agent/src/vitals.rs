//! Tells systemd that the agent is ready and still alive: the watchdog is fed only while the core loops advance.
//!
//! Each core loop is asked through its own queue and must answer from its own loop, so a loop that is stuck, starved or
//! gone starves the watchdog, and systemd starts the agent anew. Containers are not touched by that.

use std::time::Duration;

use futures::future::BoxFuture;
use sd_notify::NotifyState;
use tokio::time::{sleep, timeout};
use tracing::{debug, error};

/// Time for a loop to answer. A loop never works that long on one thing: every await in it has a shorter deadline.
const ANSWER_DEADLINE: Duration = Duration::from_secs(8);

/// A core loop: its name and how to ask whether it advances.
pub struct Vital {
    pub name: &'static str,
    pub ask: Box<dyn Fn() -> BoxFuture<'static, bool> + Send + Sync>,
}

/// Says READY=1, with a line for `systemctl status`. Does nothing when systemd did not start this process.
pub fn notify_ready(status: &str) {
    notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

/// Says that the agent is on its way out.
pub fn notify_stopping() {
    notify(&[NotifyState::Stopping]);
}

/// Replaces the line in `systemctl status`.
pub fn notify_status(status: &str) {
    notify(&[NotifyState::Status(status)]);
}

fn notify(states: &[NotifyState<'_>]) {
    if let Err(err) = sd_notify::notify(states) {
        debug!(%err, "systemd was not told");
    }
}

/// Feeds the watchdog three times per period while all loops answer. Returns at once when there is no watchdog.
pub async fn feed_watchdog(vitals: Vec<Vital>) {
    let Some(period) = sd_notify::watchdog_enabled() else {
        return;
    };
    loop {
        match first_silent(&vitals).await {
            None => notify(&[NotifyState::Watchdog]),
            Some(name) => error!(name, "a core loop does not answer; the watchdog is not fed"),
        }
        sleep(period / 3).await;
    }
}

async fn first_silent(vitals: &[Vital]) -> Option<&'static str> {
    for vital in vitals {
        if !matches!(timeout(ANSWER_DEADLINE, (vital.ask)()).await, Ok(true)) {
            return Some(vital.name);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vital(
        name: &'static str,
        answer: impl Fn() -> BoxFuture<'static, bool> + Send + Sync + 'static,
    ) -> Vital {
        Vital {
            name,
            ask: Box::new(answer),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_loop_that_hangs_is_named() {
        let fine = vital("fine", || Box::pin(async { true }));
        let stuck = vital("stuck", || Box::pin(std::future::pending()));
        assert_eq!(first_silent(&[fine]).await, None);
        assert_eq!(first_silent(&[stuck]).await, Some("stuck"));
    }
}
