//! The observer that is the same for all systems, and the two figures of a process.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use tests::lab::{Host, process};

/// Between two looks of the observer. A look takes a few milliseconds of each engine.
const LOOK_EVERY: Duration = Duration::from_millis(25);
pub const DEADLINE: Duration = Duration::from_secs(300);

/// Which systems take part.
#[derive(Debug, Clone, Copy)]
pub struct Systems {
    pub bare: bool,
    pub kawanan: bool,
    pub swarm: bool,
}

impl Systems {
    pub fn all() -> Self {
        Self {
            bare: true,
            kawanan: true,
            swarm: true,
        }
    }

    pub fn parse(list: &str) -> Result<Self> {
        let mut systems = Self {
            bare: false,
            kawanan: false,
            swarm: false,
        };
        for name in list.split(',') {
            match name {
                "bare" => systems.bare = true,
                "kawanan" => systems.kawanan = true,
                "swarm" => systems.swarm = true,
                other => bail!("`{other}` is none of bare, kawanan, swarm"),
            }
        }
        Ok(systems)
    }
}

/// Waits until exactly this many containers run on the hosts together.
pub fn wait_running(hosts: &[Host], count: usize, deadline: Duration) -> Result<()> {
    let begin = Instant::now();
    loop {
        let mut running = 0;
        for host in hosts {
            running += host.engine().running_count()?;
        }
        if running == count {
            return Ok(());
        }
        ensure!(
            begin.elapsed() < deadline,
            "{running} of {count} containers run after {deadline:?}"
        );
        thread::sleep(LOOK_EVERY);
    }
}

/// Waits until the engines have no container any more, not even a stopped one.
pub fn wait_empty(hosts: &[Host]) -> Result<()> {
    let begin = Instant::now();
    for host in hosts {
        while !host.engine().containers()?.is_empty() {
            ensure!(
                begin.elapsed() < DEADLINE,
                "{} still has containers",
                host.name()
            );
            thread::sleep(LOOK_EVERY);
        }
    }
    Ok(())
}

/// Runs `order`, then waits for that many containers; how long both took together.
pub fn time_until_running(
    hosts: &[Host],
    count: usize,
    order: impl FnOnce() -> Result<()>,
) -> Result<Duration> {
    let begin = Instant::now();
    order()?;
    wait_running(hosts, count, DEADLINE)?;
    Ok(begin.elapsed())
}

/// The share of one processor that each process uses while nothing is asked of it.
pub fn idle_cpu(pids: &[u32], span: Duration) -> Result<Vec<f64>> {
    let before: Vec<Duration> = pids
        .iter()
        .map(|pid| process::cpu_time(*pid))
        .collect::<Result<_>>()?;
    thread::sleep(span);
    let after: Vec<Duration> = pids
        .iter()
        .map(|pid| process::cpu_time(*pid))
        .collect::<Result<_>>()?;
    let used = after
        .iter()
        .zip(&before)
        .map(|(after, before)| after.saturating_sub(*before));
    Ok(used
        .map(|used| used.as_secs_f64() / span.as_secs_f64())
        .collect())
}
