//! The inner agent: everything that decides and acts, standing on edges that the caller brings.
//!
//! The daemon brings QUIC, redb and Docker; simulation brings their twins and runs many cores in one thread. What is
//! wired here is the same in both, so simulation runs what users run.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{NodeId, RaftId};
use kawanan_logic::ClusterState;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::sleep;

use crate::clock::SharedClock;
use crate::consensus::{
    self, ClusterLog, ClusterProposer, ConsensusConfig, Proposer, Surroundings, persist,
};
use crate::gossip::Liveness;
use crate::leader::{self, AuthorityKey, LeaderParts};
use crate::random::SharedRandom;
use crate::submit::Submitter;
use crate::transport::SharedLinks;

/// What the log part of a core stands on.
pub struct LogEdges {
    pub config: ConsensusConfig,
    pub disk: persist::Setup,
    pub links: SharedLinks,
    pub raft_inbound: mpsc::Receiver<(NodeId, Bytes)>,
    /// Members that this node was told about when it joined.
    pub hints: BTreeMap<RaftId, NodeId>,
    pub clock: SharedClock,
    pub random: SharedRandom,
}

/// The node's part in the service log, and the ways into it.
#[derive(Clone)]
pub struct LogPart {
    pub me: NodeId,
    pub log: ClusterLog,
    pub proposer: ClusterProposer,
    pub submitter: Submitter,
    pub links: SharedLinks,
    pub clock: SharedClock,
    pub random: SharedRandom,
}

/// Opens the log and takes part in it.
///
/// # Errors
/// When the log cannot be used.
pub fn open_log(edges: LogEdges) -> Result<(LogPart, consensus::Running), consensus::StartError> {
    let me = edges.config.node;
    let surroundings = Surroundings {
        links: Arc::clone(&edges.links),
        inbound: edges.raft_inbound,
        hints: edges.hints,
    };
    let (log, running): (ClusterLog, _) = consensus::start(edges.config, edges.disk, surroundings)?;
    let proposer = Proposer::new(
        log.clone(),
        Arc::clone(&edges.links),
        Arc::clone(&edges.random),
        me,
    );
    let submitter = Submitter {
        proposer: proposer.clone(),
        clock: Arc::clone(&edges.clock),
        random: Arc::clone(&edges.random),
    };
    let part = LogPart {
        me,
        log,
        proposer,
        submitter,
        links: edges.links,
        clock: edges.clock,
        random: edges.random,
    };
    Ok((part, running))
}

impl LogPart {
    pub fn state(&self) -> watch::Receiver<Arc<ClusterState>> {
        self.log.state()
    }

    /// Starts the duties that wait for this node to lead.
    pub fn start_leading(
        &self,
        tasks: &mut JoinSet<()>,
        liveness: watch::Receiver<Arc<Liveness>>,
        authority_key: Arc<dyn AuthorityKey>,
    ) {
        tasks.spawn(leader::run(LeaderParts {
            me: self.me,
            consensus: self.log.clone(),
            liveness,
            links: Arc::clone(&self.links),
            clock: Arc::clone(&self.clock),
            random: Arc::clone(&self.random),
            authority_key,
        }));
    }
}

/// Pause between attempts to find out how far the cluster is.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// Time for one attempt.
const ASK_DEADLINE: Duration = Duration::from_secs(5);

/// Turns `caught_up` true once this node's state holds everything that was committed when this was called. Until then
/// what the state does not know may merely be new.
pub async fn until_caught_up(proposer: ClusterProposer, caught_up: watch::Sender<bool>) {
    while let Err(err) = proposer.read_index(ASK_DEADLINE).await {
        tracing::debug!(%err, "how far the cluster is, is not known yet");
        sleep(ASK_AGAIN).await;
    }
    caught_up.send_replace(true);
}
