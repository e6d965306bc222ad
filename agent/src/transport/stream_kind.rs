//! The shape of what travels on a stream: its first byte names the kind, then come messages, each behind its length.
//!
//! A length is checked against the kind's limit before anything is allocated for it, and memory grows only as bytes
//! arrive, so that a promise of much costs nothing.

use bytes::Bytes;
use quinn::{ReadExactError, RecvStream, SendStream, WriteError};
use tokio::sync::Semaphore;

use super::limits;

/// What a stream carries. The numbers are spoken between versions: never reused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum StreamKind {
    /// One-way, long-lived, many messages in order.
    Raft = 1,
    /// One-way, one message.
    Gossip = 2,
    /// One-way, one Raft message that holds a snapshot.
    Snapshot = 3,
    /// Two-way: one request, one answer.
    Call = 4,
    /// Two-way: one request, then frames.
    Logs = 5,
    /// Two-way, for joiners only: one request, one answer.
    Join = 6,
}

impl StreamKind {
    pub(super) fn of_byte(byte: u8) -> Option<Self> {
        [
            Self::Raft,
            Self::Gossip,
            Self::Snapshot,
            Self::Call,
            Self::Logs,
            Self::Join,
        ]
        .into_iter()
        .find(|kind| *kind as u8 == byte)
    }

    /// Most bytes of one message.
    pub(super) const fn message_bytes_max(self) -> usize {
        match self {
            Self::Raft => 8 << 20,
            Self::Gossip => 64 << 10,
            Self::Snapshot => 256 << 20,
            Self::Call => 4 << 20,
            Self::Logs => 64 << 10,
            Self::Join => limits::JOIN_REQUEST_BYTES,
        }
    }

    /// Higher goes first when the link is busy.
    pub(super) const fn priority(self) -> i32 {
        match self {
            Self::Raft => 30,
            Self::Gossip => 20,
            Self::Call | Self::Join => 10,
            Self::Snapshot | Self::Logs => 0,
        }
    }
}

/// Why no message came out of a stream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum FrameError {
    #[error("the stream ended inside a message")]
    CutOff,
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge { size: usize, limit: usize },
    /// The other side reset the stream with this code.
    #[error("the stream was reset with code {0}")]
    Reset(quinn::VarInt),
    #[error("the connection is gone: {0}")]
    Gone(#[from] quinn::ConnectionError),
    #[error("the stream is closed")]
    Closed,
}

impl From<quinn::ReadError> for FrameError {
    fn from(err: quinn::ReadError) -> Self {
        match err {
            quinn::ReadError::Reset(code) => Self::Reset(code),
            quinn::ReadError::ConnectionLost(err) => Self::Gone(err),
            _ => Self::Closed,
        }
    }
}

/// Reads the byte that names the kind. `None`: a kind that this version does not know.
pub(super) async fn read_kind(stream: &mut RecvStream) -> Result<Option<StreamKind>, FrameError> {
    let mut byte = [0u8; 1];
    match stream.read_exact(&mut byte).await {
        Ok(()) => Ok(StreamKind::of_byte(byte[0])),
        Err(ReadExactError::FinishedEarly(_)) => Err(FrameError::CutOff),
        Err(ReadExactError::ReadError(err)) => Err(err.into()),
    }
}

/// Reads one message of at most `limit` bytes; `None` when the stream ended before it. A large message waits for its
/// share of `budget`.
pub(super) async fn read_message(
    stream: &mut RecvStream,
    limit: usize,
    budget: &Semaphore,
) -> Result<Option<Bytes>, FrameError> {
    let mut prefix = [0u8; 4];
    match stream.read_exact(&mut prefix).await {
        Ok(()) => {}
        Err(ReadExactError::FinishedEarly(0)) => return Ok(None),
        Err(ReadExactError::FinishedEarly(_)) => return Err(FrameError::CutOff),
        Err(ReadExactError::ReadError(err)) => return Err(err.into()),
    }
    let size = u32::from_be_bytes(prefix) as usize;
    if size > limit {
        return Err(FrameError::TooLarge { size, limit });
    }
    let _share = match share_of(size) {
        0 => None,
        share => Some(
            budget
                .acquire_many(share)
                .await
                .map_err(|_| FrameError::Closed)?,
        ),
    };
    // Copied out of the packets: a slice would hold on to the whole batch that they arrived in.
    let mut message = Vec::with_capacity(size.min(limits::SMALL_MESSAGE_BYTES));
    while message.len() < size {
        let chunk = stream
            .read_chunk(size - message.len(), true)
            .await?
            .ok_or(FrameError::CutOff)?;
        message.extend_from_slice(&chunk.bytes);
    }
    Ok(Some(message.into()))
}

/// A budget for the messages of one peer.
pub(super) fn assembly_budget() -> Semaphore {
    Semaphore::new(limits::ASSEMBLY_BYTES)
}

/// What a message takes from the budget: nothing when it is small, and never more than there is.
fn share_of(size: usize) -> u32 {
    if size <= limits::SMALL_MESSAGE_BYTES {
        return 0;
    }
    u32::try_from(size.min(limits::ASSEMBLY_BYTES)).unwrap_or(u32::MAX)
}

/// Writes one message behind its length.
pub(super) async fn write_message(
    stream: &mut SendStream,
    message: &Bytes,
) -> Result<(), WriteError> {
    let size = u32::try_from(message.len()).map_err(|_| WriteError::ClosedStream)?;
    let mut parts = [Bytes::copy_from_slice(&size.to_be_bytes()), message.clone()];
    stream.write_all_chunks(&mut parts).await
}

/// Writes the byte that names the kind, and sets the stream's priority.
pub(super) async fn write_kind(
    stream: &mut SendStream,
    kind: StreamKind,
) -> Result<(), WriteError> {
    stream
        .set_priority(kind.priority())
        .map_err(|_| WriteError::ClosedStream)?;
    stream.write_all(&[kind as u8]).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_found_by_its_byte_and_nothing_else_is() {
        let known: Vec<u8> = (0..=u8::MAX)
            .filter(|byte| StreamKind::of_byte(*byte).is_some())
            .collect();
        assert_eq!(known, [1, 2, 3, 4, 5, 6]);
    }

    #[test]
    fn raft_goes_first_and_snapshots_last() {
        let order = [
            StreamKind::Raft,
            StreamKind::Gossip,
            StreamKind::Call,
            StreamKind::Snapshot,
        ];
        assert!(
            order
                .windows(2)
                .all(|pair| pair[0].priority() > pair[1].priority())
        );
        assert_eq!(StreamKind::Logs.priority(), StreamKind::Snapshot.priority());
    }

    #[test]
    fn a_snapshot_larger_than_the_whole_budget_still_passes_alone() {
        assert_eq!(
            share_of(StreamKind::Snapshot.message_bytes_max()) as usize,
            limits::ASSEMBLY_BYTES
        );
        assert_eq!(share_of(limits::SMALL_MESSAGE_BYTES), 0);
    }
}
