//! `kawan service scale`.

use clap::Args;
use kawanan_api::views::ScaleServices;

use super::follow_up::{FollowUp, Waiting};
use crate::connect::Context;
use crate::failure::Failure;
use crate::parse::pairs;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kawan service scale web=6 worker=2")]
pub struct Scale {
    #[command(flatten)]
    waiting: Waiting,
    /// Services and how many tasks each shall have; all change, or none
    #[arg(value_name = "SERVICE=REPLICAS", required = true, value_parser = pairs::scale)]
    services: Vec<(String, u32)>,
}

impl Scale {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let scale = ScaleServices {
            replicas: self.services.iter().cloned().collect(),
        };
        if scale.replicas.len() < self.services.len() {
            return Err(Failure::usage("a service is named twice"));
        }
        let written = context.client.scale(&scale).await?;
        FollowUp::of_scale(&context, &self.waiting, written, &scale)
            .run()
            .await
    }
}
