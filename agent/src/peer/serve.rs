//! Answers what members ask this node.
//!
//! Each request runs on its own with a deadline, at most [`CONCURRENT_MAX`] at a time; a ping is answered by the loop
//! itself, so that a stuck agent does not look alive. Requests that only the leader can answer are passed on once.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ApiError, ErrorCode, NodeId};
use kawanan_logic::codec;
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;
use tracing::{debug, warn};

use super::{Answer, Request};
use crate::admission::Admission;
use crate::consensus::{ClusterLog, answer_propose, answer_read_index};
use crate::transport::{Call, JoinCall, SharedLinks};

/// Requests in work at a time; more wait in the transport's bounded queue.
const CONCURRENT_MAX: usize = 128;
/// Longest work on one request.
const REQUEST_DEADLINE: Duration = Duration::from_secs(15);
/// Time for a probe of a third node.
const PROBE_DEADLINE: Duration = Duration::from_millis(500);

/// What answering needs.
#[derive(Clone)]
pub struct PeerService {
    pub links: SharedLinks,
    pub log: ClusterLog,
    pub admission: Arc<Admission>,
}

impl PeerService {
    /// Serves calls until the transport ends.
    pub async fn run(self, mut calls: mpsc::Receiver<Call>, mut joins: mpsc::Receiver<JoinCall>) {
        let slots = Arc::new(Semaphore::new(CONCURRENT_MAX));
        loop {
            let permit = match Arc::clone(&slots).acquire_owned().await {
                Ok(permit) => permit,
                Err(_) => return,
            };
            tokio::select! {
                biased;
                call = calls.recv() => {
                    let Some(call) = call else { return };
                    let service = self.clone();
                    if is_ping(&call.request) {
                        reply(call.answer, &Answer::Pong);
                        continue;
                    }
                    tokio::spawn(async move {
                        match timeout(REQUEST_DEADLINE, service.answer(call.from, &call.request)).await {
                            Ok(answer) => reply(call.answer, &answer),
                            Err(_) => debug!(from = %call.from, "a request took too long and is not answered"),
                        }
                        drop(permit);
                    });
                }
                join = joins.recv() => {
                    let Some(join) = join else { return };
                    let service = self.clone();
                    tokio::spawn(async move {
                        match timeout(REQUEST_DEADLINE, service.admission.serve(join.from, join.request)).await {
                            Ok(answer) => if join.answer.send(answer).is_err() {
                                debug!(from = %join.from, "the joiner went away before its answer");
                            },
                            Err(_) => debug!(from = %join.from, "a join took too long and is not answered"),
                        }
                        drop(permit);
                    });
                }
            }
        }
    }

    async fn answer(&self, from: NodeId, request: &Bytes) -> Answer {
        let request = match codec::decode::<Request>(request) {
            Ok(request) => request,
            Err(err) => {
                warn!(%from, %err, "a request that this version cannot read");
                let error = ApiError::new(
                    ErrorCode::Invalid,
                    format!("the request cannot be read: {err}"),
                );
                return Answer::Failed(
                    error.with_hint("the nodes run versions that are too far apart"),
                );
            }
        };
        match request {
            Request::Ping => Answer::Pong,
            Request::Probe { target } => Answer::Probed {
                reachable: self.reaches(target).await,
            },
            Request::Propose(entry) => answer_propose(&self.log, &entry).await,
            Request::ReadIndex => answer_read_index(&self.log).await,
            Request::Join { request } => self.admission.decide(request).await,
            Request::HoldAuthorityKey { key } => self.admission.hold_authority_key(from, &key),
        }
    }

    async fn reaches(&self, target: NodeId) -> bool {
        let Ok(ping) = codec::encode(&Request::Ping) else {
            return false;
        };
        let answer = self.links.call(target, ping.into(), PROBE_DEADLINE).await;
        matches!(
            answer.map(|bytes| codec::decode(&bytes)),
            Ok(Ok(Answer::Pong))
        )
    }
}

fn is_ping(request: &Bytes) -> bool {
    matches!(codec::decode::<Request>(request), Ok(Request::Ping))
}

fn reply(to: tokio::sync::oneshot::Sender<Bytes>, answer: &Answer) {
    match codec::encode(answer) {
        Ok(bytes) => {
            if to.send(bytes.into()).is_err() {
                debug!("the peer went away before its answer");
            }
        }
        Err(err) => warn!(%err, "an answer cannot be encoded"),
    }
}
