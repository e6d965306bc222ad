//! The simulated engine's state and its rules, sync and without waiting. Outlives every agent that talks to it, as a
//! real engine does.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use kawanan_api::spec::{MountKind, PortMode, PortSpec};
use kawanan_api::{ClusterId, ServiceSpec, TaskId, Timestamp};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::{Behavior, HealthPlan, Latencies, Reply};
use crate::clock::SharedClock;
use crate::containers::{
    ContainerStatus, EngineError, Health, LogLine, SeenContainer, Stirred, TaskContainer,
};

/// Exit code of a process that SIGKILL ended.
pub(super) const KILLED: i32 = 137;
/// Exit code of a process that SIGTERM ended.
pub(super) const TERMINATED: i32 = 143;

pub(super) struct Machine {
    pub clock: SharedClock,
    pub latencies: Latencies,
    pub dice: StdRng,
    pub local_images: BTreeSet<String>,
    /// What pulling an image brings. Images that are not in here do not exist.
    pub registry: BTreeMap<String, Result<(), EngineError>>,
    pub behaviors: BTreeMap<String, Behavior>,
    pub containers: BTreeMap<String, SimulatedContainer>,
    /// Files and directories that bind mounts may name.
    pub paths: BTreeSet<String>,
    /// Ports of the machine that somebody else listens on.
    pub foreign_ports: BTreeSet<u16>,
    pub hung: bool,
    pub unreachable: bool,
    pub hung_calls: BTreeSet<&'static str>,
    pub hung_containers: BTreeSet<String>,
    pub replies: BTreeMap<&'static str, VecDeque<Reply>>,
    pub listeners: Vec<(ClusterId, mpsc::Sender<Stirred>)>,
    pub starts: BTreeMap<TaskId, u32>,
    pub calls: BTreeMap<&'static str, u64>,
    pub in_flight: usize,
    pub most_in_flight: usize,
    made: u32,
}

/// One container: what is seen of it, and what it will do.
pub(super) struct SimulatedContainer {
    pub seen: SeenContainer,
    pub cluster: ClusterId,
    pub spec: std::sync::Arc<ServiceSpec>,
    pub started: Option<Instant>,
    pub lines: Vec<LogLine>,
}

impl Machine {
    pub(super) fn new(seed: u64, latencies: Latencies, clock: SharedClock) -> Self {
        Self {
            clock,
            latencies,
            dice: StdRng::seed_from_u64(seed),
            local_images: BTreeSet::new(),
            registry: BTreeMap::new(),
            behaviors: BTreeMap::new(),
            containers: BTreeMap::new(),
            paths: BTreeSet::new(),
            foreign_ports: BTreeSet::new(),
            hung: false,
            unreachable: false,
            hung_calls: BTreeSet::new(),
            hung_containers: BTreeSet::new(),
            replies: BTreeMap::new(),
            listeners: Vec::new(),
            starts: BTreeMap::new(),
            calls: BTreeMap::new(),
            in_flight: 0,
            most_in_flight: 0,
            made: 0,
        }
    }

    /// A latency of this call, between half and one and a half of its setting.
    pub(super) fn latency(&mut self, setting: Duration) -> Duration {
        setting.mul_f64(self.dice.random_range(0.5..1.5))
    }

    pub(super) fn behavior(&self, image: &str) -> Behavior {
        self.behaviors.get(image).cloned().unwrap_or_default()
    }

    /// Lets everything happen that is due by now.
    pub(super) fn settle(&mut self, now: Instant) {
        let due: Vec<(String, i32)> = self
            .containers
            .values()
            .filter_map(|container| {
                let (after, code) = self.behavior(&container.spec.container.image).exits?;
                let started = container.started?;
                (started + after <= now).then(|| (container.seen.id.clone(), code))
            })
            .collect();
        for (id, code) in due {
            self.exit(&id, code);
        }
        let mut stirred = Vec::new();
        for container in self.containers.values_mut() {
            let behavior = self.behaviors.get(&container.spec.container.image);
            let plan = behavior.and_then(|behavior| behavior.health);
            if let (Some(started), ContainerStatus::Running { health, .. }) =
                (container.started, &mut container.seen.status)
            {
                let current = health_at(plan, now.saturating_duration_since(started));
                if *health != current {
                    *health = current;
                    stirred.push((container.cluster, container.seen.id.clone()));
                }
            }
        }
        for (cluster, id) in stirred {
            self.stir(cluster, &id);
        }
    }

    /// When something will next happen to this container by itself.
    pub(super) fn next_change(&self, id: &str) -> Option<Instant> {
        let container = self.containers.get(id)?;
        let started = container.started?;
        let behavior = self.behavior(&container.spec.container.image);
        let exit = behavior.exits.map(|(after, _)| started + after);
        let health = behavior.health.map(|plan| started + plan.decided_after);
        let now = Instant::now();
        exit.into_iter().chain(health).filter(|at| *at > now).min()
    }

    pub(super) fn stir(&mut self, cluster: ClusterId, id: &str) {
        self.listeners.retain(|(theirs, hints)| {
            let hint = Stirred {
                container: Some(id.to_owned()),
            };
            *theirs != cluster
                || !matches!(
                    hints.try_send(hint),
                    Err(mpsc::error::TrySendError::Closed(_))
                )
        });
    }

    pub(super) fn create(&mut self, wanted: &TaskContainer) -> Result<String, EngineError> {
        let image = &wanted.spec.container.image;
        if !self.local_images.contains(image) {
            return Err(EngineError::NoSuchImage {
                image: image.clone(),
                cause: "it is not on this node".to_owned(),
            });
        }
        for mount in &wanted.spec.container.mounts {
            if let MountKind::Bind { source } = &mount.kind
                && !self.paths.contains(source)
            {
                return Err(EngineError::Refused(format!(
                    "the mount source {source} does not exist"
                )));
            }
        }
        let ours = self.containers.values().find(|container| {
            container.seen.task == Some(wanted.task)
                && container.seen.status != ContainerStatus::Removing
        });
        if let Some(container) = ours {
            return Ok(container.seen.id.clone());
        }
        let name = self.free_name(wanted);
        Ok(self.insert(name, wanted))
    }

    fn free_name(&self, wanted: &TaskContainer) -> String {
        let seat = wanted
            .slot
            .map_or_else(|| wanted.node.short(), |slot| slot.to_string());
        let plain = format!("{}.{seat}.{}", wanted.spec.name, wanted.task.short());
        let taken = |name: &str| {
            self.containers
                .values()
                .any(|other| other.seen.name == name)
        };
        let numbered = (2u32..).map(|number| format!("{plain}-{number}"));
        std::iter::once(plain.clone())
            .chain(numbered)
            .find(|name| !taken(name))
            .unwrap_or(plain)
    }

    fn insert(&mut self, name: String, wanted: &TaskContainer) -> String {
        self.made += 1;
        let id = format!("{:064x}", self.made);
        let seen = SeenContainer {
            id: id.clone(),
            name,
            task: Some(wanted.task),
            service: Some(wanted.service),
            node: Some(wanted.node),
            status: ContainerStatus::Created,
            address: None,
        };
        self.containers.insert(
            id.clone(),
            SimulatedContainer {
                seen,
                cluster: wanted.cluster,
                spec: wanted.spec.clone(),
                started: None,
                lines: Vec::new(),
            },
        );
        self.stir(wanted.cluster, &id);
        id
    }

    pub(super) fn start(&mut self, id: &str) -> Result<(), EngineError> {
        let container = self.get(id)?;
        if container.started.is_some() {
            return Ok(());
        }
        let behavior = self.behavior(&container.spec.container.image);
        if let Some(reason) = behavior.refuses_start {
            return Err(EngineError::Refused(reason));
        }
        if let Some(port) = self.taken_port(id) {
            return Err(EngineError::Refused(format!(
                "port {port} is already in use on this machine"
            )));
        }
        let address = self.free_address();
        let since = self.clock.now();
        let container = self.get_mut(id)?;
        container.started = Some(Instant::now());
        container.seen.address = Some(address);
        container.seen.status = ContainerStatus::Running {
            health: health_at(behavior.health, Duration::ZERO),
            since,
        };
        container.lines.extend(behavior.says.map(|text| LogLine {
            at: since,
            stderr: false,
            text: bytes::Bytes::from(text),
        }));
        let (cluster, task) = (container.cluster, container.seen.task);
        if let Some(task) = task {
            *self.starts.entry(task).or_default() += 1;
        }
        self.stir(cluster, id);
        Ok(())
    }

    /// A host-mode port of this container that another running one, or a stranger, has.
    fn taken_port(&self, id: &str) -> Option<u16> {
        let host_ports = |container: &SimulatedContainer| -> BTreeSet<PortSpec> {
            let ports = container.spec.ports.iter().copied();
            ports.filter(|port| port.mode == PortMode::Host).collect()
        };
        let wanted = host_ports(self.containers.get(id)?);
        let taken: BTreeSet<u16> = self
            .containers
            .values()
            .filter(|other| other.seen.id != id && other.started.is_some())
            .flat_map(host_ports)
            .map(|port| port.published.get())
            .chain(self.foreign_ports.iter().copied())
            .collect();
        wanted
            .iter()
            .map(|port| port.published.get())
            .find(|port| taken.contains(port))
    }

    fn free_address(&self) -> IpAddr {
        let taken: BTreeSet<IpAddr> = self
            .containers
            .values()
            .filter_map(|container| container.seen.address)
            .collect();
        (2u32..)
            .map(|host| IpAddr::V4(Ipv4Addr::from(0xac11_0000 + host)))
            .find(|address| !taken.contains(address))
            .unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
    }

    /// The container's process ends.
    pub(super) fn exit(&mut self, id: &str, code: i32) {
        let at = self.clock.now();
        let Some(container) = self.containers.get_mut(id) else {
            return;
        };
        if container.started.take().is_none() {
            return;
        }
        container.seen.address = None;
        container.seen.status = ContainerStatus::Exited {
            code,
            out_of_memory: false,
            at,
            error: String::new(),
        };
        let cluster = container.cluster;
        self.stir(cluster, id);
    }

    pub(super) fn remove(&mut self, id: &str) {
        if let Some(container) = self.containers.remove(id) {
            self.stir(container.cluster, id);
        }
    }

    pub(super) fn get(&self, id: &str) -> Result<&SimulatedContainer, EngineError> {
        let gone = || EngineError::Gone(id.to_owned());
        self.containers.get(id).ok_or_else(gone)
    }

    pub(super) fn get_mut(&mut self, id: &str) -> Result<&mut SimulatedContainer, EngineError> {
        let gone = || EngineError::Gone(id.to_owned());
        self.containers.get_mut(id).ok_or_else(gone)
    }

    pub(super) fn of_task(&self, task: TaskId) -> Option<&SimulatedContainer> {
        self.containers
            .values()
            .find(|container| container.seen.task == Some(task))
    }

    /// Every process dies, as when the machine loses power.
    pub(super) fn power_cut(&mut self) {
        let running: Vec<String> = self
            .containers
            .values()
            .filter(|container| container.started.is_some())
            .map(|container| container.seen.id.clone())
            .collect();
        for id in running {
            self.exit(&id, KILLED);
        }
        self.listeners.clear();
    }

    pub(super) fn write_line(&mut self, task: TaskId, at: Timestamp, text: &str) {
        let container = self
            .containers
            .values_mut()
            .find(|container| container.seen.task == Some(task));
        if let Some(container) = container {
            container.lines.push(LogLine {
                at,
                stderr: false,
                text: bytes::Bytes::copy_from_slice(text.as_bytes()),
            });
        }
    }
}

fn health_at(plan: Option<HealthPlan>, age: Duration) -> Health {
    match plan {
        None => Health::NoCheck,
        Some(plan) if age < plan.decided_after => Health::Starting,
        Some(plan) if plan.passes => Health::Healthy,
        Some(_) => Health::Unhealthy,
    }
}
