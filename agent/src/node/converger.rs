//! The owner of this node's containers: looks, asks [`kawanan_logic::converge`] what to do, has it done, looks again.
//!
//! Level-triggered: a changed state, an engine's hint, a finished job and a timer all lead to the same pass over
//! everything. One job at a time per task and per container; jobs run beside each other, so only the container whose
//! call hangs waits. The engine is listed at the start, every [`LIST_EVERY`], and after its event stream broke;
//! between lists the results of this node's own actions and single looks keep the picture.

mod jobs;
mod memory;
mod retry;
mod sight;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::TaskId;
use kawanan_logic::ClusterState;
use kawanan_logic::converge::{Action, converge};
use kawanan_logic::state::{Desired, TaskState};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::permits::Permits;
use super::progress::Progress;
use super::reporter::Reporter;
use super::{NodeParts, Seen, endpoints};
use crate::containers::{ContainerStatus, EngineError, Health, Stirred, TaskContainer};
use jobs::{Done, RunFailure, Tools};
use memory::Memory;
use retry::{Retries, Subject};
use sight::{Began, Sight};

/// Full passes over the engine, give or take a fifth.
const LIST_EVERY: Duration = Duration::from_secs(45);
/// After a list or a subscription that failed.
const ASK_AGAIN: Duration = Duration::from_secs(1);
/// How long a starting agent waits for a current state before it acts on the one that it kept.
const CATCH_UP_MAX: Duration = Duration::from_secs(3);
/// While reports wait for a leader.
const UNREPORTED_EVERY: Duration = Duration::from_secs(1);
/// After so long a start counts as a good one.
const STAYED_UP: Duration = Duration::from_secs(30);
/// Single looks under way at a time.
const LOOKS_AT_ONCE_MAX: usize = 8;

pub(super) struct Converger {
    parts: NodeParts,
    tools: Tools,
    reporter: Reporter,
    sight: Sight,
    memory: Memory,
    retries: Retries,
    jobs: JoinSet<Done>,
    events: Option<mpsc::Receiver<Stirred>>,
    subscribing: bool,
    /// Attempts to open the event stream so far.
    subscriptions: u32,
    /// When the newest event stream was opened, until a list that began later was seen.
    subscribed: Option<Began>,
    /// Since when the engine is away, until a list that began later was seen. Nothing is decided meanwhile: what
    /// stopped with the engine did not end by itself.
    away: Option<Began>,
    listing: bool,
    list_at: Instant,
    /// Nothing is decided before the first list.
    listed: bool,
    /// The next pass starts again what ended unseen: with the machine, the agent or the engine.
    first_pass: bool,
    started: Instant,
    /// Tasks being brought up; dropping the sender cancels.
    runs: BTreeMap<TaskId, watch::Sender<()>>,
    /// Containers being stopped or removed.
    ending: BTreeSet<String>,
    /// Containers whose job is done and whose look is not: nothing is decided about them meanwhile.
    settling: BTreeMap<String, Option<TaskId>>,
    to_look: BTreeSet<String>,
    looking: BTreeSet<String>,
    /// Hints about containers that nobody knows; most are being created by jobs of ours.
    strangers: BTreeSet<String>,
}

impl Converger {
    pub(super) fn new(
        parts: NodeParts,
        reporter: Reporter,
        progress: Progress,
        seen: watch::Sender<Seen>,
    ) -> Self {
        Self {
            tools: Tools {
                engine: parts.engine.clone(),
                ports: parts.ports.clone(),
                permits: Permits::new(parts.parallel_starts),
                progress,
                node_name: Arc::from(parts.name.as_str()),
            },
            reporter,
            sight: Sight::new(seen),
            memory: Memory::default(),
            retries: Retries::new(parts.random.clone()),
            jobs: JoinSet::new(),
            events: None,
            subscribing: false,
            subscriptions: 0,
            subscribed: None,
            away: None,
            listing: false,
            list_at: Instant::now(),
            listed: false,
            first_pass: true,
            started: Instant::now(),
            runs: BTreeMap::new(),
            ending: BTreeSet::new(),
            settling: BTreeMap::new(),
            to_look: BTreeSet::new(),
            looking: BTreeSet::new(),
            strangers: BTreeSet::new(),
            parts,
        }
    }

    /// Works until it is dropped, or until the state has no sender any more.
    pub(super) async fn run(mut self, mut pings: mpsc::Receiver<oneshot::Sender<()>>) {
        let mut state = self.parts.state.clone();
        let mut caught_up = self.parts.caught_up.clone();
        loop {
            self.subscribe();
            self.list();
            self.pass();
            self.look();
            let wake = self.next_wake();
            let is_caught_up = *caught_up.borrow();
            tokio::select! {
                biased;
                Some(ping) = pings.recv() => {
                    if ping.send(()).is_err() {
                        tracing::debug!("nobody waits for the pong any more");
                    }
                }
                Some(done) = self.jobs.join_next() => self.finish(done),
                changed = state.changed() => {
                    if changed.is_err() {
                        return;
                    }
                }
                () = until_true(&mut caught_up), if !is_caught_up => {}
                hint = next_hint(&mut self.events) => self.hinted(hint),
                () = sleep_until(wake) => {}
            }
            self.take_what_is_there();
        }
    }

    /// Everything that is ready is taken before the next pass, so that a burst costs one pass.
    fn take_what_is_there(&mut self) {
        while let Some(done) = self.jobs.try_join_next() {
            self.finish(done);
        }
        while let Some(events) = &mut self.events {
            match events.try_recv() {
                Ok(hint) => self.hinted(Some(hint)),
                Err(mpsc::error::TryRecvError::Empty) => break,
                Err(mpsc::error::TryRecvError::Disconnected) => self.hinted(None),
            }
        }
    }

    fn next_wake(&self) -> Instant {
        let now = Instant::now();
        let unreported = self
            .reporter
            .has_unaccepted()
            .then(|| now + UNREPORTED_EVERY);
        let catch_up = (!*self.parts.caught_up.borrow()).then_some(self.started + CATCH_UP_MAX);
        [
            Some(self.list_at),
            self.retries.next(),
            unreported,
            catch_up,
        ]
        .into_iter()
        .flatten()
        .filter(|at| *at > now)
        .min()
        .unwrap_or(now + LIST_EVERY)
    }

    /// Opens the event stream before the list that follows it, so that nothing falls between the two.
    fn subscribe(&mut self) {
        if self.events.is_some() || self.subscribing {
            return;
        }
        self.subscribing = true;
        let (engine, cluster) = (self.parts.engine.clone(), self.parts.cluster);
        let wait = match self.subscriptions {
            0 => Duration::ZERO,
            _ => ASK_AGAIN + self.parts.random.up_to(ASK_AGAIN),
        };
        self.subscriptions = self.subscriptions.saturating_add(1);
        self.jobs.spawn(async move {
            sleep(wait).await;
            Done::Subscribed(engine.events(cluster).await)
        });
    }

    fn list(&mut self) {
        let first_subscription = self.subscribing && self.subscriptions == 1;
        if self.listing || first_subscription || self.list_at > Instant::now() {
            return;
        }
        self.listing = true;
        let (engine, cluster) = (self.parts.engine.clone(), self.parts.cluster);
        let began = self.sight.begin();
        self.jobs.spawn(async move {
            let result = engine.list(cluster).await;
            Done::Listed { began, result }
        });
    }

    fn look(&mut self) {
        if self.runs.is_empty() {
            let strangers = std::mem::take(&mut self.strangers);
            let unknown = strangers.into_iter();
            self.to_look
                .extend(unknown.filter(|id| self.sight.get(id).is_none()));
        }
        while self.looking.len() < LOOKS_AT_ONCE_MAX {
            let next = self.to_look.iter().find(|id| !self.looking.contains(*id));
            let Some(container) = next.cloned() else {
                return;
            };
            self.to_look.remove(&container);
            self.looking.insert(container.clone());
            self.jobs.spawn(self.tools.clone().look(container));
        }
    }

    /// `None`: the event stream ended.
    fn hinted(&mut self, hint: Option<Stirred>) {
        let Some(hint) = hint else {
            tracing::info!("the event stream of the container engine ended; opening another");
            self.events = None;
            self.away = Some(self.sight.begin());
            self.list_at = Instant::now();
            return;
        };
        let Some(id) = hint.container else {
            self.list_at = Instant::now();
            return;
        };
        match self.sight.get(&id) {
            // A job is on it, and looks when it is done.
            Some(seen) if self.is_busy(&id, seen.task) => {}
            Some(_) => {
                self.to_look.insert(id);
            }
            None if self.sight.just_went(&id) => {}
            None => {
                self.strangers.insert(id);
            }
        }
    }

    /// Whether a job will look at the container once it is done. A look under way may have missed the news.
    fn is_busy(&self, container: &str, task: Option<TaskId>) -> bool {
        self.ending.contains(container) || task.is_some_and(|task| self.runs.contains_key(&task))
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
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

    fn listed(
        &mut self,
        began: Began,
        result: Result<Vec<crate::containers::SeenContainer>, EngineError>,
    ) {
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

    fn busy_containers(&self) -> BTreeSet<String> {
        let waiting = self.retries.waiting().filter_map(|subject| match subject {
            Subject::Container(id) => Some(id),
            Subject::Task(_) => None,
        });
        let settling = self.settling.keys();
        let busy = self.ending.iter().chain(settling).chain(waiting);
        busy.cloned().collect()
    }

    fn busy_tasks(&self) -> BTreeSet<TaskId> {
        let waiting = self.retries.waiting().filter_map(|subject| match subject {
            Subject::Task(task) => Some(*task),
            Subject::Container(_) => None,
        });
        let settling = self.settling.values().flatten();
        let busy = self.runs.keys().chain(settling).copied();
        busy.chain(waiting).collect()
    }

    /// Brings everything one step closer to what the state wants.
    fn pass(&mut self) {
        let state = self.parts.state.borrow().clone();
        self.reporter.prune(&state, self.parts.node);
        let caught_up = *self.parts.caught_up.borrow();
        let has_looked = self.listed && self.away.is_none();
        if !has_looked || !caught_up && self.started.elapsed() < CATCH_UP_MAX {
            return;
        }
        self.forget(&state);
        self.cancel_unwanted(&state);
        let seen = self.sight.publish();
        self.parts
            .ports
            .update(endpoints::table(&state, self.parts.node, &seen));
        self.note_health(&state, &seen);

        let first_pass = std::mem::take(&mut self.first_pass);
        let memory = self.memory.for_logic(memory::Circumstances {
            now: self.parts.clock.now(),
            caught_up,
            first_pass,
            busy_tasks: self.busy_tasks(),
            busy_containers: self.busy_containers(),
            reporter: &self.reporter,
        });
        let containers = self.sight.for_logic(&state);
        for action in converge(self.parts.node, &state, &containers, &memory) {
            self.perform(&state, action);
        }
    }

    fn forget(&mut self, state: &ClusterState) {
        let is_ours = |task: &TaskId| {
            let task = state.tasks.get(task);
            task.is_some_and(|task| task.node == self.parts.node && !task.state.is_final())
        };
        self.memory.keep_only(is_ours);
        self.tools.progress.keep_only(is_ours);
        self.retries.keep_only(|subject| match subject {
            Subject::Task(task) => is_ours(task),
            Subject::Container(id) => self.sight.get(id).is_some(),
        });
    }

    /// Ends pulls for tasks that are not wanted any more.
    fn cancel_unwanted(&mut self, state: &ClusterState) {
        let unwanted: Vec<TaskId> = self
            .runs
            .keys()
            .filter(|task| !state.tasks.get(task).is_some_and(|task| task.is_live()))
            .copied()
            .collect();
        for task in unwanted {
            // A sender that was replaced is a sender that was dropped: the job stays known until it ends.
            self.runs.insert(task, watch::channel(()).0);
        }
    }

    fn note_health(&mut self, state: &ClusterState, seen: &Seen) {
        for seen in seen.values() {
            let Some(task) = seen.task.and_then(|task| state.tasks.get(&task)) else {
                continue;
            };
            let ContainerStatus::Running { health, since } = seen.status else {
                continue;
            };
            if self.parts.clock.now().since(since) >= STAYED_UP {
                self.memory.stayed_up(task.id);
            }
            if task.desired == Desired::Running && task.state < TaskState::Running {
                match health {
                    Health::Starting => {
                        self.tools
                            .progress
                            .note(task.id, "waiting for its health check");
                    }
                    _ => self.tools.progress.clear(task.id),
                }
            }
        }
    }

    fn perform(&mut self, state: &ClusterState, action: Action) {
        match action {
            Action::Run(task) => self.start(state, task, None),
            Action::Start { container, task } => self.start(state, task, Some(container)),
            Action::Stop {
                container, grace, ..
            } => {
                tracing::info!(container, ?grace, "stopping");
                self.ending.insert(container.clone());
                self.jobs.spawn(self.tools.clone().stop(container, grace));
            }
            Action::Remove { container } => {
                tracing::debug!(container, "removing");
                self.ending.insert(container.clone());
                self.jobs.spawn(self.tools.clone().remove(container));
            }
            Action::Report(report) => self.reporter.say(report),
        }
    }

    fn start(&mut self, state: &ClusterState, id: TaskId, container: Option<String>) {
        let Some(task) = state.tasks.get(&id) else {
            return;
        };
        let Some(spec) = state.spec_of(task) else {
            tracing::error!(%id, "the state has no spec for a task");
            return;
        };
        let ended = container
            .as_ref()
            .and_then(|id| self.sight.get(id))
            .is_some_and(|seen| matches!(seen.status, ContainerStatus::Exited { .. }));
        if self.memory.note_start(
            id,
            ended || task.state == TaskState::Running,
            self.parts.clock.now(),
        ) {
            tracing::info!(%id, "starting a task again without being told to");
            self.reporter.withdraw(id);
        }
        let wanted = TaskContainer {
            cluster: self.parts.cluster,
            node: self.parts.node,
            node_name: self.parts.name.clone(),
            service: task.service,
            task: id,
            slot: task.slot,
            spec: spec.clone(),
        };
        let (keep, canceled) = watch::channel(());
        self.runs.insert(id, keep);
        self.jobs
            .spawn(self.tools.clone().run(wanted, container, canceled));
    }
}

/// Waits for ever when nobody will ever say so.
async fn until_true(caught_up: &mut watch::Receiver<bool>) {
    if caught_up.wait_for(|caught_up| *caught_up).await.is_err() {
        std::future::pending().await
    }
}

/// The next hint; waits for ever without a stream, `None` when the stream ends.
async fn next_hint(events: &mut Option<mpsc::Receiver<Stirred>>) -> Option<Stirred> {
    match events {
        Some(events) => events.recv().await,
        None => std::future::pending().await,
    }
}
