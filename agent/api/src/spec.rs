//! What a user asks for. [`ServiceSpec`] keeps the user's words; [`ValidSpec`] is the same after every rule was
//! checked, and the only form that the rest of the system accepts.
//!
//! Specs travel and rest as JSON, also inside the service log: a field can be added with a default and old documents
//! still read. Every field therefore has a default, and none is ever given another meaning.

mod constraint;
mod port;
mod validate;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

pub use constraint::{Constraint, ConstraintKey, Operator, ParseConstraintError};
pub use port::{ParsePortError, PortMode, PortSpec, Protocol};
pub use validate::{REPLICAS_MAX, ValidSpec, check_label_key, check_name};

use crate::duration::Span;
use crate::quantity::{Bytes, MilliCpus};

/// A service: what should run, how many times, and where it may run.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServiceSpec {
    /// Unique in the cluster; 1-63 characters of `a-z 0-9 - _ .`, starting and ending with a letter or digit.
    pub name: String,
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    #[serde(default)]
    pub mode: Mode,
    pub container: ContainerSpec,
    #[serde(default)]
    pub resources: Resources,
    #[serde(default)]
    pub placement: Placement,
    #[serde(default)]
    pub restart: RestartPolicy,
    #[serde(default)]
    pub update: UpdatePolicy,
    #[serde(default)]
    pub ports: Vec<PortSpec>,
}

/// How many tasks a service has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// This many slots, wherever they fit.
    Replicated { replicas: u32 },
    /// One task on every node that meets the placement rules.
    Global,
}

impl Default for Mode {
    fn default() -> Self {
        Self::Replicated { replicas: 1 }
    }
}

/// What one container of the service is.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ContainerSpec {
    pub image: String,
    /// Replaces the image's entrypoint.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command.
    pub args: Vec<String>,
    /// Environment; `None` as a value removes a variable that the image sets.
    pub env: BTreeMap<String, Option<String>>,
    /// User name or id, optionally `:group`.
    pub user: Option<String>,
    pub workdir: Option<String>,
    pub hostname: Option<String>,
    /// Labels of the container, beside Kawanan's own.
    pub labels: BTreeMap<String, String>,
    pub mounts: Vec<Mount>,
    pub health: Option<HealthCheck>,
    /// Signal that asks the process to stop, such as `SIGTERM` (the default) or `SIGQUIT`.
    pub stop_signal: Option<String>,
    /// Time between the stop signal and SIGKILL. Docker's default: 10 s.
    pub stop_grace: Option<Span>,
    pub read_only: bool,
    /// Run Docker's init as process 1, which reaps zombies and forwards signals.
    pub init: bool,
    pub tty: bool,
    /// Login for the image's registry.
    pub registry_auth: Option<RegistryAuth>,
}

/// Name and password for a registry. Never printed; views leave it out.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RegistryAuth {
    pub username: String,
    pub password: String,
}

impl std::fmt::Debug for RegistryAuth {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RegistryAuth")
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mount {
    /// Absolute path inside the container.
    pub target: String,
    pub kind: MountKind,
    #[serde(default)]
    pub read_only: bool,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum MountKind {
    /// A named volume of the node that runs the task, made when missing. Without a name, one that lives as long as the task.
    Volume { name: Option<String> },
    /// A directory or file of the node. It must exist there.
    Bind { source: String },
    /// Memory, gone with the container.
    Tmpfs { size: Option<Bytes> },
}

/// Docker's own health check. Times left out take Docker's defaults: interval 30 s, timeout 30 s, 3 retries, no start period.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HealthCheck {
    pub test: HealthTest,
    #[serde(default)]
    pub interval: Option<Span>,
    #[serde(default)]
    pub timeout: Option<Span>,
    #[serde(default)]
    pub retries: Option<u32>,
    #[serde(default)]
    pub start_period: Option<Span>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HealthTest {
    /// No check, also when the image brings one.
    None,
    /// A command line for the container's shell.
    Shell(String),
    /// A program and its arguments.
    Exec(Vec<String>),
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Resources {
    /// What placement sets aside on a node. A node without so much left is not chosen.
    pub reservations: ResourceAmounts,
    /// What the kernel enforces. Zero: no limit.
    pub limits: ResourceAmounts,
    /// Most processes and threads in a container; `None`: no limit.
    pub pids_limit: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ResourceAmounts {
    pub cpus: MilliCpus,
    pub memory: Bytes,
}

#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Placement {
    /// All of them must hold on a node.
    pub constraints: Vec<Constraint>,
    /// Most tasks of the service on one node; `None`: no limit.
    pub max_per_node: Option<u32>,
}

/// When a stopped container is replaced by a new task in the same slot.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestartPolicy {
    pub condition: RestartCondition,
    /// Wait before the first restart; doubles with each failure in a row, up to a minute. Default 1 s.
    pub delay: Span,
    /// Failures within `window` after which the slot stays down; `None`: no limit.
    pub max_attempts: Option<u32>,
    /// How far back failures count; zero: for ever.
    pub window: Span,
}

impl Default for RestartPolicy {
    fn default() -> Self {
        Self {
            condition: RestartCondition::Any,
            delay: Span::from_secs(1),
            max_attempts: None,
            window: Span::from_millis(0),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartCondition {
    None,
    OnFailure,
    #[default]
    Any,
}

/// How a change of the spec reaches the running tasks.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct UpdatePolicy {
    /// Slots changed at the same time; at least 1. Default 1.
    pub parallelism: u32,
    pub order: UpdateOrder,
    /// Pause between one batch and the next. Default none.
    pub delay: Span,
    /// How long a new task must stay up before it counts as good. Default 2 s.
    pub monitor: Span,
    /// Failed attempts of new tasks that stop the update. Default 3.
    pub max_failures: u32,
}

impl Default for UpdatePolicy {
    fn default() -> Self {
        Self {
            parallelism: 1,
            order: UpdateOrder::StartFirst,
            delay: Span::from_millis(0),
            monitor: Span::from_secs(2),
            max_failures: 3,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum UpdateOrder {
    /// The new task runs before the old one is stopped.
    #[default]
    StartFirst,
    /// The old task is gone before the new one starts.
    StopFirst,
}

impl ServiceSpec {
    /// The smallest spec: this name, this image, one replica, every default.
    pub fn new(name: impl Into<String>, image: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            labels: BTreeMap::new(),
            mode: Mode::default(),
            container: ContainerSpec {
                image: image.into(),
                ..ContainerSpec::default()
            },
            resources: Resources::default(),
            placement: Placement::default(),
            restart: RestartPolicy::default(),
            update: UpdatePolicy::default(),
            ports: Vec::new(),
        }
    }

    /// How many slots a replicated service has; `None` for a global one.
    pub fn replicas(&self) -> Option<u32> {
        match self.mode {
            Mode::Replicated { replicas } => Some(replicas),
            Mode::Global => None,
        }
    }

    /// Whether running tasks of `self` may go on under `newer`: nothing that makes a container differs.
    /// Name, replica count, service labels, placement and policies are the leader's affair and restart nothing.
    pub fn same_task_as(&self, newer: &Self) -> bool {
        self.container == newer.container
            && self.resources == newer.resources
            && self.ports == newer.ports
    }
}
