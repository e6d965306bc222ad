//! What came of the jobs: the picture gets its new looks, failures get their waits, and tasks that cannot run here are
//! given back.

use kawanan_api::TaskId;
use tokio::time::Instant;

use super::jobs::{Done, RunFailure};
use super::retry::Subject;
use super::sight::Began;
use super::{ASK_AGAIN, Converger, LIST_EVERY};
use crate::containers::{EngineError, SeenContainer};

impl Converger {
    pub(super) fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        let done = match done {
            Ok(done) => done,
            Err(err) if err.is_panic() => std::panic::resume_unwind(err.into_panic()),
            Err(_) => return,
        };
        match done {
            Done::Listed { began, result } => self.listed(began, result),
            Done::Subscribed(result) => {
                self.subscribing = false;
                match result {
                    Ok(events) => {
                        self.events = Some(events);
                        self.subscribed = Some(self.sight.begin());
                        self.list_at = Instant::now();
                    }
                    Err(err) => tracing::debug!(%err, "no event stream from the container engine"),
                }
            }
            Done::Looked { container, result } => self.looked(container, result),
            Done::Ran {
                task,
                container,
                result,
            } => self.ran(task, container, result),
            Done::Stopped { container, result } => {
                self.ending.remove(&container);
                self.ended(&container, &result);
                self.settle(container, None);
            }
            Done::Removed { container, result } => {
                self.ending.remove(&container);
                self.ended(&container, &result);
                match result {
                    Ok(()) => self.sight.gone(&container),
                    Err(_) => self.settle(container, None),
                }
            }
        }
    }

    fn listed(&mut self, began: Began, result: Result<Vec<SeenContainer>, EngineError>) {
        self.listing = false;
        match result {
            Ok(list) => {
                let busy = self.busy_containers();
                self.sight.listed(began, list, &busy);
                self.listed = true;
                let fifth = LIST_EVERY / 5;
                self.list_at =
                    Instant::now() + LIST_EVERY - fifth + self.parts.random.up_to(2 * fifth);
                match self.subscribed {
                    // It may have missed what came before the stream was open.
                    Some(subscribed) if began < subscribed => self.list_at = Instant::now(),
                    _ => self.subscribed = None,
                }
                if self.away.is_some_and(|away| began > away) {
                    self.away = None;
                    self.first_pass = true;
                }
            }
            Err(err) => {
                tracing::warn!(%err, "the containers of this node cannot be listed");
                if matches!(err, EngineError::Unreachable { .. }) {
                    self.away = Some(self.sight.begin());
                }
                self.list_at = Instant::now() + ASK_AGAIN;
            }
        }
    }

    fn looked(
        &mut self,
        container: String,
        result: Result<crate::containers::SeenContainer, EngineError>,
    ) {
        self.looking.remove(&container);
        match result {
            Ok(seen) => self.sight.saw(seen),
            Err(EngineError::Gone(_)) => self.sight.gone(&container),
            Err(err) => {
                tracing::warn!(container, %err, "a container cannot be looked at");
                self.list_at = self.list_at.min(Instant::now() + ASK_AGAIN);
            }
        }
        // Hints that came while it was looked at ask for another look first.
        if !self.to_look.contains(&container) {
            self.settling.remove(&container);
        }
    }

    fn settle(&mut self, container: String, task: Option<TaskId>) {
        self.strangers.remove(&container);
        self.to_look.insert(container.clone());
        self.settling.insert(container, task);
    }

    fn ran(&mut self, task: TaskId, container: Option<String>, result: Result<(), RunFailure>) {
        self.runs.remove(&task);
        match result {
            Ok(()) => {
                self.retries.succeeded(&Subject::Task(task));
                self.tools.progress.clear(task);
            }
            Err(RunFailure::Canceled) => self.tools.progress.clear(task),
            Err(RunFailure::Port(reason)) => self.reject(task, reason),
            Err(RunFailure::Engine(err)) if self.retries.is_hopeless(task, &err) => {
                self.reject(task, err.to_string());
            }
            Err(RunFailure::Engine(err)) => {
                let wait = self.retries.failed(Subject::Task(task), &err);
                tracing::info!(%task, %err, ?wait, "a task did not start, trying again");
                self.tools
                    .progress
                    .note(task, &format!("trying again: {err}"));
            }
        }
        if let Some(container) = container {
            self.settle(container, Some(task));
        }
    }

    fn reject(&mut self, task: TaskId, reason: String) {
        tracing::info!(%task, reason, "a task cannot run here");
        self.retries.succeeded(&Subject::Task(task));
        self.tools.progress.clear(task);
        self.memory.reject(task, reason, self.parts.clock.now());
    }

    fn ended(&mut self, container: &str, result: &Result<(), EngineError>) {
        let subject = Subject::Container(container.to_owned());
        match result {
            Ok(()) => self.retries.succeeded(&subject),
            Err(err) => {
                let wait = self.retries.failed(subject, err);
                tracing::warn!(container, %err, ?wait, "a container was not stopped or removed");
            }
        }
    }
}
