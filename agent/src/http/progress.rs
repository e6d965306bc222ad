//! Streams of the whole picture of one thing, at every change of it.

use std::time::Duration;

use axum::response::Response;
use kawanan_api::{ApiError, ErrorCode};
use kawanan_logic::view::View;
use serde::Serialize;
use tokio::time::Instant;

use super::Api;
use super::answer::Failure;
use super::stream::{self, StreamEnd};

/// Changes within this time go out as one: a plan for a hundred tasks is followed by a hundred reports.
const GATHER: Duration = Duration::from_millis(50);
/// Longest time between two looks: what is not in the state (suspicion, notes, back-off) changes too.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Longest silence; the reader takes more for a dead connection.
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// Streams what `project` shows, now and whenever it shows something else. Ends with the object: its removal is the
/// last line, an error with code `not_found`.
pub(super) fn stream<T, P>(api: &Api, project: P) -> Result<Response, Failure>
where
    T: Serialize + Send + Sync + PartialEq + 'static,
    P: Fn(&View<'_>) -> Result<T, ApiError> + Send + Sync + 'static,
    T: Timed,
{
    let looking = api.clone();
    stream::answer(api, move |lines| async move {
        let mut changes = looking.backend.state();
        let mut last: Option<T> = None;
        let mut sent_at = Instant::now();
        loop {
            changes.borrow_and_update();
            let now = looking.show(false, |_, view| project(view)).await?;
            let changed = last.as_ref().is_none_or(|last| !last.same_as(&now));
            if changed || sent_at.elapsed() >= SILENCE_MAX {
                lines.send(&now).await?;
                last = Some(now);
                sent_at = Instant::now();
                tokio::time::sleep(GATHER).await;
            }
            match tokio::time::timeout(LOOK_INTERVAL, changes.changed()).await {
                Ok(Ok(())) | Err(_) => {}
                Ok(Err(_)) => return Err(stopping()),
            }
        }
    })
}

fn stopping() -> StreamEnd {
    ApiError::new(ErrorCode::Unavailable, "this agent is stopping").into()
}

/// A picture with the time, and the place in the log, at which it was taken.
pub(super) trait Timed {
    /// Whether both show the same but for that.
    fn same_as(&self, other: &Self) -> bool;
}

impl Timed for kawanan_api::views::ProgressEvent {
    fn same_as(&self, other: &Self) -> bool {
        let mut copy = self.clone();
        copy.at = other.at;
        copy.applied = other.applied;
        copy == *other
    }
}

impl Timed for kawanan_api::views::DrainEvent {
    fn same_as(&self, other: &Self) -> bool {
        let mut copy = self.clone();
        copy.at = other.at;
        copy.applied = other.applied;
        copy == *other
    }
}
