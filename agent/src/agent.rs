//! THE WIRING: builds every part of the daemon, starts every owner, stops them in order. The only file that knows all
//! rooms. What it wires on the inside is [`crate::core`], which simulation shares.
//!
//! Start: identity, log, links, core, gossip, doors (peers, API). Stop (SIGTERM, SIGINT): API first, then leadership is
//! handed over, then the links close; within [`STOP_DEADLINE`]. Containers and the port proxy are never stopped here.

mod backend;
mod founding;
mod start_error;

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use kawanan_logic::ClusterState;
use kawanan_logic::state::NodeFacts;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Settings;
use crate::containers::docker::Docker;
use crate::containers::{ContainerRuntime, SharedRuntime};
use crate::core::{Core, Edges};
use crate::data_dir::{EntryRecord, next_generation};
use crate::directory::{Directory, directory};
use crate::gossip::{self, GossipConfig, GossipHandle, keys};
use crate::identity::{Identity, IdentityStore};
use crate::log_store::{DirectoryLock, RedbStore};
use crate::peer::serve::PeerService;
use crate::random::{SharedRandom, SystemRandom};
use crate::transport::quic::Quic;
use crate::transport::{Inbound, SharedLinks};
use crate::vitals::{self, Vital};
use crate::{certificates, facts, http, network};

pub use start_error::StartError;

/// Longest way from a signal to the end of the process.
const STOP_DEADLINE: Duration = Duration::from_secs(4);
/// Time for the engine to say what it is at start; without an answer the node starts all the same.
const ENGINE_DEADLINE: Duration = Duration::from_secs(3);

/// The running daemon.
pub struct Agent {
    core: Core,
    quic: Arc<Quic>,
    tasks: JoinSet<()>,
    stop: Stop,
    ready: watch::Receiver<bool>,
    // Held for as long as the process uses the data directory.
    _lock: DirectoryLock,
}

/// Ways for the daemon to be told to stop.
struct Stop {
    terminate: Signal,
    interrupt: Signal,
    left: watch::Receiver<bool>,
}

impl Agent {
    /// Builds and starts everything. Returns before the node is part of its cluster; see [`Agent::until_ready`].
    ///
    /// # Errors
    /// When something that the agent cannot live without is missing, worded for the operator.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let clock: SharedClock = Arc::new(SystemClock);
        let random: SharedRandom = Arc::new(SystemRandom);
        std::fs::create_dir_all(&settings.run_dir).map_err(|err| StartError::run_dir(&settings.run_dir, err))?;
        let lock = DirectoryLock::take(&settings.data_dir)?;
        let store = IdentityStore::in_data_directory(&settings.data_dir);
        let entry = EntryRecord::load(&settings.data_dir)?;
        let identity = current_identity(&store, &entry, &clock).await?;
        let advertised = settings.advertised()?;
        info!(node = %identity.node, name = identity.name, cluster = %identity.cluster, "agent starts");

        let (directory, keeper) = directory(entry.hints());
        let gate = Arc::new(directory.clone());
        let (quic, inbound) = Quic::bind(settings.listen, &identity, gate, directory.addresses())?;
        let links: SharedLinks = Arc::clone(&quic) as SharedLinks;
        let Inbound { raft, gossip, calls, streams, joins } = inbound;

        let engine: SharedRuntime = Arc::new(Docker::connect(&settings.docker_endpoint())?);
        let engine_info = timeout(ENGINE_DEADLINE, engine.info()).await.ok().and_then(Result::ok);
        let (facts_seen, facts_wanted) = watch::channel(facts::facts(advertised, engine_info.as_ref()));

        let (gossip, gossip_task) = gossip::spawn(
            GossipConfig {
                cluster: identity.cluster,
                node: identity.node,
                generation: next_generation(&settings.data_dir, clock.now())?,
                seeds: directory.members().borrow().keys().copied().filter(|node| *node != identity.node).collect(),
                interval: GossipConfig::interval_for(directory.members().borrow().len()),
                facts: vec![(keys::ADDRESS.to_owned(), advertised.to_string())],
            },
            Arc::clone(&links),
            gossip,
        );
        let _ = (gossip_task, gossip, raft, calls, streams, joins, facts_seen, facts_wanted, keeper);
        todo!()
    }
}
