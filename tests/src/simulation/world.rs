//! A whole cluster in one thread: machines, the network between them, their gossip, and time.
//!
//! Everything that happens to the cluster from outside is a method here or in [`troubles`]; between two calls no time
//! passes unless [`World::pass`] or [`World::drive`] lets it. A heartbeat of the world itself ([`TICK`]) runs gossip and
//! has all machines looked at ([`judge`]), so that promises are checked also when nothing else happens.

mod judge;
mod troubles;

use std::collections::BTreeMap;
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kawanan_agent::clock::{SharedClock, SimulatedClock};
use kawanan_agent::directory::Member;
use kawanan_agent::transport::simulated::{SimulatedNetwork, Weather};
use kawanan_api::{
    ApiError, ClusterId, ErrorCode, NodeId, RaftId, RequestId, Revision, Timestamp, TokenId,
};
use kawanan_logic::{ClusterState, Command};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until, timeout};

use super::clients::Doors;
use super::faults::{MachineIndex, Trouble, draw_between};
use super::gossip::GossipField;
use super::ledger::{Ledger, is_passing};
use super::life::Life;
use super::machine::{ClockSkew, Machine, Settings};
use super::run::Run;
use super::settled::{MachineSeen, unsettled};
use super::trace::Trace;
use judge::Judge;

/// The world's own heartbeat.
pub const TICK: Duration = Duration::from_millis(50);
/// A gossip round every so many ticks.
const TICKS_PER_GOSSIP: u64 = 5;
/// A checkpoint of the trace every so many ticks.
const TICKS_PER_CHECKPOINT: u64 = 20;
/// Longest wait for a write of the world's own: founding, joining, orders of stories.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// Time for one attempt at one node.
const ATTEMPT: Duration = Duration::from_secs(5);
const BETWEEN_ATTEMPTS: Duration = Duration::from_millis(100);
/// What SIGTERM gives an agent.
const STOP_DEADLINE: Duration = Duration::from_secs(5);
/// What a right wall clock shows when a simulation starts.
const EPOCH: Timestamp = Timestamp::from_millis(1_800_000_000_000);
/// Machines with their own settings; a world has no more.
const MACHINES_MAX: usize = 10;

pub struct World {
    pub trace: Trace,
    pub ledger: Ledger,
    pub doors: Doors,
    pub clock: SharedClock,
    pub cluster: ClusterId,
    pub network: SimulatedNetwork,
    pub gossip: GossipField,
    pub machines: Vec<Machine>,
    pub random: StdRng,
    pub seed: u64,
    /// For machines to come.
    settings: Vec<Settings>,
    /// For what agents keep in files beside their log.
    scratch: TempDir,
    token: (TokenId, [u8; 32]),
    /// How many troubles cut each direction.
    cuts: BTreeMap<(MachineIndex, MachineIndex), u32>,
    weather: Vec<Trouble>,
    judge: Judge,
    /// Machines that the cluster has let in again and whose agents may start.
    let_in: (mpsc::Sender<MachineIndex>, mpsc::Receiver<MachineIndex>),
    ticks: u64,
    next_tick: Instant,
}

impl World {
    /// Nothing yet. Call inside a current-thread runtime with paused time.
    ///
    /// # Panics
    /// When no temporary directory can be made.
    pub fn new(seed: u64) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let settings = draw_settings(&mut random);
        let trace = Trace::starting_now();
        super::runtime::set_trace(&trace);
        let network = SimulatedNetwork::new(random.random(), Weather::calm());
        Self {
            ledger: Ledger::new(trace.clone()),
            trace,
            doors: Doors::default(),
            clock: Arc::new(SimulatedClock::starting_at(EPOCH)),
            cluster: ClusterId::from_bits(random.random()),
            network,
            gossip: GossipField::default(),
            machines: Vec::new(),
            token: (TokenId::from_bits(random.random()), random.random()),
            random,
            seed,
            settings,
            scratch: tempfile::tempdir().expect("a temporary directory can be made"),
            cuts: BTreeMap::new(),
            weather: Vec::new(),
            judge: Judge::default(),
            let_in: mpsc::channel(MACHINES_MAX),
            ticks: 0,
            next_tick: Instant::now() + TICK,
        }
    }

    /// Lets time pass.
    pub async fn pass(&mut self, time: Duration) {
        self.drive(tokio::time::sleep(time)).await;
    }

    /// Lets time pass until `work` is done.
    pub async fn drive<T>(&mut self, work: impl Future<Output = T>) -> T {
        tokio::pin!(work);
        loop {
            tokio::select! {
                biased;
                value = &mut work => return value,
                Some(place) = self.let_in.1.recv() => {
                    self.machines[place].admitted = true;
                    self.start(place);
                }
                () = sleep_until(self.next_tick) => self.tick(),
            }
        }
    }

    fn tick(&mut self) {
        self.next_tick += TICK;
        self.ticks += 1;
        if self.ticks.is_multiple_of(TICKS_PER_GOSSIP) {
            let places = self.places();
            let carries = |from: NodeId, to: NodeId| match (places.get(&from), places.get(&to)) {
                (Some(from), Some(to)) => !self.cuts.contains_key(&(*from, *to)),
                _ => false,
            };
            self.gossip.round(&mut self.random, carries);
        }
        if self.ticks.is_multiple_of(TICKS_PER_CHECKPOINT) {
            self.trace.checkpoint();
        }
        self.look_over();
    }

    fn places(&self) -> BTreeMap<NodeId, MachineIndex> {
        let machines = self.machines.iter().enumerate();
        machines
            .map(|(place, machine)| (machine.node, place))
            .collect()
    }

    /// The place of a machine among the machines.
    pub fn place_of(&self, name: &str) -> Option<MachineIndex> {
        self.machines
            .iter()
            .position(|machine| machine.name == name)
    }

    /// A directory for the files of a machine.
    pub fn scratch(&self, place: MachineIndex) -> PathBuf {
        self.scratch.path().join(&self.machines[place].name)
    }

    /// Adds a machine and makes it a member: the first one founds the cluster.
    ///
    /// # Errors
    /// When the cluster does not take it in time.
    pub async fn add_machine(&mut self, name: &str) -> Result<(), ApiError> {
        let place = self.machines.len();
        let settings = self.settings[place % self.settings.len()];
        let clock = Arc::clone(&self.clock);
        let machine = Machine::new(name, place, settings, &mut self.random, clock);
        self.machines.push(machine);
        if place == 0 {
            self.found().await
        } else {
            self.join(place).await
        }
    }

    async fn found(&mut self) -> Result<(), ApiError> {
        self.trace
            .note(&self.machines[0].name, "founds the cluster");
        Run::found_log(&self.machines[0])?;
        self.start(0);
        let command = Command::Found {
            cluster: self.cluster,
            authority: b"the authority of a simulated cluster".to_vec(),
            node: self.machines[0].as_new_node(),
        };
        self.submit(command).await?;
        let (id, secret_hash) = self.token;
        self.submit(Command::CreateToken {
            id,
            secret_hash,
            expires_at: None,
            uses: None,
            note: String::new(),
        })
        .await?;
        Ok(())
    }

    async fn join(&mut self, place: MachineIndex) -> Result<(), ApiError> {
        self.trace.note(&self.machines[place].name, "joins");
        let command = self.admission_of(place);
        self.submit(command).await?;
        self.machines[place].hints = self.members();
        self.start(place);
        Ok(())
    }

    fn admission_of(&self, place: MachineIndex) -> Command {
        let (token, secret_hash) = self.token;
        Command::AdmitNode {
            token,
            secret_hash,
            node: self.machines[place].as_new_node(),
        }
    }

    /// What the answer to a joiner names.
    fn members(&self) -> BTreeMap<NodeId, Member> {
        let state = self.newest();
        let members = state.nodes.values().map(|node| {
            let member = Member {
                raft: node.raft_id,
                address: node.facts.address,
            };
            (node.id, member)
        });
        members.collect()
    }

    /// Empties a machine's disk and has it join again: it keeps its key and gets another place in the log.
    fn reinstall(&mut self, place: MachineIndex) {
        let raft = RaftId(self.random.random_range(1..u64::MAX));
        self.machines[place].reinstall(raft);
        self.machines[place].hints = self.members();
        let command = self.admission_of(place);
        let request = RequestId::from_bits(self.random.random());
        let seed = self.random.random();
        let (doors, trace) = (self.doors.clone(), self.trace.clone());
        let (name, let_in) = (self.machines[place].name.clone(), self.let_in.0.clone());
        trace.note(&name, "joins again with an empty disk");
        tokio::spawn(async move {
            match submit(doors, request, command, StdRng::seed_from_u64(seed)).await {
                Ok(_) => let_in.send(place).await.unwrap_or_default(),
                Err(err) => trace.note(&name, format!("is not let in: {err}")),
            }
        });
    }

    /// Commits a command through any agent that takes it.
    ///
    /// # Errors
    /// When it is refused, or not accepted in time.
    pub async fn submit(&mut self, command: Command) -> Result<Revision, ApiError> {
        let request = RequestId::from_bits(self.random.random());
        let random = StdRng::seed_from_u64(self.random.random());
        let submitted = submit(self.doors.clone(), request, command, random);
        match self.drive(timeout(WRITE_DEADLINE, submitted)).await {
            Ok(answer) => answer,
            Err(_) => Err(ApiError::new(
                ErrorCode::NoLeader,
                "nobody took the write in time",
            )),
        }
    }

    /// Starts a machine's agent, if its power is on and none runs.
    pub fn start(&mut self, place: MachineIndex) {
        let machine = &mut self.machines[place];
        if machine.power.is_none() || machine.run.is_some() || !machine.admitted {
            return;
        }
        machine.starts += 1;
        match Run::start(self, place) {
            Ok(run) => {
                let machine = &mut self.machines[place];
                self.trace.note(&machine.name, "agent starts");
                self.doors.open(machine.node, run.door.clone());
                machine.run = Some(run);
            }
            Err(err) => {
                let name = self.machines[place].name.clone();
                self.ledger
                    .violated(format!("the agent of {name} cannot start: {err}"));
            }
        }
    }

    /// SIGKILL to an agent: it is gone in the middle of whatever it did.
    pub fn kill(&mut self, place: MachineIndex) {
        let machine = &mut self.machines[place];
        let Some(run) = machine.run.take() else {
            return;
        };
        self.trace.note(&machine.name, "agent is killed");
        self.doors.close(machine.node);
        run.crash();
        machine.disk.crash();
        self.network.crash(machine.node);
    }

    /// SIGTERM to an agent. A frozen one hears nothing.
    pub async fn stop(&mut self, place: MachineIndex) {
        let machine = &mut self.machines[place];
        if machine
            .run
            .as_ref()
            .is_none_or(|run| !run.life.is_running())
        {
            return;
        }
        let Some(run) = machine.run.take() else {
            return;
        };
        self.trace.note(&machine.name, "agent is told to stop");
        self.doors.close(machine.node);
        let life = run.life.clone();
        let stopped = timeout(STOP_DEADLINE, run.stop());
        let in_time = self.drive(stopped).await.is_ok();
        life.end();
        let machine = &self.machines[place];
        if !in_time {
            let name = &machine.name;
            self.ledger
                .violated(format!("the agent of {name} did not stop within 5 s"));
        }
        machine.disk.crash();
        self.network.crash(machine.node);
        self.trace.note(&machine.name, "agent has stopped");
    }

    /// A power cut: the agent and every container stop.
    pub fn power_off(&mut self, place: MachineIndex) {
        self.kill(place);
        let machine = &mut self.machines[place];
        if let Some(power) = machine.power.take() {
            self.trace.note(&machine.name, "loses power");
            power.end();
            machine.engine.power_cut();
        }
    }

    /// Boots a machine, its agent included.
    pub fn power_on(&mut self, place: MachineIndex) {
        let machine = &mut self.machines[place];
        if machine.power.is_none() {
            self.trace.note(&machine.name, "boots");
            machine.power = Some(Life::default());
            // Calls that hung before the power cut have nobody left who waits.
            machine.engine.thaw();
            machine.engine.set_unreachable(false);
        }
        self.start(place);
    }

    /// The agent stands still, or goes on.
    pub fn set_frozen(&mut self, place: MachineIndex, frozen: bool) {
        let machine = &self.machines[place];
        if let Some(run) = &machine.run
            && frozen == run.life.is_running()
        {
            let doing = if frozen { "freezes" } else { "thaws" };
            self.trace.note(&machine.name, format!("agent {doing}"));
            run.life.set_frozen(frozen);
            if !frozen {
                run.links.release();
            }
        }
    }

    /// What can be seen of the machines.
    pub fn look(&self) -> Vec<MachineSeen> {
        self.machines
            .iter()
            .map(|machine| MachineSeen {
                name: machine.name.clone(),
                node: machine.node,
                up: machine.run.is_some(),
                revision: machine.run.as_ref().map(|run| run.state().revision),
                log: machine.run.as_ref().map(Run::status),
                containers: machine.engine.containers(),
            })
            .collect()
    }

    /// What is still to happen before the cluster is at rest.
    pub fn unsettled(&self) -> Vec<String> {
        unsettled(&self.ledger.newest(), &self.look())
    }

    /// Lets time pass until the cluster is at rest; says how long that took.
    ///
    /// # Errors
    /// What was still open when the time was over.
    pub async fn settle(&mut self, longest: Duration) -> Result<Duration, Vec<String>> {
        let begun = Instant::now();
        loop {
            let open = self.unsettled();
            if open.is_empty() {
                return Ok(begun.elapsed());
            }
            if begun.elapsed() >= longest {
                return Err(open);
            }
            self.pass(TICK * 5).await;
        }
    }

    pub fn newest(&self) -> Arc<ClusterState> {
        self.ledger.newest()
    }
}

/// Asks one agent after the other until one takes the command.
async fn submit(
    doors: Doors,
    request: RequestId,
    command: Command,
    mut random: StdRng,
) -> Result<Revision, ApiError> {
    loop {
        if let Some(door) = doors.any(&mut random) {
            let attempt = door.submitter.submit_as(request, command.clone(), ATTEMPT);
            match timeout(ATTEMPT * 2, door.life.sees(attempt)).await {
                Ok(Err(err)) if is_passing(&err) => {}
                Ok(answer) => return answer,
                Err(_) => {}
            }
        }
        tokio::time::sleep(BETWEEN_ATTEMPTS).await;
    }
}

/// Settings for ten machines, each with its own election timeout; most logs are cut often, some seldom. In most
/// clusters the clocks are right within a second, in some they are not.
fn draw_settings(random: &mut StdRng) -> Vec<Settings> {
    let mut ticks: Vec<usize> = (10..10 + MACHINES_MAX).collect();
    ticks.shuffle(random);
    let wrong = match random.random_range(0..4) {
        0 => Duration::from_secs(7200),
        _ => Duration::from_secs(1),
    };
    ticks
        .into_iter()
        .map(|election_ticks| {
            let by = draw_between(random, Duration::ZERO, wrong);
            let ahead = random.random_bool(0.5);
            Settings {
                election_ticks,
                checkpoint_entries: *[15, 40, 150, 1000].choose(random).unwrap_or(&1000),
                kept_entries: *[3, 10, 100, 500].choose(random).unwrap_or(&500),
                clock_skew: if ahead {
                    ClockSkew::Ahead(by)
                } else {
                    ClockSkew::Behind(by)
                },
            }
        })
        .collect()
}
