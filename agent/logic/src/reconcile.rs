//! What should change, seen from the leader: [`reconcile`] compares what users asked for with the tasks there are and
//! returns the steps that bring them together.
//!
//! It remembers nothing: called again on the same values it says the same, and on the state after its own plan it goes
//! on where that stopped, also on another node. A cluster that is as it should be yields no changes. Nothing here is
//! committed or run; `apply` checks every step once more.
//!
//! Services are looked after one by one (`service`): `replicated` and `global` say which seats there are; `restart`
//! fills those that are empty, `node_loss` gives up on tasks whose node is down, `drain` moves tasks off nodes where
//! they must not stay, `rollout` replaces outdated ones, `cleanup` forgets old history.

mod cleanup;
mod drain;
mod global;
mod node_loss;
mod pending;
mod replicated;
mod restart;
mod rollout;
mod seat;
mod service;

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::{ServiceId, TaskId, Timestamp};

pub use pending::{Pending, Why};

use crate::command::TaskChange;
use crate::observation::Observation;
use crate::place::Placer;
use crate::state::{ClusterState, Task};

/// Changes in one plan at most: some 80 KiB of log. The rest comes with the next plan.
pub const CHANGES_MAX: usize = 1000;

/// What is to be done now, what has to wait, and until when.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Plan {
    pub changes: Vec<TaskChange>,
    /// Seats that should have a (better) task and have not, each with the reason. Complete unless the plan is full.
    pub pending: Vec<Pending>,
    /// The next instant at which the passing of time alone changes the answer. The present one when the plan is full.
    pub wake_at: Option<Timestamp>,
}

/// Decides what the leader should propose next. `ids` draws fresh task ids.
pub fn reconcile(
    state: &ClusterState,
    seen: &Observation,
    ids: &mut dyn FnMut() -> TaskId,
) -> Plan {
    let mut tasks: BTreeMap<ServiceId, Vec<&Task>> = BTreeMap::new();
    for task in state.tasks.values() {
        tasks.entry(task.service).or_default().push(task);
    }
    let mut placer = LazyPlacer {
        state,
        seen,
        made: None,
    };
    let mut draft = Draft::new(seen.now);
    for service in state.services.values() {
        if draft.is_full() {
            break;
        }
        let tasks = tasks.remove(&service.id).unwrap_or_default();
        if service.is_live() {
            service::look_after(state, service, &tasks, &mut placer, &mut draft, ids);
        } else {
            cleanup::removed_service(state, &tasks, &mut draft);
        }
    }
    draft.finish()
}

/// Looks at what is taken on each node only once there is something to place.
struct LazyPlacer<'a> {
    state: &'a ClusterState,
    seen: &'a Observation,
    made: Option<Placer<'a>>,
}

impl<'a> LazyPlacer<'a> {
    fn get(&mut self) -> &mut Placer<'a> {
        self.made
            .get_or_insert_with(|| Placer::new(self.state, self.seen))
    }
}

/// A plan in the making.
#[derive(Debug)]
struct Draft {
    now: Timestamp,
    plan: Plan,
}

impl Draft {
    fn new(now: Timestamp) -> Self {
        Self {
            now,
            plan: Plan::default(),
        }
    }

    fn is_full(&self) -> bool {
        self.plan.changes.len() >= CHANGES_MAX
    }

    fn push(&mut self, change: TaskChange) {
        self.plan.changes.push(change);
    }

    fn wait(&mut self, pending: Pending) {
        self.plan.pending.push(pending);
    }

    /// Asks to be called again at this instant, if it is still to come.
    fn wake_at(&mut self, at: Timestamp) {
        if at > self.now {
            let earliest = self.plan.wake_at.map_or(at, |known| known.min(at));
            self.plan.wake_at = Some(earliest);
        }
    }

    /// Whether `wait` has passed since `start`, an instant by some other clock. If not, asks to be called then.
    fn has_passed(&mut self, start: Timestamp, wait: Duration) -> bool {
        let end = start.saturating_add(wait);
        if end <= self.now || start > self.now.saturating_add(CLOCK_SKEW_MAX) {
            return true;
        }
        self.wake_at(end);
        false
    }

    /// A plan that is full is cut where it is full, so that a group of steps never makes it larger than allowed.
    fn finish(mut self) -> Plan {
        if self.is_full() {
            self.plan.changes.truncate(CHANGES_MAX);
            self.plan.wake_at = Some(self.now);
        }
        self.plan
    }
}

/// An instant that lies further ahead comes from a clock that is wrong: waiting for it could take for ever.
const CLOCK_SKEW_MAX: Duration = Duration::from_secs(60);
