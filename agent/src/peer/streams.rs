//! Answers requests for streams: so far the output of this node's tasks.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::ApiError;
use kawanan_logic::codec;
use tokio::sync::mpsc;
use tokio::time::timeout;
use tracing::debug;

use super::{LogFrame, StreamRequest};
use crate::containers::LogQuery;
use crate::node::LogSource;
use crate::transport::StreamCall;

/// Time for the engine to begin.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// Serves streams until the transport ends. Each runs on its own; the transport bounds how many there are.
pub async fn serve(logs: LogSource, mut streams: mpsc::Receiver<StreamCall>) {
    while let Some(call) = streams.recv().await {
        let logs = logs.clone();
        tokio::spawn(async move { answer(logs, call).await });
    }
}

async fn answer(logs: LogSource, call: StreamCall) {
    let StreamRequest::Logs {
        task,
        follow,
        tail,
        since,
    } = match codec::decode(&call.request) {
        Ok(request) => request,
        Err(err) => {
            debug!(from = %call.from, %err, "a request for a stream cannot be read");
            return;
        }
    };
    let opened = timeout(
        OPEN_DEADLINE,
        logs.open(
            task,
            LogQuery {
                follow,
                tail,
                since,
            },
        ),
    )
    .await;
    let mut frames = match opened {
        Ok(Ok(frames)) => frames,
        Ok(Err(error)) => return last_word(&call.frames, error).await,
        Err(_) => {
            let error = ApiError::new(
                kawanan_api::ErrorCode::Unavailable,
                "the container engine does not answer",
            );
            return last_word(&call.frames, error).await;
        }
    };
    loop {
        tokio::select! {
            biased;
            () = call.frames.closed() => return,
            frame = frames.recv() => {
                let Some(frame) = frame else { return };
                if !pass_on(&call.frames, &frame).await {
                    return;
                }
            }
        }
    }
}

async fn last_word(to: &mpsc::Sender<Bytes>, error: ApiError) {
    if !pass_on(to, &LogFrame::Failed(error)).await {
        debug!("the reader of a stream went away");
    }
}

async fn pass_on(to: &mpsc::Sender<Bytes>, frame: &LogFrame) -> bool {
    match codec::encode(frame) {
        Ok(bytes) => to.send(bytes.into()).await.is_ok(),
        Err(err) => {
            debug!(%err, "a frame cannot be encoded");
            true
        }
    }
}
