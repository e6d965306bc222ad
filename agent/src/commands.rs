//! `agent init | join | run | leave | status | token | proxy`: reads the flags and makes one call each.
//!
//! Errors end here: worded for a person, cause first, then what to do, on stderr, with an exit code.

mod init;
mod join;
mod leave;
mod run;
mod status;
mod systemd;
mod token;

use std::process::ExitCode;

use clap::{CommandFactory, Parser, Subcommand};
use kawanan_api::ApiError;
use tracing_subscriber::EnvFilter;

use crate::config::Settings;

/// Kawanan's daemon: joins machines into one place to run containers.
#[derive(Debug, Parser)]
#[command(name = "agent", version, propagate_version = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Found a new cluster on this machine
    Init(init::Init),
    /// Enter a cluster with a join token
    Join(join::Join),
    /// Run the agent of a machine that was set up with init or join
    Run(run::Run),
    /// Give this machine's tasks away, leave the cluster and forget it
    Leave(leave::Leave),
    /// Show this node and its cluster
    Status(status::Status),
    /// Create, list, revoke and rotate join tokens
    Token(token::TokenCommand),
    /// Pass connections to published ports on to containers (the agent starts this itself)
    #[command(hide = true)]
    Proxy(run::Proxy),
    /// Print the completion script of a shell
    Completion { shell: clap_complete::Shell },
    /// Print the reference of all commands as Markdown
    #[command(hide = true)]
    Docs,
}

/// Parses the command line and does what it says.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_logging();
    let done = match cli.command {
        Command::Init(command) => command.run(),
        Command::Join(command) => command.run(),
        Command::Run(command) => command.run(),
        Command::Leave(command) => command.run(),
        Command::Status(command) => command.run(),
        Command::Token(command) => command.run(),
        Command::Proxy(command) => command.run(),
        Command::Completion { shell } => {
            clap_complete::generate(shell, &mut Cli::command(), "agent", &mut std::io::stdout());
            Ok(())
        }
        Command::Docs => {
            print!("{}", clap_markdown::help_markdown_command(&Cli::command()));
            Ok(())
        }
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            eprintln!("error: {failure}");
            if let Some(hint) = &failure.hint {
                eprintln!("hint: {hint}");
            }
            ExitCode::FAILURE
        }
    }
}

/// Logs go to stderr; `AGENT_LOG` chooses (`info` unless told otherwise, syntax of tracing's `EnvFilter`).
fn start_logging() {
    let filter = EnvFilter::try_from_env("AGENT_LOG").unwrap_or_else(|_| {
        EnvFilter::new("info,chitchat=error,quinn=warn,quinn_proto=error,rustls=warn")
    });
    let in_journal = std::env::var_os("JOURNAL_STREAM").is_some();
    let logger = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr())
        && std::env::var_os("NO_COLOR").is_none();
    if in_journal {
        logger.without_time().with_ansi(false).init();
    } else {
        logger.with_ansi(ansi).init();
    }
}

/// Why a command did not do what it was asked.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
struct Failure {
    message: String,
    hint: Option<String>,
}

impl Failure {
    fn new(message: impl Into<String>) -> Self {
        Self {
            message: message.into(),
            hint: None,
        }
    }

    fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self {
            message: error.message,
            hint: error.hint,
        }
    }
}

impl From<crate::config::ConfigError> for Failure {
    fn from(error: crate::config::ConfigError) -> Self {
        Self::new(error.to_string())
    }
}

/// A runtime for the daemon: two threads do on machines with one core as well as on larger ones, because all heavy
/// work is the engine's; a fixed number keeps memory the same everywhere.
fn daemon_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(8)
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start the agent's threads: {err}")))
}

/// A runtime for a command that only asks the running agent.
fn client_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(|err| Failure::new(format!("cannot start: {err}")))
}

/// Where the running agent of this machine listens.
#[derive(Debug, Clone, clap::Args)]
struct RunDir {
    /// Directory for sockets
    #[arg(long, env = "AGENT_RUN_DIR", value_name = "DIR", default_value = crate::config::DEFAULT_RUN_DIR)]
    run_dir: std::path::PathBuf,
}

impl From<&Settings> for RunDir {
    fn from(settings: &Settings) -> Self {
        Self {
            run_dir: settings.run_dir.clone(),
        }
    }
}
