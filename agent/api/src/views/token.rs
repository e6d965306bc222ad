//! Permissions to join.

use serde::{Deserialize, Serialize};

use crate::duration::Span;
use crate::ids::TokenId;
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenView {
    pub id: TokenId,
    pub created_at: Timestamp,
    /// `None`: does not expire.
    pub expires_at: Option<Timestamp>,
    /// Joins left; `None`: no limit.
    pub uses_left: Option<u32>,
    /// Joins so far.
    pub used: u32,
    pub revoked_at: Option<Timestamp>,
    /// Whether a machine could join with it now.
    pub valid: bool,
    /// What the operator wrote beside it.
    pub note: String,
}

/// The body of `POST /v1/tokens`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CreateToken {
    /// `None`: does not expire. Left out: 24 hours.
    pub expires_in: Option<Span>,
    /// How many machines may join with it; `None`: no limit.
    pub uses: Option<u32>,
    pub note: String,
}

impl Default for CreateToken {
    fn default() -> Self {
        Self {
            expires_in: Some(Span::from_secs(24 * 3600)),
            uses: None,
            note: String::new(),
        }
    }
}

/// The one answer that holds a secret.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct CreatedToken {
    pub token: TokenView,
    /// What to paste behind `agent join`. Shown once: the cluster keeps only a hash of its secret.
    pub join_token: String,
    /// Tokens that this one replaces and that are revoked now.
    #[serde(default)]
    pub revoked: Vec<TokenId>,
}
