//! `kawan cluster`.

pub mod info;

use clap::Subcommand;

#[derive(Debug, Subcommand)]
pub enum Command {
    /// How the cluster is, and what is wrong with it
    Info(info::Info),
}
