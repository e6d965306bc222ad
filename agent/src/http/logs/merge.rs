//! Several outputs that have an end, merged exactly: the earliest line of all comes next.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use kawanan_api::{ApiError, ErrorCode, Timestamp};
use tokio::sync::mpsc;

use super::source::{Failures, Line, Opened};
use crate::peer::LogFrame;

/// Longest wait for the next line of what a node has already.
const LINE_DEADLINE: Duration = Duration::from_secs(10);

pub(super) struct Merged {
    frames: BTreeMap<usize, mpsc::Receiver<LogFrame>>,
    /// The next line of each source that has one: time, then source.
    heads: BinaryHeap<Reverse<(Timestamp, usize)>>,
    lines: BTreeMap<usize, Line>,
    /// Sources whose next line is not known.
    unread: Vec<usize>,
    failures: Failures,
}

impl Merged {
    pub(super) fn new(opened: Opened) -> Self {
        let unread = opened.iter().map(|(source, _)| *source).collect();
        Self {
            frames: opened.into_iter().collect(),
            heads: BinaryHeap::new(),
            lines: BTreeMap::new(),
            unread,
            failures: Vec::new(),
        }
    }

    /// The earliest line that was not returned yet, and its source.
    pub(super) async fn next(&mut self) -> Option<(usize, Line)> {
        for source in std::mem::take(&mut self.unread) {
            if let Some(line) = self.read(source).await {
                self.heads.push(Reverse((line.at, source)));
                self.lines.insert(source, line);
            }
        }
        let Reverse((_, source)) = self.heads.pop()?;
        self.unread.push(source);
        self.lines.remove(&source).map(|line| (source, line))
    }

    async fn read(&mut self, source: usize) -> Option<Line> {
        let frames = self.frames.get_mut(&source)?;
        match tokio::time::timeout(LINE_DEADLINE, frames.recv()).await {
            Ok(Some(LogFrame::Line { at, stderr, text })) => {
                return Some(Line { at, stderr, text });
            }
            Ok(Some(LogFrame::Failed(error))) => self.failures.push((source, error)),
            Ok(None) => {}
            Err(_) => {
                let cause = format!("nothing came for {} s", LINE_DEADLINE.as_secs());
                self.failures
                    .push((source, ApiError::new(ErrorCode::Unavailable, cause)));
            }
        }
        self.frames.remove(&source);
        None
    }

    /// Sources that could not be read to their end.
    pub(super) fn into_failures(self) -> Failures {
        self.failures
    }
}
