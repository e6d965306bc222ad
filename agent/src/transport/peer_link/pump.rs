//! Carries messages from the queues of a link to its connection.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use quinn::{Connection, SendStream};
use tokio::sync::oneshot;
use tokio::time::{Instant, timeout};

use super::super::stream_kind::{StreamKind, write_kind, write_message};
use super::super::{codes, limits};
use super::{PeerLink, Queue, Queued};

/// Raft's stream on one connection.
struct RaftStream {
    stream: SendStream,
    connection: Connection,
}

/// Sends Raft messages, all on one stream for as long as the connection is the same.
pub(super) async fn raft(link: Arc<PeerLink>, mut queue: Queue) {
    let mut open: Option<RaftStream> = None;
    while let Some(queued) = queue.next().await {
        match queued {
            Queued::Flush(done) => flush(&mut open, done).await,
            Queued::Message(message, since) => {
                if let Some(connection) = fresh(&link, since, limits::MESSAGE_AGE_MAX).await {
                    let sent = timeout(
                        limits::MESSAGE_DEADLINE,
                        send_in_order(&mut open, connection, &message),
                    )
                    .await;
                    if !matches!(sent, Ok(Ok(()))) {
                        // Whatever was half written must not be taken for a message.
                        abandon(&mut open);
                    }
                }
                queue.sent(&message);
            }
        }
    }
}

/// The connection to send a message on, or `None` when the message has become too old waiting for it.
async fn fresh(link: &PeerLink, since: Instant, age_max: Duration) -> Option<Connection> {
    let connection = loop {
        match link.connection().await {
            Ok(connection) => break connection,
            // The keeper waits before it tries again, so this does not spin.
            Err(_) => continue,
        }
    };
    (since.elapsed() <= age_max).then_some(connection)
}

async fn send_in_order(
    open: &mut Option<RaftStream>,
    connection: Connection,
    message: &Bytes,
) -> Result<(), quinn::WriteError> {
    if let Some(previous) = open
        && previous.connection.stable_id() != connection.stable_id()
    {
        end(open).await;
    }
    if open.is_none() {
        let mut stream = connection.open_uni().await?;
        write_kind(&mut stream, StreamKind::Raft).await?;
        *open = Some(RaftStream { stream, connection });
    }
    match open {
        Some(raft) => write_message(&mut raft.stream, message).await,
        None => Ok(()),
    }
}

/// Ends the stream and gives its last messages a moment to arrive, so that they are read before those of the next one.
async fn end(open: &mut Option<RaftStream>) {
    let Some(mut previous) = open.take() else {
        return;
    };
    if previous.connection.close_reason().is_some() || previous.stream.finish().is_err() {
        return;
    }
    let arrived = timeout(limits::RAFT_SWITCH_DEADLINE, previous.stream.stopped()).await;
    if arrived.is_err() {
        tracing::debug!("the end of a replaced Raft stream was not confirmed");
    }
}

fn abandon(open: &mut Option<RaftStream>) {
    if let Some(mut raft) = open.take()
        && raft.stream.reset(codes::ABANDONED).is_err()
    {
        tracing::trace!("the Raft stream was closed already");
    }
}

async fn flush(open: &mut Option<RaftStream>, done: oneshot::Sender<()>) {
    end(open).await;
    if done.send(()).is_err() {
        tracing::trace!("nobody waits for the flush any more");
    }
}

/// Sends gossip, a stream per message: an old one that is lost does not hold up the next.
pub(super) async fn gossip(link: Arc<PeerLink>, mut queue: Queue) {
    while let Some(queued) = queue.next().await {
        if let Queued::Message(message, since) = queued {
            if let Some(connection) = fresh(&link, since, limits::MESSAGE_AGE_MAX).await {
                let sending = send_alone(&connection, StreamKind::Gossip, &message);
                report("gossip", timeout(limits::MESSAGE_AGE_MAX, sending).await);
            }
            queue.sent(&message);
        }
    }
}

/// Sends snapshots, one after the other, each until it has arrived.
pub(super) async fn snapshots(link: Arc<PeerLink>, mut queue: Queue) {
    while let Some(queued) = queue.next().await {
        if let Queued::Message(message, since) = queued {
            if let Some(connection) = fresh(&link, since, limits::SNAPSHOT_AGE_MAX).await {
                let sending = async {
                    let stream = send_alone(&connection, StreamKind::Snapshot, &message).await?;
                    // Ends with the connection at the latest.
                    if stream.stopped().await.is_err() {
                        tracing::debug!(peer = %link.peer(), "the connection ended during a snapshot");
                    }
                    Ok(stream)
                };
                report(
                    "a snapshot",
                    timeout(limits::SNAPSHOT_DEADLINE, sending).await,
                );
            }
            queue.sent(&message);
        }
    }
}

fn report(
    what: &'static str,
    outcome: Result<Result<SendStream, quinn::WriteError>, tokio::time::error::Elapsed>,
) {
    match outcome {
        Ok(Ok(_)) => {}
        Ok(Err(cause)) => tracing::debug!(%cause, "could not send {what}"),
        Err(_) => tracing::debug!("could not send {what} in time"),
    }
}

async fn send_alone(
    connection: &Connection,
    kind: StreamKind,
    message: &Bytes,
) -> Result<SendStream, quinn::WriteError> {
    let mut stream = connection.open_uni().await?;
    write_kind(&mut stream, kind).await?;
    write_message(&mut stream, message).await?;
    if stream.finish().is_err() {
        tracing::trace!("the stream was closed by the peer before its end");
    }
    Ok(stream)
}
