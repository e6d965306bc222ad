//! THE WIRING: builds every part of the daemon, starts every owner, stops them in order. The only file that knows all
//! rooms. What decides and acts is wired in [`crate::core`], which simulation shares.
//!
//! Start: identity, log, links, gossip, node, leader's duties, then the doors (peers, API). Stop (SIGTERM, SIGINT): the
//! API first, then leadership is handed over, then the links close; within [`STOP_DEADLINE`]. Containers and the port
//! proxy are never stopped here.

mod backend;
mod founding;
mod start_error;

use std::sync::Arc;
use std::time::Duration;

use kawanan_logic::ClusterState;
use kawanan_logic::state::NodeFacts;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;
use tracing::{info, warn};

use crate::admission::Admission;
use crate::clock::{SharedClock, SystemClock};
use crate::config::Settings;
use crate::consensus::{self, ConsensusConfig, persist};
use crate::containers::SharedRuntime;
use crate::containers::docker::Docker;
use crate::core::{self, LogEdges, LogPart};
use crate::data_dir::{EntryRecord, next_generation};
use crate::directory::{DirectoryKeeper, directory};
use crate::gossip::{self, GossipConfig, GossipHandle, keys};
use crate::http::{self, Api, ApiSocket};
use crate::identity::{Identity, IdentityStore};
use crate::log_store::{self, DirectoryLock, LogStore, RedbStore};
use crate::network::table::ProxyFiles;
use crate::network::{self, SharedPorts};
use crate::node::{self, Node, NodeParts};
use crate::peer::serve::PeerService;
use crate::peer::streams;
use crate::random::{SharedRandom, SystemRandom};
use crate::transport::{Inbound, Quic, SharedLinks};
use crate::vitals::{self, Vital};
use crate::{certificates, facts};

use backend::AgentBackend;
pub use start_error::StartError;

/// Longest way from a signal to the end of the process: the contract says 5 s.
const STOP_DEADLINE: Duration = Duration::from_millis(4500);
/// Time for the engine to say what it is at start; without an answer the node starts all the same.
const ENGINE_DEADLINE: Duration = Duration::from_secs(2);

/// The running daemon.
pub struct Agent {
    part: LogPart,
    quic: Arc<Quic>,
    tasks: JoinSet<()>,
    /// Turning it true ends the API.
    stop_api: watch::Sender<bool>,
    left: watch::Receiver<bool>,
    signals: Signals,
    // Held for as long as the process uses the data directory.
    _lock: DirectoryLock,
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

/// A part of the daemon ended that must not.
#[derive(Debug, thiserror::Error)]
#[error("a part of the agent ended unexpectedly: {0}; see the log above")]
pub struct PartEnded(String);

impl Agent {
    /// Builds and starts everything. Returns before the node is part of its cluster; see [`Agent::until_ready`].
    ///
    /// # Errors
    /// When something that the agent cannot live without is missing, worded for the operator.
    pub async fn start(settings: Settings) -> Result<Self, StartError> {
        let clock: SharedClock = Arc::new(SystemClock);
        let random: SharedRandom = Arc::new(SystemRandom);
        let signals = Signals::listen()?;
        std::fs::create_dir_all(&settings.run_dir)
            .map_err(|err| StartError::run_dir(&settings.run_dir, err))?;
        if !settings.data_dir.is_dir() {
            return Err(StartError::NoDataDir(settings.data_dir));
        }
        let lock = DirectoryLock::take(&settings.data_dir)?;
        let store = IdentityStore::in_data_directory(&settings.data_dir);
        let entry = EntryRecord::load(&settings.data_dir)?;
        let settings = settings.or_kept(&entry.settings);
        let identity = current_identity(&store, &entry, &clock).await?;
        let advertised = settings.advertised()?;
        info!(node = %identity.node, name = identity.name, cluster = %identity.cluster, "agent starts");

        // Everything below runs on these; the order is the order of need.
        let mut tasks = JoinSet::new();
        let (directory, keeper) = directory(entry.hints());
        let gate = Arc::new(directory.clone());
        let (quic, inbound) = Quic::bind(
            settings.listen(),
            &identity,
            gate,
            directory.addresses(),
            &clock,
        )?;
        let links: SharedLinks = Arc::clone(&quic) as SharedLinks;
        let Inbound {
            raft,
            gossip: gossip_inbound,
            calls,
            streams,
            joins,
        } = inbound;
        let (part, log_running) = core::open_log(LogEdges {
            config: ConsensusConfig::new(identity.node, identity.raft),
            disk: open_disk(&settings, &identity, entry.founder)?,
            links: Arc::clone(&links),
            raft_inbound: raft,
            hints: entry
                .members
                .iter()
                .map(|(node, raft, _)| (*raft, *node))
                .collect(),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        })?;

        tasks.spawn(log_running.ended());

        let engine: SharedRuntime = Arc::new(Docker::connect(&settings.docker_endpoint())?);
        let engine_info = timeout(ENGINE_DEADLINE, engine.info())
            .await
            .ok()
            .and_then(Result::ok);
        let facts = facts::facts(advertised, engine_info.as_ref());

        let known = part.state().borrow().clone();
        let gossip = start_gossip(
            &settings,
            &identity,
            &entry,
            &known,
            advertised,
            &links,
            gossip_inbound,
            &clock,
        )?;
        tasks.spawn(keeper_run(keeper, &part, &gossip));

        let admission = Arc::new(Admission {
            me: identity.node,
            store: store.clone(),
            consensus: part.log.clone(),
            links: Arc::clone(&links),
            clock: Arc::clone(&clock),
            random: Arc::clone(&random),
        });
        let (ports, _ports_task) = network::ports::spawn(ProxyFiles::new(&settings.run_dir));
        let node = start_node(&identity, &part, engine, Arc::new(ports), &mut tasks);
        part.start_leading(&mut tasks, gossip.liveness(), Arc::clone(&admission) as _);
        if entry.founder && known.cluster.is_none() {
            let (log, identity) = (part.log.clone(), identity.clone());
            tasks.spawn(founding::found(
                log,
                identity,
                entry.labels,
                facts.clone(),
                clock.clone(),
                random.clone(),
            ));
        }
        start_housekeeping(
            &part,
            &identity,
            facts,
            (&node, &gossip, &admission, &quic),
            &mut tasks,
        );

        let peers = PeerService {
            links: Arc::clone(&links),
            log: part.log.clone(),
            admission,
        };
        tasks.spawn(peers.run(calls, joins));
        tasks.spawn(streams::serve(node.logs.clone(), streams));
        let (left_sender, left) = watch::channel(false);
        let backend = AgentBackend::new(&identity, &part, &gossip, &node, left_sender);
        let (stop_api, stopping) = watch::channel(false);
        let socket = ApiSocket::bind(&settings.api_socket()).await?;
        let api = Api::new(Arc::new(backend), clock, random, stopping);
        tasks.spawn(http::serve(socket, api));
        tasks.spawn(vitals::feed_watchdog(vitals_of(&part, &gossip, &node)));
        Ok(Self {
            part,
            quic,
            tasks,
            stop_api,
            left,
            signals,
            _lock: lock,
        })
    }

    /// Waits until this node is in the node table it holds itself, and a leader is known.
    pub async fn until_ready(&self) {
        let me = self.part.me;
        let mut state = self.part.state();
        let mut status = self.part.log.status();
        let listed = state
            .wait_for(|state| state.nodes.contains_key(&me))
            .await
            .is_ok();
        let led = status
            .wait_for(|status| status.leader.is_some())
            .await
            .is_ok();
        if listed && led {
            info!("this node is ready");
            vitals::notify_ready("ready");
        }
    }

    /// Runs until a signal, a goodbye, or the end of a part that must not end; then stops in order.
    ///
    /// # Errors
    /// When a part ended unexpectedly.
    pub async fn until_stopped(mut self) -> Result<(), PartEnded> {
        let mut left = self.left.clone();
        let reason = tokio::select! {
            biased;
            _ = self.signals.terminate.recv() => Ok("SIGTERM"),
            _ = self.signals.interrupt.recv() => Ok("SIGINT"),
            _ = left.wait_for(|left| *left) => Ok("this node left its cluster"),
            ended = first_failure(&mut self.tasks) => Err(ended),
        };
        match &reason {
            Ok(reason) => info!(reason, "agent stops; containers go on"),
            Err(ended) => warn!(%ended, "agent stops; containers go on"),
        }
        vitals::notify_stopping();
        if timeout(STOP_DEADLINE, self.stop()).await.is_err() {
            warn!("the agent did not stop in order within its time and ends now");
        }
        reason.map(|_| ())
    }

    async fn stop(&mut self) {
        self.stop_api.send_replace(true);
        self.part.log.shutdown().await;
        self.quic.close().await;
        self.tasks.shutdown().await;
    }
}

impl Signals {
    fn listen() -> Result<Self, StartError> {
        let listen = |kind| signal(kind).map_err(StartError::Signals);
        Ok(Self {
            terminate: listen(SignalKind::terminate())?,
            interrupt: listen(SignalKind::interrupt())?,
        })
    }
}

/// The identity on disk, with a certificate that is good today.
async fn current_identity(
    store: &IdentityStore,
    entry: &EntryRecord,
    clock: &SharedClock,
) -> Result<Identity, StartError> {
    let identity = store.load()?.ok_or(StartError::NoCluster)?;
    if !certificates::is_expired(&identity, clock.now()) {
        return Ok(identity);
    }
    let seeds: Vec<_> = entry
        .members
        .iter()
        .map(|(_, _, address)| *address)
        .collect();
    certificates::renew_expired(store, &identity, &seeds, Arc::clone(clock))
        .await
        .map_err(StartError::Expired)
}

/// Opens the log's file, founding the log on the founder's first start.
fn open_disk(
    settings: &Settings,
    identity: &Identity,
    founder: bool,
) -> Result<persist::Setup, StartError> {
    let mut disk = RedbStore::open(&settings.data_dir.join(log_store::FILE_NAME))?;
    let never_used = {
        let persisted = disk.load(identity.raft)?;
        persisted.snapshot.is_none() && persisted.entries.is_empty()
    };
    if founder && never_used {
        consensus::found::<ClusterState>(&mut disk, identity.raft)?;
    }
    Ok(persist::Setup::on_thread(disk))
}

#[expect(
    clippy::too_many_arguments,
    reason = "the wiring hands every part what it needs, by name"
)]
fn start_gossip(
    settings: &Settings,
    identity: &Identity,
    entry: &EntryRecord,
    known: &ClusterState,
    advertised: std::net::SocketAddr,
    links: &SharedLinks,
    inbound: mpsc::Receiver<(kawanan_api::NodeId, bytes::Bytes)>,
    clock: &SharedClock,
) -> Result<GossipHandle, StartError> {
    let seeds: std::collections::BTreeSet<_> = known
        .nodes
        .keys()
        .copied()
        .chain(entry.members.iter().map(|(node, _, _)| *node))
        .collect();
    let config = GossipConfig {
        cluster: identity.cluster,
        node: identity.node,
        generation: next_generation(&settings.data_dir, clock.now())?,
        interval: GossipConfig::interval_for(seeds.len()),
        seeds: seeds
            .into_iter()
            .filter(|node| *node != identity.node)
            .collect(),
        facts: vec![(keys::ADDRESS.to_owned(), advertised.to_string())],
    };
    let (handle, _task) = gossip::spawn(config, Arc::clone(links), inbound);
    Ok(handle)
}

fn keeper_run(
    keeper: DirectoryKeeper,
    part: &LogPart,
    gossip: &GossipHandle,
) -> impl Future<Output = ()> + Send + 'static {
    keeper.run(part.state(), gossip.liveness())
}

fn start_node(
    identity: &Identity,
    part: &LogPart,
    engine: SharedRuntime,
    ports: SharedPorts,
    tasks: &mut JoinSet<()>,
) -> Arc<Node> {
    let (caught_up_seen, caught_up) = watch::channel(false);
    tasks.spawn(core::until_caught_up(part.proposer.clone(), caught_up_seen));
    Arc::new(Node::spawn(NodeParts {
        cluster: identity.cluster,
        node: identity.node,
        name: identity.name.clone(),
        engine,
        state: part.state(),
        caught_up,
        submit: Arc::new(part.submitter.clone()),
        ports,
        clock: Arc::clone(&part.clock),
        random: Arc::clone(&part.random),
        parallel_starts: node::parallel_starts(),
    }))
}

/// What keeps the node's picture in the cluster true: facts in the node table, gossip, certificate.
fn start_housekeeping(
    part: &LogPart,
    identity: &Identity,
    facts: NodeFacts,
    parts: (&Arc<Node>, &GossipHandle, &Arc<Admission>, &Arc<Quic>),
    tasks: &mut JoinSet<()>,
) {
    let (node, gossip, admission, quic) = parts;
    let (wanted_sender, wanted) = watch::channel(facts);
    tasks.spawn(facts::follow_engine(
        node.engine_info.clone(),
        wanted_sender,
    ));
    tasks.spawn(facts::keep_true(
        identity.node,
        identity.raft,
        wanted,
        part.state(),
        part.submitter.clone(),
    ));
    tasks.spawn(facts::gossip_about(
        node.engine.clone(),
        node.progress.clone(),
        gossip.clone(),
    ));
    let (renewed_sender, renewed) = watch::channel(identity.clone());
    let (clock, random) = (Arc::clone(&part.clock), Arc::clone(&part.random));
    tasks.spawn(certificates::keep_fresh(
        Arc::clone(admission),
        renewed_sender,
        clock,
        random,
    ));
    tasks.spawn(swap_certificates(renewed, Arc::clone(quic)));
}

async fn swap_certificates(mut renewed: watch::Receiver<Identity>, quic: Arc<Quic>) {
    while renewed.changed().await.is_ok() {
        let identity = renewed.borrow_and_update().clone();
        if let Err(err) = quic.swap_certificate(&identity) {
            warn!(%err, "the renewed certificate cannot be used; the old one stays in use");
        }
    }
}

fn vitals_of(part: &LogPart, gossip: &GossipHandle, node: &Arc<Node>) -> Vec<Vital> {
    let (log, gossip, node) = (part.log.clone(), gossip.clone(), Arc::clone(node));
    vec![
        Vital {
            name: "log",
            ask: Box::new(move || Box::pin(log.clone().is_turning())),
        },
        Vital {
            name: "gossip",
            ask: Box::new(move || Box::pin(gossip.clone().is_turning())),
        },
        Vital {
            name: "containers",
            ask: Box::new(move || Box::pin(node.is_turning())),
        },
    ]
}

/// Waits for the first part that ends in disorder. Parts that end by themselves in good order do not count.
async fn first_failure(tasks: &mut JoinSet<()>) -> PartEnded {
    loop {
        match tasks.join_next().await {
            Some(Ok(())) => {}
            Some(Err(err)) => return PartEnded(err.to_string()),
            None => std::future::pending().await,
        }
    }
}
