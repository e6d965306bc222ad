//! The whole state as one piece of bytes: written when the log is compacted, sent to nodes that are far behind.
//!
//! A frame is a mark, the encoded state and the SHA-256 of both. What was written on one node reads back equal on any
//! other, and damaged bytes are an error, never another state.

use sha2::{Digest, Sha256};

use crate::codec::{self, CodecError};
use crate::state::ClusterState;

/// First bytes of a snapshot, so that a file of another kind is named for what it is.
const MARK: &[u8; 4] = b"KWNS";
const SUM_BYTES: usize = 32;

/// Why bytes are not a snapshot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SnapshotError {
    #[error("these bytes are not a snapshot of Kawanan's state")]
    NotASnapshot,
    #[error("the snapshot is damaged: its checksum does not match")]
    Damaged,
    #[error("the snapshot cannot be read: {0}")]
    Unreadable(#[from] CodecError),
    #[error("the snapshot contradicts itself: service {0} lacks its current spec")]
    Inconsistent(kawanan_api::ServiceId),
}

/// Writes the state down.
///
/// # Errors
/// When the state cannot be encoded, or is larger than a snapshot may be.
pub fn encode(state: &ClusterState) -> Result<Vec<u8>, SnapshotError> {
    let body = codec::encode(state)?;
    if body.len() > codec::SNAPSHOT_BYTES_MAX {
        return Err(SnapshotError::Unreadable(CodecError::TooLarge {
            size: body.len(),
            limit: codec::SNAPSHOT_BYTES_MAX,
        }));
    }
    let mut bytes = Vec::with_capacity(MARK.len() + body.len() + SUM_BYTES);
    bytes.extend_from_slice(MARK);
    bytes.extend_from_slice(&body);
    let sum = Sha256::digest(&bytes);
    bytes.extend_from_slice(&sum);
    Ok(bytes)
}

/// Reads a state back.
///
/// # Errors
/// When the bytes are not exactly what [`encode`] wrote, or come from a version that this one does not know.
pub fn decode(bytes: &[u8]) -> Result<ClusterState, SnapshotError> {
    let framed = bytes
        .strip_prefix(MARK)
        .ok_or(SnapshotError::NotASnapshot)?;
    let body_bytes = framed
        .len()
        .checked_sub(SUM_BYTES)
        .ok_or(SnapshotError::Damaged)?;
    let (body, sum) = framed.split_at(body_bytes);
    if Sha256::digest(&bytes[..MARK.len() + body_bytes]).as_slice() != sum {
        return Err(SnapshotError::Damaged);
    }
    let state: ClusterState = codec::decode_snapshot(body)?;
    // `Service::spec` relies on this one.
    let broken = state
        .services
        .values()
        .find(|service| !service.revisions.contains_key(&service.spec_revision));
    match broken {
        Some(service) => Err(SnapshotError::Inconsistent(service.id)),
        None => Ok(state),
    }
}
