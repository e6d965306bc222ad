//! What each command does: one file per verb, one folder per noun.

pub mod cluster;
pub mod completion;
pub mod dial_stdio;
pub mod docs;
pub mod node;
pub mod service;
pub mod token;
pub mod version;

use std::future::Future;

use crate::connect::Context;
use crate::failure::Failure;
use crate::flags::{Cli, Command};

pub async fn run(cli: Cli) -> Result<(), Failure> {
    match cli.command {
        Command::Completion(completion) => return completion.run(),
        Command::Docs(docs) => return docs.run(),
        Command::DialStdio => return dial_stdio::run(&cli.global).await,
        _ => {}
    }
    let context = Context::new(&cli.global)?;
    match cli.command {
        Command::Service(command) => service::run(context, command).await,
        Command::Node(command) => node::run(context, command).await,
        Command::Token(command) => token::run(context, command).await,
        Command::Cluster(cluster::Command::Info(info)) | Command::Info(info) => {
            info.run(context).await
        }
        Command::Ls(ls) => ls.run(context).await,
        Command::Ps(ps) => ps.run(context).await,
        Command::Logs(logs) => logs.run(context).await,
        Command::Scale(scale) => scale.run(context).await,
        Command::Rm(rm) => rm.run(context).await,
        Command::Version => version::run(context).await,
        Command::Completion(_) | Command::Docs(_) | Command::DialStdio => Ok(()),
    }
}

/// Does the same to each of several objects. One that fails is reported and the others go on, as docker does it.
pub async fn each<F, W>(names: &[String], mut work: W) -> Result<(), Failure>
where
    W: FnMut(String) -> F,
    F: Future<Output = Result<(), Failure>>,
{
    let mut failures = Vec::new();
    for name in names {
        match work(name.clone()).await {
            Ok(()) => {}
            Err(Failure::OutputClosed) => return Err(Failure::OutputClosed),
            Err(failure) if names.len() == 1 => return Err(failure),
            Err(failure) => {
                failure.print();
                failures.push(failure.code());
            }
        }
    }
    match failures.first() {
        None => Ok(()),
        Some(code) => Err(Failure::Several {
            failed: failures.len(),
            asked: names.len(),
            code: *code,
        }),
    }
}
