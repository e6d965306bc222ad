//! `kawan token revoke`.

use clap::Args;

use crate::commands::each;
use crate::connect::Context;
use crate::failure::Failure;
use crate::print;

#[derive(Debug, Args)]
pub struct Revoke {
    /// Tokens: their ids, or the beginnings of them
    #[arg(value_name = "TOKEN", required = true)]
    tokens: Vec<String>,
}

impl Revoke {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let context = &context;
        each(&self.tokens, |token| async move {
            let written = context.client.revoke_token(&token).await?;
            if context.wants_json() {
                return print::json(&written);
            }
            print::line(&written.name)
        })
        .await
    }
}
