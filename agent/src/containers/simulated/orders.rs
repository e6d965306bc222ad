//! The orders that tests give to a simulated engine, and what they may look at afterwards.

use std::collections::BTreeMap;

use kawanan_api::TaskId;
use tokio::time::Instant;

use super::{Behavior, Reply, SimulatedRuntime};
use crate::containers::{EngineError, SeenContainer};

impl SimulatedRuntime {
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
