//! One run of an agent on a simulated machine: the agent's own parts, wired as the daemon wires them, on fenced edges.
//!
//! What differs from the daemon: no QUIC, no chitchat, no HTTP, no certificates, no port proxy. Everything that decides
//! and acts is the same code.

use std::sync::Arc;

use async_trait::async_trait;
use kawanan_agent::admission::Admission;
use kawanan_agent::consensus::{self, ConsensusStatus, Role};
use kawanan_agent::core::{self, LogEdges, LogPart};
use kawanan_agent::directory::directory;
use kawanan_agent::facts;
use kawanan_agent::gossip::keys;
use kawanan_agent::identity::IdentityStore;
use kawanan_agent::leader::AuthorityKey;
use kawanan_agent::network::{IngressPorts, PortInUse, PortKey, PortTable};
use kawanan_agent::node::{EngineHealth, Node, NodeParts};
use kawanan_agent::peer::serve::PeerService;
use kawanan_agent::random::{SeededRandom, SharedRandom};
use kawanan_agent::transport::SharedLinks;
use kawanan_api::{ApiError, ErrorCode, NodeId, Revision};
use kawanan_logic::ClusterState;
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::clients::Door;
use super::edges::{FencedLinks, FencedRuntime, Place, fence_inbound};
use super::faults::MachineIndex;
use super::gossip::GossipField;
use super::ledger::Ledger;
use super::life::Life;
use super::machine::Machine;
use super::trace::Trace;
use super::world::World;

/// An agent that runs. Dropping it ends what is not yet over.
pub struct Run {
    pub life: Life,
    pub links: Arc<FencedLinks>,
    pub door: Door,
    part: LogPart,
    log: Option<consensus::Running>,
    _node: Arc<Node>,
    /// Ends with the agent.
    _tasks: JoinSet<()>,
}

/// Creates and starts under way at a time; the daemon takes it from the number of processors.
const PARALLEL_STARTS: usize = 4;

/// Published ports without a proxy: always free, always in force.
struct NoProxy;

#[async_trait]
impl IngressPorts for NoProxy {
    async fn ensure(&self, _key: PortKey) -> Result<(), PortInUse> {
        Ok(())
    }

    fn update(&self, _table: PortTable) {}

    async fn settled(&self) {}
}

/// Every simulated node holds the authority's key; handing it over is tried, keeping secrets is not.
struct KnownKey;

impl AuthorityKey for KnownKey {
    fn pkcs8(&self) -> Option<Vec<u8>> {
        Some(b"the key of a simulated cluster".to_vec())
    }
}

impl Run {
    /// Makes the machine the only voter of a new log.
    ///
    /// # Errors
    /// When its disk refuses.
    pub fn found_log(machine: &Machine) -> Result<(), ApiError> {
        consensus::found::<ClusterState>(&mut machine.disk.open(), machine.raft)
            .map_err(|err| ApiError::new(ErrorCode::Internal, err.to_string()))
    }

    /// Starts the agent of a machine.
    ///
    /// # Errors
    /// When its log cannot be used, in words.
    pub fn start(world: &World, place: MachineIndex) -> Result<Self, String> {
        let machine = &world.machines[place];
        let life = Life::default();
        let (network_links, inbound) = world.network.node(machine.node);
        let links = Arc::new(FencedLinks::new(
            machine.node,
            network_links,
            life.clone(),
            world.trace.clone(),
        ));
        let inbound = fence_inbound(inbound, &life);
        let seed = world.seed ^ machine.starts << 32 ^ place as u64;
        let random: SharedRandom = Arc::new(SeededRandom::new(seed));
        let shared_links: SharedLinks = Arc::clone(&links) as SharedLinks;
        let (part, log) = core::open_log(LogEdges {
            config: machine.consensus_config(),
            disk: consensus::persist::Setup::simulated(machine.disk.open(), machine.disk_latency()),
            links: Arc::clone(&shared_links),
            raft_inbound: inbound.raft,
            hints: machine
                .hints
                .iter()
                .map(|(node, member)| (member.raft, *node))
                .collect(),
            clock: Arc::clone(&machine.clock),
            random: Arc::clone(&random),
        })
        .map_err(|err| err.to_string())?;

        let liveness = world
            .gossip
            .enter(machine.node, life.clone(), machine.gossiped());
        let (directory, keeper) = directory(machine.hints.clone());
        world.network.set_gate(machine.node, Arc::new(directory));
        let mut tasks = JoinSet::new();
        tasks.spawn(keeper.run(part.state(), liveness.clone()));
        part.start_leading(&mut tasks, liveness, Arc::new(KnownKey));
        let admission = Admission {
            me: machine.node,
            store: IdentityStore::in_data_directory(&world.scratch(place)),
            consensus: part.log.clone(),
            links: shared_links.clone(),
            clock: Arc::clone(&machine.clock),
            random,
        };
        let node = start_node(world, machine, &part, &life, &mut tasks);
        let peers = PeerService {
            links: shared_links,
            log: part.log.clone(),
            admission: Arc::new(admission),
        };
        tasks.spawn(peers.run(inbound.calls, inbound.joins));
        tokio::spawn(observe(
            machine.name.clone(),
            part.clone(),
            life.clone(),
            world.ledger.clone(),
            world.trace.clone(),
        ));
        let door = Door {
            name: machine.name.clone(),
            life: life.clone(),
            submitter: part.submitter.clone(),
            proposer: part.proposer.clone(),
        };
        Ok(Self {
            life,
            links,
            door,
            part,
            log: Some(log),
            _node: node,
            _tasks: tasks,
        })
    }

    /// Ends everything on the spot.
    pub fn crash(mut self) {
        self.life.end();
        if let Some(log) = self.log.take() {
            log.crash();
        }
    }

    /// Ends in order, as after SIGTERM.
    pub async fn stop(mut self) {
        self.part.log.shutdown().await;
        self.life.end();
        if let Some(log) = self.log.take() {
            log.crash();
        }
    }

    /// What this agent has applied.
    pub fn state(&self) -> Arc<ClusterState> {
        Arc::clone(&self.part.state().borrow())
    }

    pub fn status(&self) -> ConsensusStatus {
        self.part.log.status().borrow().clone()
    }

    /// Whether its part in the log is over until it is started again.
    pub fn has_failed(&self) -> bool {
        matches!(self.status().role, Role::Failed(_))
    }
}

/// The part that turns tasks into containers, and what keeps the cluster's picture of this node true.
fn start_node(
    world: &World,
    machine: &Machine,
    part: &LogPart,
    life: &Life,
    tasks: &mut JoinSet<()>,
) -> Arc<Node> {
    let engine = FencedRuntime::new(
        Place {
            node: machine.name.clone(),
            cluster: world.cluster,
            life: life.clone(),
            power: machine.power.clone().unwrap_or_default(),
        },
        Arc::new(machine.engine.clone()),
        world.trace.clone(),
        world.ledger.clone(),
    );
    let (caught_up_seen, caught_up) = watch::channel(false);
    tasks.spawn(core::until_caught_up(part.proposer.clone(), caught_up_seen));
    let node = Arc::new(Node::spawn(NodeParts {
        cluster: world.cluster,
        node: machine.node,
        name: machine.name.clone(),
        engine: Arc::new(engine),
        state: part.state(),
        caught_up,
        submit: Arc::new(part.submitter.clone()),
        ports: Arc::new(NoProxy),
        clock: Arc::clone(&part.clock),
        random: Arc::clone(&part.random),
        parallel_starts: PARALLEL_STARTS,
    }));
    let (wanted_sender, wanted) = watch::channel(machine.facts());
    tasks.spawn(facts::follow_engine(
        node.engine_info.clone(),
        wanted_sender,
    ));
    tasks.spawn(facts::keep_true(
        machine.node,
        machine.raft,
        wanted,
        part.state(),
        part.submitter.clone(),
    ));
    tasks.spawn(gossip_about(
        machine.node,
        node.engine.clone(),
        world.gossip.clone(),
    ));
    node
}

/// Publishes the engine's health, as the daemon does.
async fn gossip_about(me: NodeId, mut engine: watch::Receiver<EngineHealth>, gossip: GossipField) {
    loop {
        let health = engine.borrow_and_update().error.clone();
        gossip.publish(
            me,
            keys::ENGINE.to_owned(),
            health.unwrap_or_else(|| "ok".to_owned()),
        );
        if engine.changed().await.is_err() {
            return;
        }
    }
}

/// Tells the ledger what a node publishes, until its death.
async fn observe(name: String, part: LogPart, life: Life, ledger: Ledger, trace: Trace) {
    let mut state = part.state();
    let mut status = part.log.status();
    // Only the receivers: the parts of the agent must not live on because somebody looks at them.
    drop(part);
    let mut told = String::new();
    let mut revision = Revision(0);
    loop {
        {
            let seen = Arc::clone(&state.borrow_and_update());
            if seen.revision < revision {
                ledger.violated(format!(
                    "{name} went back from revision {revision} to {}",
                    seen.revision
                ));
            }
            revision = seen.revision;
            ledger.published(&name, &seen);
            let seen = status.borrow_and_update();
            if seen.role == Role::Leader {
                ledger.leads(&name, seen.term);
            }
            if seen.role != Role::Outsider && !seen.members.voters.is_empty() {
                ledger.votes(&name, &seen.members);
            }
            let now = format!(
                "{} in term {}, {} voters{}",
                seen.role,
                seen.term,
                seen.members.voters.len(),
                if seen.is_joint() { ", changing" } else { "" }
            );
            if now != told {
                trace.note(&name, &now);
                told = now;
            }
            if let Role::Failed(reason) = &seen.role {
                ledger.failed(&name, reason);
            }
        }
        tokio::select! {
            biased;
            () = life.ended() => return,
            changed = state.changed() => if changed.is_err() { return },
            changed = status.changed() => if changed.is_err() { return },
        }
    }
}
