//! What was measured, next to what is to be reached.

use std::collections::BTreeMap;
use std::time::Duration;

use super::COUNTS;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum System {
    Bare,
    Kawanan,
    Swarm,
}

/// `agent join` until the node is ready, seconds.
const JOIN_MAX: f64 = 0.5;
/// Times what the bare engines need for the same containers.
const CREATE_RATIO_MAX: f64 = 1.1;
const LEADER_MB_MAX: f64 = 40.0;
const FOLLOWER_MB_MAX: f64 = 30.0;
/// Share of a processor.
const IDLE_MAX: f64 = 0.005;
const BINARY_MB_MAX: f64 = 25.0;

#[derive(Debug, Default)]
pub struct Report {
    joins: BTreeMap<System, Vec<f64>>,
    creates: BTreeMap<(System, usize), Vec<f64>>,
    /// Largest resident memory in bytes, of leaders (`true`) and of the others.
    memory: BTreeMap<(System, bool), u64>,
    idle: BTreeMap<System, f64>,
    pub binary_bytes: Option<u64>,
}

/// A line of the table. Figures that were not measured are `None`.
struct Row {
    what: String,
    unit: &'static str,
    figures: [Option<f64>; 3],
    goal: String,
    reached: Option<bool>,
}

impl Report {
    pub fn join(&mut self, system: System, time: Duration) {
        self.joins
            .entry(system)
            .or_default()
            .push(time.as_secs_f64());
    }

    pub fn create(&mut self, system: System, count: usize, time: Duration) {
        eprintln!(
            "{system:?}: {count} containers in {:.2} s",
            time.as_secs_f64()
        );
        self.creates
            .entry((system, count))
            .or_default()
            .push(time.as_secs_f64());
    }

    pub fn memory(&mut self, system: System, leader: bool, bytes: u64) {
        let largest = self.memory.entry((system, leader)).or_default();
        *largest = bytes.max(*largest);
    }

    pub fn idle(&mut self, system: System, share: f64) {
        self.idle.insert(system, share);
    }

    /// Whether no measured figure of Kawanan misses its goal.
    pub fn goals_are_reached(&self) -> bool {
        self.rows().iter().all(|row| row.reached != Some(false))
    }

    fn rows(&self) -> Vec<Row> {
        let mut rows = vec![simple(
            "join until the node is ready",
            "s",
            [
                None,
                self.joins.get(&System::Kawanan).and_then(|t| median(t)),
                self.joins.get(&System::Swarm).and_then(|t| median(t)),
            ],
            JOIN_MAX,
        )];
        for count in COUNTS {
            let time = |system| {
                self.creates
                    .get(&(system, count))
                    .and_then(|times| median(times))
            };
            let figures = [System::Bare, System::Kawanan, System::Swarm].map(time);
            let ratio = figures[1].zip(figures[0]).map(|(ours, bare)| ours / bare);
            rows.push(Row {
                what: format!("create {count} replicas until all run"),
                unit: "s",
                figures,
                goal: format!(
                    "{CREATE_RATIO_MAX} x bare{}",
                    ratio.map_or(String::new(), |r| format!(", is {r:.2} x"))
                ),
                reached: ratio.map(|ratio| ratio <= CREATE_RATIO_MAX),
            });
        }
        for (who, leader, goal) in [
            ("leader", true, LEADER_MB_MAX),
            ("others", false, FOLLOWER_MB_MAX),
        ] {
            let memory = |system| {
                self.memory
                    .get(&(system, leader))
                    .map(|bytes| *bytes as f64 / 1e6)
            };
            let figures = [None, memory(System::Kawanan), memory(System::Swarm)];
            rows.push(simple(&format!("memory (RSS), {who}"), "MB", figures, goal));
        }
        let idle = |system| self.idle.get(&system).map(|share| share * 100.0);
        let figures = [None, idle(System::Kawanan), idle(System::Swarm)];
        rows.push(simple(
            "idle, share of a processor",
            "%",
            figures,
            IDLE_MAX * 100.0,
        ));
        let size = self.binary_bytes.map(|bytes| bytes as f64 / 1e6);
        rows.push(simple(
            "binary `agent`",
            "MB",
            [None, size, None],
            BINARY_MB_MAX,
        ));
        rows
    }

    /// The table, ready to print.
    pub fn table(&self) -> String {
        let mut text = format!(
            "{:<36} {:>10} {:>10} {:>10}   {}\n",
            "what (median, three nodes)", "bare", "Kawanan", "Swarm", "goal for Kawanan"
        );
        for row in self.rows() {
            let show = |figure: Option<f64>| {
                figure.map_or("-".to_owned(), |f| format!("{f:.2} {}", row.unit))
            };
            let [bare, ours, swarm] = row.figures.map(show);
            let verdict = match row.reached {
                Some(true) => ": reached",
                Some(false) => ": MISSED",
                None => "",
            };
            text.push_str(&format!(
                "{:<36} {bare:>10} {ours:>10} {swarm:>10}   at most {}{verdict}\n",
                row.what, row.goal
            ));
        }
        text.push_str(
            "Swarm's memory and idle share are those of dockerd, which does the containers' work, too.\n\
             Scheduling 10,000 tasks on 1,000 nodes: cargo bench -p kawanan-logic",
        );
        text
    }
}

/// A row whose goal is a plain limit for Kawanan's figure.
fn simple(what: &str, unit: &'static str, figures: [Option<f64>; 3], goal: f64) -> Row {
    Row {
        what: what.to_owned(),
        unit,
        figures,
        goal: format!("{goal} {unit}"),
        reached: figures[1].map(|figure| figure <= goal),
    }
}

fn median(values: &[f64]) -> Option<f64> {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied()
}
