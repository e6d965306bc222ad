//! What this node remembers of its attempts at tasks, beside the state and the engine. Lost with the agent, and that is
//! fine: it only saves repeating what failed.

use std::collections::{BTreeMap, BTreeSet};

use kawanan_api::{TaskId, Timestamp};
use kawanan_logic::command::TaskReport;
use kawanan_logic::converge::{NodeMemory, TaskMemory};
use kawanan_logic::state::TaskState;

use crate::node::reporter::Reporter;

#[derive(Default)]
pub(super) struct Memory {
    tasks: BTreeMap<TaskId, Attempts>,
}

#[derive(Default)]
struct Attempts {
    rejected: Option<TaskReport>,
    /// Starts that no leader asked for.
    local_starts: u32,
    last_local_start: Option<Timestamp>,
}

/// What else the brain wants to know.
pub(super) struct Circumstances<'a> {
    pub now: Timestamp,
    pub caught_up: bool,
    pub first_pass: bool,
    pub busy_tasks: BTreeSet<TaskId>,
    pub busy_containers: BTreeSet<String>,
    pub reporter: &'a Reporter,
}

impl Memory {
    /// This node cannot run the task, for a reason that people can read.
    pub(super) fn reject(&mut self, task: TaskId, reason: String, at: Timestamp) {
        self.tasks.entry(task).or_default().rejected = Some(TaskReport {
            task,
            state: TaskState::Rejected,
            at,
            error: Some(reason),
            exit_code: None,
            gone: false,
        });
    }

    /// Notes that the task is being started; returns whether it is started again, on this node's own account.
    pub(super) fn note_start(&mut self, task: TaskId, ended_before: bool, now: Timestamp) -> bool {
        let attempts = self.tasks.entry(task).or_default();
        let again = attempts.rejected.take().is_some() || ended_before;
        if again {
            attempts.local_starts = attempts.local_starts.saturating_add(1);
            attempts.last_local_start = Some(now);
        }
        again
    }

    /// Its last start was a good one: the next failure is a first one again.
    pub(super) fn stayed_up(&mut self, task: TaskId) {
        if let Some(attempts) = self.tasks.get_mut(&task) {
            attempts.local_starts = 0;
        }
    }

    pub(super) fn keep_only(&mut self, keep: impl Fn(&TaskId) -> bool) {
        self.tasks.retain(|task, _| keep(task));
    }

    pub(super) fn for_logic(&self, circumstances: Circumstances<'_>) -> NodeMemory {
        let unreported = circumstances.reporter.unaccepted();
        let ids: BTreeSet<TaskId> = self
            .tasks
            .keys()
            .chain(&circumstances.busy_tasks)
            .chain(unreported.keys())
            .copied()
            .collect();
        let tasks = ids.into_iter().map(|task| {
            let attempts = self.tasks.get(&task);
            let memory = TaskMemory {
                busy: circumstances.busy_tasks.contains(&task),
                verdict: attempts.and_then(|attempts| attempts.rejected.clone()),
                unreported_for: unreported.get(&task).copied(),
                local_starts: attempts.map_or(0, |attempts| attempts.local_starts),
                last_local_start: attempts.and_then(|attempts| attempts.last_local_start),
            };
            (task, memory)
        });
        NodeMemory {
            now: circumstances.now,
            caught_up: circumstances.caught_up,
            first_pass: circumstances.first_pass,
            tasks: tasks.collect(),
            busy_containers: circumstances.busy_containers,
        }
    }
}
