//! A whole cluster in one thread: machines, the network between them, their gossip, and time.
//!
//! Everything that happens to the cluster from outside is a method here; between two calls no time passes unless
//! [`World::pass`] or [`World::drive`] lets it. A heartbeat of the world itself ([`TICK`]) runs gossip and looks at
//! all machines, so that invariants are checked also when nothing else happens.

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kawanan_agent::clock::{SharedClock, SimulatedClock};
use kawanan_agent::containers::ContainerStatus;
use kawanan_agent::directory::Member;
use kawanan_agent::log_store::Fault;
use kawanan_agent::transport::simulated::{SimulatedNetwork, Weather};
use kawanan_api::{
    ApiError, ClusterId, ErrorCode, NodeId, RequestId, Revision, TaskId, Timestamp, TokenId,
};
use kawanan_logic::{ClusterState, Command};
use rand::rngs::StdRng;
use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, SeedableRng};
use tempfile::TempDir;
use tokio::time::{Instant, sleep_until, timeout};

use super::clients::{Door, Doors};
use super::faults::{DiskFault, MachineIndex, Step, Trouble};
use super::gossip::GossipField;
use super::ledger::Ledger;
use super::life::Life;
use super::machine::{LogSettings, Machine};
use super::run::Run;
use super::settled::{MachineSeen, unsettled};
use super::trace::Trace;

/// The world's own heartbeat.
pub const TICK: Duration = Duration::from_millis(50);
/// A gossip round every so many ticks.
const TICKS_PER_GOSSIP: u64 = 5;
/// A checkpoint of the trace every so many ticks.
const TICKS_PER_CHECKPOINT: u64 = 20;
/// Longest wait for a write of the world's own: founding, joining, orders of stories.
const WRITE_DEADLINE: Duration = Duration::from_secs(30);
/// What a wall clock shows when a simulation starts.
const EPOCH: Timestamp = Timestamp::from_millis(1_800_000_000_000);

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
    /// Election timeouts and log settings for machines to come.
    settings: Vec<LogSettings>,
    /// For what agents keep in files beside their log.
    scratch: TempDir,
    token: (TokenId, [u8; 32]),
    /// How many troubles cut each direction.
    cuts: BTreeMap<(MachineIndex, MachineIndex), u32>,
    weather: Vec<Trouble>,
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
            ticks: 0,
            next_tick: Instant::now() + TICK,
        }
    }

    /// A directory for the files of a machine.
    pub fn scratch(&self, place: MachineIndex) -> PathBuf {
        self.scratch.path().join(&self.machines[place].name)
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
            let gossip = self.gossip.clone();
            gossip.round(&mut self.random, carries);
        }
        if self.ticks.is_multiple_of(TICKS_PER_CHECKPOINT) {
            self.trace.checkpoint();
        }
        self.audit();
    }

    fn places(&self) -> BTreeMap<NodeId, MachineIndex> {
        let machines = self.machines.iter().enumerate();
        machines
            .map(|(place, machine)| (machine.node, place))
            .collect()
    }

    /// A task never has two running containers, on one machine or on several.
    fn audit(&self) {
        let mut running: BTreeMap<TaskId, Vec<&str>> = BTreeMap::new();
        for machine in &self.machines {
            for (task, count) in machine.engine.running() {
                let places = std::iter::repeat_n(machine.name.as_str(), count);
                running.entry(task).or_default().extend(places);
            }
        }
        for (task, places) in running {
            if places.len() > 1 {
                self.ledger.violated(format!(
                    "task {} has {} running containers, on {}",
                    task.short(),
                    places.len(),
                    places.join(" and ")
                ));
            }
        }
    }

    /// The place of a machine among the machines.
    pub fn place_of(&self, name: &str) -> Option<MachineIndex> {
        self.machines
            .iter()
            .position(|machine| machine.name == name)
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
        let (token, secret_hash) = self.token;
        let node = self.machines[place].as_new_node();
        self.submit(Command::AdmitNode {
            token,
            secret_hash,
            node,
        })
        .await?;
        let state = self.newest();
        let members = state.nodes.values().map(|node| {
            let member = Member {
                raft: node.raft_id,
                address: node.facts.address,
            };
            (node.id, member)
        });
        self.machines[place].hints = members.collect();
        self.start(place);
        Ok(())
    }

    /// Commits a command through any agent that takes it.
    ///
    /// # Errors
    /// When it is refused, or not accepted in time.
    pub async fn submit(&mut self, command: Command) -> Result<Revision, ApiError> {
        let request = RequestId::from_bits(self.random.random());
        let until = Instant::now() + WRITE_DEADLINE;
        loop {
            let doors: Vec<Door> = self
                .machines
                .iter()
                .filter_map(|machine| self.doors.get(machine.node))
                .filter(|door| door.life.is_running())
                .collect();
            let answer = match doors.choose(&mut self.random).cloned() {
                Some(door) => {
                    let attempt =
                        door.submitter
                            .submit_as(request, command.clone(), Duration::from_secs(5));
                    let answered = timeout(Duration::from_secs(6), door.life.sees(attempt));
                    self.drive(answered).await.ok()
                }
                None => None,
            };
            match answer {
                Some(Err(err)) if super::ledger::is_passing(&err) => {}
                Some(answer) => return answer,
                None => {}
            }
            if Instant::now() >= until {
                return Err(ApiError::new(
                    ErrorCode::NoLeader,
                    "nobody took the write in time",
                ));
            }
            self.pass(Duration::from_millis(100)).await;
        }
    }

    /// Starts a machine's agent, if its power is on and none runs.
    pub fn start(&mut self, place: MachineIndex) {
        let machine = &self.machines[place];
        if machine.power.is_none() || machine.run.is_some() {
            return;
        }
        self.machines[place].starts += 1;
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

    /// SIGTERM to an agent.
    pub async fn stop(&mut self, place: MachineIndex) {
        let machine = &mut self.machines[place];
        let Some(run) = machine.run.take() else {
            return;
        };
        self.trace.note(&machine.name, "agent is told to stop");
        self.doors.close(machine.node);
        let stopped = run.stop();
        if self
            .drive(timeout(Duration::from_secs(5), stopped))
            .await
            .is_err()
        {
            let name = &self.machines[place].name;
            self.ledger
                .violated(format!("the agent of {name} did not stop within 5 s"));
        }
        let machine = &self.machines[place];
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

    /// Cuts a direction once more, or takes one cut back.
    pub fn set_cut(&mut self, from: MachineIndex, to: MachineIndex, cut: bool) {
        let count = self.cuts.entry((from, to)).or_default();
        *count = if cut {
            *count + 1
        } else {
            count.saturating_sub(1)
        };
        self.cuts.retain(|_, count| *count > 0);
        self.lay_cables();
    }

    /// Takes back every cut.
    pub fn heal(&mut self) {
        self.trace.note("-", "all links work");
        self.cuts.clear();
        self.lay_cables();
    }

    fn lay_cables(&self) {
        self.network.heal_all();
        for (from, to) in self.cuts.keys() {
            let (from, to) = (&self.machines[*from], &self.machines[*to]);
            self.network.cut_one_way(from.node, to.node);
        }
    }

    fn set_weather(&mut self, trouble: &Trouble, begins: bool) {
        if begins {
            self.weather.push(trouble.clone());
        } else if let Some(place) = self.weather.iter().position(|it| it == trouble) {
            self.weather.remove(place);
        }
        let mut weather = Weather::calm();
        for trouble in &self.weather {
            match trouble {
                Trouble::Loss { permille } => {
                    weather.loss = weather.loss.max(f64::from(*permille) / 1000.0);
                    weather.duplication = 0.02;
                }
                Trouble::Slow { delay } => {
                    let longest = *delay.max(weather.delay.end());
                    weather.delay = *weather.delay.start()..=longest;
                }
                _ => {}
            }
        }
        self.network.set_weather(weather);
    }

    /// A trouble begins or ends.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Begin(trouble) => {
                self.trace.note("-", format!("begins: {trouble}"));
                self.begin(trouble);
            }
            Step::End(trouble) => {
                self.trace.note("-", format!("ends: {trouble}"));
                self.end(trouble);
            }
        }
    }

    fn begin(&mut self, trouble: &Trouble) {
        let all = 0..self.machines.len();
        match trouble {
            Trouble::AgentDown(place) => self.kill(*place),
            Trouble::MachineDown(place) => self.power_off(*place),
            Trouble::AllAgentsDown => all.for_each(|place| self.kill(place)),
            Trouble::AllMachinesDown => all.for_each(|place| self.power_off(place)),
            Trouble::Frozen(place) => self.set_frozen(*place, true),
            Trouble::Isolated(_)
            | Trouble::OneWay { .. }
            | Trouble::Pair(..)
            | Trouble::Split(_) => {
                self.set_cuts(trouble, true);
            }
            Trouble::Loss { .. } | Trouble::Slow { .. } => self.set_weather(trouble, true),
            Trouble::EngineHangs(place) => self.machines[*place].engine.hang(),
            Trouble::EngineGone(place) => self.machines[*place].engine.set_unreachable(true),
            Trouble::ContainerDies { on, code } => self.end_a_container(*on, *code),
            Trouble::DiskFails(place, fault) => {
                self.machines[*place].disk.inject(match fault {
                    DiskFault::SyncFails => Fault::SyncFails,
                    DiskFault::Full => Fault::Full,
                    DiskFault::CrashBefore => Fault::CrashBefore,
                    DiskFault::CrashAfter => Fault::CrashAfter,
                });
            }
            Trouble::DiskSlow(place, each) => self.machines[*place].set_disk_latency(Some(*each)),
        }
    }

    fn end(&mut self, trouble: &Trouble) {
        let all = 0..self.machines.len();
        match trouble {
            Trouble::AgentDown(place) => self.start(*place),
            Trouble::MachineDown(place) => self.power_on(*place),
            Trouble::AllAgentsDown => all.for_each(|place| self.start(place)),
            Trouble::AllMachinesDown => all.for_each(|place| self.power_on(place)),
            Trouble::Frozen(place) => self.set_frozen(*place, false),
            Trouble::Isolated(_)
            | Trouble::OneWay { .. }
            | Trouble::Pair(..)
            | Trouble::Split(_) => {
                self.set_cuts(trouble, false);
            }
            Trouble::Loss { .. } | Trouble::Slow { .. } => self.set_weather(trouble, false),
            Trouble::EngineHangs(place) => self.machines[*place].engine.thaw(),
            Trouble::EngineGone(place) => self.machines[*place].engine.set_unreachable(false),
            Trouble::ContainerDies { .. } => {}
            Trouble::DiskFails(place, _) => {
                self.machines[*place].disk.repair();
                // The operator, or systemd, starts an agent whose log has failed anew.
                self.kill(*place);
                self.start(*place);
            }
            Trouble::DiskSlow(place, _) => self.machines[*place].set_disk_latency(None),
        }
    }

    fn set_cuts(&mut self, trouble: &Trouble, cut: bool) {
        let all: BTreeSet<MachineIndex> = (0..self.machines.len()).collect();
        let side = match trouble {
            Trouble::OneWay { from, to } => return self.set_cut(*from, *to, cut),
            Trouble::Pair(one, other) => {
                self.set_cut(*one, *other, cut);
                return self.set_cut(*other, *one, cut);
            }
            Trouble::Isolated(place) => BTreeSet::from([*place]),
            Trouble::Split(side) => side.clone(),
            _ => return,
        };
        for one in &side {
            for other in all.difference(&side) {
                self.set_cut(*one, *other, cut);
                self.set_cut(*other, *one, cut);
            }
        }
    }

    fn end_a_container(&mut self, on: MachineIndex, code: i32) {
        let engine = &self.machines[on].engine;
        let running: Vec<TaskId> = engine.running().into_keys().collect();
        if let Some(task) = running.choose(&mut self.random) {
            self.trace.note(
                &self.machines[on].name,
                format!("the container of task {} exits with {code}", task.short()),
            );
            engine.kill_container(*task, code);
        }
    }

    /// Everything works again.
    pub fn repair(&mut self) {
        self.trace.note("-", "all troubles are over");
        self.heal();
        self.weather.clear();
        self.network.set_weather(Weather::calm());
        for place in 0..self.machines.len() {
            self.set_frozen(place, false);
            let machine = &self.machines[place];
            machine.engine.thaw();
            machine.engine.set_unreachable(false);
            machine.set_disk_latency(None);
            machine.disk.repair();
            if machine.run.as_ref().is_some_and(|run| !run.takes_part()) {
                self.kill(place);
            }
            self.power_on(place);
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

    /// Running containers by machine, for comparing two instants.
    pub fn running_containers(&self) -> BTreeMap<String, BTreeSet<String>> {
        self.machines
            .iter()
            .map(|machine| {
                let containers = machine.engine.containers().into_iter();
                let running = containers
                    .filter(|seen| matches!(seen.status, ContainerStatus::Running { .. }))
                    .map(|seen| seen.id);
                (machine.name.clone(), running.collect())
            })
            .collect()
    }

    pub fn newest(&self) -> Arc<ClusterState> {
        self.ledger.newest()
    }
}

/// Settings for ten machines, each with its own election timeout; most logs are cut often, some seldom.
fn draw_settings(random: &mut StdRng) -> Vec<LogSettings> {
    let mut ticks: Vec<usize> = (10..20).collect();
    ticks.shuffle(random);
    ticks
        .into_iter()
        .map(|election_ticks| LogSettings {
            election_ticks,
            checkpoint_entries: *[15, 40, 150, 1000].choose(random).unwrap_or(&1000),
            kept_entries: *[3, 10, 100, 500].choose(random).unwrap_or(&500),
        })
        .collect()
}
