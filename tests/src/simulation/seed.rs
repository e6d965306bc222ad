//! One seed: a cluster is made, clients use it, troubles befall it, and when they are over it must come to rest.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use kawanan_agent::containers::ContainerStatus;
use kawanan_api::NodeId;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::clients::{Client, Market};
use super::expected::Expected;
use super::faults::{MachineIndex, Schedule};
use super::ledger::Violation;
use super::runtime;
use super::world::World;

/// Machines of a cluster.
pub const MACHINES: usize = 5;
/// How long troubles come and go.
const TROUBLED: Duration = Duration::from_secs(30);
/// I8, I12: how long a cluster may take to come to rest once everything works again.
const SETTLES_WITHIN: Duration = Duration::from_secs(60);
/// How long a cluster at rest is watched: it must write nothing and touch no container.
const QUIET: Duration = Duration::from_secs(20);
const CLIENTS: u64 = 3;

/// What became of a seed.
#[derive(Debug)]
pub struct Report {
    pub seed: u64,
    pub violations: Vec<Violation>,
    pub trace: Vec<String>,
    /// Virtual time of the whole run.
    pub lasted: Duration,
    /// How long the cluster took to come to rest.
    pub settled_after: Option<Duration>,
    /// Writes that clients were told about.
    pub writes: usize,
    /// Entries in the log.
    pub entries: u64,
}

impl Report {
    pub fn is_clean(&self) -> bool {
        self.violations.is_empty()
    }

    /// What broke, and how to see it again.
    pub fn complaint(&self) -> String {
        let mut text = format!("seed {} broke a promise:\n", self.seed);
        for violation in &self.violations {
            // Writing to a string cannot fail.
            writeln!(text, "  {violation}").unwrap_or_default();
        }
        text.push_str(&format!(
            "see it with: KAWANAN_SEED={} cargo nextest run -p tests --no-capture simulation\n",
            self.seed
        ));
        text
    }
}

/// Runs a seed.
pub fn run(seed: u64) -> Report {
    let ran = runtime::run(async move {
        let mut world = World::new(seed);
        let settled_after = live(&mut world, seed).await;
        for panic in runtime::panics() {
            world
                .ledger
                .violated(format!("something panicked: {panic}"));
        }
        Report {
            seed,
            violations: world.ledger.violations(),
            trace: world.trace.lines(),
            lasted: world.trace.elapsed(),
            settled_after,
            writes: world.ledger.accepted().len(),
            entries: world.newest().revision.0,
        }
    });
    match ran {
        Ok(report) => report,
        // The panic is among the violations, or came while the runtime was taken down.
        Err(err) => Report {
            seed,
            violations: vec![Violation {
                at: Duration::ZERO,
                what: format!("{err:#}"),
            }],
            trace: Vec::new(),
            lasted: Duration::ZERO,
            settled_after: None,
            writes: 0,
            entries: 0,
        },
    }
}

/// Runs a seed with the agents' own log lines in the event log.
pub fn replay(seed: u64) -> Report {
    runtime::with_logs(|| run(seed))
}

/// The life of a cluster, from its founding to its rest.
async fn live(world: &mut World, seed: u64) -> Option<Duration> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x005e_ed0f_7a11);
    let schedule = Schedule::draw(&mut random, MACHINES, TROUBLED);
    // Some clusters grow while they are in trouble.
    let late = if random.random_ratio(1, 4) {
        random.random_range(0..3)
    } else {
        0
    };
    // Some begin their troubles with a single voter, as every cluster does.
    let young = late > 0 || random.random_ratio(1, 4);
    let lost: Option<MachineIndex> = random
        .random_ratio(1, 4)
        .then(|| random.random_range(0..MACHINES));
    if !grow(world, MACHINES - late).await {
        return None;
    }
    if !young && let Err(open) = world.settle(SETTLES_WITHIN).await {
        world.ledger.violated(format!(
            "a fresh cluster does not come to rest: {}",
            open.join("; ")
        ));
        return None;
    }
    let (close, closing) = watch::channel(false);
    let mut clients = open_market(world, &mut random, closing);
    suffer(world, &schedule).await;
    if world.machines.len() < MACHINES && !grow(world, MACHINES).await {
        return None;
    }
    world.repair();
    close.send_replace(true);
    let finished = timeout(SETTLES_WITHIN, async {
        while clients.join_next().await.is_some() {}
    });
    if world.drive(finished).await.is_err() {
        world
            .ledger
            .violated("clients still wait for an answer a minute after all troubles were over");
    }
    let settled_after = rest(world).await;
    if let Some(place) = lost
        && settled_after.is_some()
    {
        world.trace.note("-", "one machine dies for good");
        world.power_off(place);
        rest(world).await?;
    }
    settled_after
}

/// Adds machines until there are so many.
async fn grow(world: &mut World, machines: usize) -> bool {
    while world.machines.len() < machines {
        let name = format!("n{}", world.machines.len() + 1);
        if let Err(err) = world.add_machine(&name).await {
            world.ledger.violated(format!("{name} cannot join: {err}"));
            return false;
        }
    }
    true
}

fn open_market(world: &World, random: &mut StdRng, closing: watch::Receiver<bool>) -> JoinSet<()> {
    let market = Market {
        doors: world.doors.clone(),
        ledger: world.ledger.clone(),
        trace: world.trace.clone(),
        shared: Arc::default(),
        closing,
    };
    let nodes: Vec<NodeId> = world.machines.iter().map(|machine| machine.node).collect();
    let mut clients = JoinSet::new();
    for number in 1..=CLIENTS {
        let drains = if number == 1 {
            nodes.clone()
        } else {
            Vec::new()
        };
        let client = Client::new(
            &format!("c{number}"),
            market.clone(),
            random.random(),
            drains,
        );
        clients.spawn(client.run());
    }
    clients
}

/// Lets the troubles come and go.
async fn suffer(world: &mut World, schedule: &Schedule) {
    let begun = Instant::now();
    for (at, step) in &schedule.steps {
        let wait = at.saturating_sub(begun.elapsed());
        world.pass(wait).await;
        if step.concerns_only(world.machines.len()) {
            world.apply(step).await;
        }
        if !world.ledger.is_clean() {
            return;
        }
    }
}

/// Everything works: the cluster must come to rest, and stay there.
async fn rest(world: &mut World) -> Option<Duration> {
    let settled_after = match world.settle(SETTLES_WITHIN).await {
        Ok(after) => after,
        Err(open) => {
            world.ledger.violated(format!(
                "I12: the cluster does not come to rest: {}",
                open.join("; ")
            ));
            return None;
        }
    };
    world.trace.note("-", "the cluster is at rest");
    let (revision, containers) = (world.newest().revision, running_containers(world));
    world.pass(QUIET).await;
    if world.newest().revision != revision {
        world.ledger.violated(format!(
            "a cluster at rest wrote to the log: revision {revision} became {}",
            world.newest().revision
        ));
    }
    if running_containers(world) != containers {
        world
            .ledger
            .violated("a cluster at rest started or stopped containers");
    }
    for machine in &world.machines {
        if let Some(run) = &machine.run {
            world.ledger.check_acknowledged(&machine.name, &run.state());
        }
    }
    let expected = Expected::after(&world.ledger.accepted());
    for difference in expected.differences(&world.newest()) {
        world.ledger.violated(format!("I1: {difference}"));
    }
    Some(settled_after)
}

/// Running containers of all machines, to compare two instants.
fn running_containers(world: &World) -> BTreeSet<(String, String)> {
    let machines = world.look().into_iter();
    machines
        .flat_map(|machine| {
            let name = machine.name;
            let running = machine
                .containers
                .into_iter()
                .filter(|seen| matches!(seen.status, ContainerStatus::Running { .. }));
            running.map(move |seen| (name.clone(), seen.id))
        })
        .collect()
}
