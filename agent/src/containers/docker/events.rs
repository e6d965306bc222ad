//! The engine's event stream, reduced to "look again at this one".

use bollard::models::EventMessage;
use futures::{Stream, StreamExt};
use tokio::sync::mpsc;

use crate::containers::Stirred;

/// Hints that may wait. When more come, the full pass finds what was missed.
pub(super) const HINTS_QUEUED_MAX: usize = 256;

/// Whether the event may change what [`crate::containers::SeenContainer`] shows. Health checks run commands in the
/// container and each makes three events; those are the ones left out.
fn matters(action: &str) -> bool {
    !(action.starts_with("exec_")
        || [
            "top",
            "resize",
            "attach",
            "export",
            "copy",
            "archive-path",
            "commit",
        ]
        .contains(&action))
}

/// Moves hints into the channel until either end closes.
pub(super) async fn forward(
    events: impl Stream<Item = Result<EventMessage, bollard::errors::Error>>,
    hints: mpsc::Sender<Stirred>,
) {
    let mut events = std::pin::pin!(events);
    loop {
        let event = tokio::select! {
            biased;
            () = hints.closed() => return,
            event = events.next() => event,
        };
        match event {
            Some(Ok(event)) if matters(event.action.as_deref().unwrap_or_default()) => {
                let container = event.actor.and_then(|actor| actor.id);
                // A full queue already means "look at everything again".
                if let Err(mpsc::error::TrySendError::Closed(_)) =
                    hints.try_send(Stirred { container })
                {
                    return;
                }
            }
            Some(Ok(_)) => {}
            Some(Err(err)) => {
                tracing::debug!(%err, "the event stream of the container engine broke off");
                return;
            }
            None => return,
        }
    }
}
