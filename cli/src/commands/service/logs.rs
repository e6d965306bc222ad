//! `kawan service logs`.

use std::time::Duration;

use clap::Args;
use kawanan_api::client::{ClientError, LineStream};
use kawanan_api::duration::Span;
use kawanan_api::views::{LogEvent, LogRequest};
use kawanan_api::{ErrorCode, Timestamp};

use crate::connect::Context;
use crate::failure::Failure;
use crate::print::lines::LogPrinter;
use crate::print::style::Style;
use crate::print::{self};

/// Pause before a follower whose connection broke asks again.
const RECONNECT_PAUSE: Duration = Duration::from_secs(1);
const RECONNECTS_MAX: u32 = 30;

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  \
    kawan service logs -f --tail 100 web\n  \
    kawan service logs --since 10m --timestamps web.3")]
pub struct Logs {
    /// Go on as new lines come
    #[arg(short, long)]
    follow: bool,
    /// The newest lines over all tasks together, or `all`
    #[arg(short = 'n', long, value_name = "LINES", default_value = "all", value_parser = tail)]
    tail: Tail,
    /// Lines since a time: 10m, or 2026-01-31T12:00:00Z
    #[arg(long, value_name = "TIME", value_parser = since)]
    since: Option<Since>,
    /// Begin each line with its time
    #[arg(short, long)]
    timestamps: bool,
    /// Show the ids of tasks beside their names
    #[arg(long, overrides_with = "no_task_ids")]
    task_ids: bool,
    /// Leave out the ids of tasks (the default)
    #[arg(long)]
    no_task_ids: bool,
    /// Print the lines alone, without their tasks
    #[arg(long)]
    raw: bool,
    /// A service, or one task of it such as web.3
    #[arg(value_name = "SERVICE|TASK")]
    target: String,
}

#[derive(Debug, Clone, Copy)]
struct Tail(Option<u32>);

#[derive(Debug, Clone, Copy)]
enum Since {
    Ago(Span),
    At(Timestamp),
}

fn tail(text: &str) -> Result<Tail, String> {
    if text == "all" {
        return Ok(Tail(None));
    }
    let lines = text
        .parse()
        .map_err(|_| format!("`{text}` is neither a number of lines nor `all`"))?;
    Ok(Tail(Some(lines)))
}

fn since(text: &str) -> Result<Since, String> {
    if let Ok(span) = text.parse() {
        return Ok(Since::Ago(span));
    }
    let quoted = format!("\"{text}\"");
    serde_json::from_str(&quoted).map(Since::At).map_err(|_| {
        format!("`{text}` is not a time; write for example 10m or 2026-01-31T12:00:00Z")
    })
}

impl Logs {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let since = self.since.map(|since| match since {
            Since::At(at) => at,
            Since::Ago(span) => {
                Timestamp::from_millis(context.now.millis().saturating_sub(span.millis()))
            }
        });
        let mut request = LogRequest {
            follow: self.follow,
            tail: self.tail.0,
            since,
        };
        let mut printer = LogPrinter::new(context.style, self.timestamps, self.task_ids, !self.raw);
        self.make_room(&context, &mut printer).await;
        let mut stream = self.open(&context, &request).await?;
        let mut last: Option<Timestamp> = None;
        let mut reconnects = 0;
        loop {
            match stream.next().await {
                Ok(Some(event)) => {
                    if let LogEvent::Line { at, .. } = &event {
                        last = Some(last.map_or(*at, |last| last.max(*at)));
                    }
                    reconnects = 0;
                    show(&context, &mut printer, &event)?;
                }
                Ok(None) => return Ok(()),
                Err(error)
                    if self.follow && error.is_no_leader() && reconnects < RECONNECTS_MAX =>
                {
                    warn(&format!("{error}; trying again"));
                    // The agent that follows may have been replaced; only lines of the last millisecond can repeat.
                    let known = last.map(|at| Timestamp::from_millis(at.millis() + 1));
                    request = LogRequest {
                        follow: true,
                        tail: known.is_none().then_some(request.tail).flatten(),
                        since: known.or(request.since),
                    };
                    stream = self.reopen(&context, &request, &mut reconnects).await?;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    /// A service of that name, else a task.
    async fn open(
        &self,
        context: &Context,
        request: &LogRequest,
    ) -> Result<LineStream<LogEvent>, ClientError> {
        match context.client.service_logs(&self.target, request).await {
            Err(ClientError::Api(no_service)) if no_service.code == ErrorCode::NotFound => {
                match context.client.task_logs(&self.target, request).await {
                    Err(ClientError::Api(error)) if error.code == ErrorCode::NotFound => {
                        Err(ClientError::Api(no_service))
                    }
                    other => other,
                }
            }
            other => other,
        }
    }

    async fn reopen(
        &self,
        context: &Context,
        request: &LogRequest,
        reconnects: &mut u32,
    ) -> Result<LineStream<LogEvent>, ClientError> {
        loop {
            *reconnects += 1;
            tokio::time::sleep(RECONNECT_PAUSE).await;
            match self.open(context, request).await {
                Err(error) if error.is_no_leader() && *reconnects < RECONNECTS_MAX => {}
                other => return other,
            }
        }
    }

    /// Aligns the first line with those to come. Without the list of tasks the lines align as they come.
    async fn make_room(&self, context: &Context, printer: &mut LogPrinter) {
        if let Ok(tasks) = context.client.service_tasks(&self.target).await {
            for task in tasks.iter().filter(|task| task.node.is_some()) {
                printer.expect(
                    &task.name,
                    &task.id.short(),
                    task.node.as_deref().unwrap_or_default(),
                );
            }
        }
    }
}

fn show(context: &Context, printer: &mut LogPrinter, event: &LogEvent) -> Result<(), Failure> {
    match event {
        LogEvent::Idle => Ok(()),
        LogEvent::Warning { message } => {
            warn(message);
            Ok(())
        }
        LogEvent::Line { .. } if context.wants_json() => {
            let text =
                serde_json::to_string(event).map_err(|err| Failure::other(err.to_string()))?;
            print::line(&text)
        }
        LogEvent::Line { .. } => match printer.text(event) {
            Some(text) => print::line(&text),
            None => Ok(()),
        },
    }
}

fn warn(message: &str) {
    eprintln!(
        "{} {}",
        Style::of_stderr().changing("warning:"),
        print::harmless(message)
    );
}
