//! Requests to a peer: one answer, or a stream of frames.
//!
//! What matters most is telling "it did not happen" from "nobody knows": a request that was not completely handed to a
//! standing connection cannot have been carried out, because the peer acts on whole requests only.

use std::sync::Arc;

use bytes::Bytes;
use kawanan_api::NodeId;
use quinn::{Connection, ConnectionError, RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::{Instant, timeout_at};

use super::super::peer_link::{NoConnection, PeerLink};
use super::super::stream_kind::{FrameError, StreamKind, read_message, write_kind, write_message};
use super::super::{CallError, codes, limits};

/// See [`PeerLinks::call`](super::super::PeerLinks::call).
pub(super) async fn call(
    link: &PeerLink,
    request: Bytes,
    deadline: Instant,
) -> Result<Bytes, CallError> {
    let node = link.peer();
    let mut receive = ask(link, StreamKind::Call, request, deadline).await?;
    // The answer is the only message on the stream, so its own budget is enough.
    let budget = Semaphore::new(limits::ASSEMBLY_BYTES);
    let reading = read_message(&mut receive, StreamKind::Call.message_bytes_max(), &budget);
    match timeout_at(deadline, reading).await {
        Ok(Ok(Some(answer))) => Ok(answer),
        Ok(Ok(None)) | Err(_) => Err(CallError::NoAnswer { node }),
        Ok(Err(err)) => Err(asked_in_vain(node, &err)),
    }
}

/// See [`PeerLinks::open`](super::super::PeerLinks::open).
pub(super) async fn open(
    link: Arc<PeerLink>,
    request: Bytes,
    deadline: Instant,
) -> Result<mpsc::Receiver<Bytes>, CallError> {
    let node = link.peer();
    let place = link
        .log_streams()
        .try_acquire_owned()
        .map_err(|_| CallError::Unreachable {
            node,
            cause: format!(
                "{} log streams to it are open already, more are not allowed",
                limits::LOG_STREAMS_MAX
            ),
        })?;
    let mut receive = ask(&link, StreamKind::Logs, request, deadline).await?;
    let budget = Semaphore::new(0);
    let taken = timeout_at(deadline, read_message(&mut receive, 0, &budget)).await;
    match taken {
        Ok(Ok(Some(_))) => {}
        Ok(Ok(None)) | Err(_) => return Err(CallError::NoAnswer { node }),
        Ok(Err(err)) => return Err(asked_in_vain(node, &err)),
    }
    let (frames, receiver) = mpsc::channel(limits::FRAMES);
    tokio::spawn(pass_on(receive, frames, link, place));
    Ok(receiver)
}

/// Reads frames until the stream ends or nobody wants them any more.
async fn pass_on(
    mut receive: RecvStream,
    frames: mpsc::Sender<Bytes>,
    link: Arc<PeerLink>,
    _place: OwnedSemaphorePermit,
) {
    let limit = StreamKind::Logs.message_bytes_max();
    let budget = Semaphore::new(0);
    loop {
        let frame = tokio::select! {
            biased;
            () = frames.closed() => break,
            frame = read_message(&mut receive, limit, &budget) => frame,
        };
        link.touch();
        match frame {
            Ok(Some(frame)) => {
                if frames.send(frame).await.is_err() {
                    break;
                }
            }
            Ok(None) => return,
            Err(err) => {
                tracing::debug!(peer = %link.peer(), %err, "a stream of frames broke off");
                return;
            }
        }
    }
    if receive.stop(codes::ABANDONED).is_err() {
        tracing::trace!("the stream had ended already");
    }
}

/// Hands the whole request to a connection and returns the stream of the answer.
async fn ask(
    link: &PeerLink,
    kind: StreamKind,
    request: Bytes,
    deadline: Instant,
) -> Result<RecvStream, CallError> {
    let node = link.peer();
    if request.len() > kind.message_bytes_max() {
        return Err(unreachable(
            node,
            format!("a request of {} bytes is too large", request.len()),
        ));
    }
    let connection = link
        .connection_by(deadline)
        .await
        .map_err(|failure| no_connection(node, failure))?;
    match timeout_at(deadline, write_request(&connection, kind, &request)).await {
        Ok(Ok(receive)) => Ok(receive),
        Ok(Err(Unasked::Refused)) => Err(CallError::Refused(node)),
        Ok(Err(Unasked::Because(cause))) => Err(unreachable(node, cause)),
        Err(_) => Err(unreachable(
            node,
            "it does not take the request, it may be overloaded".to_owned(),
        )),
    }
}

enum Unasked {
    Refused,
    Because(String),
}

impl From<ConnectionError> for Unasked {
    fn from(err: ConnectionError) -> Self {
        match &err {
            ConnectionError::ApplicationClosed(close) if is_refusal(close.error_code) => {
                Self::Refused
            }
            _ => Self::Because(err.to_string()),
        }
    }
}

impl From<quinn::WriteError> for Unasked {
    fn from(err: quinn::WriteError) -> Self {
        match err {
            quinn::WriteError::ConnectionLost(err) => err.into(),
            quinn::WriteError::Stopped(codes::REFUSED) => Self::Refused,
            other => Self::Because(other.to_string()),
        }
    }
}

async fn write_request(
    connection: &Connection,
    kind: StreamKind,
    request: &Bytes,
) -> Result<RecvStream, Unasked> {
    let (mut send, receive): (SendStream, RecvStream) = connection.open_bi().await?;
    write_kind(&mut send, kind).await?;
    write_message(&mut send, request).await?;
    if send.finish().is_err() {
        tracing::trace!("the peer has closed the stream before its end");
    }
    Ok(receive)
}

fn no_connection(node: NodeId, failure: NoConnection) -> CallError {
    match failure {
        NoConnection::Refused => CallError::Refused(node),
        NoConnection::Hopeless(cause) | NoConnection::Unreachable(cause) => {
            unreachable(node, cause)
        }
    }
}

fn unreachable(node: NodeId, cause: String) -> CallError {
    CallError::Unreachable { node, cause }
}

fn is_refusal(code: quinn::VarInt) -> bool {
    [codes::REFUSED, codes::NOT_ADMITTED, codes::NO_CERTIFICATE].contains(&code)
}

/// What it means that the answer did not come although the whole request was sent.
fn asked_in_vain(node: NodeId, err: &FrameError) -> CallError {
    match err {
        FrameError::Reset(code) if is_refusal(*code) => CallError::Refused(node),
        FrameError::Reset(codes::OVERLOADED) => unreachable(node, "it is overloaded".to_owned()),
        FrameError::Reset(codes::TOO_LARGE | codes::UNKNOWN_KIND) => unreachable(
            node,
            "it does not understand the request; it may run another version".to_owned(),
        ),
        FrameError::Gone(ConnectionError::ApplicationClosed(close))
            if is_refusal(close.error_code) =>
        {
            CallError::Refused(node)
        }
        _ => CallError::NoAnswer { node },
    }
}
