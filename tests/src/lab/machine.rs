//! A machine of the lab: process 1 and the Linux namespaces around it (mounts, host name, network, processes).
//!
//! Everything that runs on a machine is a descendant of its process 1 in a process namespace of its own, so ending
//! process 1 ends all of it at once: engine, shims, containers, agents. Their mounts and networks go with them.
//! Process 1 itself lives only as long as a pipe that this program holds: it ends even when this program is killed.
//!
//! This is the one module of the package with unsafe code: the call that leaves the namespaces of this program.

use std::fs;
use std::io::{BufRead, BufReader};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use rustix::process::{Pid, PidfdFlags, pidfd_open};
use rustix::thread::{ThreadNameSpaceType as Walls, UnshareFlags, move_into_thread_name_spaces};

use super::process::{self, Output};

/// Marks process 1 of a lab machine in the machine's process list, so that leftovers can be told apart.
pub(super) const PROCESS_1_MARK: &str = "kawanan-lab-machine";

/// Setting up the mounts takes milliseconds; a machine under load may need more.
const BOOT_DEADLINE: Duration = Duration::from_secs(20);
/// Ending a hundred containers takes a second; a file system under load may hold some of them longer.
const OFF_DEADLINE: Duration = Duration::from_secs(60);

pub struct Machine {
    name: String,
    dir: PathBuf,
    pid: Pid,
    pidfd: OwnedFd,
    /// Process 1 and the pipe that keeps it alive; `None` once the power is off.
    power: Mutex<Option<(Child, ChildStdin)>>,
    environment: Vec<(String, String)>,
}

impl Machine {
    /// Makes the namespaces and runs `machine_init.sh` in them. `dir` holds all that the machine writes.
    pub fn boot(name: &str, dir: &Path, environment: Vec<(String, String)>) -> Result<Self> {
        for part in ["run", "cgroup", "home", "etc-docker"] {
            fs::create_dir_all(dir.join(part))?;
        }
        let mut command = Command::new("bash");
        command
            .args(["-c", include_str!("machine_init.sh"), PROCESS_1_MARK])
            .args([name.as_ref(), dir.as_os_str()])
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped());
        let apart = UnshareFlags::NEWNS
            | UnshareFlags::NEWUTS
            | UnshareFlags::NEWIPC
            | UnshareFlags::NEWNET
            | UnshareFlags::NEWPID;
        let mut child = on_a_thread(|| {
            leave(apart)?;
            command.spawn().context("cannot start bash")
        })
        .with_context(|| format!("cannot make the namespaces of {name}; the lab needs root"))?;
        let pid = Pid::from_child(&child);
        let keeper = child.stdin.take().context("process 1 has no input")?;
        let output = child.stdout.take().context("process 1 has no output")?;
        let machine = Self {
            name: name.to_owned(),
            dir: dir.to_owned(),
            pid,
            pidfd: pidfd_open(pid, PidfdFlags::empty())?,
            power: Mutex::new(Some((child, keeper))),
            environment,
        };
        process::wait_readable(&output, BOOT_DEADLINE)
            .with_context(|| format!("{name} does not boot"))?;
        let mut line = String::new();
        BufReader::new(output).read_line(&mut line)?;
        if line.trim() != "booted" {
            bail!("{name} does not boot: its process 1 ended; see its message above");
        }
        Ok(machine)
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Process 1 as this program sees it.
    pub fn pid(&self) -> u32 {
        self.pid.as_raw_nonzero().get().unsigned_abs()
    }

    /// Runs `work` on a thread that has moved into the machine.
    pub fn inside<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        let all = Walls::MOUNT
            | Walls::HOST_NAME_AND_NIS_DOMAIN_NAME
            | Walls::INTER_PROCESS_COMMUNICATION
            | Walls::NETWORK
            | Walls::PROCESS_ID;
        self.behind(all, work)
    }

    /// Runs `work` on a thread that sees the machine's network, and otherwise what this program sees.
    pub fn inside_network<T: Send>(&self, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        self.behind(Walls::NETWORK, work)
    }

    fn behind<T: Send>(&self, walls: Walls, work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
        on_a_thread(|| {
            // The kernel lets only a thread with a working directory of its own enter other mounts.
            leave(UnshareFlags::FS)?;
            move_into_thread_name_spaces(std::os::fd::AsFd::as_fd(&self.pidfd), walls)
                .with_context(|| format!("cannot enter {}", self.name))?;
            work()
        })
    }

    /// A command for this machine: the environment is the machine's, nothing of this program's leaks in.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command
            .current_dir("/")
            .env_clear()
            .envs(self.environment.iter().map(|(key, value)| (key, value)))
            .stdin(Stdio::null());
        command
    }

    /// Starts a command on the machine. The pid is the one that this program sees.
    pub fn spawn(&self, command: &mut Command) -> Result<Child> {
        self.inside(|| {
            command
                .spawn()
                .with_context(|| format!("cannot start {:?} on {}", command, self.name))
        })
    }

    /// Runs a shell command line to its end.
    pub fn shell(&self, line: &str, deadline: Duration) -> Result<Output> {
        let mut command = self.command("bash");
        command.args(["-c", line]);
        process::run(line, &mut command, deadline, |command| self.spawn(command))
    }

    /// Ends every process of the machine, as pulling its plug would. Returns when all are gone, after the caller's
    /// `collect` has waited for those that are children of this program: the kernel keeps process 1 until then.
    pub fn power_off(&self, collect: impl FnOnce() -> Result<()>) -> Result<()> {
        let power = self
            .power
            .lock()
            .unwrap_or_else(|held| held.into_inner())
            .take();
        let Some((mut process_1, keeper)) = power else {
            return Ok(());
        };
        process_1.kill()?;
        drop(keeper);
        collect()?;
        process::wait(&mut process_1, OFF_DEADLINE)?
            .with_context(|| format!("processes of {} are left", self.name))?;
        Ok(())
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        if let Err(err) = self.power_off(|| Ok(())) {
            eprintln!("lab: cannot end {}: {err:#}", self.name);
        }
    }
}

/// Namespaces belong to threads: a thread that has changed its own is not used for anything else.
fn on_a_thread<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    std::thread::scope(|scope| match scope.spawn(work).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

#[allow(unsafe_code)]
fn leave(what: UnshareFlags) -> Result<()> {
    assert!(
        !what.contains(UnshareFlags::FILES),
        "threads would lose sight of each other's files"
    );
    // SAFETY: the call is only unsound with FILES, which is excluded above.
    unsafe { rustix::thread::unshare_unsafe(what) }?;
    Ok(())
}
