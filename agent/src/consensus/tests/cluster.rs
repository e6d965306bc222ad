//! A handful of nodes, and the questions that the stories ask of them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use kawanan_api::{RaftId, Revision};
use tokio::time::{Instant, sleep};

use super::bus::Bus;
use super::toy::{Toy, node_id, note};
use crate::consensus::persist::Setup;
use crate::consensus::{
    ChangeError, ConsensusConfig, ConsensusHandle, ConsensusStatus, ElectionTicks, MemberStep,
    Proposer, Role, Running, Surroundings, found, start,
};
use crate::log_store::{LogStore as _, MemoryDisk};
use crate::random::SeededRandom;

pub(super) struct Machine {
    pub(super) disk: MemoryDisk,
    pub(super) handle: ConsensusHandle<Toy>,
    pub(super) running: Option<Running>,
    pub(super) proposer: Proposer<Toy>,
    /// Milliseconds that a write takes.
    pub(super) latency: Arc<AtomicU64>,
}

pub(super) struct Cluster {
    pub(super) bus: Bus,
    pub(super) machines: BTreeMap<u64, Machine>,
    pub(super) tune: fn(&mut ConsensusConfig),
    requests: u128,
}

pub(super) fn ids(ids: impl IntoIterator<Item = u64>) -> BTreeSet<RaftId> {
    ids.into_iter().map(RaftId).collect()
}

impl Cluster {
    pub(super) fn new() -> Self {
        Self::tuned(|_| {})
    }

    /// With other settings than usual.
    pub(super) fn tuned(tune: fn(&mut ConsensusConfig)) -> Self {
        Self {
            bus: Bus::start(),
            machines: BTreeMap::new(),
            tune,
            requests: 0,
        }
    }

    /// A cluster whose nodes 1 to `voters` vote.
    pub(super) async fn of(voters: u64) -> Self {
        let mut cluster = Self::new();
        cluster.grow(voters).await;
        cluster
    }

    pub(super) async fn grow(&mut self, voters: u64) {
        self.found(1);
        for raft in 2..=voters {
            self.boot(raft, MemoryDisk::default());
        }
        self.wait("a first leader", |it| it.leader() == Some(1))
            .await;
        for raft in 2..=voters {
            self.change(MemberStep::AddLearner(RaftId(raft))).await;
        }
        if voters > 1 {
            let (add, remove) = (ids(2..=voters), ids([]));
            self.change(MemberStep::SetVoters { add, remove }).await;
        }
        self.wait("everybody votes", |it| {
            it.machines.values().all(|machine| {
                let status = machine.handle.status().borrow().clone();
                status.members.voters == ids(1..=voters) && !status.is_joint()
            })
        })
        .await;
    }

    /// Founds the cluster on machine `raft`.
    pub(super) fn found(&mut self, raft: u64) {
        let disk = MemoryDisk::default();
        found::<Toy>(&mut disk.open(), RaftId(raft)).unwrap();
        self.boot(raft, disk);
    }

    /// Starts the agent of a machine with this disk.
    pub(super) fn boot(&mut self, raft: u64, disk: MemoryDisk) {
        let latency = Arc::new(AtomicU64::new(2));
        let asked = Arc::clone(&latency);
        let latency_now = move || Duration::from_millis(asked.load(Ordering::Relaxed));
        let setup = Setup::simulated(disk.open(), Box::new(latency_now));
        let node = node_id(raft);
        let (links, inbound) = self.bus.plug_in(node);
        let mut config = ConsensusConfig::new(node, RaftId(raft));
        config.election = ElectionTicks::fixed(10 + 2 * usize::try_from(raft % 100).unwrap());
        (self.tune)(&mut config);
        let surroundings = Surroundings {
            links: Arc::clone(&links),
            inbound,
            hints: BTreeMap::new(),
        };
        let (handle, running) = start::<Toy>(config, setup, surroundings).unwrap();
        self.bus.answer_calls(node, handle.clone());
        let random = Arc::new(SeededRandom::new(raft));
        let proposer = Proposer::new(handle.clone(), links, random, node);
        let machine = Machine {
            disk,
            handle,
            running: Some(running),
            proposer,
            latency,
        };
        self.machines.insert(raft, machine);
    }

    /// Cuts a machine's power.
    pub(super) fn crash(&mut self, raft: u64) -> MemoryDisk {
        let mut machine = self.machines.remove(&raft).unwrap();
        machine.running.take().unwrap().crash();
        machine.disk.crash();
        self.bus.unplug(node_id(raft));
        machine.disk
    }

    /// Cuts one machine off from all others.
    pub(super) fn isolate(&self, raft: u64) {
        for other in 1..=9 {
            if other != raft % 100 {
                self.bus.cut(node_id(raft), node_id(other));
            }
        }
    }

    pub(super) fn handle(&self, raft: u64) -> &ConsensusHandle<Toy> {
        &self.machines[&raft].handle
    }

    pub(super) fn status(&self, raft: u64) -> ConsensusStatus {
        self.handle(raft).status().borrow().clone()
    }

    pub(super) fn state(&self, raft: u64) -> Arc<Toy> {
        Arc::clone(&self.handle(raft).state().borrow())
    }

    /// The leader of the highest term among the machines that run.
    pub(super) fn leader(&self) -> Option<u64> {
        self.machines
            .iter()
            .map(|(raft, machine)| (machine.handle.status().borrow().clone(), *raft))
            .filter(|(status, _)| status.is_leader())
            .max_by_key(|(status, _)| status.term)
            .map(|(_, raft)| raft)
    }

    /// Waits until there is a leader whom all voters that run know.
    pub(super) async fn settled(&self) -> u64 {
        self.wait("a leader known to all", |it| {
            it.leader().is_some_and(|leader| {
                let voters = it.status(leader).members.voters;
                it.machines
                    .keys()
                    .filter(|raft| voters.contains(&RaftId(**raft)))
                    .all(|raft| it.status(*raft).leader == Some(node_id(leader)))
            })
        })
        .await;
        self.leader().unwrap()
    }

    /// Waits at most ten virtual seconds for something to become true.
    pub(super) async fn wait(&self, what: &str, mut met: impl FnMut(&Self) -> bool) {
        let until = Instant::now() + Duration::from_secs(10);
        while !met(self) {
            assert!(Instant::now() < until, "no {what}:\n{}", self.describe());
            sleep(Duration::from_millis(1)).await;
        }
    }

    fn describe(&self) -> String {
        self.machines
            .keys()
            .map(|raft| format!("{raft}: {:?}\n", self.status(*raft)))
            .collect()
    }

    /// Changes the members through whoever leads.
    pub(super) async fn change(&self, step: MemberStep) {
        let until = Instant::now() + Duration::from_secs(10);
        loop {
            let leader = self.settled().await;
            match self.handle(leader).change_members(step.clone()).await {
                Ok(()) => return,
                Err(err @ (ChangeError::Busy | ChangeError::NotLeader { .. })) => {
                    assert!(Instant::now() < until, "{step:?}: {err}");
                    sleep(Duration::from_millis(10)).await;
                }
                Err(err) => panic!("{step:?}: {err}"),
            }
        }
    }

    /// Writes a note through `raft`, wherever the leader is; returns its revision.
    pub(super) async fn write(&mut self, raft: u64, text: &str) -> Revision {
        self.requests += 1;
        let entry = note(self.requests, text);
        let proposer = self.machines[&raft].proposer.clone();
        let outcome = proposer.submit(&entry, Duration::from_secs(10)).await;
        outcome.unwrap().unwrap()
    }

    /// Waits until all machines have applied the same.
    pub(super) async fn agree(&self) {
        self.wait("agreement", |it| {
            let mut states = it.machines.keys().map(|raft| it.state(*raft));
            let first = states.next().unwrap();
            states.all(|state| *state == *first)
        })
        .await;
    }

    pub(super) fn role(&self, raft: u64) -> Role {
        self.status(raft).role
    }
}

/// What a disk holds about its log, read as a starting agent would.
pub(super) fn persisted(disk: &MemoryDisk, raft: u64) -> crate::log_store::Persisted {
    disk.open().load(RaftId(raft)).unwrap()
}
