//! Tells the log what became of this node's tasks: gathers reports for a moment, proposes them together, and keeps what
//! was not accepted until it is, or until it is no longer true.
//!
//! One report per task: a newer one takes the place of an older one that was not accepted yet.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kawanan_api::{ErrorCode, NodeId, Revision, TaskId};
use kawanan_logic::command::TaskReport;
use kawanan_logic::{ClusterState, Command};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};

use super::{NodeParts, SharedSubmit};
use crate::random::SharedRandom;

/// Reports are gathered for so long, so that a hundred containers that start together are a few entries.
const GATHER: Duration = Duration::from_millis(25);
const REPORTS_PER_ENTRY_MAX: usize = 100;
const SUBMIT_DEADLINE: Duration = Duration::from_secs(5);
/// Back-off while there is no leader; each wait is between half of it and all of it.
const RETRY_FIRST: Duration = Duration::from_millis(200);
const RETRY_LONGEST: Duration = Duration::from_secs(5);

/// Where the converger leaves its reports. Never waits; clones share the desk.
#[derive(Clone)]
pub(super) struct Reporter {
    desk: Arc<Mutex<BTreeMap<TaskId, Waiting>>>,
    news: Arc<Notify>,
}

struct Waiting {
    report: TaskReport,
    /// When the first report that was not accepted was left here.
    since: Instant,
    /// Accepted at this revision, which is not applied on this node yet.
    accepted: Option<Revision>,
}

pub(super) fn spawn(parts: &NodeParts, owners: &mut JoinSet<()>) -> Reporter {
    let reporter = Reporter {
        desk: Arc::default(),
        news: Arc::new(Notify::new()),
    };
    let courier = Courier {
        node: parts.node,
        reporter: reporter.clone(),
        state: parts.state.clone(),
        submit: parts.submit.clone(),
        random: parts.random.clone(),
        failures: 0,
    };
    owners.spawn(courier.run());
    reporter
}

impl Reporter {
    fn desk(&self) -> MutexGuard<'_, BTreeMap<TaskId, Waiting>> {
        self.desk.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Leaves a report. The same one again changes nothing.
    pub(super) fn say(&self, report: TaskReport) {
        let mut desk = self.desk();
        let known = desk.get(&report.task);
        let news = known.is_none_or(|waiting| {
            report.state > waiting.report.state || report.gone && !waiting.report.gone
        });
        if !news {
            return;
        }
        let since = known
            .filter(|waiting| waiting.accepted.is_none())
            .map_or_else(Instant::now, |waiting| waiting.since);
        let waiting = Waiting {
            since,
            accepted: None,
            report,
        };
        desk.insert(waiting.report.task, waiting);
        self.news.notify_one();
    }

    /// Takes a report back that is no longer true.
    pub(super) fn withdraw(&self, task: TaskId) {
        self.desk().remove(&task);
    }

    /// For how long reports have waited for being accepted, by task.
    pub(super) fn unaccepted(&self) -> BTreeMap<TaskId, Duration> {
        self.desk()
            .iter()
            .filter(|(_, waiting)| waiting.accepted.is_none())
            .map(|(task, waiting)| (*task, waiting.since.elapsed()))
            .collect()
    }

    pub(super) fn has_unaccepted(&self) -> bool {
        let desk = self.desk();
        desk.values().any(|waiting| waiting.accepted.is_none())
    }

    /// Forgets what the state has already, or has no use for.
    pub(super) fn prune(&self, state: &ClusterState, node: NodeId) {
        self.desk().retain(|id, waiting| {
            let Some(task) = state.tasks.get(id).filter(|task| task.node == node) else {
                return false;
            };
            let told = task.state >= waiting.report.state && !waiting.report.gone;
            let applied = waiting
                .accepted
                .is_some_and(|revision| state.revision >= revision);
            !told && !applied
        });
    }

    fn batch(&self) -> Vec<TaskReport> {
        self.desk()
            .values()
            .filter(|waiting| waiting.accepted.is_none())
            .map(|waiting| waiting.report.clone())
            .take(REPORTS_PER_ENTRY_MAX)
            .collect()
    }

    fn accepted(&self, batch: &[TaskReport], revision: Revision) {
        let mut desk = self.desk();
        for report in batch {
            if let Some(waiting) = desk.get_mut(&report.task)
                && waiting.report == *report
            {
                waiting.accepted = Some(revision);
            }
        }
    }
}

struct Courier {
    node: NodeId,
    reporter: Reporter,
    state: watch::Receiver<Arc<ClusterState>>,
    submit: SharedSubmit,
    random: SharedRandom,
    failures: u32,
}

impl Courier {
    async fn run(mut self) {
        loop {
            self.reporter.news.notified().await;
            sleep(GATHER).await;
            self.deliver().await;
        }
    }

    /// Delivers until nothing waits.
    async fn deliver(&mut self) {
        loop {
            let state = self.state.borrow_and_update().clone();
            self.reporter.prune(&state, self.node);
            let batch = self.reporter.batch();
            if batch.is_empty() {
                return;
            }
            let command = Command::ReportTasks {
                node: self.node,
                reports: batch.clone(),
            };
            match self.submit.submit(command, SUBMIT_DEADLINE).await {
                Ok(revision) => {
                    self.failures = 0;
                    self.reporter.accepted(&batch, revision);
                }
                Err(err) => {
                    // Sent again as it is: a report that took effect already is passed over.
                    match err.code {
                        ErrorCode::NoLeader
                        | ErrorCode::OutcomeUnknown
                        | ErrorCode::Unavailable => {
                            tracing::debug!(%err, "reports wait");
                        }
                        _ => tracing::warn!(%err, "reports are refused"),
                    }
                    self.failures = self.failures.saturating_add(1);
                    sleep(self.back_off()).await;
                }
            }
        }
    }

    fn back_off(&self) -> Duration {
        let doubled = RETRY_FIRST.saturating_mul(1 << self.failures.saturating_sub(1).min(10));
        let half = doubled.min(RETRY_LONGEST) / 2;
        half + self.random.up_to(half)
    }
}
