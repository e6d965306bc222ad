//! `kawan node ps`.

use clap::Args;

use crate::commands::service::ps::ShowTasks;
use crate::connect::Context;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    show: ShowTasks,
    /// Nodes: name, id, or the beginning of an id; the one that answers if none is named
    #[arg(value_name = "NODE", default_value = "self")]
    nodes: Vec<String>,
}

impl Ps {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut tasks = Vec::new();
        for node in &self.nodes {
            tasks.extend(context.client.node(node).await?.task_list);
        }
        self.show.print(&context, tasks)
    }
}
