//! `kawan service`.

pub mod create;
mod follow_up;
pub mod inspect;
mod judge;
pub mod logs;
pub mod ls;
pub mod ps;
pub mod rm;
pub mod scale;
mod shape;
pub mod update;

use clap::Subcommand;

use crate::connect::Context;
use crate::failure::Failure;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Create a service and wait until it runs
    Create(Box<create::Create>),
    /// List services
    #[command(visible_alias = "list")]
    Ls(ls::Ls),
    /// List the tasks of services, with those before them
    Ps(ps::Ps),
    /// Show everything about services
    Inspect(inspect::Inspect),
    /// Change a service, a few tasks at a time
    Update(Box<update::Update>),
    /// Change the number of replicas
    Scale(scale::Scale),
    /// Remove services and their containers
    #[command(visible_alias = "remove")]
    Rm(rm::Rm),
    /// Show what the containers of a service write, from all nodes, in order of time
    Logs(logs::Logs),
}

pub async fn run(context: Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Create(create) => create.run(context).await,
        Command::Ls(ls) => ls.run(context).await,
        Command::Ps(ps) => ps.run(context).await,
        Command::Inspect(inspect) => inspect.run(context).await,
        Command::Update(update) => update.run(context).await,
        Command::Scale(scale) => scale.run(context).await,
        Command::Rm(rm) => rm.run(context).await,
        Command::Logs(logs) => logs.run(context).await,
    }
}
