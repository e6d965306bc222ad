//! The typed client of the agent's API, for the command line and for tests.
//!
//! Takes several hosts and uses the first that answers. Reads and writes are retried where that is safe: every write
//! carries an idempotency key that is kept over retries, so a lost answer is asked for again and the write is not done
//! twice. Every wait has a deadline. Never prints, never decides what an answer means for its caller.

mod connect;
mod exchange;
mod host;
mod lines;

use std::time::Duration;

use hyper::Method;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::sync::Mutex;

pub use connect::{ConnectError, connect_local};
pub use host::{DEFAULT_SOCKET, Host, ParseHostError, parse_hosts};
pub use lines::LineStream;

use crate::errors::{ApiError, ErrorCode};
use crate::ids::RequestId;
use crate::spec::ServiceSpec;
use crate::views::{
    ClusterView, CreateToken, CreatedToken, DrainEvent, LogEvent, LogRequest, NodeDetail,
    NodePatch, NodeView, ProgressEvent, ScaleServices, ServiceDetail, ServiceView, TaskView,
    TokenView, UpdateService, VersionView, Written,
};
use exchange::{Call, Connection, ExchangeError};

/// How often a write whose answer was lost is repeated.
const WRITE_TRIES_MAX: u32 = 4;
/// Pause before a repetition, multiplied by its number, and as much again at random.
const RETRY_PAUSE: Duration = Duration::from_millis(200);

/// Why a call brought no result.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// No host answers; one line for each that was tried.
    #[error("{}", connect::sentence(.0))]
    Unreachable(Vec<(Host, ConnectError)>),
    /// The agent said no, and why.
    #[error(transparent)]
    Api(#[from] ApiError),
    /// The connection broke, or the answer did not come in time.
    #[error("the connection to {host} was lost: {cause}")]
    Lost { host: Host, cause: String },
    /// The answer is not what this version understands.
    #[error(
        "{host} answered with something that this version of kawan does not understand: {cause}"
    )]
    Answer { host: Host, cause: String },
}

impl ClientError {
    /// What to do next, if there is something to do.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::Unreachable(tried) => tried.first().and_then(|(_, error)| error.hint()),
            Self::Api(error) => error.hint.clone(),
            Self::Lost { .. } => {
                Some("is the agent still running there? try `systemctl status agent`".to_owned())
            }
            Self::Answer { .. } => Some("compare `kawan version` on both sides".to_owned()),
        }
    }

    /// Whether the cluster cannot act right now, though the request may be fine.
    pub fn is_no_leader(&self) -> bool {
        match self {
            Self::Unreachable(_) | Self::Lost { .. } => true,
            Self::Api(error) => matches!(error.code, ErrorCode::NoLeader | ErrorCode::Unavailable),
            Self::Answer { .. } => false,
        }
    }
}

/// An API client. One call at a time shares a connection; streams have their own.
pub struct Client {
    hosts: Vec<Host>,
    consistent: bool,
    idle: Mutex<Option<Connection>>,
}

impl Client {
    /// A client that tries these hosts in turn. Nothing is connected yet.
    pub fn new(hosts: Vec<Host>) -> Self {
        Self {
            hosts,
            consistent: false,
            idle: Mutex::new(None),
        }
    }

    /// Makes every read linearizable: it sees all writes that were answered before it, or fails without a leader.
    #[must_use]
    pub fn consistent(mut self, consistent: bool) -> Self {
        self.consistent = consistent;
        self
    }

    /// A fresh idempotency key.
    pub fn draw_request_id() -> RequestId {
        RequestId::from_bits(u128::from(draw()) << 64 | u128::from(draw()))
    }

    pub async fn version(&self) -> Result<VersionView, ClientError> {
        self.read(&["version"], &[]).await
    }

    pub async fn cluster(&self) -> Result<ClusterView, ClientError> {
        self.read(&["cluster"], &[]).await
    }

    pub async fn nodes(&self) -> Result<Vec<NodeView>, ClientError> {
        self.read(&["nodes"], &[]).await
    }

    pub async fn node(&self, node: &str) -> Result<NodeDetail, ClientError> {
        self.read(&["nodes", node], &[]).await
    }

    pub async fn patch_node(&self, node: &str, patch: &NodePatch) -> Result<Written, ClientError> {
        self.write(Method::PATCH, &["nodes", node], &[], patch)
            .await
    }

    pub async fn remove_node(&self, node: &str, force: bool) -> Result<Written, ClientError> {
        let force = if force { "true" } else { "false" };
        self.write(Method::DELETE, &["nodes", node], &[("force", force)], &())
            .await
    }

    /// Has the node that answers leave its cluster; its agent ends after the answer. `last`: it is the only node.
    pub async fn leave(&self, last: bool) -> Result<(), ClientError> {
        let last = if last { "true" } else { "false" };
        let call = self.call(Method::POST, &["leave"], &[("last", last)], &())?;
        self.once_on_a_fresh_connection(&call).await
    }

    /// What a drain of the node still waits for, at every change.
    pub async fn node_progress(&self, node: &str) -> Result<LineStream<DrainEvent>, ClientError> {
        self.stream(&["nodes", node, "progress"], &[]).await
    }

    pub async fn services(&self) -> Result<Vec<ServiceView>, ClientError> {
        self.read(&["services"], &[]).await
    }

    pub async fn service(&self, service: &str) -> Result<ServiceDetail, ClientError> {
        self.read(&["services", service], &[]).await
    }

    pub async fn create_service(&self, spec: &ServiceSpec) -> Result<Written, ClientError> {
        self.write(Method::POST, &["services"], &[], spec).await
    }

    pub async fn update_service(
        &self,
        service: &str,
        update: &UpdateService,
    ) -> Result<Written, ClientError> {
        self.write(Method::PUT, &["services", service], &[], update)
            .await
    }

    pub async fn remove_service(&self, service: &str) -> Result<Written, ClientError> {
        self.write(Method::DELETE, &["services", service], &[], &())
            .await
    }

    pub async fn scale(&self, scale: &ScaleServices) -> Result<Vec<Written>, ClientError> {
        self.write(Method::POST, &["services", "scale"], &[], scale)
            .await
    }

    pub async fn service_tasks(&self, service: &str) -> Result<Vec<TaskView>, ClientError> {
        self.read(&["services", service, "tasks"], &[]).await
    }

    /// How far the service has come, at every change.
    pub async fn service_progress(
        &self,
        service: &str,
    ) -> Result<LineStream<ProgressEvent>, ClientError> {
        self.stream(&["services", service, "progress"], &[]).await
    }

    pub async fn service_logs(
        &self,
        service: &str,
        request: &LogRequest,
    ) -> Result<LineStream<LogEvent>, ClientError> {
        self.logs(&["services", service, "logs"], request).await
    }

    pub async fn task_logs(
        &self,
        task: &str,
        request: &LogRequest,
    ) -> Result<LineStream<LogEvent>, ClientError> {
        self.logs(&["tasks", task, "logs"], request).await
    }

    pub async fn tasks(&self) -> Result<Vec<TaskView>, ClientError> {
        self.read(&["tasks"], &[]).await
    }

    pub async fn task(&self, task: &str) -> Result<TaskView, ClientError> {
        self.read(&["tasks", task], &[]).await
    }

    pub async fn tokens(&self) -> Result<Vec<TokenView>, ClientError> {
        self.read(&["tokens"], &[]).await
    }

    /// Not repeated when its answer is lost: the token's secret is in that answer only, and a token whose secret
    /// nobody saw lets nobody in.
    pub async fn create_token(&self, token: &CreateToken) -> Result<CreatedToken, ClientError> {
        let call = self.call(Method::POST, &["tokens"], &[], token)?;
        self.once_on_a_fresh_connection(&call).await
    }

    pub async fn revoke_token(&self, token: &str) -> Result<Written, ClientError> {
        self.write(Method::DELETE, &["tokens", token], &[], &())
            .await
    }

    /// Replaces one token, or every valid one, by a new one. Not repeated, as [`Client::create_token`].
    pub async fn rotate_token(&self, token: Option<&str>) -> Result<CreatedToken, ClientError> {
        let query: Vec<_> = token.iter().map(|token| ("token", *token)).collect();
        let call = self.call(Method::POST, &["tokens", "rotate"], &query, &())?;
        self.once_on_a_fresh_connection(&call).await
    }

    async fn logs(
        &self,
        path: &[&str],
        request: &LogRequest,
    ) -> Result<LineStream<LogEvent>, ClientError> {
        let tail = request.tail.map(|tail| tail.to_string());
        let since = request.since.map(|since| since.to_string());
        let mut query = vec![("follow", if request.follow { "true" } else { "false" })];
        query.extend(tail.iter().map(|tail| ("tail", tail.as_str())));
        query.extend(since.iter().map(|since| ("since", since.as_str())));
        self.stream(path, &query).await
    }

    fn call<B: Serialize>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: &B,
    ) -> Result<Call, ClientError> {
        let body = serde_json::to_vec(body).map_err(|err| ApiError::invalid(err.to_string()))?;
        let body = if body == b"null" { Vec::new() } else { body };
        Ok(Call::new(method, path, query, body.into()))
    }

    async fn read<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<T, ClientError> {
        let mut call = self.call(Method::GET, path, query, &())?;
        if self.consistent {
            call.add_query("consistent", "true");
        }
        match self.once(&call).await {
            Err(ClientError::Lost { .. }) => self.once(&call).await,
            other => other,
        }
    }

    /// A write with one idempotency key for all its tries.
    async fn write<B: Serialize, T: DeserializeOwned>(
        &self,
        method: Method,
        path: &[&str],
        query: &[(&str, &str)],
        body: &B,
    ) -> Result<T, ClientError> {
        let call = self
            .call(method, path, query, body)?
            .with_key(Self::draw_request_id());
        let mut tries = 1;
        loop {
            let error = match self.once(&call).await {
                Ok(answer) => return Ok(answer),
                Err(error) => error,
            };
            let may_repeat = match &error {
                ClientError::Lost { .. } => true,
                ClientError::Api(error) => error.code == ErrorCode::OutcomeUnknown,
                ClientError::Unreachable(_) | ClientError::Answer { .. } => false,
            };
            if !may_repeat || tries == WRITE_TRIES_MAX {
                return Err(error);
            }
            let jitter = RETRY_PAUSE.mul_f64(draw() as f64 / u64::MAX as f64);
            tokio::time::sleep(RETRY_PAUSE * tries + jitter).await;
            tries += 1;
        }
    }

    /// An idle connection may have been closed meanwhile, which a call that is not repeated must not run into.
    async fn once_on_a_fresh_connection<T: DeserializeOwned>(
        &self,
        call: &Call,
    ) -> Result<T, ClientError> {
        self.idle.lock().await.take();
        self.once(call).await
    }

    async fn once<T: DeserializeOwned>(&self, call: &Call) -> Result<T, ClientError> {
        let mut connection = self.connection().await?;
        let host = connection.host().clone();
        let body = match connection.exchange(call).await {
            Ok(body) => body,
            Err(error) => return Err(error.on(host)),
        };
        if connection.is_reusable() {
            *self.idle.lock().await = Some(connection);
        }
        serde_json::from_slice(&body).map_err(|err| ClientError::Answer {
            host,
            cause: err.to_string(),
        })
    }

    async fn stream<T: DeserializeOwned>(
        &self,
        path: &[&str],
        query: &[(&str, &str)],
    ) -> Result<LineStream<T>, ClientError> {
        let call = self.call(Method::GET, path, query, &())?;
        let mut connection = self.connection().await?;
        let host = connection.host().clone();
        match connection.open(&call).await {
            Ok(body) => Ok(LineStream::new(connection, body)),
            Err(error) => Err(error.on(host)),
        }
    }

    /// The idle connection, or a new one to the first host that answers.
    async fn connection(&self) -> Result<Connection, ClientError> {
        if let Some(idle) = self.idle.lock().await.take()
            && idle.is_reusable()
        {
            return Ok(idle);
        }
        let mut tried = Vec::new();
        for host in &self.hosts {
            match Connection::to(host).await {
                Ok(connection) => return Ok(connection),
                Err(error) => tried.push((host.clone(), error)),
            }
        }
        Err(ClientError::Unreachable(tried))
    }
}

/// 64 random bits: the standard library's hash keys come from the operating system, so the hash of nothing is as good
/// as a random number. No need for a library.
fn draw() -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(())
}

impl ExchangeError {
    fn on(self, host: Host) -> ClientError {
        match self {
            Self::Api(error) => ClientError::Api(error),
            Self::Lost(cause) => ClientError::Lost { host, cause },
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn no_request_id_is_drawn_twice() {
        let drawn: BTreeSet<RequestId> = (0..1000).map(|_| Client::draw_request_id()).collect();
        assert_eq!(drawn.len(), 1000);
    }
}
