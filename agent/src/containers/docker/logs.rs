//! Output of one container as whole lines. The engine hands it out in frames: a frame without a line end is a part of
//! a longer line, and every part carries its own timestamp.

use bollard::container::LogOutput;
use bytes::{Bytes, BytesMut};
use futures::{Stream, StreamExt};
use kawanan_api::Timestamp;
use tokio::sync::mpsc;

use super::seen::timestamp;
use crate::containers::{LogLine, LogQuery};

/// Lines that may wait for a slow reader; then the engine waits.
pub(super) const LINES_QUEUED_MAX: usize = 64;
/// A longer line is cut into several.
const LINE_BYTES_MAX: usize = 64 << 10;

/// Puts frames together to lines.
#[derive(Default)]
struct Lines {
    /// Unfinished lines of stdout and stderr, with the time of their first part.
    unfinished: [Option<(Timestamp, BytesMut)>; 2],
}

impl Lines {
    fn take(&mut self, frame: LogOutput) -> Option<LogLine> {
        let stderr = matches!(frame, LogOutput::StdErr { .. });
        let frame = frame.into_bytes();
        let (at, text) = split_timestamp(&frame);
        let slot = &mut self.unfinished[usize::from(stderr)];
        let (_, line) = slot.get_or_insert_with(|| (at, BytesMut::new()));
        let (text, complete) = match text.strip_suffix(b"\n") {
            Some(text) => (text.strip_suffix(b"\r").unwrap_or(text), true),
            None => (text, false),
        };
        line.extend_from_slice(text);
        if !complete && line.len() < LINE_BYTES_MAX {
            return None;
        }
        let (at, text) = slot.take()?;
        Some(LogLine {
            at,
            stderr,
            text: text.freeze(),
        })
    }

    /// Lines that the output ended in the middle of.
    fn rest(self) -> impl Iterator<Item = LogLine> {
        self.unfinished
            .into_iter()
            .zip([false, true])
            .filter_map(|(unfinished, stderr)| {
                let (at, text) = unfinished?;
                Some(LogLine {
                    at,
                    stderr,
                    text: text.freeze(),
                })
            })
    }
}

/// `2026-01-02T03:04:05.678901234Z text`. A frame without a timestamp keeps all of its bytes.
fn split_timestamp(frame: &Bytes) -> (Timestamp, &[u8]) {
    let unknown = Timestamp::from_millis(0);
    let Some(space) = frame.iter().position(|byte| *byte == b' ') else {
        return (unknown, frame);
    };
    match std::str::from_utf8(&frame[..space])
        .ok()
        .and_then(timestamp)
    {
        Some(at) => (at, &frame[space + 1..]),
        None => (unknown, frame),
    }
}

/// Moves the engine's stream into the channel until either ends.
pub(super) async fn forward(
    frames: impl Stream<Item = Result<LogOutput, bollard::errors::Error>>,
    query: LogQuery,
    lines_out: mpsc::Sender<LogLine>,
) {
    let mut frames = std::pin::pin!(frames);
    let mut lines = Lines::default();
    loop {
        let frame = tokio::select! {
            biased;
            () = lines_out.closed() => return,
            frame = frames.next() => frame,
        };
        let line = match frame {
            Some(Ok(frame)) => lines.take(frame),
            Some(Err(err)) => {
                tracing::debug!(%err, "the log stream of a container broke off");
                break;
            }
            None => break,
        };
        // The engine's own `since` knows whole seconds only.
        let wanted = line.filter(|line| query.since.is_none_or(|since| line.at >= since));
        if let Some(line) = wanted
            && lines_out.send(line).await.is_err()
        {
            return;
        }
    }
    for line in lines.rest() {
        if lines_out.send(line).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stdout(text: &'static str) -> LogOutput {
        LogOutput::StdOut {
            message: Bytes::from_static(text.as_bytes()),
        }
    }

    #[test]
    fn parts_of_a_long_line_become_one_line() {
        let mut lines = Lines::default();
        assert_eq!(lines.take(stdout("2023-11-14T22:13:20.123Z one ")), None);
        assert_eq!(
            lines.take(LogOutput::StdErr {
                message: Bytes::from_static(b"2023-11-14T22:13:21Z oops\n")
            }),
            Some(LogLine {
                at: Timestamp::from_millis(1_700_000_001_000),
                stderr: true,
                text: Bytes::from_static(b"oops"),
            })
        );
        let line = lines.take(stdout("2023-11-14T22:13:22Z line\n")).unwrap();
        assert_eq!(line.text, "one line");
        assert_eq!(line.at, Timestamp::from_millis(1_700_000_000_123));
        assert_eq!(lines.take(stdout("2023-11-14T22:13:23Z end")), None);
        assert_eq!(lines.rest().next().unwrap().text, "end");
    }

    #[test]
    fn a_line_without_end_is_cut() {
        let mut lines = Lines::default();
        let part = Bytes::from(vec![b'x'; 16 << 10]);
        let cut = (0..10).filter_map(|_| {
            lines.take(LogOutput::StdOut {
                message: part.clone(),
            })
        });
        assert!(cut.count() >= 2);
    }
}
