//! Docker Swarm on the lab's engines: the same orders, in Docker's own words.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use tests::lab::{Host, process, wait_until};

use super::measure::{idle_cpu, time_until_running, wait_empty, wait_running};
use super::report::{Report, System};
use super::{COUNTS, IMAGE, Options, measure};

const READY_DEADLINE: Duration = Duration::from_secs(60);
const SETTLE: Duration = Duration::from_secs(5);
const IDLE_SPAN: Duration = Duration::from_secs(20);

pub fn measure(options: &Options, hosts: &[Host], report: &mut Report) -> Result<()> {
    let (first, others) = hosts.split_first().context("three hosts")?;
    first.docker(&format!("swarm init --advertise-addr {}", first.address()))?;
    let token = first.docker("swarm join-token -q manager")?;
    for (number, host) in others.iter().enumerate() {
        let begin = Instant::now();
        host.docker(&format!(
            "swarm join --token {token} {}:2377",
            first.address()
        ))?;
        wait_until("the node is ready", READY_DEADLINE, || {
            let nodes = first.engine().call("GET", "/nodes", None)?.json()?;
            let nodes = nodes.as_array().context("nodes are no array")?;
            let ready = nodes
                .iter()
                .filter(|node| node["Status"]["State"] == "ready")
                .count();
            ensure!(ready == number + 2, "{ready} nodes are ready");
            Ok(())
        })?;
        report.join(System::Swarm, begin.elapsed());
    }
    let create = |count: usize| {
        let line = format!(
            "service create -d -q --no-resolve-image --name bench --replicas {count} {IMAGE}"
        );
        first.docker(&line).map(drop)
    };
    for _ in 0..options.rounds {
        for count in COUNTS {
            report.create(
                System::Swarm,
                count,
                time_until_running(hosts, count, || create(count))?,
            );
            first.docker("service rm bench")?;
            wait_empty(hosts)?;
        }
    }

    let count = COUNTS[COUNTS.len() - 1];
    create(count)?;
    wait_running(hosts, count, measure::DEADLINE)?;
    std::thread::sleep(SETTLE);
    let pids: Vec<u32> = hosts
        .iter()
        .filter_map(|host| host.engine().pid())
        .collect();
    let cpu = idle_cpu(&pids, IDLE_SPAN)?;
    report.idle(System::Swarm, cpu.into_iter().fold(0.0, f64::max));
    for (index, pid) in pids.into_iter().enumerate() {
        report.memory(System::Swarm, index == 0, process::resident_bytes(pid)?);
    }
    first.docker("service rm bench")?;
    wait_empty(hosts)?;
    for host in hosts.iter().rev() {
        host.docker("swarm leave --force")?;
    }
    Ok(())
}
