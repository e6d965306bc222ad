//! The output of one task's container, as frames for whoever asked, here or on another node.

use kawanan_api::{ApiError, ClusterId, ErrorCode, TaskId};
use tokio::sync::{mpsc, watch};

use super::Seen;
use crate::containers::{EngineError, LogQuery, SharedRuntime};
use crate::peer::LogFrame;

/// Frames that may wait for a slow reader; then the engine waits.
const FRAMES_QUEUED_MAX: usize = 64;

/// Serves logs of this node's tasks. Cheap to clone.
#[derive(Clone)]
pub struct LogSource {
    cluster: ClusterId,
    engine: SharedRuntime,
    seen: watch::Receiver<Seen>,
}

impl LogSource {
    pub(super) fn new(
        cluster: ClusterId,
        engine: SharedRuntime,
        seen: watch::Receiver<Seen>,
    ) -> Self {
        Self {
            cluster,
            engine,
            seen,
        }
    }

    /// Opens the output of a task. The channel ends with the output, or when it is dropped.
    ///
    /// # Errors
    /// When the task has no container here (yet, or any more), or the engine does not answer.
    pub async fn open(
        &self,
        task: TaskId,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogFrame>, ApiError> {
        let container = self.container_of(task).await?;
        let lines = self.engine.logs(&container, query).await;
        let mut lines = lines.map_err(|err| unavailable(&err))?;
        let (frames_out, frames) = mpsc::channel(FRAMES_QUEUED_MAX);
        tokio::spawn(async move {
            while let Some(line) = lines.recv().await {
                let frame = LogFrame::Line {
                    at: line.at,
                    stderr: line.stderr,
                    text: line.text.to_vec(),
                };
                // The reader went away: dropping `lines` ends the engine's stream.
                if frames_out.send(frame).await.is_err() {
                    return;
                }
            }
        });
        Ok(frames)
    }

    async fn container_of(&self, task: TaskId) -> Result<String, ApiError> {
        let known = self.seen.borrow().clone();
        if let Some(found) = known.values().find(|seen| seen.task == Some(task)) {
            return Ok(found.id.clone());
        }
        let listed = self.engine.list(self.cluster).await;
        let listed = listed.map_err(|err| unavailable(&err))?;
        let found = listed.into_iter().find(|seen| seen.task == Some(task));
        found.map(|seen| seen.id).ok_or_else(|| {
            ApiError::not_found(format!(
                "task {} has no container on this node",
                task.short()
            ))
            .with_hint("it may be waiting for its image, or its container was removed already")
        })
    }
}

fn unavailable(err: &EngineError) -> ApiError {
    ApiError::new(ErrorCode::Unavailable, err.to_string())
}
