//! Rows of `token ls`.

use kawanan_api::TokenId;
use kawanan_api::views::TokenView;

use super::View;
use crate::state::Token;

impl View<'_> {
    /// All tokens, the newest first.
    pub fn tokens(&self) -> Vec<TokenView> {
        let mut tokens: Vec<_> = (self.state.tokens.values())
            .map(|token| self.token_row(token))
            .collect();
        tokens.sort_by_key(|token| std::cmp::Reverse((token.created_at, token.id)));
        tokens
    }

    pub fn token(&self, id: TokenId) -> Option<TokenView> {
        self.state
            .tokens
            .get(&id)
            .map(|token| self.token_row(token))
    }

    fn token_row(&self, token: &Token) -> TokenView {
        let expired = token.expires_at.is_some_and(|at| at <= self.outlook.now);
        TokenView {
            id: token.id,
            created_at: token.created_at,
            expires_at: token.expires_at,
            uses_left: token.uses_left,
            used: token.used,
            revoked_at: token.revoked_at,
            valid: !expired && token.revoked_at.is_none() && token.uses_left != Some(0),
            note: token.note.clone(),
        }
    }
}
