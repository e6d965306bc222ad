//! The words that `kawan` understands. What they do is in `commands/`.

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::commands::{cluster, completion, docs, node, service, token};

/// Run containers on a handful of machines as if they were one.
#[derive(Debug, Parser)]
#[command(
    name = "kawan",
    version,
    propagate_version = false,
    disable_help_subcommand = true,
    arg_required_else_help = true,
    after_help = "Examples:\n  \
        kawan service create --name web --replicas 3 --publish 8080:80 nginx\n  \
        kawan ls\n  \
        kawan --host ssh://root@10.0.0.2 node ls\n\n\
        Exit codes: 0 done, 1 error, 2 usage, 3 rollout failed, 4 cannot be placed,\n\
        5 timed out and still in progress, 6 no leader or cluster unreachable"
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Flags that go with every command.
#[derive(Debug, Args)]
pub struct Global {
    /// Where an agent answers; several with commas between them are tried in turn
    ///
    /// unix:///path/to/api.sock, or ssh://[user@]machine[:port] for a machine with kawan installed.
    #[arg(
        short = 'H',
        long,
        env = "KAWAN_HOST",
        global = true,
        value_name = "URL",
        default_value = concat!("unix://", "/run/kawanan/api.sock"),
        hide_default_value = false
    )]
    pub host: String,
    /// Tables for people, or JSON for programs
    #[arg(short, long, global = true, value_enum, value_name = "FORMAT")]
    pub output: Option<Output>,
    /// Show nothing that is older than this command; fails without a leader
    #[arg(long, global = true)]
    pub consistent: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    Table,
    Json,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Services: what should run
    #[command(subcommand, visible_alias = "services")]
    Service(service::Command),
    /// Nodes: the machines
    #[command(subcommand, visible_alias = "nodes")]
    Node(node::Command),
    /// Tokens: permissions to join
    #[command(subcommand, visible_alias = "tokens")]
    Token(token::Command),
    /// The cluster as a whole
    #[command(subcommand)]
    Cluster(cluster::Command),
    /// How the cluster is: short for `cluster info`
    Info(cluster::info::Info),
    /// List services: short for `service ls`
    #[command(alias = "list")]
    Ls(service::ls::Ls),
    /// List tasks: short for `service ps`, for all services if none is named
    Ps(service::ps::Ps),
    /// Show what containers write: short for `service logs`
    Logs(service::logs::Logs),
    /// Change the number of replicas: short for `service scale`
    Scale(service::scale::Scale),
    /// Remove services: short for `service rm`
    #[command(alias = "remove")]
    Rm(service::rm::Rm),
    /// The versions of kawan and of the agent that answers
    Version,
    /// Print the completion script for a shell
    Completion(completion::Completion),
    /// Print this reference as Markdown
    #[command(hide = true)]
    Docs(docs::Docs),
    /// Connect standard input and output to the agent's socket: the far end of ssh://
    #[command(hide = true)]
    DialStdio,
}
