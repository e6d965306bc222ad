//! A host of the lab: a machine on the wire with its own Docker Engine, and later an agent.

use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Child;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;

use super::engine::Engine;
use super::http::{self, Answer};
use super::machine::Machine;
use super::process::Output;
use super::wire::Wire;
use super::{Settings, binaries};

/// For a command that a test types: long enough for a pull or a rollout of thirty replicas on a busy machine.
pub const COMMAND_DEADLINE: Duration = Duration::from_secs(120);
/// For one HTTP request between two hosts.
const REQUEST_DEADLINE: Duration = Duration::from_secs(3);

/// A host. Clones are the same host; it goes off when the lab ends, whoever still holds a clone.
#[derive(Clone)]
pub struct Host(Arc<Inner>);

pub(super) struct Inner {
    pub(super) agent: Mutex<Option<Child>>,
    // Before the machine: dropping it collects the daemon, without which the machine's process 1 cannot end.
    engine: Engine,
    machine: Machine,
    address: Ipv4Addr,
    wire: Arc<Wire>,
}

impl Host {
    pub(super) fn start(
        settings: &Settings,
        wire: &Arc<Wire>,
        name: &str,
        address: Ipv4Addr,
    ) -> Result<Self> {
        let dir = settings.dir.join(name);
        fs::create_dir_all(dir.join("data"))?;
        let machine = Machine::boot(name, &dir, environment(&dir)?)?;
        wire.plug(&machine, address)?;
        let engine = Engine::new(settings, &dir, name)?;
        engine.start(&machine)?;
        Ok(Self(Arc::new(Inner {
            machine,
            engine,
            agent: Mutex::new(None),
            address,
            wire: wire.clone(),
        })))
    }

    pub(super) fn inner(&self) -> &Inner {
        &self.0
    }

    pub fn name(&self) -> &str {
        self.0.machine.name()
    }

    pub fn address(&self) -> Ipv4Addr {
        self.0.address
    }

    /// Where the host keeps its files, seen from outside: logs, `run/`, and `data/` for the agent.
    pub fn dir(&self) -> &Path {
        self.0.machine.dir()
    }

    /// The data directory that the host's agent is told to use.
    pub fn data_dir(&self) -> PathBuf {
        self.dir().join("data")
    }

    pub fn machine(&self) -> &Machine {
        &self.0.machine
    }

    pub fn engine(&self) -> &Engine {
        &self.0.engine
    }

    /// Runs a shell command line as root of this host. `agent`, `kawan` and `docker` need no path.
    pub fn run(&self, line: &str) -> Result<Output> {
        self.0.machine.shell(line, COMMAND_DEADLINE)
    }

    /// Runs `docker` against the host's engine; its standard output.
    pub fn docker(&self, arguments: &str) -> Result<String> {
        self.run(&format!("docker {arguments}"))?.ok()
    }

    /// Runs `kawan` against the host's agent.
    pub fn kawan(&self, arguments: &str) -> Result<Output> {
        self.run(&format!("kawan {arguments}"))
    }

    /// Runs `kawan … -o json` and reads its standard output.
    pub fn kawan_json(&self, arguments: &str) -> Result<Value> {
        let text = self.kawan(&format!("{arguments} -o json"))?.ok()?;
        serde_json::from_str(&text)
            .with_context(|| format!("`kawan {arguments} -o json` printed no JSON:\n{text}"))
    }

    /// The rows of `kawan … -o json`.
    pub fn kawan_rows(&self, arguments: &str) -> Result<Vec<Value>> {
        match self.kawan_json(arguments)? {
            Value::Array(rows) => Ok(rows),
            other => anyhow::bail!("`kawan {arguments} -o json` printed no array: {other}"),
        }
    }

    /// Asks for a page from this host's place in the network.
    pub fn http_get(&self, target: &Self, port: u16, path: &str) -> Result<Answer> {
        let address = SocketAddr::from((target.address(), port));
        self.0
            .machine
            .inside_network(|| http::get(address, path, REQUEST_DEADLINE))
    }

    /// Takes the host off the network: no packet comes or goes, while its link stays up.
    pub fn cut(&self) -> Result<()> {
        self.0.wire.cut(self.name())
    }

    /// Undoes `cut`.
    pub fn heal(&self) -> Result<()> {
        self.0.wire.heal(self.name())
    }

    /// Nothing from this host reaches the other any more, nor the other way round. Both still reach everyone else.
    pub fn cut_from(&self, other: &Self) -> Result<()> {
        self.0.wire.cut_one_way(self.name(), other.name())?;
        self.0.wire.cut_one_way(other.name(), self.name())
    }

    /// Undoes `cut_from`.
    pub fn heal_from(&self, other: &Self) -> Result<()> {
        self.0.wire.heal_one_way(self.name(), other.name())?;
        self.0.wire.heal_one_way(other.name(), self.name())
    }

    /// Nothing from this host reaches the other any more; the way back stays open.
    pub fn cut_towards(&self, other: &Self) -> Result<()> {
        self.0.wire.cut_one_way(self.name(), other.name())
    }

    /// Pulls the plug: every process of the host ends at once. It does not come back.
    pub fn power_off(&self) -> Result<()> {
        self.0.machine.power_off(|| {
            self.0.engine.forget()?;
            self.forget_agent()
        })
    }
}

/// What a root shell on the host would have, with the binaries under test on its path.
fn environment(dir: &Path) -> Result<Vec<(String, String)>> {
    let path = format!(
        "{}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        binaries::directory()?.display()
    );
    let mut environment: Vec<(String, String)> = [
        ("PATH", path),
        ("HOME", dir.join("home").display().to_string()),
        ("LANG", "C.UTF-8".to_owned()),
        ("DOCKER_HOST", "unix:///run/docker.sock".to_owned()),
        ("AGENT_DATA_DIR", dir.join("data").display().to_string()),
    ]
    .map(|(key, value)| (key.to_owned(), value))
    .to_vec();
    for key in ["RUST_LOG", "RUST_BACKTRACE", "TERM", "NO_COLOR"] {
        if let Ok(value) = std::env::var(key) {
            environment.push((key.to_owned(), value));
        }
    }
    Ok(environment)
}
