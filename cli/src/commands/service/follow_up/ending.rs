//! The last words about a service: for people, for programs, and as an error.

use std::time::Duration;

use kawanan_api::Revision;
use kawanan_api::views::ProgressEvent;
use serde::Serialize;

use super::{Ended, Target};
use crate::connect::Context;
use crate::failure::Failure;
use crate::print::age::{chosen, taken};
use crate::print::{self, harmless};

/// Addresses that are named at the end.
const ADDRESSES_SHOWN_MAX: usize = 3;

/// How one service ended up, as `-o json` prints it.
#[derive(Serialize)]
pub(super) struct Outcome<'t> {
    id: &'t str,
    name: &'t str,
    revision: Revision,
    converged: bool,
    wanted: Option<u32>,
    running: Option<u32>,
    addresses: Option<Vec<String>>,
    /// Until everything ran.
    seconds: Option<f64>,
    error: Option<String>,
    #[serde(skip)]
    said_when_quiet: &'t str,
    #[serde(skip)]
    complete: u32,
}

impl<'t> Outcome<'t> {
    /// Nobody waited.
    pub(super) fn unknown(target: &'t Target) -> Self {
        Self {
            id: &target.written.id,
            name: &target.written.name,
            revision: target.written.revision,
            converged: false,
            wanted: None,
            running: None,
            addresses: None,
            seconds: None,
            error: None,
            said_when_quiet: &target.said_when_detached,
            complete: 0,
        }
    }

    pub(super) fn of(target: &'t Target, ended: &Result<Ended, Failure>) -> Self {
        let unknown = Self::unknown(target);
        match ended {
            Ok(Ended::Detached) => unknown,
            Ok(Ended::Converged { took, event, .. }) => Self {
                converged: true,
                wanted: Some(event.wanted),
                running: Some(event.running),
                addresses: Some(event.addresses.clone()),
                seconds: Some(took.as_secs_f64()),
                complete: event.complete,
                ..unknown
            },
            Err(failure) => Self {
                error: Some(failure.to_string()),
                ..unknown
            },
        }
    }
}

/// What happened, and in the last line where the service answers.
pub(super) fn say_converged(
    context: &Context,
    quiet: bool,
    outcome: &Outcome<'_>,
    stable: Duration,
) -> Result<(), Failure> {
    if quiet {
        return print::line(&harmless(outcome.said_when_quiet));
    }
    let (running, wanted) = (outcome.running.unwrap_or(0), outcome.wanted.unwrap_or(0));
    let mut text = format!(
        "service {} converged: {running}/{wanted} running",
        outcome.name
    );
    if outcome.complete > 0 {
        text.push_str(&format!(", {} complete", outcome.complete));
    }
    let took = Duration::from_secs_f64(outcome.seconds.unwrap_or(0.0));
    text.push_str(&format!(" in {}", taken(took)));
    if stable > Duration::ZERO && running > 0 {
        text.push_str(&format!(", stable for {}", chosen(stable)));
    }
    print::line(&context.style.good(&harmless(&text)))?;
    print::line(&harmless(&reachable(
        outcome.addresses.as_deref().unwrap_or_default(),
    )))
}

fn reachable(addresses: &[String]) -> String {
    let shown: Vec<&str> = addresses
        .iter()
        .take(ADDRESSES_SHOWN_MAX)
        .map(String::as_str)
        .collect();
    match addresses.len() {
        0 => "not published: no port of it is reachable from outside".to_owned(),
        count if count > ADDRESSES_SHOWN_MAX => {
            format!(
                "reachable at {} and {} more",
                shown.join(", "),
                count - ADDRESSES_SHOWN_MAX
            )
        }
        _ => format!("reachable at {}", shown.join(", ")),
    }
}

pub(super) fn failed(
    name: &str,
    why: &str,
    rollout_paused: bool,
    event: &ProgressEvent,
) -> Failure {
    if rollout_paused {
        return Failure::Rollout {
            message: harmless(&format!(
                "the update of service {name} is paused ({} of {} tasks are new): {why}",
                event.running, event.wanted
            )),
            hint: format!(
                "the older tasks go on; see why with `kawan service ps --no-trunc {name}` and `kawan service logs {name}`\n\
                 then try again with `kawan service update`"
            ),
        };
    }
    Failure::Rollout {
        message: harmless(&format!(
            "service {name} does not come up ({} of {} running): {why}",
            event.running, event.wanted
        )),
        hint: format!(
            "see why with `kawan service ps --no-trunc {name}` and `kawan service logs {name}`\n\
             change it with `kawan service update {name}`, or remove it with `kawan service rm {name}`"
        ),
    }
}

pub(super) fn timed_out(name: &str, event: Option<&ProgressEvent>) -> Failure {
    let state = event.map_or_else(String::new, |event| {
        format!(": {} of {} running", event.running, event.wanted)
    });
    Failure::TimedOut {
        message: harmless(&format!("service {name} is not there yet{state}")),
        hint: format!("it goes on in the background; look again with `kawan service ps {name}`"),
    }
}

pub(super) fn removed(name: &str) -> Failure {
    Failure::other(harmless(&format!("service {name} was removed meanwhile")))
}
