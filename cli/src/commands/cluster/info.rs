//! `kawan cluster info`.

use clap::Args;
use kawanan_api::views::ClusterView;

use crate::connect::Context;
use crate::failure::Failure;
use crate::print::{self, age};

#[derive(Debug, Args)]
pub struct Info {}

impl Info {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let cluster = context.client.cluster().await?;
        if context.wants_json() {
            return print::json(&cluster);
        }
        let style = context.style;
        let fact = |name: &str, value: String| {
            let name = format!("{:<11}", format!("{name}:"));
            print::line(&format!(
                "{} {}",
                style.faint(&name),
                print::harmless(&value)
            ))
        };
        fact(
            "Cluster",
            cluster
                .id
                .map_or_else(|| "none yet".to_owned(), |id| id.to_string()),
        )?;
        if let Some(created) = cluster.created_at {
            fact("Created", age::ago(created, context.now))?;
        }
        fact("This node", cluster.this_node_name.clone())?;
        fact(
            "Leader",
            cluster
                .leader_name
                .clone()
                .unwrap_or_else(|| "none".to_owned()),
        )?;
        fact(
            "Nodes",
            format!("{} of {} ready", cluster.nodes_ready, cluster.nodes),
        )?;
        fact("Voters", voters(&cluster))?;
        fact(
            "Services",
            format!(
                "{}, {} tasks running",
                cluster.services, cluster.tasks_running
            ),
        )?;
        if cluster.healthy {
            return print::line(&format!(
                "{} {}",
                style.faint("Health:    "),
                style.good("good")
            ));
        }
        print::line(&format!(
            "{} {}",
            style.faint("Health:    "),
            style.bad("not good")
        ))?;
        cluster
            .problems
            .iter()
            .try_for_each(|problem| print::line(&format!("  - {}", print::harmless(problem))))
    }
}

fn voters(cluster: &ClusterView) -> String {
    let stand = match cluster.losses_tolerated {
        0 => "no more may fail".to_owned(),
        1 => "one more may fail".to_owned(),
        losses => format!("{losses} more may fail"),
    };
    format!(
        "{} of {} ready, {stand}",
        cluster.voters_ready, cluster.voters
    )
}
