//! Join tokens: made, revoked, used.

use std::sync::Arc;

use kawanan_api::{ApiError, ErrorCode, Timestamp, TokenId};

use super::Applied;
use crate::state::{ClusterState, Token};

/// Tokens kept at most. Far more than anybody reads through; a script that makes one per join prunes with each new one.
const TOKENS_MAX: usize = 1000;
/// How long a token that admits nobody any more stays listed, so that one can see why a join failed: a week.
const DEAD_TOKEN_KEPT_MILLIS: u64 = 7 * 24 * 3600 * 1000;

const NEW_TOKEN_HINT: &str = "make a new one with `agent token create` on a node of the cluster";

impl ClusterState {
    pub(super) fn create_token(
        &mut self,
        at: Timestamp,
        id: TokenId,
        secret_hash: [u8; 32],
        expires_at: Option<Timestamp>,
        uses: Option<u32>,
        note: &str,
    ) -> Applied {
        if self.tokens.contains_key(&id) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("a join token with the id {id} exists already"),
            ));
        }
        let long_dead = |token: &Token| {
            [token.revoked_at, token.expires_at]
                .into_iter()
                .flatten()
                .any(|end| at.millis() > end.millis().saturating_add(DEAD_TOKEN_KEPT_MILLIS))
        };
        let kept = self.tokens.values().filter(|token| !long_dead(token));
        if kept.count() >= TOKENS_MAX {
            return Err(ApiError::new(
                ErrorCode::LimitReached,
                format!("there are {TOKENS_MAX} join tokens already"),
            )
            .with_hint("revoke those that nobody needs with `agent token revoke`"));
        }
        self.tokens.retain(|_, token| !long_dead(token));
        let token = Token {
            id,
            secret_hash,
            created_at: at,
            expires_at,
            uses_left: uses,
            used: 0,
            revoked_at: None,
            note: note.to_owned(),
        };
        self.tokens.insert(id, Arc::new(token));
        Ok(())
    }

    /// Revoking a token twice is no error: it is what the caller wants.
    pub(super) fn revoke_token(&mut self, at: Timestamp, id: TokenId) -> Applied {
        let token = self.tokens.get_mut(&id).ok_or_else(|| {
            ApiError::not_found(format!("no join token has the id {id}"))
                .with_hint("list them with `agent token ls`")
        })?;
        if token.revoked_at.is_none() {
            Arc::make_mut(token).revoked_at = Some(at);
        }
        Ok(())
    }

    /// Whether this token admits a machine at this instant. The secret is judged first, so that only somebody who
    /// holds it learns what became of the token.
    pub(super) fn check_token(&self, at: Timestamp, id: TokenId, secret_hash: [u8; 32]) -> Applied {
        let refused = |message: String| {
            Err(ApiError::new(ErrorCode::Forbidden, message).with_hint(NEW_TOKEN_HINT))
        };
        let Some(token) = self.tokens.get(&id) else {
            return refused("the cluster does not know this join token".to_owned());
        };
        if token.secret_hash != secret_hash {
            return refused("the secret in this join token is wrong".to_owned());
        }
        if let Some(revoked_at) = token.revoked_at {
            return refused(format!("this join token was revoked at {revoked_at}"));
        }
        if let Some(expires_at) = token.expires_at
            && at >= expires_at
        {
            return refused(format!("this join token expired at {expires_at}"));
        }
        if token.uses_left == Some(0) {
            let joins = if token.used == 1 { "join" } else { "joins" };
            return refused(format!(
                "this join token is used up: it was good for {} {joins}",
                token.used
            ));
        }
        Ok(())
    }

    /// Counts one join.
    pub(super) fn use_token(&mut self, id: TokenId) {
        if let Some(token) = self.tokens.get_mut(&id) {
            let token = Arc::make_mut(token);
            token.uses_left = token.uses_left.map(|left| left.saturating_sub(1));
            token.used = token.used.saturating_add(1);
        }
    }
}
