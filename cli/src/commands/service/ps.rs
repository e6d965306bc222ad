//! `kawan service ps`, and the table of tasks that other commands show too.

use clap::Args;
use kawanan_api::Timestamp;
use kawanan_api::views::{DesiredState, TaskState, TaskView};

use crate::connect::Context;
use crate::failure::Failure;
use crate::filter::Filters;
use crate::print::table::{Cell, Table, Tone};
use crate::print::{self, age};

#[derive(Debug, Args)]
pub struct Ps {
    #[command(flatten)]
    show: ShowTasks,
    /// Services: name, id, or the beginning of an id; all if none is named
    #[arg(value_name = "SERVICE")]
    services: Vec<String>,
}

/// Flags of every command that shows tasks.
#[derive(Debug, Args)]
pub struct ShowTasks {
    /// Print ids only
    #[arg(short, long)]
    quiet: bool,
    /// Show some only: name=, id=, node=, state= or desired-state=
    #[arg(short, long, value_name = "FILTER")]
    filter: Vec<String>,
    /// Do not shorten ids and texts
    #[arg(long)]
    no_trunc: bool,
}

impl Ps {
    pub async fn run(self, context: Context) -> Result<(), Failure> {
        let mut tasks = Vec::new();
        for service in &self.services {
            tasks.extend(context.client.service_tasks(service).await?);
        }
        if self.services.is_empty() {
            tasks = context.client.tasks().await?;
        }
        self.show.print(&context, tasks)
    }
}

impl ShowTasks {
    pub fn print(&self, context: &Context, mut tasks: Vec<TaskView>) -> Result<(), Failure> {
        let known = ["name", "id", "node", "state", "desired-state"];
        let filters = Filters::parse(&self.filter, &known)?;
        tasks.retain(|task| {
            let node_id = task.node_id.map(|id| id.to_string()).unwrap_or_default();
            filters.fits_name("name", &task.name)
                && filters.fits_id(&task.id.to_string())
                && filters.fits("node", |node| {
                    task.node.as_deref() == Some(node)
                        || (!node_id.is_empty() && node_id.starts_with(node))
                })
                && filters.fits("state", |state| state == task.state.word())
                && filters.fits("desired-state", |state| {
                    state == task.desired_state.to_string()
                })
        });
        if context.wants_json() {
            return print::json(&tasks);
        }
        if self.quiet {
            return tasks
                .iter()
                .try_for_each(|task| print::line(&self.id(task)));
        }
        self.table(&tasks, context.now).print(context.style)
    }

    fn table(&self, tasks: &[TaskView], now: Timestamp) -> Table {
        let headings = [
            "ID",
            "NAME",
            "IMAGE",
            "NODE",
            "DESIRED STATE",
            "CURRENT STATE",
            "ERROR",
            "PORTS",
        ];
        let mut table = Table::new(&headings).flexible("ERROR");
        let mut above: Option<&TaskView> = None;
        for task in tasks {
            let same_seat =
                |above: &TaskView| (above.service, &above.name) == (task.service, &task.name);
            let is_history = above.is_some_and(same_seat);
            let name = if is_history {
                format!(" \\_ {}", task.name)
            } else {
                task.name.clone()
            };
            above = Some(task);
            let tone = if is_history { Tone::Faint } else { Tone::Plain };
            table.row(vec![
                Cell::toned(self.id(task), tone),
                Cell::toned(name, tone),
                Cell::toned(task.image.clone(), tone),
                Cell::toned(task.node.clone().unwrap_or_default(), tone),
                Cell::toned(capital(&task.desired_state.to_string()), tone),
                Cell::toned(current_state(task, now), tone_of(task, is_history)),
                Cell::toned(why(task), tone),
                print::ports(&task.ports).into(),
            ]);
        }
        table
    }

    fn id(&self, task: &TaskView) -> String {
        if self.no_trunc {
            task.id.to_string()
        } else {
            task.id.short()
        }
    }
}

/// `Running 2 minutes ago`.
pub fn current_state(task: &TaskView, now: Timestamp) -> String {
    let since = age::ago_inside(task.state_at, now);
    format!("{} {since}", capital(task.state.word()))
}

/// What is wrong, and what is going on.
pub fn why(task: &TaskView) -> String {
    match (&task.message, &task.error, task.exit_code) {
        (Some(message), Some(error), _) => format!("{message}: {error}"),
        (Some(only), None, _) | (None, Some(only), _) => only.clone(),
        (None, None, Some(code)) if task.state == TaskState::Failed => {
            format!("exited with code {code}")
        }
        (None, None, _) => String::new(),
    }
}

/// The color of a task's state.
pub fn tone_of(task: &TaskView, is_history: bool) -> Tone {
    match task.state {
        _ if is_history => Tone::Faint,
        TaskState::Running if task.desired_state == DesiredState::Running => Tone::Good,
        TaskState::Failed | TaskState::Rejected | TaskState::Orphaned => Tone::Bad,
        TaskState::Complete | TaskState::Shutdown => Tone::Plain,
        _ => Tone::Changing,
    }
}

pub fn capital(word: &str) -> String {
    let mut chars = word.chars();
    match chars.next() {
        Some(first) => first.to_uppercase().chain(chars).collect(),
        None => String::new(),
    }
}
