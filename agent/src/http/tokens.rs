//! `/v1/tokens`.
//!
//! A token's secret is drawn here and leaves in the answer; the log gets its hash. Therefore these writes ignore an
//! idempotency key: repeated, they would have to show a secret that nobody kept. A token whose answer was lost is of
//! no use to anybody and can be revoked by its id.

use std::net::SocketAddr;

use axum::extract::{Path, State};
use axum::routing::{delete, get, post};
use axum::{Json, Router};
use kawanan_api::views::{CreateToken, CreatedToken, NodeStatus, TokenView, Written};
use kawanan_api::{ApiError, ErrorCode, TokenId};
use kawanan_logic::join_token::SEEDS_MAX;
use kawanan_logic::view::resolve_token;
use kawanan_logic::{ClusterState, Command, JoinToken};
use serde::Deserialize;

use super::Api;
use super::answer::{Answer, Body, Key, Query, ReadQuery};

/// Longest note beside a token.
const NOTE_BYTES_MAX: usize = 256;

pub(super) fn routes() -> Router<Api> {
    Router::new()
        .route("/v1/tokens", get(list).post(create))
        .route("/v1/tokens/rotate", post(rotate))
        .route("/v1/tokens/{token}", delete(revoke))
}

async fn list(State(api): State<Api>, Query(query): Query<ReadQuery>) -> Answer<Vec<TokenView>> {
    let tokens = api
        .show(query.consistent, |_, view| Ok(view.tokens()))
        .await?;
    Ok(Json(tokens))
}

async fn create(State(api): State<Api>, Body(wanted): Body<CreateToken>) -> Answer<CreatedToken> {
    Ok(Json(make(&api, wanted).await?))
}

async fn revoke(State(api): State<Api>, Path(token): Path<String>, key: Key) -> Answer<Written> {
    let id = resolve_token(&api.state(), &token)?;
    let request = key.0.unwrap_or_else(|| api.draw_request_id());
    let revision = api.submit(request, Command::RevokeToken { id }).await?;
    Ok(Json(Written {
        id: id.to_string(),
        name: id.short(),
        revision,
    }))
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
struct RotateQuery {
    token: Option<String>,
}

/// A new token first, then the old ones revoked: there is never no token at all.
async fn rotate(State(api): State<Api>, Query(query): Query<RotateQuery>) -> Answer<CreatedToken> {
    let state = api.state();
    let old: Vec<TokenView> = match query.token {
        Some(token) => {
            let id = resolve_token(&state, &token)?;
            api.show(false, |_, view| Ok(view.token(id)))
                .await?
                .into_iter()
                .collect()
        }
        None => {
            let all = api.show(false, |_, view| Ok(view.tokens())).await?;
            all.into_iter().filter(|token| token.valid).collect()
        }
    };
    let now = api.clock.now();
    let wanted = match old.as_slice() {
        [one] => CreateToken {
            expires_in: one.expires_at.map(|at| {
                let lifetime = at.since(one.created_at).as_millis();
                kawanan_api::duration::Span::from_millis(
                    u64::try_from(lifetime).unwrap_or(u64::MAX),
                )
            }),
            uses: one.uses_left,
            note: one.note.clone(),
        },
        _ => CreateToken::default(),
    };
    tracing::info!(at = %now, replaced = old.len(), "join tokens are rotated");
    let mut created = make(&api, wanted).await?;
    for token in old {
        if token.revoked_at.is_none() {
            let revoke = Command::RevokeToken { id: token.id };
            api.submit(api.draw_request_id(), revoke).await?;
        }
        created.revoked.push(token.id);
    }
    Ok(Json(created))
}

async fn make(api: &Api, wanted: CreateToken) -> Result<CreatedToken, ApiError> {
    check(&wanted)?;
    let id = TokenId::from_bits(api.random.bits());
    let secret = api.random.bits().to_be_bytes();
    let state = api.state();
    let token = printable(api, &state, id, secret)?;
    let now = api.clock.now();
    let expires_at = wanted
        .expires_in
        .map(|span| now.saturating_add(span.duration()));
    let command = Command::CreateToken {
        id,
        secret_hash: token.secret_hash(),
        expires_at,
        uses: wanted.uses,
        note: wanted.note.clone(),
    };
    api.submit(api.draw_request_id(), command).await?;
    let shown = TokenView {
        id,
        created_at: now,
        expires_at,
        uses_left: wanted.uses,
        used: 0,
        revoked_at: None,
        valid: true,
        note: wanted.note,
    };
    Ok(CreatedToken {
        token: shown,
        join_token: token.to_string(),
        revoked: Vec::new(),
    })
}

fn check(wanted: &CreateToken) -> Result<(), ApiError> {
    if wanted.uses == Some(0) {
        return Err(ApiError::invalid("a token without uses lets nobody in"));
    }
    if wanted.expires_in.is_some_and(|span| span.millis() == 0) {
        return Err(ApiError::invalid(
            "a token that expires at once lets nobody in",
        ));
    }
    if wanted.note.len() > NOTE_BYTES_MAX || wanted.note.chars().any(char::is_control) {
        return Err(ApiError::invalid(format!(
            "a note is one line of at most {NOTE_BYTES_MAX} bytes"
        )));
    }
    Ok(())
}

fn printable(
    api: &Api,
    state: &ClusterState,
    id: TokenId,
    secret: [u8; 16],
) -> Result<JoinToken, ApiError> {
    let cluster = state.cluster.as_ref().ok_or_else(|| {
        ApiError::new(
            ErrorCode::Unavailable,
            "this agent belongs to no cluster yet",
        )
    })?;
    let authority = cluster.authorities.first().ok_or_else(|| {
        ApiError::new(
            ErrorCode::Internal,
            "the cluster's authority has no certificate",
        )
    })?;
    let digest = JoinToken::digest_of(authority);
    JoinToken::new(cluster.id, digest, id, secret, seeds(api, state))
        .map_err(|err| ApiError::new(ErrorCode::Internal, err.to_string()))
}

/// Whom a joiner should ask: nodes that are up, this one first, then voters.
fn seeds(api: &Api, state: &ClusterState) -> Vec<SocketAddr> {
    let outlook = api.outlook(state);
    let view = kawanan_logic::view::View::new(state, &outlook);
    let mut nodes = view.nodes();
    nodes.retain(|node| matches!(node.status, NodeStatus::Ready));
    nodes.sort_by_key(|node| (!node.is_self, !node.voter, node.joined_at, node.id));
    (nodes.into_iter())
        .filter_map(|node| state.nodes.get(&node.id))
        .map(|node| node.facts.address)
        .take(SEEDS_MAX)
        .collect()
}
