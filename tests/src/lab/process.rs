//! Processes: run one with a deadline, signal one, read what one uses.

use std::fs;
use std::io::{Read, Seek};
use std::os::fd::AsFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process, pidfd_open};

/// What a command said, and how it ended.
#[derive(Debug, Clone)]
pub struct Output {
    /// The command line, for messages.
    pub line: String,
    /// `None` when a signal ended it.
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl Output {
    pub fn success(&self) -> bool {
        self.code == Some(0)
    }

    /// Standard output, without the last line break.
    ///
    /// # Errors
    /// With all that the command said when its exit code is not 0.
    pub fn ok(self) -> Result<String> {
        ensure!(self.success(), "{self}");
        Ok(self.stdout.trim_end().to_owned())
    }

    /// What the command said when it refused, with its exit code.
    ///
    /// # Errors
    /// When it did not refuse, panicked, or did not use one of these words (in any case): the user could not tell why.
    pub fn refused(self, words: &[&str]) -> Result<i32> {
        let text = self.text().to_lowercase();
        let code = self
            .code
            .filter(|code| *code != 0)
            .with_context(|| format!("no refusal: {self}"))?;
        ensure!(!text.contains("panicked at"), "{self}");
        for word in words {
            ensure!(
                text.contains(&word.to_lowercase()),
                "does not say `{word}`: {self}"
            );
        }
        Ok(code)
    }

    /// Both outputs, for looking for a word in them.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr)
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.code {
            Some(code) => writeln!(f, "`{}` ended with code {code}", self.line)?,
            None => writeln!(f, "`{}` was ended by a signal", self.line)?,
        }
        write!(f, "{}{}", self.stdout, self.stderr)
    }
}

/// Runs a command to its end; `spawn` starts it where it should run.
///
/// # Errors
/// When it cannot be started or is not done in time; then it is killed. A bad exit code is not an error here.
pub fn run(
    line: &str,
    command: &mut Command,
    deadline: Duration,
    spawn: impl FnOnce(&mut Command) -> Result<Child>,
) -> Result<Output> {
    // Files and not pipes: a child that stays behind with an open pipe cannot keep us waiting.
    let (mut stdout, mut stderr) = (tempfile::tempfile()?, tempfile::tempfile()?);
    command
        .stdout(stdout.try_clone()?)
        .stderr(stderr.try_clone()?);
    let mut child = spawn(command)?;
    let status = wait(&mut child, deadline)?;
    let read = |file: &mut fs::File| -> Result<String> {
        file.rewind()?;
        let mut bytes = Vec::new();
        file.read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (stdout, stderr) = (read(&mut stdout)?, read(&mut stderr)?);
    let Some(status) = status else {
        child.kill()?;
        child.wait()?;
        bail!("`{line}` is not done after {deadline:?}; it said so far:\n{stdout}{stderr}");
    };
    Ok(Output {
        line: line.to_owned(),
        code: status.code(),
        stdout,
        stderr,
    })
}

/// Runs a command on the machine that the tests run on.
pub fn run_here(program: &str, arguments: &[&str], deadline: Duration) -> Result<Output> {
    let line = format!("{program} {}", arguments.join(" "));
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::null());
    run(&line, &mut command, deadline, |command| {
        command
            .spawn()
            .with_context(|| format!("cannot start {program}; is it installed?"))
    })
}

/// Waits for a child to end; `None` when it still runs at the deadline.
pub fn wait(child: &mut Child, deadline: Duration) -> Result<Option<ExitStatus>> {
    if let Some(status) = child.try_wait()? {
        return Ok(Some(status));
    }
    let pidfd = pidfd_open(Pid::from_child(child), PidfdFlags::empty())?;
    match wait_readable(&pidfd, deadline) {
        Ok(()) => Ok(Some(child.wait()?)),
        Err(_) => Ok(child.try_wait()?),
    }
}

/// Waits until a file descriptor has something to read, or was closed at its other end.
pub(super) fn wait_readable(fd: &impl AsFd, deadline: Duration) -> Result<()> {
    let timeout = Timespec::try_from(deadline)?;
    let mut fds = [PollFd::new(fd, PollFlags::IN)];
    loop {
        match poll(&mut fds, Some(&timeout)) {
            Ok(0) => bail!("nothing within {deadline:?}"),
            Ok(_) => return Ok(()),
            Err(rustix::io::Errno::INTR) => {}
            Err(err) => return Err(err.into()),
        }
    }
}

/// Sends a signal.
pub fn signal(pid: u32, signal: Signal) -> Result<()> {
    let pid = Pid::from_raw(i32::try_from(pid)?).context("0 is no process")?;
    kill_process(pid, signal).with_context(|| format!("cannot signal process {pid:?}"))
}

/// Memory of a process that is in RAM now, in bytes.
pub fn resident_bytes(pid: u32) -> Result<u64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    let kib: u64 = status
        .lines()
        .find_map(|line| line.strip_prefix("VmRSS:"))
        .and_then(|rest| rest.trim().strip_suffix("kB"))
        .context("no VmRSS in the status of the process")?
        .trim()
        .parse()?;
    Ok(kib * 1024)
}

/// Time that a process has spent on processors since it started, in user and kernel mode.
pub fn cpu_time(pid: u32) -> Result<Duration> {
    let fields = stat_fields(pid)?;
    let ticks: u64 = fields.get(11).context("short stat")?.parse::<u64>()?
        + fields.get(12).context("short stat")?.parse::<u64>()?;
    let ticks_per_second = rustix::param::clock_ticks_per_second();
    Ok(Duration::from_millis(ticks * 1000 / ticks_per_second))
}

/// When a process started, in clock ticks since boot: with the pid, it names a process for good.
pub(super) fn start_ticks(pid: u32) -> Result<u64> {
    Ok(stat_fields(pid)?.get(19).context("short stat")?.parse()?)
}

/// The fields of `/proc/PID/stat` after the program's name, which may itself hold blanks: state is number 0.
fn stat_fields(pid: u32) -> Result<Vec<String>> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    let (_, rest) = stat.rsplit_once(')').context("stat without a name")?;
    Ok(rest.split_whitespace().map(str::to_owned).collect())
}
