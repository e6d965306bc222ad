//! `kawan node ls`.

use clap::Args;
use kawanan_api::views::{Availability, NodeStatus, NodeView};

use crate::commands::service::ps::capital;
use crate::connect::Context;
use crate::failure::Failure;
use crate::filter::Filters;
use crate::print;
use crate::print::table::{Cell, Table, Tone};

#[derive(Debug, Args)]
pub struct Ls {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show some only: name=, id=, label=KEY[=VALUE], status= or availability=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not shorten ids and texts
    #[arg(long)]
    no_trunc: bool,
}

impl Ls {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let filters = Filters::parse(
            &self.filter,
            &["name", "id", "label", "status", "availability"],
        )?;
        let mut nodes = context.client.nodes().await?;
        nodes.retain(|node| {
            filters.fits_name("name", &node.name)
                && filters.fits_id(&node.id.to_string())
                && filters.fits_labels(&node.labels)
                && filters.fits("status", |status| status == node.status.to_string())
                && filters.fits("availability", |availability| {
                    availability == node.availability.to_string()
                })
        });
        if context.wants_json() {
            return print::json(&nodes);
        }
        if self.quiet {
            return nodes
                .iter()
                .try_for_each(|node| print::line(&node.id.to_string()));
        }
        let headings = [
            "ID",
            "NAME",
            "STATUS",
            "AVAILABILITY",
            "ROLE",
            "TASKS",
            "ADDRESS",
            "ENGINE",
            "AGENT",
        ];
        let mut table = Table::new(&headings).flexible("NAME");
        for node in &nodes {
            let id = if self.no_trunc {
                node.id.to_string()
            } else {
                node.id.short()
            };
            let mark = if node.is_self { " *" } else { "" };
            table.row(vec![
                format!("{id}{mark}").into(),
                node.name.as_str().into(),
                status(node),
                availability(node),
                role(node).into(),
                node.tasks.to_string().into(),
                node.address.as_str().into(),
                node.engine_version.as_str().into(),
                node.version.as_str().into(),
            ]);
        }
        table.print(context.style)
    }
}

pub fn status(node: &NodeView) -> Cell {
    let tone = match node.status {
        NodeStatus::Ready => Tone::Good,
        NodeStatus::Suspect => Tone::Changing,
        NodeStatus::Down => Tone::Bad,
        NodeStatus::Left => Tone::Faint,
    };
    Cell::toned(capital(&node.status.to_string()), tone)
}

fn availability(node: &NodeView) -> Cell {
    let tone = match node.availability {
        Availability::Active => Tone::Plain,
        Availability::Pause | Availability::Drain => Tone::Changing,
    };
    Cell::toned(capital(&node.availability.to_string()), tone)
}

/// Docker's `MANAGER STATUS`, in our words.
pub fn role(node: &NodeView) -> &'static str {
    match (node.leader, node.voter) {
        (true, _) => "Leader",
        (false, true) => "Voter",
        (false, false) => "",
    }
}
