//! `kawan token`.

pub mod create;
pub mod ls;
pub mod revoke;
pub mod rotate;

use clap::Subcommand;

use crate::connect::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Make a token and print the command that joins a machine
    Create(create::Create),
    /// List tokens
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Make tokens useless
    #[command(visible_alias = "rm")]
    Revoke(revoke::Revoke),
    /// Make a new token and revoke the one, or all, before it
    Rotate(rotate::Rotate),
}

pub async fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create.run(context).await,
        Command::Ls(ls) => ls.run(context).await,
        Command::Revoke(revoke) => revoke.run(context).await,
        Command::Rotate(rotate) => rotate.run(context).await,
    }
}
