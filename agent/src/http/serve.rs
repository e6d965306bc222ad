//! Connections: accepted up to a limit, each with deadlines, all ended when the agent stops.

use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::net::UnixStream;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::{Api, ApiSocket};

/// Connections at a time; more wait in the kernel's queue.
const CONNECTIONS_MAX: usize = 256;
/// Time for a request's headers to arrive, and for an idle connection to say something.
const HEADER_DEADLINE: Duration = Duration::from_secs(30);
/// Most bytes of a request's head.
const HEAD_BYTES_MAX: usize = 64 << 10;
/// How long running requests may take to finish when the agent stops.
const STOP_DEADLINE: Duration = Duration::from_secs(1);
/// After a failed accept (out of file descriptors), so as not to spin.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves the API until `stop` turns true.
pub async fn serve(socket: ApiSocket, api: Api) {
    let mut stop = api.stop.clone();
    let router = api.router();
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            biased;
            () = stopped(&mut stop) => break,
            accepted = accept(&socket, &places) => accepted,
            Some(ended) = connections.join_next() => {
                log_panic(ended);
                continue;
            }
        };
        match accepted {
            Some((stream, place)) => {
                connections.spawn(converse(stream, router.clone(), stop.clone(), place));
            }
            None => tokio::time::sleep(ACCEPT_PAUSE).await,
        }
    }
    drop(socket);
    let finish = async {
        while let Some(ended) = connections.join_next().await {
            log_panic(ended);
        }
    };
    if tokio::time::timeout(STOP_DEADLINE, finish).await.is_err() {
        tracing::info!(left = connections.len(), "API connections are cut off");
        connections.shutdown().await;
    }
}

async fn accept(
    socket: &ApiSocket,
    places: &Arc<Semaphore>,
) -> Option<(UnixStream, OwnedSemaphorePermit)> {
    let place = places.clone().acquire_owned().await.ok()?;
    match socket.listener.accept().await {
        Ok((stream, _)) => Some((stream, place)),
        Err(err) => {
            tracing::warn!(%err, "cannot accept an API connection");
            None
        }
    }
}

async fn converse(
    stream: UnixStream,
    router: Router,
    mut stop: watch::Receiver<bool>,
    _place: OwnedSemaphorePermit,
) {
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADER_DEADLINE)
        .max_buf_size(HEAD_BYTES_MAX)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let ended = tokio::select! {
        biased;
        ended = connection.as_mut() => Some(ended),
        () = stopped(&mut stop) => None,
    };
    let ended = match ended {
        Some(ended) => ended,
        None => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(err) = ended {
        tracing::debug!(%err, "an API connection ended early");
    }
}

/// Returns when the agent stops, which it also does when nobody is left who could say so.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        tracing::debug!("the API's stop signal has no sender any more");
    }
}

fn log_panic(ended: Result<(), tokio::task::JoinError>) {
    if let Err(err) = ended {
        tracing::error!(%err, "an API connection's tokio task failed");
    }
}
