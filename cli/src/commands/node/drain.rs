//! `kawan node drain`: tasks move elsewhere, and the end says that the machine is free.

use std::time::Duration;

use clap::Args;
use kawanan_api::client::{ClientError, LineStream};
use kawanan_api::duration::Span;
use kawanan_api::views::{Availability, DrainEvent, NodePatch, Written};
use tokio::time::Instant;

use crate::connect::Context;
use crate::failure::Failure;
use crate::print::age::taken;
use crate::print::screen::Screen;
use crate::print::{self, harmless};

const TICK: Duration = Duration::from_millis(100);
/// How long tasks may wait for a place elsewhere before that counts.
const PLACING_PATIENCE: Duration = Duration::from_secs(5);
const LEADER_PATIENCE: Duration = Duration::from_secs(15);
const RECONNECT_DEADLINE: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
const TASKS_SHOWN_MAX: usize = 20;

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  kawan node drain n2 && ssh root@n2 reboot")]
pub struct Drain {
    /// Return at once instead of waiting until the node is free
    #[arg(short, long)]
    detach: bool,
    /// Longest wait; 0 for ever. It goes on in the background
    #[arg(long, value_name = "TIME", default_value = "10m")]
    timeout: Span,
    /// The node: name, id, or the beginning of its id
    #[arg(value_name = "NODE")]
    node: String,
}

impl Drain {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let patch = NodePatch {
            availability: Some(Availability::Drain),
            ..NodePatch::default()
        };
        let written = context.client.patch_node(&self.node, &patch).await?;
        if !self.detach {
            match self.wait(&context, &written).await? {
                Ended::Free => {}
                Ended::Detached => return Ok(()),
            }
        }
        if context.wants_json() {
            return print::json(&written);
        }
        let name = harmless(&written.name);
        if self.detach {
            return print::line(&name);
        }
        print::line(&format!(
            "{name} runs no tasks now: it is safe to reboot; `kawan node update --availability active {name}` takes it back"
        ))
    }

    async fn wait(&self, context: &Context, written: &Written) -> Result<Ended, Failure> {
        let timeout = Some(self.timeout.duration()).filter(|timeout| !timeout.is_zero());
        let started = Instant::now();
        let mut watch = Watch::new(started, timeout);
        let mut stream = open(context, &written.id).await?;
        let mut last: Option<DrainEvent> = None;
        let mut tick = tokio::time::interval(TICK);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                biased;
                _ = &mut interrupted => {
                    watch.screen.keep();
                    let name = harmless(&written.name);
                    eprintln!("Kawanan goes on in the background; look again with `kawan node ps {name}`.");
                    return Ok(Ended::Detached);
                }
                event = stream.next() => match event {
                    Ok(Some(event)) if event.applied >= written.revision => last = Some(event),
                    Ok(Some(_)) => {}
                    Ok(None) => stream = open(context, &written.id).await?,
                    Err(error) if error.is_no_leader() => stream = open(context, &written.id).await?,
                    Err(error) => return Err(error.into()),
                },
                _ = tick.tick() => {}
            }
            if let Some(event) = &last {
                watch.show(event);
                if watch.is_over(event)? {
                    watch.screen.clear();
                    return Ok(Ended::Free);
                }
            }
        }
    }
}

enum Ended {
    Free,
    Detached,
}

async fn open(context: &Context, node: &str) -> Result<LineStream<DrainEvent>, ClientError> {
    let give_up = Instant::now() + RECONNECT_DEADLINE;
    loop {
        match context.client.node_progress(node).await {
            Err(error) if error.is_no_leader() && Instant::now() < give_up => {
                tokio::time::sleep(RECONNECT_PAUSE).await;
            }
            other => return other,
        }
    }
}

struct Watch {
    started: Instant,
    timeout: Option<Duration>,
    screen: Screen,
    told: Option<String>,
    stuck_from: Option<Instant>,
    leaderless_from: Option<Instant>,
}

impl Watch {
    fn new(started: Instant, timeout: Option<Duration>) -> Self {
        Self {
            started,
            timeout,
            screen: Screen::new(),
            told: None,
            stuck_from: None,
            leaderless_from: None,
        }
    }

    fn show(&mut self, event: &DrainEvent) {
        let count = event.remaining.len();
        let summary = format!(
            "{}: {count} {} to move",
            event.node.name,
            if count == 1 { "task" } else { "tasks" }
        );
        if !self.screen.is_live() {
            if self.told.as_ref() != Some(&summary) {
                eprintln!("{}", harmless(&summary));
                for why in &event.waiting {
                    eprintln!("{}", harmless(why));
                }
                self.told = Some(summary);
            }
            return;
        }
        let style = self.screen.style;
        let elapsed = style.faint(&format!("  {}", taken(self.started.elapsed())));
        let mut lines = vec![format!("{}{elapsed}", style.bold(&harmless(&summary)))];
        for task in event.remaining.iter().take(TASKS_SHOWN_MAX) {
            let remark = task.message.as_deref().unwrap_or_default();
            let line = format!("  {}  {}  {remark}", task.name, task.state);
            lines.push(harmless(line.trim_end()));
        }
        if count > TASKS_SHOWN_MAX {
            lines.push(format!("  and {} more", count - TASKS_SHOWN_MAX));
        }
        self.screen.draw(&lines);
    }

    /// Whether the node is free; an error when it will not become free.
    fn is_over(&mut self, event: &DrainEvent) -> Result<bool, Failure> {
        let (now, name) = (Instant::now(), &event.node.name);
        if event.node.availability != Availability::Drain {
            return Err(Failure::other(format!(
                "the drain of node {name} was called off by somebody else"
            )));
        }
        if event.remaining.is_empty() {
            return Ok(true);
        }
        let hint = format!("it goes on in the background; look again with `kawan node ps {name}`");
        if lasts(&mut self.leaderless_from, event.leaderless, now) >= LEADER_PATIENCE {
            let message = "no node is leader, so nothing can move".to_owned();
            return Err(Failure::NoLeader { message, hint });
        }
        let stuck = !event.waiting.is_empty() && event.waiting.len() == event.remaining.len();
        if lasts(&mut self.stuck_from, stuck, now) >= PLACING_PATIENCE {
            let count = event.waiting.len();
            let tasks = if count == 1 {
                "1 task has".to_owned()
            } else {
                format!("{count} tasks have")
            };
            let message = format!(
                "{tasks} no other place than node {name}: {}",
                event.waiting.join("; ")
            );
            let hint = format!(
                "what stays goes on running there until a node can take it; \
                 call the drain off with `kawan node update --availability active {name}`"
            );
            return Err(Failure::Unplaceable {
                message: harmless(&message),
                hint,
            });
        }
        if self
            .timeout
            .is_some_and(|timeout| now - self.started >= timeout)
        {
            let message = format!("node {name} still runs {} tasks", event.remaining.len());
            return Err(Failure::TimedOut { message, hint });
        }
        Ok(false)
    }
}

/// For how long something holds.
fn lasts(from: &mut Option<Instant>, holds: bool, now: Instant) -> Duration {
    *from = if holds { from.or(Some(now)) } else { None };
    from.map_or(Duration::ZERO, |from| now - from)
}
