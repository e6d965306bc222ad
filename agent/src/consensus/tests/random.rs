//! Random lives: crashes, cuts, losses, slow and failing disks and changes of the voters, from a seed. Checked all the time:
//! one leader per term, one state per revision, no part ended but by its disk; in the end: what was acknowledged is there
//! once. Checked at every read: it sees what was acknowledged before it began.
//!
//! A seed that failed is run again with `SEED=17 cargo test -p agent --lib random_lives`; `SEEDS=500` tries more of them.
//! With `RUSTFLAGS="--cfg tokio_unstable"` a seed gives exactly the same life: tokio wakes those who watch one channel in an
//! order of its own, which can be seeded only so.

#![allow(unexpected_cfgs)]

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kawanan_api::{RaftId, Revision};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::time::{Instant, sleep};

use super::cluster::{Cluster, ids};
use super::toy::{node_id, note};
use crate::consensus::{MemberStep, Proposer, Role};
use crate::log_store::{Fault, MemoryDisk};

use super::toy::Toy;

const MACHINES: u64 = 5;
const LIFETIME: Duration = Duration::from_secs(12);

/// What clients know, and what the watcher saw.
#[derive(Default)]
struct Records {
    proposers: BTreeMap<u64, Proposer<Toy>>,
    states: BTreeMap<u64, tokio::sync::watch::Receiver<Arc<Toy>>>,
    acknowledged: Vec<String>,
    leaders: BTreeMap<u64, u64>,
    digests: BTreeMap<u64, u64>,
    reads: u64,
    over: bool,
}

type Shared = Arc<Mutex<Records>>;

fn lock(records: &Shared) -> MutexGuard<'_, Records> {
    records.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn write_notes(client: u128, seed: u64, records: Shared) {
    let mut random = StdRng::seed_from_u64(seed ^ (0xC11E_0000 + u64::try_from(client).unwrap()));
    for count in 0u128.. {
        let request = (client << 64) + count;
        let text = format!("{client}/{count}");
        // Several attempts, perhaps through several nodes, under one id.
        for _ in 0..random.random_range(1..4) {
            let proposer = {
                let records = lock(&records);
                let all: Vec<_> = records.proposers.values().collect();
                all.choose(&mut random).map(|it| (*it).clone())
            };
            let Some(proposer) = proposer else {
                break;
            };
            let deadline = Duration::from_millis(random.random_range(50..3000));
            if let Ok(outcome) = proposer.submit(&note(request, &text), deadline).await {
                outcome.unwrap();
                lock(&records).acknowledged.push(text.clone());
                break;
            }
        }
        sleep(Duration::from_millis(random.random_range(1..40))).await;
        if lock(&records).over {
            return;
        }
    }
}

async fn read_fresh(seed: u64, records: Shared) {
    let mut random = StdRng::seed_from_u64(seed ^ 0x4EAD);
    loop {
        let asked = {
            let records = lock(&records);
            let all: Vec<_> = records.proposers.keys().copied().collect();
            all.choose(&mut random).map(|raft| {
                (
                    records.proposers[raft].clone(),
                    records.states[raft].clone(),
                    records.acknowledged.clone(),
                )
            })
        };
        if let Some((proposer, state, before)) = asked
            && proposer.read_index(Duration::from_secs(2)).await.is_ok()
        {
            let notes: BTreeSet<_> = state.borrow().notes.iter().cloned().collect();
            for text in before {
                assert!(notes.contains(&text), "a fresh read misses {text}");
            }
            lock(&records).reads += 1;
        }
        sleep(Duration::from_millis(random.random_range(5..60))).await;
        if lock(&records).over {
            return;
        }
    }
}

struct Life {
    cluster: Cluster,
    random: StdRng,
    records: Shared,
    /// Machines without power, and when they come back.
    dark: BTreeMap<u64, (Instant, MemoryDisk)>,
    /// Revisions that were looked at last.
    checked: BTreeMap<u64, Revision>,
}

impl Life {
    async fn begin(seed: u64) -> Self {
        let mut cluster = Cluster::tuned(|config| {
            config.checkpoint_entries = 25;
            config.kept_entries = 5;
        });
        cluster.grow(3).await;
        for raft in 4..=MACHINES {
            cluster.boot(raft, MemoryDisk::default());
            cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
        }
        let records = Shared::default();
        let mut life = Self {
            cluster,
            random: StdRng::seed_from_u64(seed),
            records,
            dark: BTreeMap::new(),
            checked: BTreeMap::new(),
        };
        life.publish();
        life
    }

    /// Tells the clients which machines there are.
    fn publish(&mut self) {
        let mut records = lock(&self.records);
        let machines = &self.cluster.machines;
        records.proposers = machines
            .iter()
            .map(|(raft, machine)| (*raft, machine.proposer.clone()))
            .collect();
        records.states = machines
            .iter()
            .map(|(raft, machine)| (*raft, machine.handle.state()))
            .collect();
    }

    fn check(&mut self) {
        let mut records = lock(&self.records);
        for raft in self.cluster.machines.keys() {
            let status = self.cluster.status(*raft);
            if let Role::Failed(reason) = &status.role {
                assert!(reason.starts_with("the disk failed"), "{raft}: {reason}");
            }
            if status.is_leader() {
                let leader = *records.leaders.entry(status.term).or_insert(*raft);
                assert_eq!(leader, *raft, "two leaders in term {}", status.term);
            }
            let state = self.cluster.state(*raft);
            if self.checked.get(raft) == Some(&state.revision) {
                continue;
            }
            self.checked.insert(*raft, state.revision);
            let digest = state.digest;
            let seen = *records.digests.entry(state.revision.0).or_insert(digest);
            assert_eq!(seen, digest, "two states at revision {}", state.revision);
        }
    }

    fn crash(&mut self, raft: u64) {
        if !self.cluster.machines.contains_key(&raft) {
            return;
        }
        let disk = self.cluster.crash(raft);
        let back = Instant::now() + Duration::from_millis(self.random.random_range(0..3000));
        self.dark.insert(raft, (back, disk));
    }

    fn light_up(&mut self, all: bool) {
        let now = Instant::now();
        let back: Vec<_> = self
            .dark
            .iter()
            .filter(|(_, (at, _))| all || *at <= now)
            .map(|(raft, _)| *raft)
            .collect();
        for raft in back {
            let (_, disk) = self.dark.remove(&raft).unwrap();
            self.cluster.boot(raft, disk);
        }
        // A machine whose disk failed is started again by hand.
        let failed: Vec<_> = self
            .cluster
            .machines
            .keys()
            .copied()
            .filter(|raft| matches!(self.cluster.role(*raft), Role::Failed(_)))
            .collect();
        for raft in failed {
            self.crash(raft);
        }
    }

    fn something_happens(&mut self) {
        let machine = self.random.random_range(1..=MACHINES);
        match self.random.random_range(0..100) {
            0..15 => self.crash(machine),
            15..22 => {
                for raft in 1..=MACHINES {
                    if self.random.random_bool(0.7) {
                        self.crash(raft);
                    }
                }
            }
            22..37 => self.cluster.isolate(machine),
            37..45 => {
                let other = self.random.random_range(1..=MACHINES);
                self.cluster.bus.cut(node_id(machine), node_id(other));
            }
            45..60 => self.cluster.bus.heal(),
            60..68 => {
                let seed = self.random.random();
                let lost = self.random.random_range(0..200);
                let delay = self.random.random_range(0..60);
                self.cluster.bus.bad_weather(seed, lost, delay);
            }
            68..73 => self.cluster.bus.fair_weather(),
            73..83 => {
                let slow = self.random.random_range(1..400);
                if let Some(machine) = self.cluster.machines.get(&machine) {
                    machine.latency.store(slow, Ordering::Relaxed);
                }
            }
            83..87 => {
                if let Some(machine) = self.cluster.machines.get(&machine) {
                    machine.disk.inject(Fault::SyncFails);
                }
            }
            87..90 => {
                if let Some(machine) = self.cluster.machines.get(&machine) {
                    machine.disk.inject(Fault::CrashAfter);
                }
            }
            90..94 => self.change(MemberStep::TransferLeadership(RaftId(machine))),
            _ => self.change_voters(),
        }
    }

    /// Asks the leader and does not wait for it.
    fn change(&self, step: MemberStep) {
        if let Some(leader) = self.cluster.leader() {
            let handle = self.cluster.handle(leader).clone();
            tokio::spawn(async move { drop(handle.change_members(step).await) });
        }
    }

    fn change_voters(&mut self) {
        let Some(leader) = self.cluster.leader() else {
            return;
        };
        let now = self.cluster.status(leader).members.voters;
        let count = *[1, 3, 3, 5].choose(&mut self.random).unwrap();
        let others: Vec<_> = (1..=MACHINES).filter(|raft| *raft != leader).collect();
        let chosen = others.choose_multiple(&mut self.random, count - 1).copied();
        let wanted = ids(chosen.chain([leader]));
        self.change(MemberStep::SetVoters {
            add: wanted.difference(&now).copied().collect(),
            remove: now.difference(&wanted).copied().collect(),
        });
    }

    async fn live(&mut self) {
        let end = Instant::now() + LIFETIME;
        let mut next = Instant::now();
        while Instant::now() < end {
            if Instant::now() >= next {
                self.something_happens();
                next += Duration::from_millis(self.random.random_range(50..1000));
            }
            self.check();
            self.light_up(false);
            self.publish();
            sleep(Duration::from_millis(5)).await;
        }
    }

    /// Peace: everything comes back, and nothing may be missing.
    async fn end(mut self) -> Told {
        lock(&self.records).over = true;
        self.cluster.bus.heal();
        self.cluster.bus.fair_weather();
        for machine in self.cluster.machines.values() {
            machine.latency.store(2, Ordering::Relaxed);
        }
        let until = Instant::now() + Duration::from_secs(30);
        loop {
            self.check();
            self.light_up(true);
            self.publish();
            let states: Vec<_> = self
                .cluster
                .machines
                .keys()
                .map(|raft| self.cluster.state(*raft))
                .collect();
            let level = states.windows(2).all(|pair| pair[0] == pair[1]);
            let all_here = states.len() as u64 == MACHINES;
            if level && all_here && self.cluster.leader().is_some() {
                break;
            }
            assert!(Instant::now() < until, "they do not come together again");
            sleep(Duration::from_millis(10)).await;
        }
        let leader = self.cluster.settled().await;
        self.cluster.write(leader, "the end").await;
        self.cluster.agree().await;
        let notes = self.cluster.state(leader).notes.clone();
        let unique: BTreeSet<_> = notes.iter().collect();
        assert_eq!(unique.len(), notes.len(), "something was applied twice");
        let records = lock(&self.records);
        for text in &records.acknowledged {
            assert!(unique.contains(text), "{text} was acknowledged and is lost");
        }
        Told {
            digest: self.cluster.state(leader).digest,
            written: records.acknowledged.len(),
            read: records.reads,
        }
    }
}

/// What came of a life.
#[derive(Debug, PartialEq, Eq)]
struct Told {
    digest: u64,
    written: usize,
    read: u64,
}

fn live(seed: u64) -> Told {
    eprintln!("seed {seed}");
    let mut builder = tokio::runtime::Builder::new_current_thread();
    #[cfg(tokio_unstable)]
    builder.rng_seed(tokio::runtime::RngSeed::from_bytes(&seed.to_le_bytes()));
    let runtime = builder.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(async {
        let mut life = Life::begin(seed).await;
        let mut clients: Vec<_> = (1..=4)
            .map(|client| tokio::spawn(write_notes(client, seed, Arc::clone(&life.records))))
            .collect();
        clients.push(tokio::spawn(read_fresh(seed, Arc::clone(&life.records))));
        life.live().await;
        lock(&life.records).over = true;
        for client in clients {
            client.await.unwrap();
        }
        life.end().await
    })
}

#[test]
fn random_lives_keep_every_promise() {
    if let Ok(seed) = std::env::var("SEED") {
        live(seed.parse().unwrap());
        return;
    }
    let seeds = std::env::var("SEEDS").map_or(12, |seeds| seeds.parse().unwrap());
    let told: Vec<_> = (0..seeds).map(live).collect();
    let written: usize = told.iter().map(|life| life.written).sum();
    let read: u64 = told.iter().map(|life| life.read).sum();
    // A check that nobody ever reached would not check anything.
    assert!(written as u64 > 50 * seeds, "hardly anything was written");
    assert!(read > 10 * seeds, "hardly anything was read");
}

#[cfg(tokio_unstable)]
#[test]
fn the_same_seed_gives_the_same_life() {
    assert_eq!(live(7), live(7));
}
