//! Forgetting: the older history of each seat, and what is left of removed things on nodes that cannot report it gone.
//! A node that comes back and finds containers of tasks that nobody knows removes them.

use super::Draft;
use super::seat::Work;
use crate::command::TaskChange;
use crate::state::{ClusterState, Desired, Rollout, Seat, Task};

/// Tasks that are over and kept in each seat, for people to read.
pub const HISTORY_KEPT: usize = 5;
/// More than that are kept while failures are being counted, but never more than these.
const HISTORY_KEPT_MAX: usize = 50;

/// `wanted` are the service's seats, in their order.
pub(super) fn history(work: &Work<'_>, wanted: &[Seat], draft: &mut Draft) {
    let replicated = work.spec.replicas().is_some();
    let kept = kept(work);
    for (seat, tasks) in work.seats() {
        if draft.is_full() {
            return;
        }
        let (recent, old) = tasks.past.split_at(kept.min(tasks.past.len()));
        draft
            .plan
            .changes
            .extend(old.iter().map(|task| forget(task)));
        if replicated && wanted.binary_search(&seat).is_err() {
            let unreachable = recent
                .iter()
                .filter(|task| !work.state.node_is_ready(task.node));
            draft
                .plan
                .changes
                .extend(unreachable.map(|task| forget(task)));
        }
    }
}

fn kept(work: &Work<'_>) -> usize {
    let attempts = work.spec.restart.max_attempts.unwrap_or(0);
    let failures = match work.service.rollout {
        Rollout::Updating { .. } => work.spec.update.max_failures,
        _ => 0,
    };
    let counted = usize::try_from(attempts.max(failures)).unwrap_or(usize::MAX);
    counted.clamp(HISTORY_KEPT, HISTORY_KEPT_MAX)
}

/// A removed service waits for its containers, but not for nodes that are down.
pub(super) fn removed_service(state: &ClusterState, tasks: &[&Task], draft: &mut Draft) {
    let unreachable = tasks
        .iter()
        .filter(|task| task.desired == Desired::Remove && !state.node_is_ready(task.node));
    draft
        .plan
        .changes
        .extend(unreachable.map(|task| forget(task)));
}

fn forget(task: &Task) -> TaskChange {
    TaskChange::Forget { task: task.id }
}
