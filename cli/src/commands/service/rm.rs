//! `kawan service rm`.

use clap::Args;

use crate::commands::each;
use crate::connect::Context;
use crate::failure::Failure;
use crate::print;

#[derive(Debug, Args)]
pub struct Rm {
    /// Services: name, id, or the beginning of an id
    #[arg(value_name = "SERVICE", required = true)]
    services: Vec<String>,
}

impl Rm {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let context = &context;
        each(&self.services, |service| async move {
            let written = context.client.remove_service(&service).await?;
            if context.wants_json() {
                return print::json(&written);
            }
            print::line(&print::harmless(&written.name))
        })
        .await
    }
}
