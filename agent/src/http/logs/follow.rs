//! New lines as they come: one reader per container, which reconnects, and one place where their lines are put in
//! order before they go out.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::views::{LogEvent, LogRequest};
use kawanan_api::{TaskId, Timestamp};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::source::{Line, Source, open};
use super::{SOURCES_MAX, Wanted, is_over, sources_of};
use crate::http::Api;
use crate::http::stream::{Lines, StreamEnd};
use crate::peer::LogFrame;

/// How long a line waits for earlier ones of other nodes: several times the delay between two nodes of a cluster.
const WINDOW: Duration = Duration::from_millis(300);
/// Lines that wait at most; more push the earliest out.
const WAITING_MAX: usize = 4096;
/// Lines between the readers and the sorter.
const QUEUE_MAX: usize = 256;
/// First pause before a reader tries again; doubles up to the longest.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
const RETRY_PAUSE_MAX: Duration = Duration::from_secs(10);
/// How long a container's end may be known here before its task's.
const END_GRACE: Duration = Duration::from_secs(2);
const SILENCE_MAX: Duration = Duration::from_secs(5);

/// What a reader hands over.
enum News {
    Line(TaskId, Line),
    Trouble(String),
}

pub(super) async fn follow(
    api: Api,
    wanted: Wanted,
    sources: Vec<Source>,
    request: LogRequest,
    lines: Arc<Lines>,
) -> Result<(), StreamEnd> {
    let (sender, mut news) = mpsc::channel(QUEUE_MAX);
    let mut follower = Follower {
        api: api.clone(),
        since: request.since,
        sender,
        readers: JoinSet::new(),
        known: BTreeSet::new(),
        sources: BTreeMap::new(),
    };
    follower.take_up(sources);
    let mut sorter = Sorter::default();
    let mut state = api.backend.state();
    let mut spoken = Instant::now();
    loop {
        let due = sorter
            .due()
            .unwrap_or(spoken + SILENCE_MAX)
            .min(spoken + SILENCE_MAX);
        tokio::select! {
            biased;
            Some(news) = news.recv() => match news {
                News::Line(task, line) => sorter.add(task, line),
                News::Trouble(message) => {
                    lines.send(&LogEvent::Warning { message }).await?;
                    spoken = Instant::now();
                }
            },
            Some(ended) = follower.readers.join_next() => {
                if let Err(err) = ended {
                    tracing::error!(%err, "a log reader's tokio task failed");
                }
                if follower.is_done(wanted) && sorter.is_empty() && news.is_empty() {
                    return Ok(());
                }
            }
            changed = state.changed() => {
                if changed.is_err() {
                    return Ok(());
                }
                state.borrow_and_update();
                if matches!(wanted, Wanted::Service(_)) {
                    follower.take_up(sources_of(&api, wanted));
                }
            }
            () = tokio::time::sleep_until(due) => {}
        }
        while let Some((task, line)) = sorter.next(follower.readers.len()) {
            if let Some(source) = follower.sources.get(&task) {
                lines.send(&source.event(line)).await?;
                spoken = Instant::now();
            }
        }
        if follower.is_done(wanted) && sorter.is_empty() && news.is_empty() {
            return Ok(());
        }
        if spoken.elapsed() >= SILENCE_MAX {
            lines.send(&LogEvent::Idle).await?;
            spoken = Instant::now();
        }
    }
}

/// The readers of one stream.
struct Follower {
    api: Api,
    since: Option<Timestamp>,
    sender: mpsc::Sender<News>,
    readers: JoinSet<()>,
    known: BTreeSet<TaskId>,
    sources: BTreeMap<TaskId, Source>,
}

impl Follower {
    /// Starts a reader for every task that has none yet and may still write.
    fn take_up(&mut self, sources: Vec<Source>) {
        let state = self.api.state();
        for source in sources {
            if !self.known.insert(source.task) || self.readers.len() >= SOURCES_MAX {
                continue;
            }
            self.sources.insert(source.task, source.clone());
            if !is_over(&state, source.task) {
                let reader = read(self.api.clone(), source, self.since, self.sender.clone());
                self.readers.spawn(reader);
            }
        }
    }

    /// Nothing more will come: the only task is over, or the service is gone.
    fn is_done(&self, wanted: Wanted) -> bool {
        let state = self.api.state();
        let over = match wanted {
            Wanted::Task(_) => true,
            Wanted::Service(service) => {
                (state.services.get(&service)).is_none_or(|service| service.removed_at.is_some())
            }
        };
        over && self.readers.is_empty()
    }
}

/// Reads one task's output until the task is over, and begins again where it was when a connection is lost.
async fn read(api: Api, mut source: Source, since: Option<Timestamp>, news: mpsc::Sender<News>) {
    let mut pause = RETRY_PAUSE;
    let mut told = false;
    loop {
        let failure = match read_once(&api, &mut source, since, &news).await {
            ReadEnd::Gone => return,
            ReadEnd::Ended { read_any } => {
                if read_any {
                    pause = RETRY_PAUSE;
                    told = false;
                }
                None
            }
            ReadEnd::Failed(error) => Some(error),
        };
        if task_is_over_soon(&api, source.task, failure.is_none()).await {
            return;
        }
        if let Some(error) = failure
            && !told
        {
            told = true;
            let trouble = format!("{}; trying again", source.missing(&error));
            if news.send(News::Trouble(trouble)).await.is_err() {
                return;
            }
        }
        tokio::time::sleep(pause + api.random.up_to(pause)).await;
        pause = (pause * 2).min(RETRY_PAUSE_MAX);
    }
}

enum ReadEnd {
    /// Nobody listens any more.
    Gone,
    Ended {
        read_any: bool,
    },
    Failed(kawanan_api::ApiError),
}

async fn read_once(
    api: &Api,
    source: &mut Source,
    since: Option<Timestamp>,
    news: &mpsc::Sender<News>,
) -> ReadEnd {
    let (query, mut known) = source.resume(since);
    let mut frames = match open(api, source.task, query).await {
        Ok(frames) => frames,
        Err(error) => return ReadEnd::Failed(error),
    };
    let mut read_any = false;
    while let Some(frame) = frames.recv().await {
        let line = match frame {
            LogFrame::Line { at, stderr, text } => Line { at, stderr, text },
            LogFrame::Failed(error) => return ReadEnd::Failed(error),
        };
        if known.skips(&line) {
            continue;
        }
        read_any = true;
        source.advance(&line);
        if news.send(News::Line(source.task, line)).await.is_err() {
            return ReadEnd::Gone;
        }
    }
    ReadEnd::Ended { read_any }
}

/// A container's output ends before the log says that its task is over: waits for that a little.
async fn task_is_over_soon(api: &Api, task: TaskId, ended: bool) -> bool {
    let mut state = api.backend.state();
    let over = state.wait_for(|state| is_over(state, task));
    let patience = if ended { END_GRACE } else { Duration::ZERO };
    match tokio::time::timeout(patience, over).await {
        Ok(_) => true,
        Err(_) => is_over(&api.state(), task),
    }
}

/// Holds lines for [`WINDOW`] and lets them go in the order of their time.
#[derive(Default)]
struct Sorter {
    waiting: BinaryHeap<Reverse<(Timestamp, u64)>>,
    lines: BTreeMap<(Timestamp, u64), (TaskId, Line)>,
    /// When each came in, the first first.
    arrivals: VecDeque<(Instant, (Timestamp, u64))>,
    count: u64,
}

impl Sorter {
    fn add(&mut self, task: TaskId, line: Line) {
        let key = (line.at, self.count);
        self.count += 1;
        self.waiting.push(Reverse(key));
        self.lines.insert(key, (task, line));
        self.arrivals.push_back((Instant::now(), key));
    }

    fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// When the line that came first has waited long enough.
    fn due(&self) -> Option<Instant> {
        self.arrivals.front().map(|(arrived, _)| *arrived + WINDOW)
    }

    /// The earliest line, if it, or one behind it, has waited long enough. With one reader there is nobody to wait for.
    fn next(&mut self, readers: usize) -> Option<(TaskId, Line)> {
        while let Some((_, key)) = self.arrivals.front()
            && !self.lines.contains_key(key)
        {
            self.arrivals.pop_front();
        }
        let now = Instant::now();
        let due = self.due().is_some_and(|due| due <= now);
        if !due && readers > 1 && self.lines.len() <= WAITING_MAX {
            return None;
        }
        let Reverse(key) = self.waiting.pop()?;
        self.lines.remove(&key)
    }
}
