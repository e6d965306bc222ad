//! One simulated machine: what outlives its agent, and the agent that runs on it.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kawanan_agent::clock::{Clock, SharedClock};
use kawanan_agent::consensus::{ConsensusConfig, ElectionTicks};
use kawanan_agent::containers::EngineInfo;
use kawanan_agent::containers::simulated::{Latencies, SimulatedRuntime};
use kawanan_agent::directory::Member;
use kawanan_agent::facts;
use kawanan_agent::gossip::keys;
use kawanan_agent::log_store::MemoryDisk;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{NodeId, RaftId, Timestamp};
use kawanan_logic::command::NewNode;
use kawanan_logic::state::NodeFacts;
use rand::Rng;
use rand::rngs::StdRng;

use super::clients::IMAGES;
use super::life::Life;
use super::run::Run;

/// A healthy disk's time for one durable write.
const DISK_WRITE: Duration = Duration::from_millis(2);

/// How a machine takes part. Drawn once, so that a run repeats itself.
#[derive(Debug, Clone, Copy)]
pub struct Settings {
    /// No two machines of a cluster have the same: raft-rs cannot be given a seed, and equal timeouts collide for ever.
    pub election_ticks: usize,
    pub checkpoint_entries: u64,
    pub kept_entries: u64,
    pub clock_skew: ClockSkew,
}

/// How wrong a machine's wall clock is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ClockSkew {
    Ahead(Duration),
    Behind(Duration),
}

/// A wall clock that runs evenly and is set wrong.
struct SkewedClock {
    true_time: SharedClock,
    skew: ClockSkew,
}

impl Clock for SkewedClock {
    fn now(&self) -> Timestamp {
        let now = self.true_time.now();
        match self.skew {
            ClockSkew::Ahead(by) => now.saturating_add(by),
            ClockSkew::Behind(by) => {
                Timestamp::from_millis(now.millis().saturating_sub(millis(by)))
            }
        }
    }
}

/// A machine with its disk and its container engine, and perhaps a running agent.
pub struct Machine {
    pub name: String,
    pub node: NodeId,
    pub raft: RaftId,
    pub address: SocketAddr,
    pub disk: MemoryDisk,
    pub engine: SimulatedRuntime,
    /// Ends with the power; `None` while it is off.
    pub power: Option<Life>,
    pub run: Option<Run>,
    /// Agents started here so far.
    pub starts: u64,
    /// Where its wall clock stands; no two machines agree exactly.
    pub clock: SharedClock,
    /// False while it waits to be let in (again).
    pub admitted: bool,
    /// Its disk was lost once.
    pub reinstalled: bool,
    /// Members that the join answer named.
    pub hints: BTreeMap<NodeId, Member>,
    settings: Settings,
    disk_write_ms: Arc<AtomicU64>,
}

impl Machine {
    /// A fresh machine whose power is on and whose agent was never started.
    pub fn new(
        name: &str,
        place: usize,
        settings: Settings,
        random: &mut StdRng,
        clock: SharedClock,
    ) -> Self {
        let latencies = Latencies {
            pull: Duration::from_millis(random.random_range(100..1500)),
            ..Latencies::default()
        };
        let clock: SharedClock = Arc::new(SkewedClock {
            true_time: clock,
            skew: settings.clock_skew,
        });
        let engine = SimulatedRuntime::new(random.random(), latencies, Arc::clone(&clock));
        for image in IMAGES {
            engine.publish_image(image);
        }
        let host = u8::try_from(place + 1).unwrap_or(u8::MAX);
        Self {
            name: name.to_owned(),
            node: NodeId::from_bits(random.random()),
            raft: RaftId(random.random_range(1..u64::MAX)),
            address: SocketAddr::from((Ipv4Addr::new(10, 0, 0, host), 7700)),
            disk: MemoryDisk::default(),
            engine,
            power: Some(Life::default()),
            run: None,
            starts: 0,
            clock,
            admitted: true,
            reinstalled: false,
            hints: BTreeMap::new(),
            settings,
            disk_write_ms: Arc::new(AtomicU64::new(millis(DISK_WRITE))),
        }
    }

    /// What the machine says of itself when it joins.
    pub fn as_new_node(&self) -> NewNode {
        NewNode {
            id: self.node,
            raft_id: self.raft,
            name: self.name.clone(),
            labels: Default::default(),
            facts: self.facts(),
        }
    }

    /// What the agent says of its machine once the engine's twin has answered.
    pub fn facts(&self) -> NodeFacts {
        let engine = EngineInfo {
            version: "simulated".to_owned(),
            os: "linux".to_owned(),
            arch: "x86_64".to_owned(),
            capacity: ResourceAmounts {
                cpus: MilliCpus(4000),
                memory: Bytes(8 << 30),
            },
        };
        facts::facts(self.address, Some(&engine))
    }

    pub fn consensus_config(&self) -> ConsensusConfig {
        ConsensusConfig {
            election: ElectionTicks::fixed(self.settings.election_ticks),
            checkpoint_entries: self.settings.checkpoint_entries,
            kept_entries: self.settings.kept_entries,
            ..ConsensusConfig::new(self.node, self.raft)
        }
    }

    /// The disk is replaced: the machine keeps its key and gets another place in the log.
    pub fn reinstall(&mut self, raft: RaftId) {
        self.disk.wipe();
        self.raft = raft;
        self.admitted = false;
        self.reinstalled = true;
    }

    /// What it says in gossip from the start.
    pub fn gossiped(&self) -> BTreeMap<String, String> {
        BTreeMap::from([(keys::ADDRESS.to_owned(), self.address.to_string())])
    }

    /// How long each write to the log takes from now on; `None`: as long as on a healthy disk.
    pub fn set_disk_latency(&self, each: Option<Duration>) {
        let each = each.unwrap_or(DISK_WRITE);
        self.disk_write_ms.store(millis(each), Ordering::Relaxed);
    }

    /// For the log: asked before every write.
    pub fn disk_latency(&self) -> Box<dyn FnMut() -> Duration + Send> {
        let disk_write_ms = Arc::clone(&self.disk_write_ms);
        Box::new(move || Duration::from_millis(disk_write_ms.load(Ordering::Relaxed)))
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
