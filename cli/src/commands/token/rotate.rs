//! `kawan token rotate`.

use clap::Args;

use super::create::show;
use crate::connect::Context;
use crate::failure::Failure;

#[derive(Debug, Args)]
pub struct Rotate {
    /// Print the new token only
    #[arg(short, long)]
    quiet: bool,
    /// The token to replace: its id, or the beginning of it; every valid one if left out
    #[arg(value_name = "TOKEN")]
    token: Option<String>,
}

impl Rotate {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let created = context.client.rotate_token(self.token.as_deref()).await?;
        show(&context, &created, self.quiet)?;
        if !created.revoked.is_empty() && !self.quiet && !context.wants_json() {
            let revoked: Vec<String> = created.revoked.iter().map(|id| id.short()).collect();
            eprintln!("Revoked: {}", revoked.join(", "));
        }
        Ok(())
    }
}
