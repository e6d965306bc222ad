//! One container's output.

use std::time::Duration;

use futures::future::join_all;
use kawanan_api::views::{LogEvent, LogRequest};
use kawanan_api::{ApiError, TaskId, Timestamp};
use tokio::sync::mpsc;

use super::super::Api;
use crate::containers::LogQuery;
use crate::peer::LogFrame;

/// Longest wait until a node begins to answer.
const OPEN_DEADLINE: Duration = Duration::from_secs(10);

/// A line of a container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) at: Timestamp,
    pub(super) stderr: bool,
    pub(super) text: Vec<u8>,
}

/// A task, and how much of its output was sent.
#[derive(Debug, Clone)]
pub(super) struct Source {
    pub(super) task: TaskId,
    name: String,
    node: String,
    /// Time of the last line that was read, and how many lines of that very millisecond were.
    read: Option<(Timestamp, u32)>,
}

impl Source {
    pub(super) fn new(task: TaskId, name: String, node: String) -> Self {
        Self {
            task,
            name,
            node,
            read: None,
        }
    }

    pub(super) fn advance(&mut self, line: &Line) {
        self.read = match self.read {
            Some((at, count)) if at == line.at => Some((at, count + 1)),
            _ => Some((line.at, 1)),
        };
    }

    /// From where to read on: the query, and how many of its first lines are known already.
    pub(super) fn resume(&self, since: Option<Timestamp>) -> (LogQuery, Known) {
        let (since, known) = match self.read {
            Some((at, count)) => (Some(at), Known { at, left: count }),
            None => (since, Known::default()),
        };
        let query = LogQuery {
            follow: true,
            tail: None,
            since,
        };
        (query, known)
    }

    pub(super) fn event(&self, line: Line) -> LogEvent {
        LogEvent::Line {
            at: line.at,
            task: self.task,
            task_name: self.name.clone(),
            node: self.node.clone(),
            stderr: line.stderr,
            text: match String::from_utf8(line.text) {
                Ok(text) => text,
                Err(err) => String::from_utf8_lossy(err.as_bytes()).into_owned(),
            },
        }
    }

    pub(super) fn missing(&self, cause: &ApiError) -> String {
        format!(
            "lines of {} on {} may be missing: {cause}",
            self.name, self.node
        )
    }
}

/// Lines that come again because a stream is opened at a time, not at a line.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Known {
    at: Timestamp,
    left: u32,
}

impl Known {
    /// Whether the line was sent before.
    pub(super) fn skips(&mut self, line: &Line) -> bool {
        if self.left == 0 || line.at > self.at {
            self.left = 0;
            return false;
        }
        if line.at == self.at {
            self.left -= 1;
        }
        true
    }
}

pub(super) async fn open(
    api: &Api,
    task: TaskId,
    query: LogQuery,
) -> Result<mpsc::Receiver<LogFrame>, ApiError> {
    match tokio::time::timeout(OPEN_DEADLINE, api.backend.logs(task, query)).await {
        Ok(opened) => opened,
        Err(_) => Err(ApiError::new(
            kawanan_api::ErrorCode::Unavailable,
            format!("no answer within {} s", OPEN_DEADLINE.as_secs()),
        )),
    }
}

pub(super) type Opened = Vec<(usize, mpsc::Receiver<LogFrame>)>;
pub(super) type Failures = Vec<(usize, ApiError)>;

/// Opens what is there of every source, all at the same time.
pub(super) async fn open_all(
    api: &Api,
    sources: &[Source],
    request: LogRequest,
) -> (Opened, Failures) {
    let query = LogQuery {
        follow: false,
        tail: request.tail,
        since: request.since,
    };
    let results = join_all(sources.iter().map(|source| open(api, source.task, query))).await;
    let (mut opened, mut failed) = (Vec::new(), Vec::new());
    for (source, result) in results.into_iter().enumerate() {
        match result {
            Ok(frames) => opened.push((source, frames)),
            Err(error) => failed.push((source, error)),
        }
    }
    (opened, failed)
}
