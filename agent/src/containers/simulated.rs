//! A container engine that lives in tokio's time: the twin of [`super::docker`] for tests and for whole simulated
//! clusters. Same rules, kept by the same contract suite; its state outlives every agent that uses it; every draw comes
//! from a seed. Tests order it about: images, exits, failing health, hangs, lost replies, power cuts.

mod machine;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{ClusterId, ServiceSpec, TaskId};
use tokio::sync::{Notify, mpsc};
use tokio::time::{Instant, sleep, timeout};

use super::{
    ContainerRuntime, ContainerStatus, EngineError, EngineInfo, LogLine, LogQuery, SeenContainer,
    Stirred, TaskContainer,
};
use crate::clock::SharedClock;
use machine::{KILLED, Machine, TERMINATED};

/// How long calls take on average.
#[derive(Debug, Clone, Copy)]
pub struct Latencies {
    pub look: Duration,
    pub pull: Duration,
    pub create: Duration,
    pub start: Duration,
    pub stop: Duration,
    pub remove: Duration,
}

impl Default for Latencies {
    fn default() -> Self {
        let millis = Duration::from_millis;
        Self {
            look: millis(2),
            pull: millis(500),
            create: millis(10),
            start: millis(170),
            stop: millis(50),
            remove: millis(30),
        }
    }
}

/// What containers of one image do.
#[derive(Debug, Clone, Default)]
pub struct Behavior {
    /// Exit by themselves after this time with this code.
    pub exits: Option<(Duration, i32)>,
    pub health: Option<HealthPlan>,
    /// Only SIGKILL ends them.
    pub ignores_stop: bool,
    /// The line they write at their start.
    pub says: Option<String>,
    /// The engine cannot start them, for this reason.
    pub refuses_start: Option<String>,
}

/// How the health check of an image turns out.
#[derive(Debug, Clone, Copy)]
pub struct HealthPlan {
    pub decided_after: Duration,
    pub passes: bool,
}

/// A prepared answer to the next call of a kind.
#[derive(Debug, Clone)]
pub enum Reply {
    /// Nothing happens, and this is the answer.
    Fail(EngineError),
    /// It happens, but the caller hears nothing.
    Lost,
}

/// A handle to one simulated engine; clones share it.
#[derive(Clone)]
pub struct SimulatedRuntime {
    machine: Arc<Mutex<Machine>>,
    /// Wakes calls that hang when a hang ends.
    thawed: Arc<Notify>,
}

/// The orders that tests give.
impl SimulatedRuntime {
    pub fn new(seed: u64, latencies: Latencies, clock: SharedClock) -> Self {
        Self {
            machine: Arc::new(Mutex::new(Machine::new(seed, latencies, clock))),
            thawed: Arc::new(Notify::new()),
        }
    }

    fn machine(&self) -> MutexGuard<'_, Machine> {
        self.machine.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The image is on the machine already.
    pub fn add_image(&self, image: &str) {
        self.machine().local_images.insert(image.to_owned());
    }

    /// The image can be pulled.
    pub fn publish_image(&self, image: &str) {
        self.machine().registry.insert(image.to_owned(), Ok(()));
    }

    /// Pulling the image fails so until it is published.
    pub fn fail_pulls(&self, image: &str, error: EngineError) {
        self.machine().registry.insert(image.to_owned(), Err(error));
    }

    pub fn set_behavior(&self, image: &str, behavior: Behavior) {
        self.machine().behaviors.insert(image.to_owned(), behavior);
    }

    pub fn add_path(&self, path: &str) {
        self.machine().paths.insert(path.to_owned());
    }

    /// A process that is none of ours listens on this port.
    pub fn occupy_port(&self, port: u16) {
        self.machine().foreign_ports.insert(port);
    }

    /// The next call of this kind (`create`, `start`, ...) is answered so.
    pub fn reply(&self, call: &'static str, reply: Reply) {
        self.machine()
            .replies
            .entry(call)
            .or_default()
            .push_back(reply);
    }

    /// No call is answered until [`Self::thaw`].
    pub fn hang(&self) {
        self.machine().hung = true;
    }

    /// Calls of this kind are not answered until [`Self::thaw`].
    pub fn hang_call(&self, call: &'static str) {
        self.machine().hung_calls.insert(call);
    }

    /// Calls about the task's container are not answered until [`Self::thaw`].
    pub fn hang_container(&self, task: TaskId) {
        let mut machine = self.machine();
        let id = machine.of_task(task).map(|found| found.seen.id.clone());
        machine.hung_containers.extend(id);
    }

    /// Ends every hang; what waited goes on.
    pub fn thaw(&self) {
        let mut machine = self.machine();
        machine.hung = false;
        machine.hung_calls.clear();
        machine.hung_containers.clear();
        drop(machine);
        self.thawed.notify_waiters();
    }

    /// The engine's socket refuses connections, or takes them again.
    pub fn set_unreachable(&self, unreachable: bool) {
        self.machine().unreachable = unreachable;
    }

    /// The task's process ends with this code.
    pub fn kill_container(&self, task: TaskId, code: i32) {
        let mut machine = self.machine();
        if let Some(id) = machine.of_task(task).map(|found| found.seen.id.clone()) {
            machine.exit(&id, code);
        }
    }

    /// Somebody removed the task's container behind our back.
    pub fn remove_container(&self, task: TaskId) {
        let mut machine = self.machine();
        if let Some(id) = machine.of_task(task).map(|found| found.seen.id.clone()) {
            machine.remove(&id);
        }
    }

    /// The machine loses power and comes back: every process is dead.
    pub fn power_cut(&self) {
        self.machine().power_cut();
    }

    /// The event stream of every listener ends.
    pub fn cut_events(&self) {
        self.machine().listeners.clear();
    }

    /// The task's container writes a line.
    pub fn write_line(&self, task: TaskId, text: &str) {
        let mut machine = self.machine();
        let at = machine.clock.now();
        machine.write_line(task, at, text);
    }

    /// How many running containers each task has.
    pub fn running(&self) -> BTreeMap<TaskId, usize> {
        let mut machine = self.machine();
        machine.settle(Instant::now());
        let mut running = BTreeMap::new();
        for container in machine.containers.values() {
            if let (Some(task), Some(_)) = (container.seen.task, container.started) {
                *running.entry(task).or_default() += 1;
            }
        }
        running
    }

    /// All containers, as a list call would show them.
    pub fn containers(&self) -> Vec<SeenContainer> {
        let mut machine = self.machine();
        machine.settle(Instant::now());
        let containers = machine.containers.values();
        containers.map(|container| container.seen.clone()).collect()
    }

    /// How many containers were started on this machine in all.
    pub fn starts(&self) -> u32 {
        self.machine().starts.values().sum()
    }

    /// How often the task's containers were started in all.
    pub fn starts_of(&self, task: TaskId) -> u32 {
        self.machine().starts.get(&task).copied().unwrap_or(0)
    }

    /// How many calls of this kind arrived.
    pub fn calls(&self, call: &str) -> u64 {
        self.machine().calls.get(call).copied().unwrap_or(0)
    }

    /// Most creates, starts, stops and removals that were ever under way together.
    pub fn most_in_flight(&self) -> usize {
        self.machine().most_in_flight
    }
}

/// A call under way that changes something; only those count.
struct InFlight<'a>(&'a SimulatedRuntime);

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.machine().in_flight -= 1;
    }
}

impl SimulatedRuntime {
    /// What every call goes through: faults, then its latency.
    async fn answer<T>(
        &self,
        call: &'static str,
        about: &str,
        (takes, deadline): (Duration, Duration),
        effect: impl FnOnce(&mut Machine) -> Result<T, EngineError>,
    ) -> Result<T, EngineError> {
        let (reply, latency) = {
            let mut machine = self.machine();
            *machine.calls.entry(call).or_default() += 1;
            let reply = machine
                .replies
                .get_mut(call)
                .and_then(|queue| queue.pop_front());
            (reply, machine.latency(takes))
        };
        let lost = EngineError::TimedOut {
            call,
            after: deadline,
        };
        if let Some(Reply::Fail(error)) = reply {
            sleep(latency).await;
            return Err(error);
        }
        let waited = timeout(deadline, async {
            sleep(latency).await;
            self.wait_while_hung(call, about).await;
        });
        if waited.await.is_err() {
            return Err(lost);
        }
        let mut machine = self.machine();
        if machine.unreachable {
            return Err(EngineError::Unreachable {
                endpoint: "simulated".to_owned(),
                cause: "connection refused".to_owned(),
            });
        }
        machine.settle(Instant::now());
        let result = effect(&mut machine);
        match reply {
            Some(Reply::Lost) => Err(lost),
            _ => result,
        }
    }

    async fn wait_while_hung(&self, call: &'static str, about: &str) {
        loop {
            let thawed = self.thawed.notified();
            tokio::pin!(thawed);
            // Registered before looking, so that a thaw in between is not missed.
            thawed.as_mut().enable();
            {
                let machine = self.machine();
                let hung = machine.hung
                    || machine.hung_calls.contains(call)
                    || machine.hung_containers.contains(about);
                if !hung {
                    return;
                }
            }
            thawed.await;
        }
    }

    fn in_flight(&self) -> InFlight<'_> {
        let mut machine = self.machine();
        machine.in_flight += 1;
        machine.most_in_flight = machine.most_in_flight.max(machine.in_flight);
        InFlight(self)
    }

    /// Wakes up when the container will change by itself, so that its event comes in time.
    fn follow(&self, id: String) {
        let this = self.clone();
        tokio::spawn(async move {
            loop {
                let Some(at) = this.machine().next_change(&id) else {
                    return;
                };
                tokio::time::sleep_until(at).await;
                this.machine().settle(Instant::now());
            }
        });
    }

    fn latencies(&self) -> Latencies {
        self.machine().latencies
    }
}

const LOOK_DEADLINE: Duration = Duration::from_secs(5);
const LIST_DEADLINE: Duration = Duration::from_secs(15);
const CREATE_DEADLINE: Duration = Duration::from_secs(30);
const CHANGE_DEADLINE: Duration = Duration::from_secs(60);
const STOP_SLACK: Duration = Duration::from_secs(10);
const QUEUE: usize = 256;

#[async_trait]
impl ContainerRuntime for SimulatedRuntime {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let takes = (self.latencies().look, LOOK_DEADLINE);
        self.answer("info", "", takes, |_| {
            Ok(EngineInfo {
                version: "simulated".to_owned(),
                os: "linux".to_owned(),
                arch: "x86_64".to_owned(),
                capacity: ResourceAmounts {
                    cpus: MilliCpus(4000),
                    memory: Bytes(8 << 30),
                },
            })
        })
        .await
    }

    async fn list(&self, cluster: ClusterId) -> Result<Vec<SeenContainer>, EngineError> {
        let takes = (self.latencies().look, LIST_DEADLINE);
        self.answer("list", "", takes, |machine| {
            let containers = machine.containers.values();
            Ok(containers
                .filter(|container| container.cluster == cluster)
                .map(|container| container.seen.clone())
                .collect())
        })
        .await
    }

    async fn inspect(&self, container: &str) -> Result<SeenContainer, EngineError> {
        let takes = (self.latencies().look, LOOK_DEADLINE);
        self.answer("inspect", container, takes, |machine| {
            Ok(machine.get(container)?.seen.clone())
        })
        .await
    }

    async fn ensure_image(&self, spec: &ServiceSpec) -> Result<(), EngineError> {
        let image = spec.container.image.clone();
        let latencies = self.latencies();
        let takes = match self.machine().local_images.contains(&image) {
            true => latencies.look,
            false => latencies.pull,
        };
        let takes = (takes, CHANGE_DEADLINE);
        self.answer("pull", &spec.container.image, takes, move |machine| {
            if machine.local_images.contains(&image) {
                return Ok(());
            }
            match machine.registry.get(&image) {
                Some(Ok(())) => {
                    machine.local_images.insert(image);
                    Ok(())
                }
                Some(Err(error)) => Err(error.clone()),
                None => Err(EngineError::NoSuchImage {
                    image,
                    cause: "the registry says: manifest unknown".to_owned(),
                }),
            }
        })
        .await
    }

    async fn create(&self, container: &TaskContainer) -> Result<String, EngineError> {
        let _counted = self.in_flight();
        let takes = (self.latencies().create, CREATE_DEADLINE);
        self.answer("create", "", takes, |machine| machine.create(container))
            .await
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        let _counted = self.in_flight();
        let takes = (self.latencies().start, CHANGE_DEADLINE);
        let started = self.answer("start", container, takes, |machine| {
            machine.start(container)
        });
        let result = started.await;
        self.follow(container.to_owned());
        result
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        let _counted = self.in_flight();
        let stubborn = {
            let machine = self.machine();
            machine.get(container).is_ok_and(|found| {
                let behavior = machine.behavior(&found.spec.container.image);
                found.started.is_some() && behavior.ignores_stop
            })
        };
        if stubborn {
            sleep(grace).await;
        }
        let code = if stubborn { KILLED } else { TERMINATED };
        let takes = (self.latencies().stop, grace.saturating_add(STOP_SLACK));
        self.answer("stop", container, takes, |machine| {
            machine.exit(container, code);
            Ok(())
        })
        .await
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        let _counted = self.in_flight();
        let takes = (self.latencies().remove, CHANGE_DEADLINE);
        self.answer("remove", container, takes, |machine| {
            machine.remove(container);
            Ok(())
        })
        .await
    }

    async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>, EngineError> {
        let takes = (self.latencies().look, LOOK_DEADLINE);
        let lines = self.answer("logs", container, takes, |machine| {
            let lines = machine.get(container)?.lines.iter();
            let since = query.since;
            let wanted = lines.filter(|line| since.is_none_or(|since| line.at >= since));
            let wanted: Vec<LogLine> = wanted.cloned().collect();
            let newest = query.tail.map_or(usize::MAX, |tail| tail as usize);
            Ok(wanted[wanted.len().saturating_sub(newest)..].to_vec())
        });
        let lines = lines.await?;
        let (lines_out, receiver) = mpsc::channel(QUEUE);
        let (this, id) = (self.clone(), container.to_owned());
        let mut read = this.machine().get(&id)?.lines.len();
        tokio::spawn(async move {
            let mut batch = lines;
            loop {
                for line in batch {
                    if lines_out.send(line).await.is_err() {
                        return;
                    }
                }
                if !query.follow || lines_out.is_closed() {
                    return;
                }
                sleep(Duration::from_millis(100)).await;
                let machine = this.machine();
                let Ok(container) = machine.get(&id) else {
                    return;
                };
                batch = container.lines[read..].to_vec();
                read = container.lines.len();
                if batch.is_empty()
                    && !matches!(container.seen.status, ContainerStatus::Running { .. })
                {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn events(&self, cluster: ClusterId) -> Result<mpsc::Receiver<Stirred>, EngineError> {
        let takes = (self.latencies().look, LOOK_DEADLINE);
        self.answer("events", "", takes, |machine| {
            let (hints_out, hints) = mpsc::channel(QUEUE);
            machine.listeners.push((cluster, hints_out));
            Ok(hints)
        })
        .await
    }
}
