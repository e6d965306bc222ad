//! `agent leave`: gives this machine's tasks away, takes leave of the cluster and forgets it.
//!
//! In this order, so that nothing is lost when it stops half-way: drain (start-first, so services stay whole), goodbye
//! to the cluster (the leader takes the node out of the voters first), then stop the agent and delete what it knew.
//! Running it again continues.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use kawanan_api::client::Client;
use kawanan_api::views::{Availability, NodePatch};
use tokio::time::{Instant, sleep, timeout};

use super::{Failure, RunDir, client_runtime, run, systemd, token};
use crate::config::Settings;
use crate::identity::IdentityStore;

/// Give this machine's tasks away, leave the cluster and forget it.
#[derive(Debug, Args)]
pub(super) struct Leave {
    #[command(flatten)]
    settings: Settings,
    /// Do not wait for tasks to move, and leave even when the cluster cannot be told
    #[arg(long)]
    force: bool,
    /// Longest wait for the tasks to move, in seconds
    #[arg(long, value_name = "SECONDS", default_value_t = 300)]
    timeout: u64,
}

impl Leave {
    pub(super) fn run(self) -> Result<(), Failure> {
        let store = IdentityStore::in_data_directory(&self.settings.data_dir);
        let identity = match store.load() {
            Ok(Some(identity)) => Some(identity),
            Ok(None) => return Err(Failure::new("this machine belongs to no cluster")),
            Err(err) if self.force => {
                eprintln!("warning: {err}");
                None
            }
            Err(err) => {
                return Err(
                    Failure::new(err.to_string()).with_hint("`agent leave --force` leaves anyway")
                );
            }
        };
        let told = client_runtime()?.block_on(self.tell_cluster());
        if let Err(failure) = told {
            if !self.force {
                return Err(failure);
            }
            eprintln!("warning: the cluster could not be told: {failure}");
            if let Some(identity) = identity {
                eprintln!(
                    "warning: run `kawan node rm --force {}` on another node",
                    identity.node
                );
            }
        }
        if systemd::takes_over(&self.settings) {
            systemd::disable()?;
        }
        client_runtime()?.block_on(self.wait_for_end())?;
        forget(&self.settings.data_dir)?;
        println!("This machine has left the cluster.");
        Ok(())
    }

    async fn tell_cluster(&self) -> Result<(), Failure> {
        let client = token::local_client(&RunDir::from(&self.settings));
        let cluster = timeout(run::LOCAL_DEADLINE, client.cluster())
            .await
            .map_err(|_| Failure::new("the agent of this machine does not answer"))??;
        let me = cluster.this_node.to_string();
        let alone = cluster.nodes_ready <= 1;
        if !self.force && !alone {
            let patch = NodePatch {
                availability: Some(Availability::Drain),
                ..NodePatch::default()
            };
            client.patch_node(&me, &patch).await?;
            self.wait_for_drain(&client, &me).await?;
        }
        client.leave(alone).await?;
        Ok(())
    }

    async fn wait_for_drain(&self, client: &Client, me: &str) -> Result<(), Failure> {
        let deadline = Instant::now() + Duration::from_secs(self.timeout);
        let mut left_before = None;
        loop {
            let left = client.node(me).await?.node.tasks;
            if left == 0 {
                return Ok(());
            }
            if left_before != Some(left) {
                println!("{left} tasks are still moving to other nodes");
                left_before = Some(left);
            }
            if Instant::now() > deadline {
                return Err(Failure::new(format!("{left} tasks did not move within {} s", self.timeout)).with_hint(
                    "`kawan node ps` and `kawan service ps` say why; `agent leave --force` leaves without waiting",
                ));
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// The data directory is deleted only when no agent uses it any more.
    async fn wait_for_end(&self) -> Result<(), Failure> {
        let deadline = Duration::from_secs(20);
        let step = Duration::from_millis(100);
        let mut waited = Duration::ZERO;
        while crate::log_store::DirectoryLock::take(&self.settings.data_dir).is_err() {
            if waited >= deadline {
                return Err(Failure::new("the agent of this machine does not stop")
                    .with_hint("stop it, then run `agent leave --force` again"));
            }
            sleep(step).await;
            waited += step;
        }
        Ok(())
    }
}

/// Deletes what the agent knew. Identity goes first: without it the rest means nothing.
fn forget(data_dir: &Path) -> Result<(), Failure> {
    let failed = |path: PathBuf, err: std::io::Error| {
        Failure::new(format!("cannot delete {}: {err}", path.display()))
            .with_hint("delete it by hand")
    };
    IdentityStore::in_data_directory(data_dir)
        .clear()
        .map_err(|err| Failure::new(err.to_string()))?;
    let entries = match std::fs::read_dir(data_dir) {
        Ok(entries) => entries,
        Err(err) if err.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(err) => return Err(failed(data_dir.to_owned(), err)),
    };
    for entry in entries.flatten() {
        let path = entry.path();
        let removed = if path.is_dir() {
            std::fs::remove_dir_all(&path)
        } else {
            std::fs::remove_file(&path)
        };
        removed.map_err(|err| failed(path, err))?;
    }
    Ok(())
}
