//! What goes wrong in a simulated cluster, and when: drawn from a seed before the run starts.
//!
//! A schedule is data. It does not look at the cluster, so one seed means the same troubles whatever the code does with
//! them; a trouble that no longer fits when its time comes (killing an agent that is dead) is passed over.

use std::collections::BTreeSet;
use std::fmt;
use std::time::Duration;

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

/// A machine, by its place among the machines of the run.
pub type MachineIndex = usize;

/// One thing that is wrong while it lasts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trouble {
    /// SIGKILL to the agent; started again at the end. Containers go on.
    AgentDown(MachineIndex),
    /// SIGTERM to the agent; started again at the end. Containers go on.
    AgentStopped(MachineIndex),
    /// Power cut: agent and containers stop, writes in flight are lost; booted again at the end.
    MachineDown(MachineIndex),
    /// The machine is installed anew: its disk is empty at the end, and it joins again under its old identity.
    Reinstalled(MachineIndex),
    /// Every agent is killed at the same instant.
    AllAgentsDown,
    /// Every machine loses power at the same instant.
    AllMachinesDown,
    /// The agent stands still: SIGSTOP, or a suspended virtual machine.
    Frozen(MachineIndex),
    /// Nothing in, nothing out.
    Isolated(MachineIndex),
    /// Messages of one direction are lost; the other direction works.
    OneWay {
        from: MachineIndex,
        to: MachineIndex,
    },
    /// Two machines cannot talk; everybody else reaches both.
    Pair(MachineIndex, MachineIndex),
    /// These on one side, the others on the other.
    Split(BTreeSet<MachineIndex>),
    /// Messages are lost everywhere, this many in a thousand.
    Loss { permille: u32 },
    /// Messages take up to this long everywhere.
    Slow { delay: Duration },
    /// The container engine does not answer.
    EngineHangs(MachineIndex),
    /// The container engine refuses connections.
    EngineGone(MachineIndex),
    /// A running container ends by itself.
    ContainerDies { on: MachineIndex, code: i32 },
    /// The next write to the log's disk fails. The agent is started again at the end.
    DiskFails(MachineIndex, DiskFault),
    /// Every write to the log's disk takes this long.
    DiskSlow(MachineIndex, Duration),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DiskFault {
    SyncFails,
    Full,
    /// Power fails in the middle of the write; nothing of it is kept.
    CrashBefore,
    /// Power fails when the write is done and nobody knows yet.
    CrashAfter,
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = |machine: &MachineIndex| format!("n{}", machine + 1);
        match self {
            Self::AgentDown(machine) => write!(f, "the agent of {} is down", n(machine)),
            Self::AgentStopped(machine) => write!(f, "the agent of {} is stopped", n(machine)),
            Self::Reinstalled(machine) => write!(f, "{} is installed anew", n(machine)),
            Self::MachineDown(machine) => write!(f, "{} is without power", n(machine)),
            Self::AllAgentsDown => f.write_str("all agents are down"),
            Self::AllMachinesDown => f.write_str("all machines are without power"),
            Self::Frozen(machine) => write!(f, "the agent of {} is frozen", n(machine)),
            Self::Isolated(machine) => write!(f, "{} is cut off", n(machine)),
            Self::OneWay { from, to } => {
                write!(f, "nothing of {} reaches {}", n(from), n(to))
            }
            Self::Pair(a, b) => write!(f, "{} and {} cannot talk", n(a), n(b)),
            Self::Split(side) => {
                let side: Vec<String> = side.iter().map(n).collect();
                write!(f, "{} are apart from the others", side.join(" "))
            }
            Self::Loss { permille } => write!(f, "{permille} of 1000 messages are lost"),
            Self::Slow { delay } => write!(f, "messages take up to {delay:?}"),
            Self::EngineHangs(machine) => write!(f, "the engine of {} hangs", n(machine)),
            Self::EngineGone(machine) => write!(f, "the engine of {} is gone", n(machine)),
            Self::ContainerDies { on, code } => {
                write!(f, "a container on {} exits with {code}", n(on))
            }
            Self::DiskFails(machine, fault) => {
                write!(f, "the disk of {} fails: {fault:?}", n(machine))
            }
            Self::DiskSlow(machine, each) => {
                write!(f, "writes of {} take {each:?}", n(machine))
            }
        }
    }
}

/// A trouble begins or ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    Begin(Trouble),
    End(Trouble),
}

impl Step {
    /// Whether every machine that it names is among the first `machines`: some may join only later.
    pub fn concerns_only(&self, machines: usize) -> bool {
        let (Self::Begin(trouble) | Self::End(trouble)) = self;
        match trouble {
            Trouble::AgentDown(one)
            | Trouble::AgentStopped(one)
            | Trouble::Reinstalled(one)
            | Trouble::MachineDown(one)
            | Trouble::Frozen(one)
            | Trouble::Isolated(one)
            | Trouble::EngineHangs(one)
            | Trouble::EngineGone(one)
            | Trouble::ContainerDies { on: one, .. }
            | Trouble::DiskFails(one, _)
            | Trouble::DiskSlow(one, _) => *one < machines,
            Trouble::OneWay { from, to } => from.max(to) < &machines,
            Trouble::Pair(one, other) => one.max(other) < &machines,
            Trouble::Split(side) => side.iter().all(|one| *one < machines),
            Trouble::AllAgentsDown
            | Trouble::AllMachinesDown
            | Trouble::Loss { .. }
            | Trouble::Slow { .. } => true,
        }
    }
}

/// All troubles of a run, in order of time.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Schedule {
    pub steps: Vec<(Duration, Step)>,
}

/// Shortest and longest time that a trouble lasts.
const LASTS: (Duration, Duration) = (Duration::from_millis(300), Duration::from_secs(14));
/// Most troubles in one run. More overlap so much that the cluster does nothing but wait.
const TROUBLES: std::ops::RangeInclusive<usize> = 2..=8;

impl Schedule {
    /// Draws the troubles of a run of `machines` machines. All of them end before `span`.
    pub fn draw(random: &mut StdRng, machines: usize, span: Duration) -> Self {
        let mut steps = Vec::new();
        for _ in 0..random.random_range(TROUBLES) {
            let trouble = draw_trouble(random, machines);
            let begin = draw_between(random, Duration::ZERO, span.mul_f64(0.8));
            let longest = LASTS.1.min(span - begin);
            let end = begin + draw_between(random, LASTS.0.min(longest), longest);
            steps.push((begin, Step::Begin(trouble.clone())));
            steps.push((end, Step::End(trouble)));
        }
        // Stable: what is drawn first happens first.
        steps.sort_by_key(|(at, _)| *at);
        Self { steps }
    }
}

/// Draws a duration in whole milliseconds.
pub fn draw_between(random: &mut StdRng, shortest: Duration, longest: Duration) -> Duration {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(random.random_range(millis(shortest)..=millis(longest)))
}

fn draw_trouble(random: &mut StdRng, machines: usize) -> Trouble {
    let one = random.random_range(0..machines);
    let other = (one + random.random_range(1..machines)) % machines;
    match random.random_range(0..100) {
        0..11 => Trouble::AgentDown(one),
        11..14 => Trouble::AgentStopped(one),
        14..17 => Trouble::Reinstalled(one),
        17..26 => Trouble::MachineDown(one),
        26..29 => Trouble::AllAgentsDown,
        29..32 => Trouble::AllMachinesDown,
        32..40 => Trouble::Frozen(one),
        40..50 => Trouble::Isolated(one),
        50..56 => Trouble::OneWay {
            from: one,
            to: other,
        },
        56..62 => Trouble::Pair(one, other),
        62..69 => Trouble::Split(draw_side(random, machines)),
        69..74 => Trouble::Loss {
            permille: *[10, 50, 200, 400].choose(random).unwrap_or(&10),
        },
        74..79 => Trouble::Slow {
            delay: draw_between(
                random,
                Duration::from_millis(20),
                Duration::from_millis(300),
            ),
        },
        79..83 => Trouble::EngineHangs(one),
        83..86 => Trouble::EngineGone(one),
        86..92 => Trouble::ContainerDies {
            on: one,
            code: *[0, 1, 137].choose(random).unwrap_or(&1),
        },
        92..97 => Trouble::DiskFails(one, draw_disk_fault(random)),
        _ => Trouble::DiskSlow(
            one,
            draw_between(random, Duration::from_millis(50), Duration::from_secs(2)),
        ),
    }
}

fn draw_side(random: &mut StdRng, machines: usize) -> BTreeSet<MachineIndex> {
    let size = random.random_range(1..machines);
    let mut side = BTreeSet::new();
    while side.len() < size {
        side.insert(random.random_range(0..machines));
    }
    side
}

fn draw_disk_fault(random: &mut StdRng) -> DiskFault {
    let all = [
        DiskFault::SyncFails,
        DiskFault::Full,
        DiskFault::CrashBefore,
        DiskFault::CrashAfter,
    ];
    *all.choose(random).unwrap_or(&DiskFault::SyncFails)
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;

    use super::*;

    const SPAN: Duration = Duration::from_secs(30);

    #[test]
    fn a_seed_draws_the_same_schedule_every_time() {
        let draw = |seed| Schedule::draw(&mut StdRng::seed_from_u64(seed), 5, SPAN);
        assert_eq!(draw(7), draw(7));
        assert_ne!(draw(7), draw(8));
    }

    #[test]
    fn every_trouble_ends_within_the_span_and_all_kinds_come_up() {
        let mut kinds = BTreeSet::new();
        for seed in 0..500 {
            let schedule = Schedule::draw(&mut StdRng::seed_from_u64(seed), 5, SPAN);
            let mut open: Vec<&Trouble> = Vec::new();
            for (at, step) in &schedule.steps {
                assert!(*at <= SPAN);
                match step {
                    Step::Begin(trouble) => open.push(trouble),
                    Step::End(trouble) => {
                        let place = open.iter().position(|it| *it == trouble);
                        open.remove(place.expect("what ends has begun"));
                    }
                }
                if let Step::Begin(trouble) = step {
                    let name = format!("{trouble:?}");
                    kinds.insert(name.split(['(', ' ', '{']).next().map(str::to_owned));
                }
            }
            assert!(open.is_empty());
        }
        assert_eq!(kinds.len(), 18, "{kinds:?}");
    }
}
