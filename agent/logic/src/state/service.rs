//! What a user asked for, with the revisions that tasks still run.

use std::collections::BTreeMap;
use std::sync::Arc;

use kawanan_api::{Revision, ServiceId, ServiceSpec, Timestamp};
use serde::{Deserialize, Serialize};

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Service {
    pub id: ServiceId,
    /// The revision that should run. Always a key of `revisions`.
    pub spec_revision: Revision,
    /// Specs by the index of the entry that brought them: the current one, the one before, and those of living tasks.
    #[serde(with = "crate::codec::specs_as_json")]
    pub revisions: BTreeMap<Revision, Arc<ServiceSpec>>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub rollout: Rollout,
    /// Set when the service was removed; it goes for good with its last task.
    pub removed_at: Option<Timestamp>,
}

/// How far the newest revision has come.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Rollout {
    /// Every task is to run the current revision; nothing is being replaced.
    Steady,
    /// Tasks are being replaced one batch after the other.
    Updating {
        started_at: Timestamp,
        /// The revision that began it. Tasks of this one and later ones were made by this rollout; a revision that
        /// only scales or relabels goes on with it.
        since: Revision,
    },
    /// Too many new tasks failed. Old tasks go on; a new revision starts again.
    Paused { at: Timestamp, reason: String },
}

impl Service {
    /// Whether it is meant to run: not removed.
    pub fn is_live(&self) -> bool {
        self.removed_at.is_none()
    }

    /// Whether a task of this revision counts as up to date: nothing that makes a container differs from the current
    /// spec. A scaled or relabelled service has a new revision, but the same tasks.
    pub fn is_current(&self, task_revision: Revision) -> bool {
        task_revision == self.spec_revision
            || self
                .revisions
                .get(&task_revision)
                .is_some_and(|spec| spec.same_task_as(self.spec()))
    }

    /// The spec that should run.
    ///
    /// # Panics
    /// Never on a state that `invariants` accepts: the current revision is always kept.
    pub fn spec(&self) -> &Arc<ServiceSpec> {
        &self.revisions[&self.spec_revision]
    }
}
