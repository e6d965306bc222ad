//! Tasks whose node is down, has left or was forgotten: they count as lost, and their seats are filled elsewhere in
//! the same plan. When the node comes back it finds them orphaned and removes what is left of them.

use super::Draft;
use super::seat::Work;
use crate::command::TaskChange;

pub(super) fn give_up(work: &Work<'_>, draft: &mut Draft) {
    let lost = work
        .seats()
        .flat_map(|(_, tasks)| tasks.past)
        .filter(|task| !task.state.is_final());
    for task in lost {
        draft.push(TaskChange::Orphan { task: task.id });
    }
}
