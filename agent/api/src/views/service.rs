//! Services.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::ids::{Revision, ServiceId};
use crate::spec::{PortSpec, ServiceSpec};
use crate::time::Timestamp;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceView {
    pub id: ServiceId,
    pub name: String,
    /// `replicated` or `global`.
    pub mode: String,
    pub image: String,
    /// Tasks wanted; of a global service the number of nodes that it may run on.
    pub replicas: u32,
    pub running: u32,
    pub ports: Vec<PortSpec>,
    pub labels: BTreeMap<String, String>,
    pub created_at: Timestamp,
    pub updated_at: Timestamp,
    pub update: RolloutView,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ServiceDetail {
    #[serde(flatten)]
    pub service: ServiceView,
    /// The revision that should run; give it back with an update to make sure that nobody came in between.
    pub revision: Revision,
    /// A registry password is never shown: it is empty here, and empty in an update means "as it is".
    pub spec: ServiceSpec,
    /// Revisions that are kept, the oldest first.
    pub revisions: Vec<Revision>,
    /// Where the service answers, such as `http://10.0.0.2:8080`.
    pub addresses: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RolloutView {
    pub state: RolloutState,
    /// When the update started or paused.
    pub at: Option<Timestamp>,
    /// Why it paused.
    pub reason: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum RolloutState {
    /// Nothing is being replaced.
    Steady,
    Updating,
    /// Too many new tasks failed. A new update starts again.
    Paused,
}

/// The body of `PUT /v1/services/{id}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpdateService {
    pub spec: ServiceSpec,
    /// Refuse when the service is not at this revision any more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_revision: Option<Revision>,
}

/// The body of `POST /v1/services/scale`: all or none.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScaleServices {
    /// Replicas by name or id.
    pub replicas: BTreeMap<String, u32>,
}
