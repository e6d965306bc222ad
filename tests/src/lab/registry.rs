//! A registry of images inside the lab: Debian's `docker-registry`, on the address of the bridge.

use std::fs::{self, File};
use std::net::{SocketAddr, SocketAddrV4};
use std::process::Child;
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::host::Host;
use super::machine::Machine;
use super::wait::wait_until;
use super::{http, wire};

const PORT: u16 = 5000;
const START_DEADLINE: Duration = Duration::from_secs(20);

/// Where the registry listens, once it is started. Engines of the lab speak plain HTTP to it.
pub const fn address() -> SocketAddrV4 {
    SocketAddrV4::new(wire::GATEWAY, PORT)
}

pub struct Registry {
    daemon: Mutex<Child>,
}

impl Registry {
    pub(super) fn start(machine: &Machine) -> Result<Self> {
        let dir = machine.dir();
        let config = dir.join("registry.yml");
        let log = File::create(dir.join("registry.log"))?;
        fs::write(
            &config,
            format!(
                "version: 0.1\nlog: {{level: warn}}\nhttp: {{addr: \"{}\"}}\n\
                 storage: {{filesystem: {{rootdirectory: {}}}, delete: {{enabled: true}}}}\n",
                address(),
                dir.join("registry").display()
            ),
        )?;
        let mut command = machine.command("docker-registry");
        command
            .arg("serve")
            .arg(&config)
            .stdout(log.try_clone()?)
            .stderr(log);
        let daemon = machine
            .spawn(&mut command)
            .context("the registry is missing: apt-get install docker-registry")?;
        wait_until("the registry answers", START_DEADLINE, || {
            let deadline = Duration::from_secs(1);
            let answer = machine
                .inside_network(|| http::get(SocketAddr::V4(address()), "/v2/", deadline))?;
            ensure!(answer.status == 200, "HTTP {}", answer.status);
            Ok(())
        })
        .with_context(|| super::tail(&dir.join("registry.log"), 20))?;
        Ok(Self {
            daemon: Mutex::new(daemon),
        })
    }

    /// The name under which hosts pull an image from here: `web:v1` is `10.77.0.1:5000/web:v1`.
    pub fn name_of(&self, image: &str) -> String {
        format!("{}/{image}", address())
    }

    /// Takes an image that a host has; the name to pull it by. The host forgets that name again.
    pub fn take(&self, host: &Host, image: &str) -> Result<String> {
        let name = self.name_of(image);
        host.docker(&format!("tag {image} {name}"))?;
        host.docker(&format!("push -q {name}"))?;
        host.docker(&format!("rmi --no-prune {name}"))?;
        Ok(name)
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        let daemon = self
            .daemon
            .get_mut()
            .unwrap_or_else(|held| held.into_inner());
        if let Err(err) = daemon.kill().and_then(|()| daemon.wait()) {
            eprintln!("lab: cannot end the registry: {err}");
        }
    }
}
