//! `agent status`: this node and its cluster, as the running agent sees them.

use clap::Args;
use kawanan_api::views::ClusterView;

use super::{Failure, RunDir, client_runtime, token};

/// Show this node and its cluster.
#[derive(Debug, Args)]
pub(super) struct Status {
    /// Print JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    at: RunDir,
}

impl Status {
    pub(super) fn run(self) -> Result<(), Failure> {
        let cluster =
            client_runtime()?.block_on(async { token::local_client(&self.at).cluster().await })?;
        if self.json {
            let json = serde_json::to_string_pretty(&cluster)
                .map_err(|err| Failure::new(err.to_string()))?;
            println!("{json}");
        } else {
            print(&cluster);
        }
        Ok(())
    }
}

fn print(cluster: &ClusterView) {
    let id = cluster
        .id
        .map_or_else(|| "none yet".to_owned(), |id| id.to_string());
    let leader = cluster
        .leader_name
        .as_deref()
        .unwrap_or("none: writes wait until a majority of the voters is back");
    println!(
        "Node:      {} ({})",
        cluster.this_node_name, cluster.this_node
    );
    println!("Cluster:   {id}");
    println!("Leader:    {leader}");
    println!(
        "Nodes:     {} ready of {}",
        cluster.nodes_ready, cluster.nodes
    );
    let losses = match cluster.losses_tolerated {
        0 => "the loss of one more stops writes; tasks go on".to_owned(),
        losses => format!("writes survive the loss of {losses} more"),
    };
    println!(
        "Voters:    {} ready of {}: {losses}",
        cluster.voters_ready, cluster.voters
    );
    println!(
        "Services:  {}, running {} tasks",
        cluster.services, cluster.tasks_running
    );
    println!("Log:       at revision {}", cluster.revision);
    if cluster.healthy {
        println!("Health:    all is well");
    } else {
        println!("Health:    needs attention");
        for problem in &cluster.problems {
            println!("  - {problem}");
        }
    }
}
