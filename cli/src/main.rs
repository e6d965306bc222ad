//! `kawan`: Kawanan's command line tool. Flags in, one API call or a few, tables or JSON out.
//!
//! Knows nothing of how the cluster works: it says what is wanted and shows what the API answers. Results go to
//! standard output, everything else (progress, errors, hints) to standard error.

mod clock;
mod commands;
mod connect;
mod failure;
mod filter;
mod flags;
mod names;
mod parse;
mod print;

use std::process::ExitCode;

use clap::Parser;

use crate::flags::Cli;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let runtime = match tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(err) => {
            eprintln!("error: cannot start: {err}");
            return ExitCode::from(failure::ERROR);
        }
    };
    let ended = runtime.block_on(commands::run(cli));
    // Standard input may hang in a blocking read; nothing else is worth waiting for.
    runtime.shutdown_background();
    match ended {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            failure.print();
            ExitCode::from(failure.code())
        }
    }
}
