//! How a machine becomes a member: what it says, what it hears, and whom it asks.
//!
//! The serving side gets the request as bytes ([`JoinCall`](crate::transport::JoinCall)), decodes a [`JoinRequest`] and
//! answers with a [`JoinAnswer`]; who may join is decided by the leader, not here. A request is tried at one seed after
//! the other; trying again after a lost answer is safe, because the same key is the same node.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::net::SocketAddr;

use kawanan_api::{ApiError, ClusterId, ErrorCode, NodeId, RaftId, TokenId};
use kawanan_logic::codec::{self, CodecError};
use kawanan_logic::state::NodeFacts;
use serde::{Deserialize, Serialize};

use super::{CertificateBytes, PeerIdentity};
use crate::clock::SharedClock;
use crate::transport::{JoinDialError, JoinDialer};

/// Seeds that are asked at most, those included that were named on the way.
const SEEDS_MAX: usize = 16;

/// What is said over the joiners' protocol. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinRequest {
    /// Take this machine in.
    Join(Box<Application>),
    /// Sign a new certificate for a member whose old one has expired; the request is signed by its key.
    Renew { signing_request: Vec<u8> },
}

/// A machine that wants to become a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Application {
    /// Version of the joining agent, such as `0.1.0`.
    pub version: String,
    pub token: TokenId,
    pub secret: TokenSecret,
    /// PKCS#10, DER. The node id follows from the key in it.
    pub signing_request: Vec<u8>,
    pub raft_id: RaftId,
    pub name: String,
    pub labels: BTreeMap<String, String>,
    pub facts: NodeFacts,
}

/// The secret half of a join token. Never printed.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct TokenSecret(pub [u8; 16]);

impl fmt::Debug for TokenSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("TokenSecret(..)")
    }
}

/// What a member answers. Append-only.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum JoinAnswer {
    Welcome(Box<Welcome>),
    Refused(ApiError),
    /// Ask one of these instead.
    Redirect(Vec<SocketAddr>),
}

/// What makes a machine a member.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Welcome {
    /// DER.
    pub certificate: CertificateBytes,
    /// DER; the first signs.
    pub authorities: Vec<CertificateBytes>,
    pub cluster: ClusterId,
    pub node: NodeId,
    /// Whom to talk to first.
    pub members: Vec<(NodeId, RaftId, SocketAddr)>,
}

/// Why a machine did not become a member.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum JoinError {
    #[error("the token names no machine to ask")]
    NoSeeds,
    /// The cluster has decided; asking another member will not help.
    #[error("{0}")]
    Refused(ApiError),
    /// No member gave an answer that settles it. One error per seed, the most telling first; at least one.
    #[error("{}", listed(.0))]
    Unanswered(Vec<JoinDialError>),
    #[error("the machine at {address} answered nonsense: {cause}; it may run another version")]
    Nonsense { address: SocketAddr, cause: String },
}

/// Asks the seeds in turn until one settles the request.
///
/// `authority_digest` is the SHA-256 of the certificate of the cluster's authority: nothing is said to anybody who does
/// not belong to it.
///
/// # Errors
/// When the cluster refuses, or nobody could be asked.
pub async fn join(
    seeds: &[SocketAddr],
    authority_digest: [u8; 32],
    request: &JoinRequest,
    clock: SharedClock,
) -> Result<Welcome, JoinError> {
    let dialer = JoinDialer::new(authority_digest, clock);
    ask_in_turn(seeds, request, &dialer).await
}

async fn ask_in_turn(
    seeds: &[SocketAddr],
    request: &JoinRequest,
    dialer: &JoinDialer,
) -> Result<Welcome, JoinError> {
    let first = *seeds.first().ok_or(JoinError::NoSeeds)?;
    let encoded = codec::encode(request).map_err(|err| nonsense(first, err))?;
    let encoded = bytes::Bytes::from(encoded);
    let mut waiting: VecDeque<SocketAddr> = seeds.iter().copied().collect();
    let mut asked = BTreeSet::new();
    let mut failures = Vec::new();
    let mut later: Option<ApiError> = None;
    while let Some(seed) = waiting.pop_front() {
        if asked.len() >= SEEDS_MAX || !asked.insert(seed) {
            continue;
        }
        let answer = match dialer.ask(seed, encoded.clone()).await {
            Ok(answer) => answer,
            Err(failure) => {
                tracing::info!(%failure, "a seed did not help");
                failures.push(failure);
                continue;
            }
        };
        match codec::decode(&answer).map_err(|err: CodecError| nonsense(seed, err))? {
            JoinAnswer::Welcome(welcome) => return checked(*welcome, seed),
            // Another member may see the leader that this one does not.
            JoinAnswer::Refused(err) if is_passing(err.code) => later = Some(err),
            JoinAnswer::Refused(err) => return Err(JoinError::Refused(err)),
            // In front: whoever was named is better than a seed of an old token.
            JoinAnswer::Redirect(others) => others
                .into_iter()
                .rev()
                .for_each(|other| waiting.push_front(other)),
        }
    }
    Err(match later {
        Some(err) => JoinError::Refused(err),
        None => {
            failures.sort_by_key(tellingness);
            JoinError::Unanswered(failures)
        }
    })
}

fn nonsense(address: SocketAddr, cause: impl fmt::Display) -> JoinError {
    JoinError::Nonsense {
        address,
        cause: cause.to_string(),
    }
}

/// A welcome must name the node that its certificate names.
fn checked(welcome: Welcome, seed: SocketAddr) -> Result<Welcome, JoinError> {
    let named =
        PeerIdentity::of_certificate(&welcome.certificate).map_err(|err| nonsense(seed, err))?;
    if (named.cluster, named.node) != (welcome.cluster, welcome.node) {
        return Err(nonsense(seed, "its certificate is for another node"));
    }
    if welcome.authorities.is_empty() {
        return Err(nonsense(seed, "it names no authority"));
    }
    Ok(welcome)
}

fn is_passing(code: ErrorCode) -> bool {
    matches!(
        code,
        ErrorCode::NoLeader
            | ErrorCode::Unavailable
            | ErrorCode::OutcomeUnknown
            | ErrorCode::Internal
    )
}

/// Lower comes first: somebody who answered wrongly says more about the cause than somebody who is silent.
fn tellingness(failure: &JoinDialError) -> u8 {
    match failure {
        JoinDialError::OtherCluster(_) => 0,
        JoinDialError::Distrusted { .. } => 1,
        JoinDialError::BrokeOff { .. } => 2,
        JoinDialError::Busy(_) => 3,
        JoinDialError::NotAnAgent(_) => 4,
        JoinDialError::NoAnswer(_) => 5,
        JoinDialError::Socket(_) => 6,
    }
}

fn listed(failures: &[JoinDialError]) -> String {
    let sentences: Vec<String> = failures.iter().map(ToString::to_string).collect();
    if sentences.is_empty() {
        "no member could be asked".to_owned()
    } else {
        sentences.join("; ")
    }
}

#[cfg(test)]
mod tests;
