//! Wall-clock time behind a trait, so that a simulated cluster lives in virtual time.
//!
//! Only for instants that are written down (`Timestamp`). Durations are measured with `tokio::time::Instant`, which
//! simulation controls as well. Nothing outside this file asks the operating system for the time.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kawanan_api::Timestamp;

pub trait Clock: Send + Sync + 'static {
    fn now(&self) -> Timestamp;
}

/// The operating system's clock. May step in either direction.
#[derive(Debug, Clone, Copy, Default)]
pub struct SystemClock;

impl Clock for SystemClock {
    fn now(&self) -> Timestamp {
        let since_epoch = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .unwrap_or(Duration::ZERO);
        Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
    }
}

/// Wall time that follows tokio's clock from a fixed start; with tokio's clock paused, virtual time.
#[derive(Debug, Clone, Copy)]
pub struct SimulatedClock {
    started: tokio::time::Instant,
    epoch: Timestamp,
}

impl SimulatedClock {
    /// A clock that shows `epoch` now. Call inside a tokio runtime.
    pub fn starting_at(epoch: Timestamp) -> Self {
        Self {
            started: tokio::time::Instant::now(),
            epoch,
        }
    }
}

impl Clock for SimulatedClock {
    fn now(&self) -> Timestamp {
        self.epoch.saturating_add(self.started.elapsed())
    }
}

/// How parts of the agent hold a clock.
pub type SharedClock = Arc<dyn Clock>;
