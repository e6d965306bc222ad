//! How fast and how big: Kawanan, Docker Swarm and bare engines, side by side on the same three lab hosts in one run.
//!
//! `cargo build --release --workspace && sudo target/release/bench`. Every time is the median of several rounds, taken
//! by the same observer, who asks the three engines how many containers run. Swarm runs after Kawanan has left.

mod bare;
mod kawanan;
mod measure;
mod report;
mod swarm;

use std::env;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use tests::lab::{Host, Lab};

use measure::Systems;
use report::Report;

/// Replica counts that are timed.
pub const COUNTS: [usize; 3] = [3, 30, 100];
pub const IMAGE: &str = "web:v1";

const USAGE: &str = "usage: bench [--rounds N] [--parallel N] [--only bare,kawanan,swarm] [--check]
  --rounds N     measure everything N times and take the median (3)
  --parallel N   calls at a time for each engine when it is called directly (twice the processors)
  --only LIST    leave the other systems out
  --check        end with code 1 when a goal is missed";

pub struct Options {
    pub rounds: usize,
    /// Calls at a time for each engine: what an agent does, too.
    pub parallel: usize,
    pub systems: Systems,
    pub check: bool,
}

fn main() -> ExitCode {
    match options().and_then(|options| run(&options)) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(err) => {
            eprintln!("bench: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn options() -> Result<Options> {
    let processors = std::thread::available_parallelism()?.get();
    let mut options = Options {
        rounds: 3,
        parallel: 2 * processors,
        systems: Systems::all(),
        check: false,
    };
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        let mut number = || -> Result<usize> {
            let number: usize = arguments.next().context(USAGE)?.parse().context(USAGE)?;
            ensure!(number > 0, USAGE);
            Ok(number)
        };
        match argument.as_str() {
            "--rounds" => options.rounds = number()?,
            "--parallel" => options.parallel = number()?,
            "--only" => options.systems = Systems::parse(&arguments.next().context(USAGE)?)?,
            "--check" => options.check = true,
            _ => bail!(USAGE),
        }
    }
    Ok(options)
}

/// Whether every goal was reached, or nobody asked.
fn run(options: &Options) -> Result<bool> {
    if cfg!(debug_assertions) {
        eprintln!("bench: this is a debug build; its figures are not those of a release");
    }
    let mut report = Report::default();
    Lab::run("bench", |lab| {
        let hosts = lab.start_hosts(&["n1", "n2", "n3"])?;
        warm_up(&hosts)?;
        if options.systems.kawanan {
            kawanan::measure(options, hosts.clone(), &mut report)?;
        } else if options.systems.bare {
            for _ in 0..options.rounds {
                bare::measure_counts(options, &hosts, &mut report)?;
            }
        }
        if options.systems.swarm {
            swarm::measure(options, &hosts, &mut report)?;
        }
        Ok(())
    })?;
    println!("{}", report.table());
    Ok(!options.check || report.goals_are_reached())
}

/// The first container of an engine loads much from disk; it counts for nobody.
fn warm_up(hosts: &[Host]) -> Result<()> {
    for host in hosts {
        host.docker(&format!("run -d --name warm {IMAGE}"))?;
        host.docker("rm -f warm")?;
    }
    measure::wait_running(hosts, 0, Duration::from_secs(30))
}
