//! Clients that use the cluster while it is in trouble, as people and scripts do: any node, retries under one request
//! id, and a note of everything that they were told.
//!
//! Each client owns some services and changes them one write at a time; some services are scaled by everybody. A write
//! is repeated, at any node, until its outcome is known, so that at the end every write has a definite fate and the books
//! can be checked.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kawanan_agent::consensus::Proposer;
use kawanan_agent::submit::Submitter;
use kawanan_api::spec::{Mode, Placement, UpdateOrder};
use kawanan_api::{NodeId, RequestId, ServiceId, ServiceSpec};
use kawanan_logic::state::{Availability, Outcome};
use kawanan_logic::{ClusterState, Command};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};

use super::faults::draw_between;
use super::ledger::{Ledger, Told, is_passing};
use super::life::Life;
use super::trace::Trace;

/// How long a node may take over a request before the client tries another one.
const ATTEMPT: Duration = Duration::from_secs(5);
/// Pause before asking again.
const PAUSE: (Duration, Duration) = (Duration::from_millis(50), Duration::from_millis(400));
/// Time to think between two writes.
const THINK: (Duration, Duration) = (Duration::from_millis(100), Duration::from_millis(2500));
/// Services that one client keeps at most.
const SERVICES_MAX: usize = 3;
const REPLICAS_MAX: u32 = 6;
/// Images that exist in the simulated registry.
pub const IMAGES: [&str; 4] = ["web:1", "web:2", "web:3", "worker:1"];

/// Where a client can reach one running agent.
#[derive(Clone)]
pub struct Door {
    pub name: String,
    pub life: Life,
    pub submitter: Submitter,
    pub proposer: Proposer<ClusterState>,
}

/// The agents that run right now. Clones share them.
#[derive(Clone, Default)]
pub struct Doors(Arc<Mutex<BTreeMap<NodeId, Door>>>);

impl Doors {
    fn doors(&self) -> MutexGuard<'_, BTreeMap<NodeId, Door>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub fn open(&self, node: NodeId, door: Door) {
        self.doors().insert(node, door);
    }

    pub fn close(&self, node: NodeId) {
        self.doors().remove(&node);
    }

    pub fn get(&self, node: NodeId) -> Option<Door> {
        self.doors().get(&node).cloned()
    }

    /// One of them, by chance.
    pub fn any(&self, random: &mut StdRng) -> Option<Door> {
        let doors: Vec<Door> = self.doors().values().cloned().collect();
        doors.choose(random).cloned()
    }
}

/// What clients share.
#[derive(Clone)]
pub struct Market {
    pub doors: Doors,
    pub ledger: Ledger,
    pub trace: Trace,
    /// Services that everybody scales.
    pub shared: Arc<Mutex<Vec<ServiceId>>>,
    /// True when no new writes are to be begun.
    pub closing: watch::Receiver<bool>,
}

/// A user of the cluster.
pub struct Client {
    name: String,
    market: Market,
    random: StdRng,
    services: BTreeMap<ServiceId, ServiceSpec>,
    made: u32,
    /// Nodes that this client may drain; empty for all but one client, so that two never drain everything.
    drains: Vec<NodeId>,
    drained: Option<NodeId>,
}

impl Client {
    pub fn new(name: &str, market: Market, seed: u64, drains: Vec<NodeId>) -> Self {
        Self {
            name: name.to_owned(),
            market,
            random: StdRng::seed_from_u64(seed),
            services: BTreeMap::new(),
            made: 0,
            drains,
            drained: None,
        }
    }

    /// Writes and reads until the market closes; finishes what it had begun.
    pub async fn run(mut self) {
        while !*self.market.closing.borrow() {
            let think = draw_between(&mut self.random, THINK.0, THINK.1);
            sleep(think).await;
            if *self.market.closing.borrow() {
                break;
            }
            if self.random.random_ratio(1, 5) {
                self.read().await;
            } else {
                let command = self.draw_command();
                self.write(command).await;
            }
        }
        if let Some(node) = self.drained.take()
            && self.random.random_ratio(1, 2)
        {
            self.write(set_availability(node, Availability::Active))
                .await;
        }
    }

    /// Asks for a write until its outcome is known.
    async fn write(&mut self, command: Command) {
        let request = RequestId::from_bits(self.random.random());
        let asked = self.market.ledger.asks();
        let what = describe(&command);
        let trace = self.market.trace.clone();
        trace.note(&self.name, format!("asks {}: {what}", request.short()));
        let outcome = loop {
            match self.attempt(request, &command).await {
                Some(outcome) => break outcome,
                None => {
                    let pause = draw_between(&mut self.random, PAUSE.0, PAUSE.1);
                    sleep(pause).await;
                }
            }
        };
        match &outcome {
            Ok(revision) => trace.note(
                &self.name,
                format!("{} took effect at {revision}", request.short()),
            ),
            Err(err) => trace.note(&self.name, format!("{} refused: {err}", request.short())),
        }
        if outcome.is_ok() {
            self.remember(&command);
        }
        self.market.ledger.told(
            asked,
            Told {
                request,
                command,
                outcome,
            },
        );
    }

    /// One try at one node. `None`: nobody knows, or not now.
    async fn attempt(&mut self, request: RequestId, command: &Command) -> Option<Outcome> {
        let door = self.market.doors.any(&mut self.random)?;
        let submitted = door.submitter.submit_as(request, command.clone(), ATTEMPT);
        match timeout(ATTEMPT * 2, door.life.sees(submitted)).await {
            Ok(Ok(revision)) => Some(Ok(revision)),
            Ok(Err(err)) if is_passing(&err) => {
                self.market.trace.note(
                    &self.name,
                    format!("{} at {}: {err}", request.short(), door.name),
                );
                None
            }
            Ok(Err(err)) => Some(Err(err)),
            Err(_) => None,
        }
    }

    /// A consistent read at any node.
    async fn read(&mut self) {
        let Some(door) = self.market.doors.any(&mut self.random) else {
            return;
        };
        let asked = self.market.ledger.asks();
        let answer = door.life.sees(door.proposer.read_index(ATTEMPT));
        if let Ok(Ok(revision)) = timeout(ATTEMPT * 2, answer).await {
            self.market.ledger.read(asked, revision);
            self.market.trace.note(
                &self.name,
                format!("reads revision {revision} at {}", door.name),
            );
        }
    }

    fn remember(&mut self, command: &Command) {
        match command {
            Command::CreateService { id, spec } | Command::UpdateService { id, spec, .. } => {
                self.services.insert(*id, spec.clone());
            }
            Command::ScaleServices { replicas } => {
                for (id, replicas) in replicas {
                    if let Some(spec) = self.services.get_mut(id) {
                        spec.mode = Mode::Replicated {
                            replicas: *replicas,
                        };
                    }
                }
            }
            Command::RemoveService { id } => {
                self.services.remove(id);
            }
            Command::UpdateNode {
                id,
                availability: Some(availability),
                ..
            } => {
                self.drained = (*availability == Availability::Drain).then_some(*id);
            }
            _ => {}
        }
    }

    fn draw_command(&mut self) -> Command {
        if !self.drains.is_empty() && self.random.random_ratio(1, 6) {
            return self.draw_drain();
        }
        if self.random.random_ratio(1, 8)
            && let Some(id) = self.draw_shared()
        {
            return self.draw_scaling(id);
        }
        let ids: Vec<ServiceId> = self.services.keys().copied().collect();
        let kind = self.random.random_range(0..10);
        let chosen = ids.choose(&mut self.random).copied();
        match (chosen, kind) {
            (Some(id), 0) => Command::RemoveService { id },
            (Some(id), 1..5) => self.draw_update(id),
            (Some(id), 5..8) if self.services[&id].replicas().is_some() => self.draw_scaling(id),
            (Some(id), _) if self.services.len() >= SERVICES_MAX => self.draw_update(id),
            _ => self.draw_service(),
        }
    }

    fn draw_shared(&mut self) -> Option<ServiceId> {
        let shared = self.market.shared.lock();
        let shared = shared.unwrap_or_else(PoisonError::into_inner);
        shared.choose(&mut self.random).copied()
    }

    fn draw_scaling(&mut self, id: ServiceId) -> Command {
        let replicas = self.random.random_range(0..=REPLICAS_MAX);
        Command::ScaleServices {
            replicas: BTreeMap::from([(id, replicas)]),
        }
    }

    fn draw_drain(&mut self) -> Command {
        match self.drained {
            Some(node) => set_availability(node, Availability::Active),
            None => {
                let node = self.drains.choose(&mut self.random);
                let node = node.copied().unwrap_or(self.drains[0]);
                set_availability(node, Availability::Drain)
            }
        }
    }

    fn draw_service(&mut self) -> Command {
        self.made += 1;
        let mut spec = ServiceSpec::new(format!("{}-{}", self.name, self.made), self.draw_image());
        spec.mode = match self.random.random_range(0..8) {
            0 => Mode::Global,
            _ => Mode::Replicated {
                replicas: self.random.random_range(1..=REPLICAS_MAX),
            },
        };
        if self.random.random_ratio(1, 4) {
            spec.update.order = UpdateOrder::StopFirst;
        }
        spec.update.parallelism = self.random.random_range(1..=3);
        if self.random.random_ratio(1, 6) {
            // Six replicas fit on three nodes, and at least three stay.
            spec.placement = Placement {
                max_per_node: Some(2),
                ..Placement::default()
            };
        }
        let id = ServiceId::from_bits(self.random.random());
        if spec.replicas().is_some() && self.random.random_ratio(1, 3) {
            let shared = self.market.shared.lock();
            shared.unwrap_or_else(PoisonError::into_inner).push(id);
        }
        Command::CreateService { id, spec }
    }

    fn draw_update(&mut self, id: ServiceId) -> Command {
        let mut spec = self.services[&id].clone();
        if self.random.random_ratio(2, 3) {
            spec.container.image = self.draw_image();
        } else {
            let value = self.random.random_range(0..100).to_string();
            spec.container.env.insert("SETTING".to_owned(), Some(value));
        }
        Command::UpdateService {
            id,
            spec,
            if_revision: None,
        }
    }

    fn draw_image(&mut self) -> String {
        let image = IMAGES.choose(&mut self.random).unwrap_or(&IMAGES[0]);
        (*image).to_owned()
    }
}

fn set_availability(node: NodeId, availability: Availability) -> Command {
    Command::UpdateNode {
        id: node,
        availability: Some(availability),
        set_labels: BTreeMap::new(),
        remove_labels: std::collections::BTreeSet::new(),
    }
}

fn describe(command: &Command) -> String {
    match command {
        Command::CreateService { id, spec } => format!(
            "create {} ({}) with {:?} of {}",
            spec.name,
            id.short(),
            spec.mode,
            spec.container.image
        ),
        Command::UpdateService { spec, .. } => {
            format!("update {} to {}", spec.name, spec.container.image)
        }
        Command::ScaleServices { replicas } => {
            let changes = replicas.iter();
            let changes: Vec<String> = changes
                .map(|(id, replicas)| format!("{} to {replicas}", id.short()))
                .collect();
            format!("scale {}", changes.join(", "))
        }
        Command::RemoveService { id } => format!("remove {}", id.short()),
        Command::UpdateNode {
            id,
            availability: Some(availability),
            ..
        } => format!("set node {} to {availability:?}", id.short()),
        other => format!("{other:?}"),
    }
}
