//! The lab: real hosts on one machine, each with its own network, process list, host name and Docker Engine.
//!
//! ```no_run
//! use tests::lab::{Lab, Cluster};
//!
//! # fn main() -> anyhow::Result<()> {
//! Lab::run("scaling", |lab| {
//!     let cluster = Cluster::start(lab, 3)?;
//!     cluster.node(0).kawan("service create --name web --replicas 3 web:v1")?.ok()?;
//!     Ok(())
//! })
//! # }
//! ```
//!
//! Promises: nothing of a lab is left when [`Lab::run`] returns, also when the test fails or panics; nothing but
//! files is left when this program is killed, and the next lab removes those. A lab reaches nothing outside itself.
//! Must never: talk to the machine's own engine, or end a process that it did not start.
//!
//! Needs root. Set `KAWANAN_LAB_KEEP=1` to keep the files (logs, data directories) of a lab,
//! `KAWANAN_LAB_DIR` to put them elsewhere than in the directory for temporary files, and
//! `KAWANAN_LAB_STORAGE_DRIVER` where Docker's overlay2 does not work.

mod agent;
pub mod binaries;
mod cluster;
pub mod engine;
mod host;
pub mod http;
mod images;
mod leftovers;
pub mod machine;
pub mod process;
pub mod registry;
mod wait;
pub mod wire;

use std::net::Ipv4Addr;
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};
use std::{env, fs, thread};

use anyhow::{Context, Result, ensure};

pub use cluster::{Cluster, SETTLE_DEADLINE, node_row, service_row};
pub use engine::Container;
pub use host::Host;
pub use process::Output;
pub use rustix::process::Signal;
pub use wait::{stays_true, wait_until};

use registry::Registry;
use wire::Wire;

/// Lines of each log that a failed test shows.
const LOG_TAIL_LINES: usize = 40;

/// What the parts of a lab share.
#[derive(Debug, Clone)]
pub(crate) struct Settings {
    /// Holds every file of the lab.
    dir: PathBuf,
    /// Parent of the control groups of its containers, relative to the root of each hierarchy.
    cgroup: String,
    storage_driver: String,
}

pub struct Lab {
    settings: Settings,
    wire: Arc<Wire>,
    hosts: Mutex<Vec<Host>>,
    registry: Mutex<Option<Arc<Registry>>>,
}

impl Lab {
    /// Runs a test in a lab of its own, and takes the lab down. When the test fails, the logs' last lines are shown.
    ///
    /// # Errors
    /// Those of the test, and of making the lab.
    pub fn run<T>(name: &str, test: impl FnOnce(&Self) -> Result<T>) -> Result<T> {
        let lab = Self::new(name)?;
        let result = catch_unwind(AssertUnwindSafe(|| test(&lab)));
        if !matches!(result, Ok(Ok(_))) {
            lab.print_logs();
        }
        drop(lab);
        result.unwrap_or_else(|panic| resume_unwind(panic))
    }

    /// A lab without hosts. Rather use [`Lab::run`], which shows logs when the test fails.
    pub fn new(name: &str) -> Result<Self> {
        ensure!(
            rustix::process::geteuid().is_root(),
            "the lab needs root: it makes namespaces and mounts"
        );
        sweep()?;
        let dir = leftovers::claim(&base_dir(), name)?;
        let settings = Settings {
            cgroup: leftovers::cgroup_of(&dir)?,
            storage_driver: env::var("KAWANAN_LAB_STORAGE_DRIVER")
                .unwrap_or_else(|_| "overlay2".to_owned()),
            dir,
        };
        let switch = settings.dir.join("switch");
        fs::create_dir_all(&switch)?;
        write_hosts_file(&switch, &[])?;
        let path = env::var("PATH").unwrap_or_default();
        let wire = Wire::lay(&switch, vec![("PATH".to_owned(), path)])?;
        Ok(Self {
            settings,
            wire: Arc::new(wire),
            hosts: Mutex::new(Vec::new()),
            registry: Mutex::new(None),
        })
    }

    /// Starts one more host, with the test images in its engine.
    pub fn host(&self, name: &str) -> Result<Host> {
        let mut hosts = self.start_hosts(&[name])?;
        hosts.pop().context("one host was asked for")
    }

    /// Starts several hosts at the same time.
    pub fn start_hosts(&self, names: &[&str]) -> Result<Vec<Host>> {
        let plan = self.plan(names)?;
        let images = images::archive()?;
        let started = thread::scope(|scope| {
            let starting: Vec<_> = plan
                .iter()
                .map(|(name, address)| {
                    let images = &images;
                    scope.spawn(move || -> Result<Host> {
                        let host = Host::start(&self.settings, &self.wire, name, *address)?;
                        host.docker(&format!("load -q -i {}", images.display()))?;
                        Ok(host)
                    })
                })
                .collect();
            starting
                .into_iter()
                .map(|thread| thread.join().unwrap_or_else(|panic| resume_unwind(panic)))
                .collect::<Result<Vec<_>>>()
        })?;
        self.hosts().extend(started.iter().cloned());
        Ok(started)
    }

    /// The lab's registry of images, started when it is first asked for.
    pub fn registry(&self) -> Result<Arc<Registry>> {
        let mut registry = self
            .registry
            .lock()
            .unwrap_or_else(|held| held.into_inner());
        if let Some(registry) = &*registry {
            return Ok(registry.clone());
        }
        let started = Arc::new(Registry::start(self.wire.switch())?);
        *registry = Some(started.clone());
        Ok(started)
    }

    /// The directory that holds every file of the lab.
    pub fn dir(&self) -> &Path {
        &self.settings.dir
    }

    /// Shows the last lines of what agents and engines wrote.
    pub fn print_logs(&self) {
        for host in self.hosts().iter() {
            eprintln!("--- agent of {}, last {LOG_TAIL_LINES} lines", host.name());
            eprintln!("{}", host.agent_log_tail(LOG_TAIL_LINES));
        }
    }

    /// Gives new hosts their addresses, and all hosts of the lab the new ones' names.
    fn plan<'a>(&self, names: &[&'a str]) -> Result<Vec<(&'a str, Ipv4Addr)>> {
        let old = self.hosts();
        let mut known: Vec<(&str, Ipv4Addr)> = old
            .iter()
            .map(|host| (host.name(), host.address()))
            .collect();
        for name in names {
            ensure!(
                !known.iter().any(|(other, _)| other == name),
                "there is a host {name} already"
            );
            ensure!(
                name.len() <= wire::NAME_LENGTH_MAX,
                "`{name}` is too long for a host"
            );
            known.push((name, wire::address(known.len())?));
        }
        for (name, _) in &known {
            let dir = self.settings.dir.join(name);
            fs::create_dir_all(&dir)?;
            write_hosts_file(&dir, &known)?;
        }
        let new = known.iter().skip(old.len());
        Ok(names
            .iter()
            .copied()
            .zip(new.map(|(_, address)| *address))
            .collect())
    }

    fn hosts(&self) -> MutexGuard<'_, Vec<Host>> {
        self.hosts.lock().unwrap_or_else(|held| held.into_inner())
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let hosts = std::mem::take(&mut *self.hosts());
        thread::scope(|scope| {
            for host in &hosts {
                scope.spawn(move || {
                    if let Err(err) = host.power_off() {
                        eprintln!("lab: cannot end {}: {err:#}", host.name());
                    }
                });
            }
        });
        *self
            .registry
            .get_mut()
            .unwrap_or_else(|held| held.into_inner()) = None;
        if let Err(err) = self.wire.switch().power_off(|| Ok(())) {
            eprintln!("lab: cannot end the switch: {err:#}");
        }
        if let Err(err) = leftovers::remove(&self.settings.dir) {
            eprintln!("lab: something is left: {err:#}");
        }
    }
}

/// Removes what is left of labs whose program was killed.
pub fn sweep() -> Result<()> {
    leftovers::sweep(&base_dir())
}

/// Where labs are, each in a directory of its own.
fn base_dir() -> PathBuf {
    env::var_os("KAWANAN_LAB_DIR")
        .map_or_else(|| env::temp_dir().join("kawanan-lab"), PathBuf::from)
}

/// What a machine sees as `/etc/hosts`. Written in place, because a running machine has mounted the file.
fn write_hosts_file(dir: &Path, hosts: &[(&str, Ipv4Addr)]) -> Result<()> {
    let mut text = format!("127.0.0.1 localhost\n{} registry\n", wire::GATEWAY);
    for (name, address) in hosts {
        text.push_str(&format!("{address} {name}\n"));
    }
    Ok(fs::write(dir.join("hosts"), text)?)
}

/// The last lines of a text file; what went wrong, when it cannot be read.
fn tail(file: &Path, lines: usize) -> String {
    match fs::read(file) {
        Ok(bytes) => {
            let text = String::from_utf8_lossy(&bytes);
            let all: Vec<&str> = text.lines().collect();
            all[all.len().saturating_sub(lines)..].join("\n")
        }
        Err(err) => format!("(cannot read {}: {err})", file.display()),
    }
}
