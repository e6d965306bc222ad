//! What is looked at with every heartbeat of the world: containers across machines, and verdicts about nodes that are
//! well.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::{NodeId, TaskId};
use kawanan_logic::state::NodeStatus;
use tokio::time::Instant;

use super::super::faults::{MachineIndex, Trouble};
use super::World;

/// How long a node must have been well before it is wrong to declare it down. A verdict takes two rounds of probes, and
/// a node that was silent is heard again with the next round of gossip.
const WELL_FOR: Duration = Duration::from_secs(4);
/// Loss above this may make nodes look dead.
const LOSS_BORNE_PERMILLE: u32 = 200;

/// What is remembered from one look to the next.
#[derive(Debug, Default)]
pub(super) struct Judge {
    /// When something was last wrong with a machine.
    disturbed: BTreeMap<MachineIndex, Instant>,
    /// The status of each node at the last look.
    statuses: BTreeMap<NodeId, NodeStatus>,
}

impl World {
    pub(super) fn look_over(&mut self) {
        self.check_one_container_per_task();
        self.check_verdicts();
    }

    /// A task never has two running containers, on one machine or on several.
    fn check_one_container_per_task(&self) {
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

    /// A node that is up and can be reached is never declared down.
    fn check_verdicts(&mut self) {
        let now = Instant::now();
        for place in 0..self.machines.len() {
            if self.is_disturbed(place) {
                self.judge.disturbed.insert(place, now);
            }
        }
        let state = self.ledger.newest();
        for (place, machine) in self.machines.iter().enumerate() {
            let Some(node) = state.nodes.get(&machine.node) else {
                continue;
            };
            let before = self.judge.statuses.insert(node.id, node.status);
            let fell = node.status == NodeStatus::Down && before == Some(NodeStatus::Ready);
            let well = self
                .judge
                .disturbed
                .get(&place)
                .is_none_or(|last| now.duration_since(*last) > WELL_FOR);
            if fell && well {
                self.ledger.violated(format!(
                    "{} was declared down although nothing was wrong with it",
                    machine.name
                ));
            }
        }
    }

    /// Something is wrong with the machine that may make it look dead: others cannot reach it, or it does not answer.
    fn is_disturbed(&self, place: MachineIndex) -> bool {
        let runs = self.machines[place]
            .run
            .as_ref()
            .is_some_and(|run| run.life.is_running());
        let cut_from = (0..self.machines.len())
            .filter(|other| {
                self.cuts.contains_key(&(place, *other)) || self.cuts.contains_key(&(*other, place))
            })
            .count();
        let lossy = self.weather.iter().any(|trouble| {
            matches!(trouble, Trouble::Loss { permille } if *permille > LOSS_BORNE_PERMILLE)
        });
        // Cut off from a single other machine it is well: the leader asks third nodes before it believes its own eyes.
        !runs || cut_from > 1 || lossy
    }
}
