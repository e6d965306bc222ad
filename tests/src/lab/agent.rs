//! A host's agent: the binary under test, started as a user would, with its output in files.

use std::fs::{self, File};
use std::path::PathBuf;
use std::process::Child;
use std::sync::MutexGuard;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::process::Signal;

use super::host::Host;
use super::wait::{Hopeless, wait_until};
use super::{binaries, process};

/// An agent is ready in well under a second; the rest is for a busy machine.
const READY_DEADLINE: Duration = Duration::from_secs(30);
/// What the agent promises for SIGTERM is 5 s.
const STOP_DEADLINE: Duration = Duration::from_secs(10);

impl Host {
    /// Starts `agent ARGUMENTS` in the background: standard output to `agent.out`, made anew; standard error is added
    /// to `agent.log`.
    pub fn spawn_agent(&self, arguments: &str) -> Result<()> {
        let mut agent = self.agent();
        if let Some(child) = agent.as_mut() {
            let ended = child.try_wait()?.is_some();
            ensure!(ended, "an agent runs on {} already", self.name());
        }
        let (said, log) = (self.dir().join("agent.out"), self.agent_log());
        let mut command = self.machine().command("bash");
        // The shell splits the arguments as it would for a user, and becomes the agent.
        let line = format!("exec {} {arguments}", binaries::path("agent")?.display());
        command
            .args(["-c", &line])
            .stdout(File::create(said)?)
            .stderr(File::options().create(true).append(true).open(log)?);
        *agent = Some(self.machine().spawn(&mut command)?);
        Ok(())
    }

    /// Founds a cluster here and waits until it can be joined.
    pub fn start_agent_init(&self) -> Result<()> {
        self.spawn_agent("init")?;
        let what = format!("`agent init` on {} prints how to join", self.name());
        wait_until(&what, READY_DEADLINE, || {
            self.still_runs()?;
            ensure!(
                self.agent_output()?.contains("agent join "),
                "{}",
                self.agent_output()?
            );
            Ok(())
        })
    }

    /// Joins a cluster and waits until this agent says that the node is ready.
    pub fn join(&self, token: &str) -> Result<()> {
        self.spawn_agent(&format!("join {token}"))?;
        self.wait_ready()
    }

    /// Starts the agent again from its data directory, after stopping it if it still runs, and waits until it is ready.
    pub fn restart_agent(&self) -> Result<()> {
        if self.agent_pid().is_some() {
            self.stop_agent()?;
        }
        self.spawn_agent("run")?;
        self.wait_ready()
    }

    /// Waits until this host's own agent shows this node as ready.
    pub fn wait_ready(&self) -> Result<()> {
        wait_until(&format!("{} is ready", self.name()), READY_DEADLINE, || {
            self.still_runs()?;
            let nodes = self.kawan_rows("node ls")?;
            let mine = nodes.iter().find(|node| node["name"] == self.name());
            let status = &mine.context("the node is not listed")?["status"];
            ensure!(status == "ready", "its status is {status}");
            Ok(())
        })
    }

    /// Asks the agent to end (SIGTERM) and waits until it has.
    pub fn stop_agent(&self) -> Result<()> {
        self.kill_agent(Signal::TERM)
    }

    /// Sends the agent a signal. After one that ends it (`KILL`, `TERM`, ...), waits until it has ended.
    pub fn kill_agent(&self, signal: Signal) -> Result<()> {
        let mut agent = self.agent();
        let child = agent.as_mut().context("no agent runs here")?;
        process::signal(child.id(), signal)?;
        if signal == Signal::STOP || signal == Signal::CONT {
            return Ok(());
        }
        process::wait(child, STOP_DEADLINE)?.with_context(|| {
            format!(
                "the agent of {} is not gone after {STOP_DEADLINE:?}",
                self.name()
            )
        })?;
        *agent = None;
        Ok(())
    }

    /// The agent's process, as this program sees it; `None` when it has ended.
    pub fn agent_pid(&self) -> Option<u32> {
        let mut agent = self.agent();
        let child = agent.as_mut()?;
        matches!(child.try_wait(), Ok(None)).then(|| child.id())
    }

    /// A fresh join token, as `agent token create -q OPTIONS` prints it.
    pub fn token(&self, options: &str) -> Result<String> {
        self.run(&format!("agent token create -q {options}"))?.ok()
    }

    /// Everything the agent wrote to standard output since it was last started.
    pub fn agent_output(&self) -> Result<String> {
        Ok(fs::read_to_string(self.dir().join("agent.out"))?)
    }

    /// The file with what the agent wrote to standard error.
    pub fn agent_log(&self) -> PathBuf {
        self.dir().join("agent.log")
    }

    pub fn agent_log_tail(&self, lines: usize) -> String {
        if self.agent_log().exists() {
            super::tail(&self.agent_log(), lines)
        } else {
            "(never started)".to_owned()
        }
    }

    /// Collects the agent after its machine went off.
    pub(super) fn forget_agent(&self) -> Result<()> {
        if let Some(mut child) = self.agent().take() {
            child.wait()?;
        }
        Ok(())
    }

    /// Fails with the end of its log when the agent has ended, so that nobody waits for a dead one.
    fn still_runs(&self) -> Result<()> {
        if self.agent_pid().is_none() {
            let (name, log) = (self.name(), self.agent_log_tail(10));
            bail!(Hopeless(format!("the agent of {name} has ended:\n{log}")));
        }
        Ok(())
    }

    fn agent(&self) -> MutexGuard<'_, Option<Child>> {
        self.inner()
            .agent
            .lock()
            .unwrap_or_else(|held| held.into_inner())
    }
}
