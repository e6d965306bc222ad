//! Log lines that strangers can cause at will, at a bounded rate.

use std::sync::{Mutex, PoisonError};

use tokio::time::Instant;

use super::limits;

/// Lets something be said once in a while.
#[derive(Debug, Default)]
pub(super) struct Seldom {
    /// When it was said last, and how often it was kept back since.
    last: Mutex<(Option<Instant>, u64)>,
}

impl Seldom {
    /// Says it, unless something was said a short time ago.
    pub(super) fn mention(&self, say: impl FnOnce()) {
        let mut last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let (said, kept_back) = &mut *last;
        if said.is_some_and(|said| said.elapsed() < limits::REFUSALS_LOGGED_EVERY) {
            *kept_back += 1;
            return;
        }
        if *kept_back > 0 {
            tracing::info!(times = *kept_back, "more of the same kind was not logged");
        }
        *last = (Some(Instant::now()), 0);
        drop(last);
        say();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_comes_often_is_said_seldom() {
        let seldom = Seldom::default();
        let mut said = 0;
        for _ in 0..25 {
            seldom.mention(|| said += 1);
            tokio::time::sleep(limits::REFUSALS_LOGGED_EVERY / 10).await;
        }
        assert_eq!(said, 3);
    }
}
