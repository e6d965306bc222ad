//! `kawan node inspect`.

use clap::Args;
use kawanan_api::quantity::Bytes;
use kawanan_api::views::{AmountsView, NodeDetail};

use crate::connect::Context;
use crate::failure::Failure;
use crate::flags::Output;
use crate::print::{self, age};

#[derive(Debug, Args)]
pub struct Inspect {
    /// For people: the most important facts, one per line
    #[arg(long)]
    pretty: bool,
    /// Nodes: name, id, the beginning of an id, or `self` for the one that answers
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

impl Inspect {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut details = Vec::new();
        for node in &self.nodes {
            details.push(context.client.node(node).await?);
        }
        if !self.pretty && context.output != Some(Output::Table) {
            return print::json(&details);
        }
        for (number, detail) in details.iter().enumerate() {
            if number > 0 {
                print::line("")?;
            }
            pretty(&context, detail)?;
        }
        Ok(())
    }
}

fn pretty(context: &Context, detail: &NodeDetail) -> Result<(), Failure> {
    let node = &detail.node;
    let fact = |name: &str, value: String| {
        if value.is_empty() {
            return Ok(());
        }
        let name = format!("{:<13}", format!("{name}:"));
        print::line(&format!(
            "{} {}",
            context.style.faint(&name),
            print::harmless(&value)
        ))
    };
    let role = match super::ls::role(node) {
        "" => String::new(),
        role => format!(", {}", role.to_lowercase()),
    };
    fact("ID", node.id.to_string())?;
    fact("Name", node.name.clone())?;
    let since = age::ago_inside(detail.status_at, context.now);
    fact(
        "Status",
        format!("{} ({since}), {}{role}", node.status, node.availability),
    )?;
    fact("Address", node.address.clone())?;
    let labels = node
        .labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"));
    fact("Labels", labels.collect::<Vec<_>>().join(" "))?;
    fact("Platform", format!("{}/{}", detail.os, detail.arch))?;
    fact("Capacity", amounts(node.capacity))?;
    fact("Reserved", amounts(node.reserved))?;
    fact("Tasks", format!("{} running", node.tasks))?;
    fact("Engine", node.engine_version.clone())?;
    fact("Agent", node.version.clone())?;
    fact("Joined", age::ago(node.joined_at, context.now))
}

fn amounts(amounts: AmountsView) -> String {
    format!("{} cpus, {} of memory", amounts.cpus, Bytes(amounts.memory))
}
