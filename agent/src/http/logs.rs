//! The output of a service's containers, wherever they run, as one stream in the order of time.
//!
//! First comes what is there already, merged exactly. Then, when following, new lines, held back for a moment so that
//! lines of several nodes come out in order. A node that cannot be asked is a line that says so, never the end.

mod follow;
mod merge;
mod source;

use std::collections::VecDeque;
use std::sync::Arc;

use axum::response::Response;
use kawanan_api::views::{LogEvent, LogRequest, TAIL_MAX};
use kawanan_api::{ApiError, ServiceId, TaskId};
use kawanan_logic::ClusterState;
use kawanan_logic::view::View;

use self::follow::follow;
use self::merge::Merged;
use self::source::{Line, Source, open_all};
use super::Api;
use super::answer::Failure;
use super::stream::{self, Lines, StreamEnd};

/// Containers whose output goes into one stream.
const SOURCES_MAX: usize = 256;

/// Whose output is wanted.
#[derive(Debug, Clone, Copy)]
pub(super) enum Wanted {
    Service(ServiceId),
    Task(TaskId),
}

pub(super) fn stream(api: &Api, wanted: Wanted, request: LogRequest) -> Result<Response, Failure> {
    if request.tail.is_some_and(|tail| tail > TAIL_MAX) {
        let cause = format!("at most the newest {TAIL_MAX} lines can be asked for");
        let hint = "leave `tail` out for all lines, or ask for those since a time";
        return Err(ApiError::invalid(cause).with_hint(hint).into());
    }
    let reading = api.clone();
    stream::answer(api, move |lines| async move {
        let mut sources = sources_of(&reading, wanted);
        if sources.len() > SOURCES_MAX {
            let left_out = sources.len() - SOURCES_MAX;
            sources.truncate(SOURCES_MAX);
            let message = format!(
                "{left_out} more tasks are left out; ask for them one by one, such as web.3"
            );
            lines.send(&LogEvent::Warning { message }).await?;
        }
        backlog(&reading, &mut sources, request, &lines).await?;
        if request.follow {
            follow(reading, wanted, sources, request, lines).await?;
        }
        Ok(())
    })
}

/// Tasks that may have written something, running ones first, then the newest.
fn sources_of(api: &Api, wanted: Wanted) -> Vec<Source> {
    let state = api.state();
    let outlook = api.outlook(&state);
    let view = View::new(&state, &outlook);
    let mut tasks: Vec<_> = match wanted {
        Wanted::Service(service) => state.tasks_of(service).collect(),
        Wanted::Task(task) => state.tasks.get(&task).into_iter().collect(),
    };
    tasks.sort_by_key(|task| std::cmp::Reverse((task.is_running(), task.created_at, task.id)));
    tasks
        .into_iter()
        .filter_map(|task| view.task(task.id))
        .map(|task| Source::new(task.id, task.name, task.node.unwrap_or_default()))
        .collect()
}

fn is_over(state: &ClusterState, task: TaskId) -> bool {
    state
        .tasks
        .get(&task)
        .is_none_or(|task| task.state.is_final())
}

/// Sends what is there already, and leaves in each source the place where it ended.
async fn backlog(
    api: &Api,
    sources: &mut [Source],
    request: LogRequest,
    lines: &Arc<Lines>,
) -> Result<(), StreamEnd> {
    let (opened, mut warnings) = open_all(api, sources, request).await;
    let mut merged = Merged::new(opened);
    let tail = request.tail.map(|tail| tail as usize);
    let mut newest: VecDeque<(usize, Line)> = VecDeque::new();
    while let Some((source, line)) = merged.next().await {
        sources[source].advance(&line);
        match tail {
            None => lines.send(&sources[source].event(line)).await?,
            Some(tail) => {
                newest.push_back((source, line));
                if newest.len() > tail {
                    newest.pop_front();
                }
            }
        }
    }
    for (source, line) in newest {
        lines.send(&sources[source].event(line)).await?;
    }
    warnings.extend(merged.into_failures());
    for (source, cause) in warnings {
        // A follower tries again, and says so itself when that fails too.
        if !request.follow {
            let message = sources[source].missing(&cause);
            lines.send(&LogEvent::Warning { message }).await?;
        }
    }
    Ok(())
}
