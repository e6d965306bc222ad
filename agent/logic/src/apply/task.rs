//! What nodes report about their tasks, and how tasks end.

use std::collections::BTreeSet;
use std::sync::Arc;

use kawanan_api::{ApiError, NodeId, TaskId, Timestamp};

use super::Applied;
use crate::command::TaskReport;
use crate::state::{ClusterState, Desired, Task, TaskState};

/// Longest error text kept with a task, in bytes: a person reads the first lines, every node keeps them all.
const ERROR_BYTES_MAX: usize = 1024;

impl ClusterState {
    /// Reports of tasks that are unknown or on another node are passed over: the reporter acts on an old state.
    pub(super) fn report_tasks(
        &mut self,
        at: Timestamp,
        node: NodeId,
        reports: &[TaskReport],
    ) -> Applied {
        if !self.nodes.contains_key(&node) {
            return Err(ApiError::not_found(format!("no node has the id {node}"))
                .with_hint("a node that was removed joins again with `agent join` and a token"));
        }
        let mut gone = Vec::new();
        for report in reports {
            let Some(task) = self.tasks.get_mut(&report.task) else {
                continue;
            };
            if task.node != node {
                continue;
            }
            // Orphaned is the leader's word for a task whose node is silent; a node that speaks cannot mean it.
            if report.state > task.state && report.state != TaskState::Orphaned {
                advance(Arc::make_mut(task), at, report);
            }
            if report.gone && task.state.is_final() && task.desired == Desired::Remove {
                gone.push(task.id);
            }
        }
        self.delete_tasks(gone);
        Ok(())
    }

    /// Forgets tasks, and what only they held on to.
    pub(super) fn delete_tasks(&mut self, ids: Vec<TaskId>) {
        let touched: BTreeSet<_> = ids
            .into_iter()
            .filter_map(|id| self.tasks.remove(&id))
            .map(|task| task.service)
            .collect();
        if !touched.is_empty() {
            self.tidy_services(&touched);
        }
    }
}

fn advance(task: &mut Task, at: Timestamp, report: &TaskReport) {
    task.state = report.state;
    // The node's clock may be far off. Between the task's creation and this entry its word is taken; back-off and
    // monitoring would otherwise wait for hours, or not at all.
    let latest = at.max(task.created_at);
    task.state_at = report.at.clamp(task.created_at, latest);
    if report.state == TaskState::Running && task.running_since.is_none() {
        task.running_since = Some(task.state_at);
    }
    if let Some(error) = &report.error {
        task.error = Some(shortened(error));
    }
    if report.exit_code.is_some() {
        task.exit_code = report.exit_code;
    }
}

fn shortened(text: &str) -> String {
    let mut end = text.len().min(ERROR_BYTES_MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text[..end].to_owned()
}
