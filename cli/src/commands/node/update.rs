//! `kawan node update`.

use clap::Args;
use kawanan_api::views::{Availability, NodePatch};

use crate::connect::Context;
use crate::failure::Failure;
use crate::parse::pairs;
use crate::print;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kawan node update --label-add disk=ssd n2\n  \
    kawan node update --availability active n2")]
pub struct Update {
    /// active: takes tasks; pause: keeps its tasks, takes no new ones; drain: gives them to other nodes
    #[arg(long, value_name = "AVAILABILITY")]
    availability: Option<Availability>,
    /// Set a label: KEY=VALUE
    #[arg(long, value_name = "LABEL", value_parser = pairs::label)]
    label_add: Vec<(String, String)>,
    /// Remove a label
    #[arg(long, value_name = "KEY")]
    label_rm: Vec<String>,
    /// The node: name, id, or the beginning of its id
    #[arg(value_name = "NODE")]
    node: String,
}

impl Update {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        if self.availability.is_none() && self.label_add.is_empty() && self.label_rm.is_empty() {
            return Err(Failure::usage(
                "nothing to change: give --availability, --label-add or --label-rm",
            ));
        }
        if !self.label_rm.is_empty() {
            let node = context.client.node(&self.node).await?.node;
            if let Some(key) = self
                .label_rm
                .iter()
                .find(|key| !node.labels.contains_key(*key))
            {
                return Err(Failure::other(format!(
                    "node {} has no label `{key}`",
                    node.name
                )));
            }
        }
        let patch = NodePatch {
            availability: self.availability,
            set_labels: self.label_add.into_iter().collect(),
            remove_labels: self.label_rm.into_iter().collect(),
        };
        let written = context.client.patch_node(&self.node, &patch).await?;
        if context.wants_json() {
            return print::json(&written);
        }
        print::line(&print::harmless(&written.name))
    }
}
