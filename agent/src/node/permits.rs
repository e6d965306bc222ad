//! How many engine calls that change something may be under way. A call that clearly hangs gives its place away: it
//! uses no processor while it waits, and the others must go on.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::sleep;

/// Stopping is mostly waiting for the container's own end.
const STOPS_MAX: usize = 32;
const REMOVALS_MAX: usize = 4;
/// A call that takes so long is not busy, it hangs.
const PLACE_KEPT: Duration = Duration::from_secs(10);

/// Separate places, so that stuck removals never delay a start.
#[derive(Clone)]
pub(super) struct Permits {
    starts: Arc<Semaphore>,
    stops: Arc<Semaphore>,
    removals: Arc<Semaphore>,
}

impl Permits {
    pub(super) fn new(starts: usize) -> Self {
        Self {
            starts: Arc::new(Semaphore::new(starts.max(1))),
            stops: Arc::new(Semaphore::new(STOPS_MAX)),
            removals: Arc::new(Semaphore::new(REMOVALS_MAX)),
        }
    }

    pub(super) async fn start<T>(&self, call: impl Future<Output = T>) -> T {
        with_place(&self.starts, PLACE_KEPT, call).await
    }

    /// A stop may take its grace without being suspicious.
    pub(super) async fn stop<T>(&self, grace: Duration, call: impl Future<Output = T>) -> T {
        with_place(&self.stops, grace.saturating_add(PLACE_KEPT), call).await
    }

    pub(super) async fn remove<T>(&self, call: impl Future<Output = T>) -> T {
        with_place(&self.removals, PLACE_KEPT, call).await
    }
}

async fn with_place<T>(places: &Semaphore, kept: Duration, call: impl Future<Output = T>) -> T {
    // The semaphores are never closed; without a place the call would only be less bounded.
    let place = places.acquire().await.ok();
    let mut call = std::pin::pin!(call);
    tokio::select! {
        biased;
        result = &mut call => return result,
        () = sleep(kept) => drop(place),
    }
    call.await
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_hangs_gives_its_place_away() {
        let permits = Permits::new(1);
        let begun = Instant::now();
        let hung = permits.start(sleep(Duration::from_secs(60)));
        let quick = async {
            sleep(Duration::from_millis(1)).await;
            permits.start(async {}).await;
            begun.elapsed()
        };
        let ((), waited) = tokio::join!(hung, quick);
        assert!(waited < Duration::from_secs(11), "{waited:?}");
        assert!(waited >= PLACE_KEPT);
    }
}
