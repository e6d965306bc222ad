//! A container that ended: what the leader is told about it, and when the node starts it again by itself.

use std::time::Duration;

use kawanan_api::spec::RestartCondition;

use super::{ContainerStatus, NodeMemory, UNREPORTED_MAX};
use crate::command::TaskReport;
use crate::state::{ClusterState, Task, TaskState};

/// The longest wait between two starts that no leader asked for.
const BACKOFF_MAX: Duration = Duration::from_secs(60);

/// Completes the report of a container that does not run any more.
pub(super) fn told(
    state: &ClusterState,
    task: &Task,
    status: ContainerStatus,
    mut report: TaskReport,
) -> TaskReport {
    let ContainerStatus::Exited {
        code,
        out_of_memory,
        at,
    } = status
    else {
        report.error = Some("the container engine lost its container".to_owned());
        return report;
    };
    report.exit_code = Some(code);
    report.at = at;
    if code == 0 && !out_of_memory {
        report.state = TaskState::Complete;
        return report;
    }
    let limit = state
        .spec_of(task)
        .map(|spec| spec.resources.limits.memory)
        .filter(|limit| limit.0 != 0);
    report.error = Some(match (out_of_memory, limit) {
        (true, Some(limit)) => format!("it ran out of memory: its limit is {limit}"),
        (true, None) => "it ran out of memory".to_owned(),
        (false, _) if code > 128 && code < 160 => {
            format!("it was ended by signal {} (exit code {code})", code - 128)
        }
        (false, _) => format!("it ended with exit code {code}"),
    });
    report
}

/// Whether the node starts the task again under its own name instead of leaving that to the leader: because the
/// machine or the agent has just started, or because no leader heard of its end for a while. The service's restart
/// policy holds here too, and the waits grow in the same way.
pub(super) fn starts_again_here(
    state: &ClusterState,
    task: &Task,
    ended: &TaskReport,
    memory: &NodeMemory,
) -> bool {
    let Some(spec) = state.spec_of(task) else {
        return false;
    };
    let wanted = match spec.restart.condition {
        RestartCondition::None => false,
        RestartCondition::OnFailure => ended.state != TaskState::Complete,
        RestartCondition::Any => true,
    };
    let known = memory.tasks.get(&task.id);
    let starts = known.map_or(0, |known| known.local_starts);
    let exhausted = spec.restart.max_attempts.is_some_and(|max| starts >= max);
    if !wanted || exhausted {
        return false;
    }
    if memory.first_pass {
        return true;
    }
    let nobody_listens = known
        .and_then(|known| known.unreported_for)
        .is_some_and(|silence| silence >= UNREPORTED_MAX);
    let wait = spec
        .restart
        .delay
        .duration()
        .saturating_mul(1 << starts.min(16))
        .min(BACKOFF_MAX);
    let waited = known
        .and_then(|known| known.last_local_start)
        .is_none_or(|last| memory.now.since(last) >= wait);
    nobody_listens && waited
}
