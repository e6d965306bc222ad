//! Kawanan on the lab's hosts, in turn with the bare engines, so that both see the same machine.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use tests::lab::{Cluster, Host, binaries, process};

use super::measure::{idle_cpu, time_until_running, wait_empty, wait_running};
use super::report::{Report, System};
use super::{COUNTS, IMAGE, Options, bare, measure};

/// After a rollout: caches are warm, and what was only needed for it can be given back.
const SETTLE: Duration = Duration::from_secs(5);
const IDLE_SPAN: Duration = Duration::from_secs(20);

pub fn measure(options: &Options, hosts: Vec<Host>, report: &mut Report) -> Result<()> {
    let size = std::fs::metadata(binaries::path("agent")?)?.len();
    report.binary_bytes = Some(size);
    let (first, others) = hosts.split_first().context("three hosts")?;
    first.start_agent_init()?;
    let token = first.token("")?;
    for host in others {
        let begin = Instant::now();
        host.join(&token)?;
        report.join(System::Kawanan, begin.elapsed());
    }
    let cluster = Cluster::of(hosts.clone());
    cluster.wait_ready(3)?;
    for _ in 0..options.rounds {
        for count in COUNTS {
            if options.systems.bare {
                bare::measure_count(options, &hosts, count, report)?;
            }
            let create = format!("service create --detach --name bench --replicas {count} {IMAGE}");
            let order = || first.kawan(&create)?.ok().map(drop);
            report.create(
                System::Kawanan,
                count,
                time_until_running(&hosts, count, order)?,
            );
            first.kawan("service rm bench")?.ok()?;
            wait_empty(&hosts)?;
        }
    }
    measure_size(&cluster, report)?;
    for host in &hosts {
        host.stop_agent()?;
    }
    Ok(())
}

/// Memory and idle processor time with the largest service running.
fn measure_size(cluster: &Cluster, report: &mut Report) -> Result<()> {
    let count = COUNTS[COUNTS.len() - 1];
    let first = cluster.node(0);
    first
        .kawan(&format!(
            "service create --detach --name bench --replicas {count} {IMAGE}"
        ))?
        .ok()?;
    wait_running(cluster.nodes(), count, measure::DEADLINE)?;
    std::thread::sleep(SETTLE);
    let leader = cluster.leader()?.agent_pid().context("the leader runs")?;
    let pids: Vec<u32> = cluster.nodes().iter().filter_map(Host::agent_pid).collect();
    let cpu = idle_cpu(&pids, IDLE_SPAN)?;
    report.idle(System::Kawanan, cpu.into_iter().fold(0.0, f64::max));
    for pid in pids {
        report.memory(
            System::Kawanan,
            pid == leader,
            process::resident_bytes(pid)?,
        );
    }
    first.kawan("service rm bench")?.ok()?;
    wait_empty(cluster.nodes())
}
