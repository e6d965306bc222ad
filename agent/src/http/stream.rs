//! Answers that go on: JSON values, one per line, made by a tokio task of their own that ends with the connection.

use std::future::Future;

use axum::body::{Body, Bytes};
use axum::http::header;
use axum::response::{IntoResponse, Response};
use kawanan_api::{ApiError, ErrorCode};
use serde::Serialize;
use tokio::sync::mpsc;

use super::{Api, answer::Failure};

/// Lines on their way to a slow reader; the maker waits when it is full.
const LINES_QUEUED_MAX: usize = 64;

/// Where the maker of a stream puts its lines.
pub(super) struct Lines {
    queue: mpsc::Sender<Bytes>,
}

/// The reader went away.
#[derive(Debug)]
pub(super) struct Gone;

impl Lines {
    pub(super) async fn send<T: Serialize + Sync>(&self, value: &T) -> Result<(), Gone> {
        let mut line = match serde_json::to_vec(value) {
            Ok(line) => line,
            Err(err) => {
                tracing::error!(%err, "a line of a stream cannot be written as JSON");
                return Err(Gone);
            }
        };
        line.push(b'\n');
        self.queue.send(line.into()).await.map_err(|_| Gone)
    }

    /// Returns when the reader has gone away.
    pub(super) async fn gone(&self) {
        self.queue.closed().await;
    }
}

#[derive(Serialize)]
struct Failed<'a> {
    error: &'a ApiError,
}

/// Starts `make` and returns the answer that carries its lines. An error of `make` becomes the last line. The stream
/// ends when `make` does, when the reader goes away, or when the agent stops.
pub(super) fn answer<M, F>(api: &Api, make: M) -> Result<Response, Failure>
where
    M: FnOnce(std::sync::Arc<Lines>) -> F,
    F: Future<Output = Result<(), StreamEnd>> + Send + 'static,
{
    let permit = api.streams.clone().try_acquire_owned().map_err(|_| {
        let cause = format!("this agent serves {} streams already", super::STREAMS_MAX);
        ApiError::new(ErrorCode::LimitReached, cause).with_hint("ask another node, or end one")
    })?;
    let (queue, mut lines) = mpsc::channel(LINES_QUEUED_MAX);
    let sink = std::sync::Arc::new(Lines { queue });
    let making = make(sink.clone());
    let mut stop = api.stop.clone();
    tokio::spawn(async move {
        let _permit = permit;
        let end = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => Ok(()),
            () = sink.gone() => Ok(()),
            end = making => end,
        };
        if let Err(StreamEnd::Failed(error)) = end
            && sink.send(&Failed { error: &error }).await.is_err()
        {
            tracing::debug!(%error, "a stream failed after its reader had gone");
        }
    });
    let body = Body::from_stream(futures::stream::poll_fn(move |context| {
        lines
            .poll_recv(context)
            .map(|line| line.map(Ok::<_, std::convert::Infallible>))
    }));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Why a maker stops early.
#[derive(Debug)]
pub(super) enum StreamEnd {
    Gone,
    Failed(ApiError),
}

impl From<Gone> for StreamEnd {
    fn from(_: Gone) -> Self {
        Self::Gone
    }
}

impl From<ApiError> for StreamEnd {
    fn from(error: ApiError) -> Self {
        Self::Failed(error)
    }
}
