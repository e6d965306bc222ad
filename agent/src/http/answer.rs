//! Errors as answers, and what is read from a request, with errors that name what is wrong.

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::BytesRejection;
use axum::extract::{FromRequest, FromRequestParts, Request};
use axum::http::request::Parts;
use axum::http::{Method, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use kawanan_api::{ApiError, ErrorCode, RequestId};
use serde::Deserialize;
use serde::de::DeserializeOwned;

/// What a handler returns.
pub(super) type Answer<T> = Result<Json<T>, Failure>;

/// An [`ApiError`] on its way out.
#[derive(Debug)]
pub(super) struct Failure(pub(super) ApiError);

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (status_of(self.0.code), Json(self.0)).into_response()
    }
}

fn status_of(code: ErrorCode) -> StatusCode {
    match code {
        ErrorCode::Invalid | ErrorCode::Ambiguous => StatusCode::BAD_REQUEST,
        ErrorCode::NotFound => StatusCode::NOT_FOUND,
        ErrorCode::Conflict | ErrorCode::Refused => StatusCode::CONFLICT,
        ErrorCode::Forbidden => StatusCode::FORBIDDEN,
        ErrorCode::NoLeader | ErrorCode::Unavailable => StatusCode::SERVICE_UNAVAILABLE,
        ErrorCode::OutcomeUnknown => StatusCode::GATEWAY_TIMEOUT,
        ErrorCode::LimitReached => StatusCode::TOO_MANY_REQUESTS,
        ErrorCode::Internal => StatusCode::INTERNAL_SERVER_ERROR,
    }
}

pub(super) async fn no_such_path(uri: Uri) -> Failure {
    Failure(ApiError::not_found(format!(
        "the API has no path {}",
        uri.path()
    )))
}

pub(super) async fn no_such_method(method: Method, uri: Uri) -> Failure {
    Failure(ApiError::invalid(format!(
        "{method} cannot be done to {}",
        uri.path()
    )))
}

/// A JSON body. Unknown and missing fields are named in the error.
pub(super) struct Body<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        let bytes = Bytes::from_request(request, state)
            .await
            .map_err(unreadable)?;
        serde_json::from_slice(&bytes)
            .map(Self)
            .map_err(|err| Failure(ApiError::invalid(format!("the request's body: {err}"))))
    }
}

fn unreadable(rejection: BytesRejection) -> Failure {
    if rejection.status() == StatusCode::PAYLOAD_TOO_LARGE {
        let limit = super::BODY_BYTES_MAX >> 20;
        return Failure(ApiError::invalid(format!(
            "the request's body is larger than {limit} MiB"
        )));
    }
    Failure(ApiError::invalid(format!(
        "the request's body: {rejection}"
    )))
}

/// The part of the URL behind `?`.
pub(super) struct Query<T>(pub(super) T);

impl<S: Send + Sync, T: DeserializeOwned> FromRequestParts<S> for Query<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        axum::extract::Query::<T>::try_from_uri(&parts.uri)
            .map(|query| Self(query.0))
            .map_err(|rejection| Failure(ApiError::invalid(rejection.body_text())))
    }
}

/// The query of every read.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct ReadQuery {
    pub(super) consistent: bool,
}

/// The caller's idempotency key, if it brings one.
pub(super) struct Key(pub(super) Option<RequestId>);

impl<S: Send + Sync> FromRequestParts<S> for Key {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Failure> {
        let Some(value) = parts.headers.get("idempotency-key") else {
            return Ok(Self(None));
        };
        let key = (value.to_str().ok()).and_then(|text| text.parse().ok());
        match key {
            Some(key) => Ok(Self(Some(key))),
            None => Err(Failure(ApiError::invalid(
                "the header Idempotency-Key must hold 25 characters out of 0-9 and a-z",
            ))),
        }
    }
}
