//! A host's own Docker Engine, and what runs in it.
//!
//! The engine is asked over its socket and not by `docker`, where a test looks often: no process per look.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;
use serde_json::{Value, json};

use super::machine::Machine;
use super::{Settings, http, process, registry};

/// An engine answers within half a second on an idle machine.
const START_DEADLINE: Duration = Duration::from_secs(60);
const STOP_DEADLINE: Duration = Duration::from_secs(60);
/// A start of a container under load; a look takes milliseconds.
const CALL_DEADLINE: Duration = Duration::from_secs(60);

pub struct Engine {
    socket: PathBuf,
    config: PathBuf,
    log: PathBuf,
    daemon: Mutex<Option<Child>>,
}

/// A container as the engine shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Container {
    pub id: String,
    pub name: String,
    pub image: String,
    pub labels: BTreeMap<String, String>,
    /// `running`, `exited`, `created`, ...
    pub state: String,
    /// When its process was last started, as the engine writes it. Changes with every restart.
    pub started_at: String,
    pub restarts: u64,
    pub exit_code: i64,
    pub ip: String,
}

impl Container {
    pub fn is_running(&self) -> bool {
        self.state == "running"
    }

    /// The Kawanan service that it is a task of.
    pub fn service(&self) -> Option<&str> {
        self.labels.get("kawanan.service.name").map(String::as_str)
    }
}

impl Engine {
    pub(super) fn new(settings: &Settings, dir: &Path, host: &str) -> Result<Self> {
        let config = dir.join("daemon.json");
        // Everything in the file, nothing as a flag: dockerd refuses an option that it finds in both places, and
        // would otherwise read the machine's own file.
        let options = json!({
            "data-root": dir.join("docker"),
            "exec-root": "/run/docker",
            "pidfile": "/run/docker.pid",
            "hosts": ["unix:///run/docker.sock"],
            "storage-driver": settings.storage_driver,
            "exec-opts": ["native.cgroupdriver=cgroupfs"],
            "cgroup-parent": format!("/{}/{host}", settings.cgroup),
            "insecure-registries": [registry::address().to_string()],
        });
        fs::write(&config, options.to_string())?;
        Ok(Self {
            socket: dir.join("run/docker.sock"),
            config,
            log: dir.join("dockerd.log"),
            daemon: Mutex::new(None),
        })
    }

    /// Starts the engine and waits until it answers.
    pub fn start(&self, machine: &Machine) -> Result<()> {
        let mut daemon = self.daemon();
        ensure!(
            daemon.is_none(),
            "the engine of {} runs already",
            machine.name()
        );
        let log = File::options().create(true).append(true).open(&self.log)?;
        let mut command = machine.command("dockerd");
        command
            .arg("--config-file")
            .arg(&self.config)
            .stdout(log.try_clone()?)
            .stderr(log);
        let mut child = machine.spawn(&mut command)?;
        let give_up = Instant::now() + START_DEADLINE;
        let ping = || http::over_socket(&self.socket, "GET", "/_ping", None, CALL_DEADLINE);
        while !ping().is_ok_and(|answer| answer.status == 200) {
            // Looks again every 10 ms; ends at once when the daemon does.
            if process::wait(&mut child, Duration::from_millis(10))?.is_some() {
                bail!(
                    "dockerd of {} ended:\n{}",
                    machine.name(),
                    self.log_tail(20)
                );
            }
            if Instant::now() > give_up {
                child.kill()?;
                child.wait()?;
                bail!(
                    "dockerd of {} does not answer:\n{}",
                    machine.name(),
                    self.log_tail(20)
                );
            }
        }
        *daemon = Some(child);
        Ok(())
    }

    /// Stops the engine as a service manager would. Its containers end with it.
    pub fn stop(&self) -> Result<()> {
        self.end(Signal::TERM)
    }

    /// Ends the engine without a warning.
    pub fn kill(&self) -> Result<()> {
        self.end(Signal::KILL)
    }

    /// Freezes (`STOP`) or thaws (`CONT`) the engine: a Docker API that hangs.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let daemon = self.daemon();
        process::signal(
            daemon.as_ref().context("the engine does not run")?.id(),
            signal,
        )
    }

    fn end(&self, signal: Signal) -> Result<()> {
        self.signal(signal)?;
        let mut daemon = self.daemon();
        if let Some(child) = daemon.as_mut() {
            process::wait(child, STOP_DEADLINE)?.context("dockerd does not stop")?;
        }
        *daemon = None;
        Ok(())
    }

    /// Collects the daemon after its machine went off.
    pub(super) fn forget(&self) -> Result<()> {
        if let Some(mut child) = self.daemon().take() {
            child.wait()?;
        }
        Ok(())
    }

    /// One call of the engine's API.
    pub fn call(&self, method: &str, path: &str, body: Option<&Value>) -> Result<http::Answer> {
        http::over_socket(&self.socket, method, path, body, CALL_DEADLINE)
    }

    /// All containers, also stopped ones, by name.
    pub fn containers(&self) -> Result<Vec<Container>> {
        let list = self.call("GET", "/containers/json?all=1", None)?.json()?;
        let mut containers = Vec::new();
        for row in list.as_array().context("the engine lists no array")? {
            let id = row["Id"].as_str().context("a container without an id")?;
            let answer = self.call("GET", &format!("/containers/{id}/json"), None)?;
            // It may have gone since it was listed.
            if answer.status != 404 {
                containers.push(read_container(&answer.json()?)?);
            }
        }
        containers.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(containers)
    }

    /// Containers of one Kawanan service, also stopped ones.
    pub fn containers_of(&self, service: &str) -> Result<Vec<Container>> {
        let mut containers = self.containers()?;
        containers.retain(|container| container.service() == Some(service));
        Ok(containers)
    }

    /// How many containers run. One call, however many there are.
    pub fn running_count(&self) -> Result<usize> {
        let list = self.call("GET", "/containers/json", None)?.json()?;
        Ok(list.as_array().context("the engine lists no array")?.len())
    }

    pub fn has_image(&self, image: &str) -> Result<bool> {
        Ok(self
            .call("GET", &format!("/images/{image}/json"), None)?
            .status
            == 200)
    }

    /// The process of the daemon, as this program sees it.
    pub fn pid(&self) -> Option<u32> {
        self.daemon().as_ref().map(Child::id)
    }

    /// The last lines that the daemon wrote.
    pub fn log_tail(&self, lines: usize) -> String {
        super::tail(&self.log, lines)
    }

    fn daemon(&self) -> std::sync::MutexGuard<'_, Option<Child>> {
        self.daemon.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(child) = self.daemon().as_mut()
            && let Err(err) = child.kill().and_then(|()| child.wait())
        {
            eprintln!("lab: cannot end dockerd: {err}");
        }
    }
}

fn read_container(inspected: &Value) -> Result<Container> {
    let text = |pointer: &str| {
        inspected
            .pointer(pointer)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let labels = inspected
        .pointer("/Config/Labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().unwrap_or_default().to_owned()))
        .collect();
    Ok(Container {
        id: text("/Id"),
        name: text("/Name").trim_start_matches('/').to_owned(),
        image: text("/Config/Image"),
        labels,
        state: text("/State/Status"),
        started_at: text("/State/StartedAt"),
        restarts: inspected["RestartCount"].as_u64().unwrap_or_default(),
        exit_code: inspected
            .pointer("/State/ExitCode")
            .and_then(Value::as_i64)
            .unwrap_or_default(),
        ip: text("/NetworkSettings/IPAddress"),
    })
}
