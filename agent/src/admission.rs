//! Lets machines in and renews certificates: the serving side of the join handshake.
//!
//! Any node may be asked; it passes the request on to the leader, which holds the authority's key. A token is spent by
//! a committed entry and by nothing else, so two leaders cannot both spend its last use, and no certificate is signed
//! before the node is a member. Renewal needs no token: the signing request proves the key, and the key is the identity.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ApiError, ErrorCode, NodeId, RequestId};
use kawanan_logic::command::NewNode;
use kawanan_logic::state::NodeStatus;
use kawanan_logic::{ClusterState, Command, Entry, codec};
use sha2::{Digest, Sha256};
use tokio::sync::watch;
use tracing::{info, warn};

use crate::clock::SharedClock;
use crate::consensus::{ClusterLog, ProposeError};
use crate::identity::join::{Application, JoinAnswer, JoinRequest, Welcome};
use crate::identity::{Authority, IdentityStore, authority};
use crate::leader::AuthorityKey;
use crate::peer::{Answer, Request};
use crate::random::SharedRandom;
use crate::transport::SharedLinks;

/// Time for the leader to decide about a joiner that asked this node.
const FORWARD_DEADLINE: Duration = Duration::from_secs(5);
/// Times that a join is passed on while the leader is changing.
const FORWARD_ATTEMPTS: u32 = 8;
const FORWARD_PAUSE: Duration = Duration::from_millis(250);

/// What admitting needs. One per agent.
pub struct Admission {
    pub me: NodeId,
    pub store: IdentityStore,
    pub consensus: ClusterLog,
    pub links: SharedLinks,
    pub clock: SharedClock,
    pub random: SharedRandom,
}

impl AuthorityKey for Admission {
    fn pkcs8(&self) -> Option<Vec<u8>> {
        match self.store.authority() {
            Ok(authority) => authority.map(|authority| authority.key_pkcs8().to_vec()),
            Err(err) => {
                warn!(%err, "the authority's key cannot be read");
                None
            }
        }
    }
}

impl Admission {
    /// Answers a machine without a certificate. `request` is what it sent.
    pub async fn serve(&self, from: SocketAddr, request: Bytes) -> Bytes {
        let answer = match self.ask_leader(request.to_vec()).await {
            Ok(answer) => answer,
            Err(refusal) => {
                info!(%from, %refusal, "a machine was not let in");
                return encode_answer(&JoinAnswer::Refused(refusal));
            }
        };
        answer.into()
    }

    /// Has the leader decide about a joiner or a renewal, wherever it is.
    ///
    /// # Errors
    /// When there is no leader that answers.
    pub async fn ask_leader(&self, request: Vec<u8>) -> Result<Vec<u8>, ApiError> {
        for _ in 0..FORWARD_ATTEMPTS {
            let leader = self.consensus.status().borrow().leader;
            let answer = match leader {
                Some(leader) if leader == self.me => self.decide(request.clone()).await,
                Some(leader) => self.forward(leader, &request).await,
                None => Answer::NotLeader { leader: None },
            };
            match answer {
                Answer::Joined(answer) => return Ok(answer),
                Answer::Failed(error) => return Err(error),
                _ => tokio::time::sleep(FORWARD_PAUSE).await,
            }
        }
        Err(ApiError::new(
            ErrorCode::NoLeader,
            "the cluster has no leader right now, so nobody can let a machine in",
        )
        .with_hint("`agent status` on a member says which voters are missing; then try again"))
    }

    async fn forward(&self, leader: NodeId, request: &[u8]) -> Answer {
        let Ok(request) = codec::encode(&Request::Join {
            request: request.to_vec(),
        }) else {
            return Answer::NotLeader { leader: None };
        };
        match self
            .links
            .call(leader, request.into(), FORWARD_DEADLINE)
            .await
        {
            Ok(answer) => codec::decode(&answer).unwrap_or(Answer::NotLeader { leader: None }),
            Err(_) => Answer::NotLeader { leader: None },
        }
    }

    /// The leader's decision. Safe to repeat: the same machine with the same token is the same member.
    pub async fn decide(&self, request: Vec<u8>) -> Answer {
        if self.consensus.status().borrow().leader != Some(self.me) {
            return Answer::NotLeader {
                leader: self.consensus.status().borrow().leader,
            };
        }
        let request = match codec::decode::<JoinRequest>(&request) {
            Ok(request) => request,
            Err(err) => {
                let error = ApiError::invalid(format!("the request to join cannot be read: {err}"))
                    .with_hint("the machine runs a version that is too far from the cluster's");
                return Answer::Joined(encode_answer(&JoinAnswer::Refused(error)).to_vec());
            }
        };
        let decided = match request {
            JoinRequest::Join(application) => self.admit(*application).await,
            JoinRequest::Renew { signing_request } => self.renew(&signing_request),
        };
        match decided {
            Ok(welcome) => {
                Answer::Joined(encode_answer(&JoinAnswer::Welcome(Box::new(welcome))).to_vec())
            }
            Err(Undecided::Refused(error)) => {
                info!(refusal = %error, "a machine was not let in");
                Answer::Joined(encode_answer(&JoinAnswer::Refused(error)).to_vec())
            }
            Err(Undecided::NotLeader(leader)) => Answer::NotLeader { leader },
        }
    }

    async fn admit(&self, newcomer: Application) -> Result<Welcome, Undecided> {
        let authority = self.authority()?;
        let node = authority::requesting_node(&newcomer.signing_request).map_err(bad_request)?;
        let name = newcomer.name.clone();
        let command = Command::AdmitNode {
            token: newcomer.token,
            secret_hash: Sha256::digest(newcomer.secret.0).into(),
            node: NewNode {
                id: node,
                raft_id: newcomer.raft_id,
                name: newcomer.name,
                labels: newcomer.labels,
                facts: newcomer.facts,
            },
        };
        let request = RequestId::from_bits(self.random.bits());
        let entry = Entry {
            request,
            at: self.clock.now(),
            command,
        };
        match self.consensus.propose(&entry).await {
            Ok(Ok(revision)) => {
                info!(%node, name, %revision, "a machine entered the cluster");
                self.certify(&authority, &newcomer.signing_request, revision)
                    .await
            }
            Ok(Err(refusal)) => Err(Undecided::Refused(refusal)),
            Err(ProposeError::NotLeader { leader }) => Err(Undecided::NotLeader(leader)),
            Err(err) => Err(Undecided::Refused(ApiError::new(
                ErrorCode::OutcomeUnknown,
                err.to_string(),
            ))),
        }
    }

    fn renew(&self, signing_request: &[u8]) -> Result<Welcome, Undecided> {
        let node = authority::requesting_node(signing_request).map_err(bad_request)?;
        let state = self.consensus.state().borrow().clone();
        let member = state
            .nodes
            .get(&node)
            .is_some_and(|node| node.status != NodeStatus::Left);
        if !member {
            return Err(Undecided::Refused(
                ApiError::new(
                    ErrorCode::Forbidden,
                    "this machine is not a member of the cluster",
                )
                .with_hint("run `agent leave --force` there, then `agent join` with a new token"),
            ));
        }
        self.sign(&self.authority()?, signing_request, &state)
    }

    async fn certify(
        &self,
        authority: &Authority,
        signing_request: &[u8],
        revision: kawanan_api::Revision,
    ) -> Result<Welcome, Undecided> {
        let mut state = self.consensus.state();
        let applied = state.wait_for(|state| state.revision >= revision);
        let state = match tokio::time::timeout(FORWARD_DEADLINE, applied).await {
            Ok(Ok(state)) => Arc::clone(&state),
            _ => return Err(Undecided::NotLeader(None)),
        };
        self.sign(authority, signing_request, &state)
    }

    fn sign(
        &self,
        authority: &Authority,
        signing_request: &[u8],
        state: &ClusterState,
    ) -> Result<Welcome, Undecided> {
        let cluster = state.cluster.as_ref().ok_or(Undecided::NotLeader(None))?;
        let signed = authority.sign_node(signing_request, cluster.id, self.clock.now());
        let (certificate, node) = signed.map_err(bad_request)?;
        let members = state
            .nodes
            .values()
            .filter(|member| member.status != NodeStatus::Left);
        Ok(Welcome {
            cluster: cluster.id,
            node,
            certificate,
            authorities: cluster.authorities.clone(),
            members: members
                .map(|member| (member.id, member.raft_id, member.facts.address))
                .collect(),
        })
    }

    fn authority(&self) -> Result<Authority, Undecided> {
        let unusable = |cause: String| {
            ApiError::new(ErrorCode::Internal, format!("the leader cannot sign certificates: {cause}"))
                .with_hint("see the leader's log; another node may lead after `agent leave` or a restart of this one")
        };
        match self.store.authority() {
            Ok(Some(authority)) => Ok(authority),
            Ok(None) => Err(Undecided::Refused(unusable(
                "it does not hold the authority's key".to_owned(),
            ))),
            Err(err) => Err(Undecided::Refused(unusable(err.to_string()))),
        }
    }

    /// Keeps the authority's key that the leader hands over before this node may vote.
    pub fn hold_authority_key(&self, from: NodeId, key: &[u8]) -> Answer {
        if self.consensus.status().borrow().leader != Some(from) {
            warn!(%from, "a node that does not lead sent an authority key; it is ignored");
            return Answer::Failed(ApiError::new(
                ErrorCode::Forbidden,
                "only the leader hands over the authority's key",
            ));
        }
        match self.store.save_authority_key(key) {
            Ok(()) => Answer::Done,
            Err(err) => {
                warn!(%err, "the authority's key cannot be kept");
                Answer::Failed(ApiError::new(ErrorCode::Internal, err.to_string()))
            }
        }
    }

    /// The state that decisions rest on, for callers that wait for it.
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.consensus.state()
    }
}

enum Undecided {
    Refused(ApiError),
    NotLeader(Option<NodeId>),
}

fn bad_request(err: crate::identity::AuthorityError) -> Undecided {
    Undecided::Refused(ApiError::invalid(format!(
        "the machine's signing request is refused: {err}"
    )))
}

fn encode_answer(answer: &JoinAnswer) -> Bytes {
    match codec::encode(answer) {
        Ok(bytes) => bytes.into(),
        Err(err) => {
            warn!(%err, "an answer to a joiner cannot be encoded");
            Bytes::new()
        }
    }
}
