//! The engines called directly, without any orchestrator: what the containers themselves cost.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use anyhow::{Context, Result, ensure};
use serde_json::json;
use tests::lab::Host;

use super::measure::{time_until_running, wait_empty};
use super::report::{Report, System};
use super::{COUNTS, IMAGE, Options};

/// One round: every count once.
pub fn measure_counts(options: &Options, hosts: &[Host], report: &mut Report) -> Result<()> {
    for count in COUNTS {
        measure_count(options, hosts, count, report)?;
    }
    Ok(())
}

pub fn measure_count(
    options: &Options,
    hosts: &[Host],
    count: usize,
    report: &mut Report,
) -> Result<()> {
    let time = time_until_running(hosts, count, || {
        on_every_host(hosts, count, options.parallel, |host, number| {
            create(host, number)
        })
    })?;
    report.create(System::Bare, count, time);
    on_every_host(hosts, count, options.parallel, |host, number| {
        let path = format!("/containers/{}?force=1", name(number));
        let answer = host.engine().call("DELETE", &path, None)?;
        ensure!(answer.status == 204, "cannot remove: {}", answer.body);
        Ok(())
    })?;
    wait_empty(hosts)
}

fn name(number: usize) -> String {
    format!("bench.{number}")
}

fn create(host: &Host, number: usize) -> Result<()> {
    // About as many words as an orchestrator sends: names and labels cost the engine something, too.
    let labels: serde_json::Map<_, _> = (0..12)
        .map(|label| {
            (
                format!("bench.label.{label}"),
                json!(format!("value {number}")),
            )
        })
        .collect();
    let body = json!({ "Image": IMAGE, "Labels": labels, "Env": ["BENCH=1"] });
    let path = format!("/containers/create?name={}", name(number));
    let created = host.engine().call("POST", &path, Some(&body))?.json()?;
    let id = created["Id"].as_str().context("the engine gave no id")?;
    let started = host
        .engine()
        .call("POST", &format!("/containers/{id}/start"), None)?;
    ensure!(started.status == 204, "cannot start: {}", started.body);
    Ok(())
}

/// Does something `count` times, spread over the hosts, with this many calls at a time on each of them.
fn on_every_host(
    hosts: &[Host],
    count: usize,
    parallel: usize,
    work: impl Fn(&Host, usize) -> Result<()> + Sync,
) -> Result<()> {
    let queues: Vec<AtomicUsize> = (0..hosts.len()).map(AtomicUsize::new).collect();
    let (queues, work) = (&queues, &work);
    thread::scope(|scope| {
        let mut workers = Vec::new();
        for (index, host) in hosts.iter().enumerate() {
            for _ in 0..parallel {
                workers.push(scope.spawn(move || -> Result<()> {
                    loop {
                        let number = queues[index].fetch_add(hosts.len(), Ordering::Relaxed);
                        if number >= count {
                            return Ok(());
                        }
                        work(host, number)?;
                    }
                }));
            }
        }
        for worker in workers {
            worker
                .join()
                .unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        }
        Ok(())
    })
}
