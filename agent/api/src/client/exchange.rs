//! One HTTP/1.1 connection: a request, its answer.

use std::fmt::Write as _;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::{Method, Request, Response, header};
use hyper_util::rt::TokioIo;
use tokio::process::Child;

use super::connect::{ConnectError, dial};
use super::host::Host;
use crate::errors::{ApiError, ErrorCode};
use crate::ids::RequestId;

/// Longest wait for an answer: longer than an agent waits for its leader.
const ANSWER_DEADLINE: Duration = Duration::from_secs(40);
/// The first answer through ssh may have to wait until a person has typed a password.
const TUNNEL_DEADLINE: Duration = Duration::from_secs(120);
/// Most bytes of one answer.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// A request, kept so that it can be repeated.
pub(super) struct Call {
    method: Method,
    target: String,
    key: Option<RequestId>,
    body: Bytes,
}

pub(super) enum ExchangeError {
    Api(ApiError),
    Lost(String),
}

pub(super) struct Connection {
    host: Host,
    sender: SendRequest<Full<Bytes>>,
    /// Dies with the connection.
    _tunnel: Option<Child>,
    answered: bool,
}

impl Call {
    pub(super) fn new(method: Method, path: &[&str], query: &[(&str, &str)], body: Bytes) -> Self {
        let mut target = "/v1".to_owned();
        for segment in path {
            target.push('/');
            push_encoded(&mut target, segment);
        }
        let mut call = Self {
            method,
            target,
            key: None,
            body,
        };
        for (name, value) in query {
            call.add_query(name, value);
        }
        call
    }

    pub(super) fn add_query(&mut self, name: &str, value: &str) {
        self.target
            .push(if self.target.contains('?') { '&' } else { '?' });
        push_encoded(&mut self.target, name);
        self.target.push('=');
        push_encoded(&mut self.target, value);
    }

    pub(super) fn with_key(mut self, key: RequestId) -> Self {
        self.key = Some(key);
        self
    }

    fn request(&self) -> Result<Request<Full<Bytes>>, ExchangeError> {
        let mut request = Request::builder()
            .method(self.method.clone())
            .uri(self.target.as_str())
            .header(header::HOST, "kawanan")
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(key) = self.key {
            request = request.header("idempotency-key", key.to_string());
        }
        request
            .body(Full::new(self.body.clone()))
            .map_err(|err| ExchangeError::Api(ApiError::invalid(err.to_string())))
    }
}

/// Percent-encodes everything but the characters that mean themselves anywhere in a URL (RFC 3986, 2.3).
fn push_encoded(target: &mut String, text: &str) {
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'.' | b'_' | b'~') {
            target.push(char::from(byte));
        } else if write!(target, "%{byte:02X}").is_err() {
            unreachable!("writing to a String does not fail");
        }
    }
}

impl Connection {
    pub(super) async fn to(host: &Host) -> Result<Self, ConnectError> {
        let dialled = dial(host).await?;
        let (sender, connection) = handshake(TokioIo::new(dialled.stream))
            .await
            .map_err(|err| ConnectError::Tunnel(err.to_string()))?;
        // Ends with the connection; what went wrong reaches the caller through `sender`.
        tokio::spawn(async move { connection.await.is_ok() });
        let mut connection = Self {
            host: host.clone(),
            sender,
            _tunnel: dialled.tunnel,
            answered: false,
        };
        if matches!(host, Host::Ssh { .. }) {
            connection.hear_something().await?;
        }
        Ok(connection)
    }

    /// A tunnel opens before anybody knows whether an agent is behind it.
    async fn hear_something(&mut self) -> Result<(), ConnectError> {
        let call = Call::new(Method::GET, &["version"], &[], Bytes::new());
        match self.exchange(&call).await {
            Ok(_) | Err(ExchangeError::Api(_)) => Ok(()),
            Err(ExchangeError::Lost(cause)) => Err(ConnectError::Tunnel(cause)),
        }
    }

    pub(super) fn host(&self) -> &Host {
        &self.host
    }

    pub(super) fn is_reusable(&self) -> bool {
        !self.sender.is_closed()
    }

    /// Sends the request and reads the whole answer.
    pub(super) async fn exchange(&mut self, call: &Call) -> Result<Bytes, ExchangeError> {
        let response = self.open_response(call).await?;
        let failed = !response.status().is_success();
        let status = response.status();
        let body = self.read_whole(response).await?;
        if failed {
            return Err(ExchangeError::Api(error_from(status.as_u16(), &body)));
        }
        Ok(body)
    }

    /// Sends the request and returns the body of a good answer as it comes.
    pub(super) async fn open(&mut self, call: &Call) -> Result<Incoming, ExchangeError> {
        let response = self.open_response(call).await?;
        if response.status().is_success() {
            return Ok(response.into_body());
        }
        let status = response.status();
        let body = self.read_whole(response).await?;
        Err(ExchangeError::Api(error_from(status.as_u16(), &body)))
    }

    async fn open_response(&mut self, call: &Call) -> Result<Response<Incoming>, ExchangeError> {
        let first_through_ssh = !self.answered && matches!(self.host, Host::Ssh { .. });
        let deadline = if first_through_ssh {
            TUNNEL_DEADLINE
        } else {
            ANSWER_DEADLINE
        };
        let request = call.request()?;
        let answer = async {
            self.sender.ready().await?;
            self.sender.send_request(request).await
        };
        let response = tokio::time::timeout(deadline, answer)
            .await
            .map_err(|_| ExchangeError::Lost(format!("no answer within {} s", deadline.as_secs())))?
            .map_err(|err| ExchangeError::Lost(cause_of(&err)))?;
        self.answered = true;
        Ok(response)
    }

    async fn read_whole(&mut self, response: Response<Incoming>) -> Result<Bytes, ExchangeError> {
        let whole = Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect();
        match tokio::time::timeout(ANSWER_DEADLINE, whole).await {
            Ok(Ok(body)) => Ok(body.to_bytes()),
            Ok(Err(err)) => Err(ExchangeError::Lost(err.to_string())),
            Err(_) => Err(ExchangeError::Lost("the answer stopped halfway".to_owned())),
        }
    }
}

/// hyper's own words name its internals; the source below them names the cause.
fn cause_of(err: &hyper::Error) -> String {
    let mut cause: &dyn std::error::Error = err;
    while let Some(source) = cause.source() {
        cause = source;
    }
    cause.to_string()
}

fn error_from(status: u16, body: &[u8]) -> ApiError {
    serde_json::from_slice(body).unwrap_or_else(|_| {
        let code = if status == 404 {
            ErrorCode::NotFound
        } else {
            ErrorCode::Internal
        };
        ApiError::new(
            code,
            format!("the agent answered with HTTP status {status} and no reason"),
        )
    })
}
