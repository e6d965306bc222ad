//! `kawan node rm`.

use clap::Args;

use crate::commands::each;
use crate::connect::Context;
use crate::failure::Failure;
use crate::print;

#[derive(Debug, Args)]
pub struct Rm {
    /// Also a node that is up: it is cut off at once
    #[arg(short, long)]
    force: bool,
    /// Nodes: name, id, or the beginning of an id
    #[arg(value_name = "NODE", required = true)]
    nodes: Vec<String>,
}

impl Rm {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let (context, force) = (&context, self.force);
        each(&self.nodes, |node| async move {
            let written = context.client.remove_node(&node, force).await?;
            if context.wants_json() {
                return print::json(&written);
            }
            print::line(&print::harmless(&written.name))
        })
        .await
    }
}
