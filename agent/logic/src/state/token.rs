//! A permission to join, known to the cluster only by the hash of its secret.

use kawanan_api::{Timestamp, TokenId};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Token {
    pub id: TokenId,
    /// SHA-256 of the secret.
    pub secret_hash: [u8; 32],
    pub created_at: Timestamp,
    /// `None`: does not expire.
    pub expires_at: Option<Timestamp>,
    /// Joins left; `None`: no limit.
    pub uses_left: Option<u32>,
    /// Joins so far.
    pub used: u32,
    pub revoked_at: Option<Timestamp>,
    /// What the operator wrote beside it.
    pub note: String,
}
