//! The demo of `tests/demo.sh`: types what a user would type, on three hosts of a lab, and shows what comes back.

use std::collections::BTreeSet;
use std::env;
use std::io::IsTerminal;
use std::process::{ExitCode, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use tests::lab::{self, Cluster, Host, Lab, process, wait_until};

const SERVICE: &str = "web";
const REPLICAS: usize = 6;
const COMMAND_DEADLINE: Duration = Duration::from_secs(180);
/// Until a lost host's tasks run elsewhere.
const RECOVERY_DEADLINE: Duration = Duration::from_secs(120);

fn main() -> ExitCode {
    let outcome = match env::args().nth(1).as_deref() {
        None => Lab::run("demo", show),
        Some("--clean-up") => lab::sweep(),
        Some(_) => Err(anyhow::anyhow!("usage: demo [--clean-up]")),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(err) => {
            eprintln!("\nthe demo failed: {err:#}");
            ExitCode::FAILURE
        }
    }
}

fn show(lab: &Lab) -> Result<()> {
    let begin = Instant::now();
    let hosts = lab.start_hosts(&["n1", "n2", "n3"])?;
    say(&format!(
        "Three hosts are up after {:.1} s, each with its own network, processes and Docker Engine.",
        begin.elapsed().as_secs_f64()
    ));

    say("The first one founds a cluster; the others join with the token it prints.");
    let [first, second, third] = hosts.as_slice() else {
        bail!("three hosts were asked for")
    };
    typed(first, "agent init");
    first.start_agent_init()?;
    print!("{}", first.agent_output()?);
    let token = first.token("")?;
    for host in [second, third] {
        let begin = Instant::now();
        typed(
            host,
            &format!("agent join {}...", token.get(..24).unwrap_or(&token)),
        );
        host.join(&token)?;
        println!("ready after {:.2} s", begin.elapsed().as_secs_f64());
    }
    let cluster = Cluster::of(hosts);
    cluster.wait_ready(3)?;
    type_in(cluster.node(1), "kawan node ls")?;

    say("Any host takes commands: six replicas of a small web service, on port 8080.");
    type_in(
        cluster.node(2),
        "kawan service create --name web --replicas 6 --publish 8080:80 web:v1",
    )?;
    cluster.wait_running(SERVICE, REPLICAS)?;
    type_in(cluster.node(0), "kawan service ps web")?;
    ask_everybody(&cluster)?;

    let lost = cluster.leader()?.clone();
    say(&format!(
        "Now {} loses power: the leader, and two replicas with it.",
        lost.name()
    ));
    let begin = Instant::now();
    lost.power_off()?;
    let left: Vec<&Host> = cluster.living().collect();
    let witness = *left.first().context("two hosts are left")?;
    wait_until("the service is whole again", RECOVERY_DEADLINE, || {
        let mut running = 0;
        for host in &left {
            let tasks = host.engine().containers_of(SERVICE)?;
            running += tasks.iter().filter(|task| task.is_running()).count();
        }
        ensure!(running == REPLICAS, "{running} of {REPLICAS} replicas run");
        Ok(())
    })?;
    say(&format!(
        "The service is whole again after {:.1} s, with a new leader. Nobody typed anything.",
        begin.elapsed().as_secs_f64()
    ));
    cluster.wait_running_on(&left, SERVICE, REPLICAS)?;
    type_in(witness, "kawan node ls")?;
    type_in(witness, "kawan service ps web")?;
    ask_everybody(&cluster)?;
    say("That is all. Hosts, networks, containers and files of this demo are being removed.");
    Ok(())
}

/// Asks each living host for the page, and shows which replicas answered.
fn ask_everybody(cluster: &Cluster) -> Result<()> {
    let living: Vec<&Host> = cluster.living().collect();
    let asking = *living.last().context("a host is left")?;
    let mut answers = BTreeSet::new();
    for target in &living {
        let line = format!("curl -s http://{}:8080/", target.name());
        typed(asking, &line);
        for _ in 0..2 {
            let page = wait_until("the page comes", Duration::from_secs(20), || {
                asking.http_get(target, 8080, "/")
            })?;
            print!("{}", page.body);
            answers.insert(page.body);
        }
    }
    ensure!(!answers.is_empty(), "nobody answers");
    Ok(())
}

fn say(sentence: &str) {
    println!("\n{}", painted(sentence, "1"));
}

fn typed(host: &Host, line: &str) {
    println!("{} {line}", painted(&format!("{}#", host.name()), "36"));
}

/// Runs a command line on a host with this terminal as its output.
fn type_in(host: &Host, line: &str) -> Result<()> {
    typed(host, line);
    let mut command = host.machine().command("bash");
    command
        .args(["-c", line])
        .stdout(Stdio::inherit())
        .stderr(Stdio::inherit());
    let mut child = host.machine().spawn(&mut command)?;
    let Some(status) = process::wait(&mut child, COMMAND_DEADLINE)? else {
        child.kill()?;
        child.wait()?;
        bail!("`{line}` is not done after {COMMAND_DEADLINE:?}");
    };
    ensure!(status.success(), "`{line}` ended with {status}");
    Ok(())
}

/// Colors are for terminals.
fn painted(text: &str, code: &str) -> String {
    let plain =
        !std::io::stdout().is_terminal() || env::var_os("NO_COLOR").is_some_and(|v| !v.is_empty());
    if plain {
        text.to_owned()
    } else {
        format!("\u{1b}[{code}m{text}\u{1b}[0m")
    }
}
