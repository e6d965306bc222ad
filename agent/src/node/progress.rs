//! What this node's unfinished tasks are doing, in words for people. For gossip to publish; nothing decides by it.

use std::collections::BTreeMap;
use std::sync::Arc;

use kawanan_api::TaskId;
use tokio::sync::watch;

/// Longest note; all of a node's notes travel in one gossip value.
const NOTE_CHARS_MAX: usize = 120;

/// Where notes are written. Clones write to the same board.
#[derive(Clone)]
pub(super) struct Progress(Arc<watch::Sender<BTreeMap<TaskId, String>>>);

pub(super) fn board() -> (Progress, watch::Receiver<BTreeMap<TaskId, String>>) {
    let (sender, receiver) = watch::channel(BTreeMap::new());
    (Progress(Arc::new(sender)), receiver)
}

impl Progress {
    pub(super) fn note(&self, task: TaskId, note: &str) {
        let note: String = note.chars().take(NOTE_CHARS_MAX).collect();
        self.0.send_if_modified(|notes| {
            let same = notes.get(&task) == Some(&note);
            if !same {
                notes.insert(task, note);
            }
            !same
        });
    }

    pub(super) fn clear(&self, task: TaskId) {
        self.0
            .send_if_modified(|notes| notes.remove(&task).is_some());
    }

    /// Drops the notes of tasks that are over.
    pub(super) fn keep_only(&self, keep: impl Fn(&TaskId) -> bool) {
        self.0.send_if_modified(|notes| {
            let before = notes.len();
            notes.retain(|task, _| keep(task));
            notes.len() != before
        });
    }
}
