//! Notices that this process itself stood still, so that it does not blame the others.
//!
//! After a pause (a suspended machine, a starved processor) everybody else looks silent at once, although only we were
//! not listening. The rule is Lifeguard's idea in its simplest form: a node that was late distrusts its own view first.

use std::time::Duration;

use tokio::time::Instant;

/// A tick later than this many intervals counts as a pause.
const LATE_AFTER_INTERVALS: u32 = 3;
/// Shortest pause that counts, whatever the interval: below it no heartbeat is missed.
const LATE_AFTER_MIN: Duration = Duration::from_millis(750);
/// How long after a pause the view is not trusted: enough for several rounds with every peer.
const DISTRUST: Duration = Duration::from_secs(3);

/// Watches the gaps between ticks that should come every `interval`.
#[derive(Debug)]
pub struct Lateness {
    late_after: Duration,
    last_tick: Instant,
    distrust_until: Option<Instant>,
}

impl Lateness {
    pub fn new(interval: Duration, now: Instant) -> Self {
        Self {
            late_after: (interval * LATE_AFTER_INTERVALS).max(LATE_AFTER_MIN),
            last_tick: now,
            distrust_until: None,
        }
    }

    /// Records a tick; returns the length of the pause when there was one.
    pub fn tick(&mut self, now: Instant) -> Option<Duration> {
        let gap = now.duration_since(self.last_tick);
        self.last_tick = now;
        if gap < self.late_after {
            return None;
        }
        self.distrust_until = Some(now + DISTRUST);
        Some(gap)
    }

    /// Whether this node's view of the others may be believed at `now`.
    pub fn trusts_itself(&self, now: Instant) -> bool {
        self.distrust_until.is_none_or(|until| now >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_distrusted_and_regular_ticks_are_not() {
        let interval = Duration::from_millis(250);
        let mut lateness = Lateness::new(interval, Instant::now());
        for _ in 0..10 {
            tokio::time::advance(interval).await;
            assert_eq!(lateness.tick(Instant::now()), None);
        }
        tokio::time::advance(Duration::from_secs(10)).await;
        assert!(lateness.tick(Instant::now()).is_some());
        assert!(!lateness.trusts_itself(Instant::now()));
        tokio::time::advance(DISTRUST).await;
        assert!(lateness.trusts_itself(Instant::now()));
    }
}
