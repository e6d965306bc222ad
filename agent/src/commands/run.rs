//! `agent run`, and what `init` and `join` share with it: checks before anything is written, and the foreground run.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;

use super::{Failure, RunDir, client_runtime, daemon_runtime, token};
use crate::agent::Agent;
use crate::config::Settings;
use crate::containers::docker::Docker;
use crate::containers::{ContainerRuntime, EngineInfo};
use crate::identity::IdentityStore;

/// Run the agent of a machine that was set up with `agent init` or `agent join`.
#[derive(Debug, Args)]
pub(super) struct Run {
    #[command(flatten)]
    settings: Settings,
}

impl Run {
    pub(super) fn run(self) -> Result<(), Failure> {
        in_foreground(self.settings, Announce::Nothing)
    }
}

/// The process that passes connections to published ports on.
#[derive(Debug, Args)]
pub(super) struct Proxy {
    /// Directory for its socket and its last table
    #[arg(long, value_name = "DIR")]
    dir: PathBuf,
}

impl Proxy {
    pub(super) fn run(self) -> Result<(), Failure> {
        daemon_runtime()?
            .block_on(crate::network::proxy::run(&self.dir))
            .map_err(|err| Failure::new(format!("the port proxy stopped: {err}")))
    }
}

/// What to print once the agent is ready.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Announce {
    Nothing,
    Founded,
    Joined,
}

/// Runs the agent until it is told to stop.
pub(super) fn in_foreground(settings: Settings, announce: Announce) -> Result<(), Failure> {
    let runtime = daemon_runtime()?;
    runtime.block_on(async {
        let agent = Agent::start(settings.clone()).await.map_err(|err| {
            let failure = Failure::new(err.to_string());
            match err.hint() {
                Some(hint) => failure.with_hint(hint),
                None => failure,
            }
        })?;
        agent.until_ready().await;
        let announced = match announce {
            Announce::Nothing => Ok(()),
            Announce::Founded => print_cluster(&settings).await,
            Announce::Joined => print_member(&settings).await,
        };
        if let Err(failure) = announced {
            tracing::error!(%failure, "the agent runs, but its first greeting failed");
        }
        agent
            .until_stopped()
            .await
            .map_err(|err| Failure::new(err.to_string()))
    })
}

/// Prints the greeting of `init` from the running service.
pub(super) fn announce_cluster(settings: &Settings) -> Result<(), Failure> {
    client_runtime()?.block_on(print_cluster(settings))
}

/// Prints the greeting of `join` from the running service.
pub(super) fn announce_member(settings: &Settings) -> Result<(), Failure> {
    client_runtime()?.block_on(print_member(settings))
}

async fn print_cluster(settings: &Settings) -> Result<(), Failure> {
    let client = token::local_client(&RunDir::from(settings));
    let cluster = client.cluster().await?;
    let created = token::create(&client, &token::Wish::default()).await?;
    let id = cluster.id.map(|id| id.to_string()).unwrap_or_default();
    println!(
        "Kawanan is ready: cluster {id}, node {} ({}).",
        cluster.this_node_name,
        cluster.this_node.short()
    );
    println!();
    println!("On each further machine, within 24 hours:");
    println!();
    println!("    agent join {}", created.join_token);
    println!();
    println!("Then run something, from any node:");
    println!();
    println!("    kawan service create --name web --replicas 3 --publish 8080:80 IMAGE");
    Ok(())
}

async fn print_member(settings: &Settings) -> Result<(), Failure> {
    let cluster = token::local_client(&RunDir::from(settings))
        .cluster()
        .await?;
    println!(
        "Node {} ({}) is ready in a cluster of {} nodes. `kawan node ls` shows them.",
        cluster.this_node_name,
        cluster.this_node.short(),
        cluster.nodes
    );
    Ok(())
}

/// `init` and `join` are for machines that belong to no cluster.
pub(super) fn refuse_second_membership(settings: &Settings) -> Result<(), Failure> {
    let store = IdentityStore::in_data_directory(&settings.data_dir);
    match store.load() {
        Ok(None) => Ok(()),
        Ok(Some(identity)) => Err(Failure::new(format!(
            "this machine is already node {} of cluster {}",
            identity.name, identity.cluster
        ))
        .with_hint("`agent run` starts its agent; `agent leave` makes it leave that cluster")),
        Err(err) => Err(Failure::new(err.to_string())),
    }
}

/// Makes the data and run directories, so that a missing right is noticed before a token is spent.
pub(super) fn prepare_directories(settings: &Settings) -> Result<(), Failure> {
    for dir in [&settings.data_dir, &settings.run_dir] {
        std::fs::create_dir_all(dir).map_err(|err| {
            Failure::new(format!("cannot create {}: {err}", dir.display()))
                .with_hint("run as root, or choose other places with --data-dir and --run-dir")
        })?;
        let probe = dir.join(".writable");
        let writable = std::fs::write(&probe, b"x").and_then(|()| std::fs::remove_file(&probe));
        writable.map_err(|err| {
            Failure::new(format!("cannot write to {}: {err}", dir.display()))
                .with_hint("run as root, and check that the disk is not full")
        })?;
    }
    Ok(())
}

/// A machine whose engine does not answer is told so before it enters a cluster. (A running agent waits for it.)
pub(super) fn require_engine(settings: &Settings) -> Result<EngineInfo, Failure> {
    let endpoint = settings.docker_endpoint();
    let hint = "is Docker installed and running? try `systemctl start docker`, or name its socket with --docker";
    let failed = |err: &dyn std::fmt::Display| Failure::new(err.to_string()).with_hint(hint);
    client_runtime()?.block_on(async {
        let docker = Docker::connect(&endpoint).map_err(|err| failed(&err))?;
        docker.info().await.map_err(|err| failed(&err))
    })
}

/// Somebody else on the port is noticed before a token is spent.
pub(super) fn require_free_port(settings: &Settings) -> Result<(), Failure> {
    match std::net::UdpSocket::bind(settings.listen()) {
        Ok(_) => Ok(()),
        Err(err) => Err(Failure::new(format!(
            "cannot listen on {} (UDP): {err}",
            settings.listen()
        ))
        .with_hint("another agent may run on this machine; choose another address with --listen")),
    }
}

/// Longest wait for a local agent to answer.
pub(super) const LOCAL_DEADLINE: Duration = Duration::from_secs(30);
