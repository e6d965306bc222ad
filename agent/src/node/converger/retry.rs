//! When to try again what the engine did not do, and when to give up on a task.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::TaskId;
use tokio::time::Instant;

use crate::containers::EngineError;
use crate::random::SharedRandom;

const FIRST: Duration = Duration::from_millis(500);
const LONGEST: Duration = Duration::from_secs(30);
/// A registry that limits pulls counts in minutes.
const REGISTRY_FIRST: Duration = Duration::from_secs(10);
const REGISTRY_LONGEST: Duration = Duration::from_secs(120);
/// Attempts to pull before the task is given back.
const PULLS_MAX: u32 = 2;
/// Attempts at what the engine failed to do for reasons of its own.
const FAILURES_MAX: u32 = 3;

/// Whose attempt it was.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Task(TaskId),
    Container(String),
}

/// Failures in a row, and the waits that follow from them.
pub(super) struct Retries {
    waits: BTreeMap<Subject, Wait>,
    random: SharedRandom,
}

struct Wait {
    failures: u32,
    until: Instant,
}

impl Retries {
    pub(super) fn new(random: SharedRandom) -> Self {
        Self {
            waits: BTreeMap::new(),
            random,
        }
    }

    /// Notes a failure and returns how long to wait.
    pub(super) fn failed(&mut self, subject: Subject, error: &EngineError) -> Duration {
        let (first, longest) = match error {
            EngineError::RegistryBusy { .. } => (REGISTRY_FIRST, REGISTRY_LONGEST),
            _ => (FIRST, LONGEST),
        };
        let failures = self.failures(&subject) + 1;
        let doubled = first.saturating_mul(1 << (failures - 1).min(16));
        let half = doubled.min(longest) / 2;
        let wait = half + self.random.up_to(half);
        let until = Instant::now() + wait;
        self.waits.insert(subject, Wait { failures, until });
        wait
    }

    pub(super) fn succeeded(&mut self, subject: &Subject) {
        self.waits.remove(subject);
    }

    fn failures(&self, subject: &Subject) -> u32 {
        self.waits.get(subject).map_or(0, |wait| wait.failures)
    }

    /// Whether this failure of a task, with those before it, means that this node cannot run it.
    pub(super) fn is_hopeless(&self, task: TaskId, error: &EngineError) -> bool {
        let attempts = self.failures(&Subject::Task(task)) + 1;
        match error {
            EngineError::Refused(_) | EngineError::NoSuchImage { .. } => true,
            EngineError::Image { .. } => attempts >= PULLS_MAX,
            EngineError::Failed(_) | EngineError::Gone(_) => attempts >= FAILURES_MAX,
            EngineError::Unreachable { .. }
            | EngineError::TimedOut { .. }
            | EngineError::RegistryBusy { .. } => false,
        }
    }

    /// Everybody who has to wait still.
    pub(super) fn waiting(&self) -> impl Iterator<Item = &Subject> {
        let now = Instant::now();
        self.waits
            .iter()
            .filter(move |(_, wait)| wait.until > now)
            .map(|(subject, _)| subject)
    }

    /// When the next wait is over.
    pub(super) fn next(&self) -> Option<Instant> {
        let now = Instant::now();
        self.waits
            .values()
            .map(|wait| wait.until)
            .filter(|until| *until > now)
            .min()
    }

    pub(super) fn keep_only(&mut self, keep: impl Fn(&Subject) -> bool) {
        self.waits.retain(|subject, _| keep(subject));
    }
}
