//! `kawan node`.

pub mod drain;
pub mod inspect;
pub mod ls;
pub mod ps;
pub mod rm;
pub mod update;

use clap::Subcommand;

use crate::connect::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// List nodes
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// Show everything about nodes
    Inspect(inspect::Inspect),
    /// List the tasks on nodes
    Ps(ps::Ps),
    /// Set labels, or whether a node takes tasks
    Update(update::Update),
    /// Move all tasks to other nodes, and say when the machine is free
    Drain(drain::Drain),
    /// Forget nodes that are down or left
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
}

pub async fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Ls(ls) => ls.run(context).await,
        Command::Inspect(inspect) => inspect.run(context).await,
        Command::Ps(ps) => ps.run(context).await,
        Command::Update(update) => update.run(context).await,
        Command::Drain(drain) => drain.run(context).await,
        Command::Rm(rm) => rm.run(context).await,
    }
}
