//! After a write: waits until the service is what was asked for, shows how it gets there, and says what came of it.

mod ending;

use std::time::Duration;

use clap::Args;
use kawanan_api::client::{ClientError, LineStream};
use kawanan_api::duration::Span;
use kawanan_api::spec::{Mode, UpdateOrder};
use kawanan_api::views::{LogEvent, LogRequest, ProgressEvent, ScaleServices, Written};
use kawanan_api::{ErrorCode, ServiceSpec};
use tokio::time::Instant;

use self::ending::{Outcome, failed, removed, timed_out};
use super::judge::{Judge, Verdict};
use crate::connect::Context;
use crate::failure::Failure;
use crate::print::progress::{News, picture};
use crate::print::screen::Screen;
use crate::print::{self, harmless};

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// How long a lost connection is tried again before the cluster counts as unreachable.
const RECONNECT_DEADLINE: Duration = Duration::from_secs(30);
const RECONNECT_PAUSE: Duration = Duration::from_millis(500);
/// Lines of output shown of a task that failed, and how long to wait for them.
const LAST_LINES: u32 = 10;
const LAST_LINES_DEADLINE: Duration = Duration::from_secs(3);

/// Flags of every command that starts something.
#[derive(Debug, Args)]
pub struct Waiting {
    /// Return at once instead of waiting until everything runs
    #[arg(short, long)]
    pub detach: bool,
    /// Show no progress
    #[arg(short, long)]
    pub quiet: bool,
    /// Longest wait; 0 for ever. It goes on in the background
    #[arg(long, value_name = "TIME", default_value = "10m")]
    pub timeout: Span,
}

pub struct FollowUp<'a> {
    context: &'a Context,
    waiting: &'a Waiting,
    targets: Vec<Target>,
    action: Action,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Create,
    Update,
    Scale,
}

struct Target {
    written: Written,
    headline: String,
    /// The write makes no other containers, so failures from before it mean nothing.
    same_containers: bool,
    said_when_detached: String,
}

/// How one wait ended.
#[derive(Debug)]
enum Ended {
    Converged {
        took: Duration,
        stable: Duration,
        event: Box<ProgressEvent>,
    },
    Detached,
}

impl<'a> FollowUp<'a> {
    pub fn of_creation(
        context: &'a Context,
        waiting: &'a Waiting,
        written: Written,
        spec: &ServiceSpec,
    ) -> Self {
        let headline = format!("{}: {}, {}", spec.name, spec.container.image, count(spec));
        let target = Target {
            said_when_detached: written.id.clone(),
            written,
            headline,
            same_containers: false,
        };
        Self {
            context,
            waiting,
            targets: vec![target],
            action: Action::Create,
        }
    }

    pub fn of_update(
        context: &'a Context,
        waiting: &'a Waiting,
        written: Written,
        before: &ServiceSpec,
        after: &ServiceSpec,
    ) -> Self {
        let image = if before.container.image == after.container.image {
            after.container.image.clone()
        } else {
            format!("{} -> {}", before.container.image, after.container.image)
        };
        let same_containers = before.same_task_as(after);
        let how = match (same_containers, after.update.order) {
            (true, _) => String::new(),
            (false, UpdateOrder::StartFirst) => {
                format!(", {} at a time, start first", after.update.parallelism)
            }
            (false, UpdateOrder::StopFirst) => {
                format!(", {} at a time, stop first", after.update.parallelism)
            }
        };
        let target = Target {
            said_when_detached: after.name.clone(),
            written,
            headline: format!("{}: {image}, {}{how}", after.name, count(after)),
            same_containers,
        };
        Self {
            context,
            waiting,
            targets: vec![target],
            action: Action::Update,
        }
    }

    pub fn of_scale(
        context: &'a Context,
        waiting: &'a Waiting,
        written: Vec<Written>,
        scale: &ScaleServices,
    ) -> Self {
        let target = |written: Written| {
            let asked = [&written.name, &written.id];
            let by_prefix = || {
                let fits = |(text, _): &(&String, &u32)| written.id.starts_with(text.as_str());
                scale
                    .replicas
                    .iter()
                    .find(fits)
                    .map(|(_, replicas)| replicas)
            };
            let replicas = asked
                .iter()
                .find_map(|text| scale.replicas.get(*text))
                .or_else(by_prefix);
            let replicas =
                replicas.map_or_else(String::new, |replicas| format!(" scaled to {replicas}"));
            let text = format!("{}{replicas}", written.name);
            Target {
                said_when_detached: text.clone(),
                headline: text,
                written,
                same_containers: true,
            }
        };
        Self {
            context,
            waiting,
            targets: written.into_iter().map(target).collect(),
            action: Action::Scale,
        }
    }

    /// # Errors
    /// When the wait ends otherwise than well: see the exit codes.
    pub async fn run(self) -> Result<(), Failure> {
        if self.waiting.detach {
            return self.say_detached();
        }
        let started = Instant::now();
        let mut outcomes = Vec::new();
        let mut failure = None;
        for target in &self.targets {
            let ended = self.wait(target, started).await;
            let outcome = Outcome::of(target, &ended);
            match ended {
                Ok(Ended::Converged { stable, .. }) if !self.context.wants_json() => {
                    ending::say_converged(self.context, self.waiting.quiet, &outcome, stable)?;
                }
                Ok(_) => {}
                // Of several services each gets its verdict; the first bad one decides the exit code.
                Err(other) if failure.is_none() => failure = Some(other),
                Err(other) => other.print(),
            }
            outcomes.push(outcome);
        }
        if self.context.wants_json() {
            self.print_outcomes(&outcomes)?;
        }
        failure.map_or(Ok(()), Err)
    }

    fn say_detached(&self) -> Result<(), Failure> {
        if self.context.wants_json() {
            let outcomes: Vec<_> = self.targets.iter().map(Outcome::unknown).collect();
            return self.print_outcomes(&outcomes);
        }
        (self.targets.iter())
            .try_for_each(|target| print::line(&harmless(&target.said_when_detached)))
    }

    fn print_outcomes(&self, outcomes: &[Outcome<'_>]) -> Result<(), Failure> {
        match (self.action, outcomes) {
            (Action::Create | Action::Update, [outcome]) => print::json(outcome),
            _ => print::json(&outcomes),
        }
    }

    async fn wait(&self, target: &Target, started: Instant) -> Result<Ended, Failure> {
        let timeout = Some(self.waiting.timeout.duration()).filter(|timeout| !timeout.is_zero());
        let mut judge = Judge::new(
            started,
            target.written.revision,
            timeout,
            target.same_containers,
        );
        let mut show = Show::new(
            self.waiting.quiet || (self.context.wants_json() && !Screen::new().is_live()),
        );
        let mut stream = self.open(target).await?;
        let mut last: Option<ProgressEvent> = None;
        let mut tick = tokio::time::interval(TICK);
        let mut interrupted = std::pin::pin!(tokio::signal::ctrl_c());
        loop {
            tokio::select! {
                biased;
                _ = &mut interrupted => {
                    show.end();
                    say_how_to_look_again(&target.written.name);
                    return Ok(Ended::Detached);
                }
                event = stream.next() => match event {
                    Ok(Some(event)) if judge.is_recent(&event) => last = Some(event),
                    Ok(Some(_)) => {}
                    Ok(None) | Err(ClientError::Lost { .. }) => stream = self.open(target).await?,
                    Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => {
                        show.end();
                        return Err(removed(&target.written.name));
                    }
                    Err(ClientError::Api(error)) if error.code == ErrorCode::Unavailable => {
                        stream = self.open(target).await?;
                    }
                    Err(error) => return Err(error.into()),
                },
                _ = tick.tick() => {}
            }
            let now = Instant::now();
            if let Some(event) = &last {
                show.picture(&target.headline, event, now - started);
                let verdict = judge.judge(event, now);
                if verdict != Verdict::Wait {
                    show.end();
                    return self
                        .conclude(target, verdict, Box::new(event.clone()))
                        .await;
                }
            } else if timeout.is_some_and(|timeout| now - started >= timeout) {
                show.end();
                return Err(timed_out(&target.written.name, None));
            }
        }
    }

    async fn conclude(
        &self,
        target: &Target,
        verdict: Verdict,
        event: Box<ProgressEvent>,
    ) -> Result<Ended, Failure> {
        let name = &target.written.name;
        match verdict {
            Verdict::Converged { took, stable } => Ok(Ended::Converged {
                took,
                stable,
                event,
            }),
            Verdict::Failed {
                why,
                rollout_paused,
            } => {
                self.show_last_lines(&event).await;
                Err(failed(name, &why, rollout_paused, &event))
            }
            Verdict::Unplaceable { why } => Err(Failure::Unplaceable {
                message: harmless(&format!("service {name}: {why}")),
                hint: format!(
                    "they start as soon as a node can take them; look again with `kawan service ps {name}`, \
                     see the nodes with `kawan node ls`"
                ),
            }),
            Verdict::NoLeader => Err(Failure::NoLeader {
                message: format!(
                    "no node is leader, so service {name} cannot change; it is stored and goes on later"
                ),
                hint: "`kawan node ls` shows which nodes are down".to_owned(),
            }),
            Verdict::TimedOut | Verdict::Wait => Err(timed_out(name, Some(&event))),
            Verdict::Removed => Err(removed(name)),
        }
    }

    /// A stream of progress, tried again for a while: an agent that restarts is no reason to give up.
    async fn open(&self, target: &Target) -> Result<LineStream<ProgressEvent>, Failure> {
        let give_up = Instant::now() + RECONNECT_DEADLINE;
        loop {
            match self
                .context
                .client
                .service_progress(&target.written.id)
                .await
            {
                Ok(stream) => return Ok(stream),
                Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => {
                    return Err(removed(&target.written.name));
                }
                Err(error) if error.is_no_leader() && Instant::now() < give_up => {
                    tokio::time::sleep(RECONNECT_PAUSE).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// What the task that failed had to say. Without an answer there is nothing to show, and that is no error.
    async fn show_last_lines(&self, event: &ProgressEvent) {
        let request = LogRequest {
            follow: false,
            tail: Some(LAST_LINES),
            since: None,
        };
        let id = event.service.to_string();
        let read = async {
            let mut lines = Vec::new();
            let mut stream = self.context.client.service_logs(&id, &request).await.ok()?;
            while let Ok(Some(line)) = stream.next().await {
                if let LogEvent::Line {
                    task_name, text, ..
                } = line
                {
                    lines.push(format!("  {task_name} | {text}"));
                }
            }
            Some(lines)
        };
        let lines = tokio::time::timeout(LAST_LINES_DEADLINE, read)
            .await
            .ok()
            .flatten()
            .unwrap_or_default();
        if !lines.is_empty() {
            eprintln!("last lines of output:");
        }
        for line in lines {
            eprintln!("{}", harmless(&line));
        }
    }
}

/// How progress is shown: drawn, told, or not at all.
struct Show {
    quiet: bool,
    screen: Screen,
    news: News,
}

impl Show {
    fn new(quiet: bool) -> Self {
        Self {
            quiet,
            screen: Screen::new(),
            news: News::default(),
        }
    }

    fn picture(&mut self, headline: &str, event: &ProgressEvent, elapsed: Duration) {
        if self.quiet {
        } else if self.screen.is_live() {
            let lines = picture(headline, event, elapsed, self.screen.style);
            self.screen.draw(&lines);
        } else {
            for line in self.news.of(headline, event) {
                eprintln!("{line}");
            }
        }
    }

    fn end(&mut self) {
        self.screen.keep();
    }
}

fn count(spec: &ServiceSpec) -> String {
    match spec.mode {
        Mode::Replicated { replicas: 1 } => "1 replica".to_owned(),
        Mode::Replicated { replicas } => format!("{replicas} replicas"),
        Mode::Global => "one on every node".to_owned(),
    }
}

fn say_how_to_look_again(name: &str) {
    eprintln!(
        "Kawanan goes on in the background; look again with `kawan service ps {}`.",
        harmless(name)
    );
}
