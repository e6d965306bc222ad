//! Troubles, as they begin, last and end.

use std::collections::BTreeSet;

use kawanan_agent::log_store::Fault;
use kawanan_agent::transport::simulated::Weather;
use kawanan_api::TaskId;
use rand::seq::IndexedRandom;

use super::super::faults::{DiskFault, MachineIndex, Step, Trouble};
use super::World;

impl World {
    /// A trouble begins or ends.
    pub async fn apply(&mut self, step: &Step) {
        match step {
            Step::Begin(trouble) => {
                self.trace.note("-", format!("begins: {trouble}"));
                self.begin(trouble).await;
            }
            Step::End(trouble) => {
                self.trace.note("-", format!("ends: {trouble}"));
                self.end(trouble);
            }
        }
    }

    async fn begin(&mut self, trouble: &Trouble) {
        let all = 0..self.machines.len();
        match trouble {
            Trouble::AgentDown(place) => self.kill(*place),
            Trouble::AgentStopped(place) => self.stop(*place).await,
            Trouble::MachineDown(place) => self.power_off(*place),
            Trouble::Reinstalled(place) if self.may_lose_disk_of(*place) => {
                self.power_off(*place);
                self.reinstall(*place);
            }
            Trouble::Reinstalled(_) => self.trace.note("-", "not now: it could lose the log"),
            Trouble::AllAgentsDown => all.for_each(|place| self.kill(place)),
            Trouble::AllMachinesDown => all.for_each(|place| self.power_off(place)),
            Trouble::Frozen(place) => self.set_frozen(*place, true),
            Trouble::Isolated(_)
            | Trouble::OneWay { .. }
            | Trouble::Pair(..)
            | Trouble::Split(_) => self.set_cuts(trouble, true),
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
            Trouble::AgentDown(place) | Trouble::AgentStopped(place) => self.start(*place),
            Trouble::MachineDown(place) | Trouble::Reinstalled(place) => self.power_on(*place),
            Trouble::AllAgentsDown => all.for_each(|place| self.start(place)),
            Trouble::AllMachinesDown => all.for_each(|place| self.power_on(place)),
            Trouble::Frozen(place) => self.set_frozen(*place, false),
            Trouble::Isolated(_)
            | Trouble::OneWay { .. }
            | Trouble::Pair(..)
            | Trouble::Split(_) => self.set_cuts(trouble, false),
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
            if machine.run.as_ref().is_some_and(|run| run.has_failed()) {
                self.kill(place);
            }
            self.power_on(place);
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

    /// Whether the cluster promises to survive the loss of this disk: everybody else is there and knows three voters or
    /// more, and no other disk was lost before.
    fn may_lose_disk_of(&self, place: MachineIndex) -> bool {
        let others = self.machines.iter().enumerate();
        let mut others = others.filter(|(other, _)| *other != place);
        let nobody_lost_any = self.machines.iter().all(|machine| !machine.reinstalled);
        nobody_lost_any
            && others.all(|(_, machine)| {
                machine.run.as_ref().is_some_and(|run| {
                    let status = run.status();
                    status.members.voters.len() >= 3 && !status.is_joint()
                })
            })
    }
}
