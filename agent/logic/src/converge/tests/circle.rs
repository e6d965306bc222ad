//! Leader, log, node and engine in one circle.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{TaskId, Timestamp};

use super::{ME, container, exited};
use crate::Command;
use crate::command::TaskReport;
use crate::converge::{
    Action, ContainerSeen, ContainerStatus, Health, NodeMemory, converge, is_up,
};
use crate::testing::{Cluster, spec};

/// An engine that does what it is told.
#[derive(Default)]
struct Engine {
    containers: BTreeMap<TaskId, ContainerStatus>,
}

impl Engine {
    fn act(&mut self, action: &Action, now: Timestamp) -> Option<TaskReport> {
        let of = |id: &String| id.parse::<TaskId>().unwrap();
        let running = ContainerStatus::Running {
            health: Health::Unchecked,
            started_at: now,
        };
        match action {
            Action::Run(task) | Action::Start { task, .. } => {
                self.containers.insert(*task, running);
            }
            Action::Stop { container, .. } => {
                self.containers.insert(of(container), exited(143));
            }
            Action::Remove { container } => {
                self.containers.remove(&of(container));
            }
            Action::Report(report) => return Some(report.clone()),
        }
        None
    }

    fn seen(&self) -> Vec<ContainerSeen> {
        self.containers
            .iter()
            .map(|(task, status)| container(&task.to_string(), *task, *status))
            .collect()
    }
}

/// Leader, log, node and engine in one circle, until nothing moves.
fn go_round(cluster: &mut Cluster, engine: &mut Engine) {
    for _ in 0..200 {
        let plan = cluster.lead();
        let memory = NodeMemory {
            now: cluster.now(),
            caught_up: true,
            ..NodeMemory::default()
        };
        let actions = converge(ME, &cluster.state, &engine.seen(), &memory);
        if actions.is_empty() && plan.changes.is_empty() {
            match plan.wake_at {
                None => return,
                Some(at) => cluster.seen.now = at,
            }
        }
        let touched: Vec<_> = actions
            .iter()
            .filter(|action| !matches!(action, Action::Report(_)))
            .collect();
        let mut once = BTreeSet::new();
        for action in touched {
            assert!(once.insert(format!("{action:?}")));
        }
        let reports: Vec<_> = actions
            .iter()
            .filter_map(|action| engine.act(action, cluster.now()))
            .collect();
        if !reports.is_empty() {
            cluster.ok(Command::ReportTasks { node: ME, reports });
        }
    }
    panic!("never at rest");
}

#[test]
fn leader_node_and_engine_together_do_what_users_ask_for() {
    let mut cluster = Cluster::new(1);
    let mut engine = Engine::default();
    let web = cluster.create(spec("web", 3));
    go_round(&mut cluster, &mut engine);
    assert_eq!(
        (cluster.running(web).len(), engine.containers.len()),
        (3, 3)
    );
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    go_round(&mut cluster, &mut engine);
    assert_eq!(
        (cluster.running(web).len(), engine.containers.len()),
        (3, 3)
    );
    // A container dies by itself: a new task takes its seat, the dead one stays for its logs.
    let victim = cluster.running(web)[0].id;
    engine.containers.insert(victim, exited(1));
    go_round(&mut cluster, &mut engine);
    assert_eq!(
        (cluster.running(web).len(), engine.containers.len()),
        (3, 4)
    );
    cluster.scale(web, 1);
    go_round(&mut cluster, &mut engine);
    assert_eq!(cluster.running(web).len(), 1);
    let up = engine.containers.values().filter(|status| is_up(**status));
    assert_eq!(up.count(), 1);
    cluster.ok(Command::RemoveService { id: web });
    go_round(&mut cluster, &mut engine);
    assert!(engine.containers.is_empty() && cluster.state.tasks.is_empty());
}
