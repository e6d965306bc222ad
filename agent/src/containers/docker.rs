//! Docker Engine, and what speaks its API (Podman), through its unix socket.
//!
//! Connects at the first call and survives the engine's restarts: nothing is kept open but streams that somebody
//! reads. Every call has a deadline of its own; the engine may finish a call that we gave up on, so creating looks
//! before it tries again. The only folder that knows `bollard`.

mod errors;
mod events;
mod logs;
mod pull;
mod seen;
mod spec;

use std::collections::{BTreeMap, HashMap};
use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, EventsOptionsBuilder, ListContainersOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, StopContainerOptionsBuilder,
};
use futures::{StreamExt, stream};
use kawanan_api::quantity::{Bytes, MilliCpus};
use kawanan_api::spec::ResourceAmounts;
use kawanan_api::{ClusterId, ServiceSpec, TaskId};
use tokio::sync::{OnceCell, mpsc};
use tokio::time::{Instant, timeout};

use super::{
    ContainerRuntime, ContainerStatus, EngineError, EngineInfo, LogLine, LogQuery, SeenContainer,
    Stirred, TaskContainer,
};
use errors::Asked;

const INSPECT_DEADLINE: Duration = Duration::from_secs(5);
const LIST_DEADLINE: Duration = Duration::from_secs(15);
const CREATE_DEADLINE: Duration = Duration::from_secs(30);
const START_DEADLINE: Duration = Duration::from_secs(60);
const REMOVE_DEADLINE: Duration = Duration::from_secs(60);
/// What a stop may take beyond the container's own grace.
const STOP_SLACK: Duration = Duration::from_secs(10);
/// The client library's own timeout, out of the way of ours.
const CLIENT_TIMEOUT_SECS: u64 = 24 * 3600;
/// Containers inspected at a time while listing.
const INSPECTS_AT_ONCE_MAX: usize = 4;
/// Names tried for one task before giving up: the plain one, then with a number.
const NAMES_TRIED_MAX: u32 = 4;

const DEFAULT_ENDPOINT: &str = "unix:///var/run/docker.sock";

/// The engine behind one socket.
pub struct Docker {
    endpoint: String,
    client: OnceCell<bollard::Docker>,
    /// Since when containers run, so that a list does not have to inspect each of them every time. Forgotten when
    /// the container stirs.
    running_since: Mutex<BTreeMap<String, kawanan_api::Timestamp>>,
    pulls: pull::Pulls,
}

impl Docker {
    /// The engine at `endpoint` (`unix:///path`); an empty text means `DOCKER_HOST`, then Docker's own default. Does
    /// not connect yet, so it is fine that the engine is down.
    ///
    /// # Errors
    /// When the endpoint is not a unix socket.
    pub fn connect(endpoint: &str) -> Result<Self, EngineError> {
        let endpoint = match endpoint {
            "" => std::env::var("DOCKER_HOST").unwrap_or_else(|_| DEFAULT_ENDPOINT.to_owned()),
            given => given.to_owned(),
        };
        if !endpoint.starts_with("unix:///") {
            return Err(EngineError::Unreachable {
                cause: "only unix sockets are supported; write unix:///path/to/docker.sock"
                    .to_owned(),
                endpoint,
            });
        }
        Ok(Self {
            endpoint,
            client: OnceCell::new(),
            running_since: Mutex::default(),
            pulls: pull::Pulls::default(),
        })
    }

    /// Where the engine is, for messages.
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    fn asked<'a>(&'a self, call: &'static str, about: &'a str, deadline: Duration) -> Asked<'a> {
        Asked {
            endpoint: &self.endpoint,
            call,
            about,
            deadline,
        }
    }

    /// The client, connected and agreed on an API version with the engine.
    async fn client(&self) -> Result<&bollard::Docker, EngineError> {
        let asked = self.asked("version", "", INSPECT_DEADLINE);
        let connect = self.client.get_or_try_init(|| async {
            let client = bollard::Docker::connect_with_unix(
                &self.endpoint,
                CLIENT_TIMEOUT_SECS,
                bollard::API_DEFAULT_VERSION,
            )?;
            client.negotiate_version().await
        });
        match timeout(INSPECT_DEADLINE, connect).await {
            Ok(Ok(client)) => Ok(client),
            Ok(Err(err)) => Err(asked.failed(err)),
            Err(_) => Err(asked.timed_out()),
        }
    }

    /// One call with its deadline.
    async fn within<T>(
        asked: Asked<'_>,
        call: impl Future<Output = Result<T, bollard::errors::Error>>,
    ) -> Result<T, EngineError> {
        match timeout(asked.deadline, call).await {
            Ok(Ok(value)) => Ok(value),
            Ok(Err(err)) => Err(asked.failed(err)),
            Err(_) => Err(asked.timed_out()),
        }
    }

    async fn rows(&self, label: String, deadline: Duration) -> Result<Vec<seen::Row>, EngineError> {
        let options = ListContainersOptionsBuilder::new()
            .all(true)
            .filters(&HashMap::from([("label", vec![label])]))
            .build();
        let asked = self.asked("list", "", deadline);
        let list = self.client().await?.list_containers(Some(options));
        let rows = Self::within(asked, list).await?;
        Ok(rows.into_iter().filter_map(seen::from_summary).collect())
    }

    /// Completes a row of the list. A container whose inspection hangs is shown as the list has it.
    async fn complete(&self, row: seen::Row, by: Instant) -> SeenContainer {
        let seen = row.seen;
        if !row.needs_inspect {
            self.forget_start(&seen.id);
            return seen;
        }
        if let ContainerStatus::Running { health, .. } = seen.status
            && let Some(&since) = self.starts().get(&seen.id)
        {
            let status = ContainerStatus::Running { health, since };
            return SeenContainer { status, ..seen };
        }
        match tokio::time::timeout_at(by, self.inspect(&seen.id)).await {
            Ok(Ok(inspected)) => inspected,
            Ok(Err(err)) => {
                tracing::debug!(container = %seen.name, %err, "listed but not inspected");
                seen
            }
            Err(_) => seen,
        }
    }

    fn starts(&self) -> std::sync::MutexGuard<'_, BTreeMap<String, kawanan_api::Timestamp>> {
        self.running_since
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }

    fn forget_start(&self, container: &str) {
        self.starts().remove(container);
    }

    /// The container that carries this task's label, unless it is on its way out.
    async fn find(&self, task: TaskId) -> Result<Option<String>, EngineError> {
        let label = format!("{}={task}", spec::LABEL_TASK);
        let rows = self.rows(label, LIST_DEADLINE).await?;
        Ok(rows
            .into_iter()
            .map(|row| row.seen)
            .find(|seen| {
                !matches!(
                    seen.status,
                    ContainerStatus::Removing | ContainerStatus::Dead
                )
            })
            .map(|seen| seen.id))
    }

    async fn create_named(
        &self,
        name: &str,
        container: &TaskContainer,
    ) -> Result<Created, EngineError> {
        let options = CreateContainerOptionsBuilder::new().name(name).build();
        let client = self.client().await?;
        let create = client.create_container(Some(options), spec::create_body(container));
        let image = &container.spec.container.image;
        let asked = self.asked("create", image, CREATE_DEADLINE);
        match timeout(CREATE_DEADLINE, create).await {
            Ok(Ok(created)) => Ok(Created::Yes(created.id)),
            Ok(Err(bollard::errors::Error::DockerResponseServerError {
                status_code: 409, ..
            })) => Ok(Created::NameTaken),
            Ok(Err(err)) => Err(asked.failed(err)),
            Err(_) => Err(asked.timed_out()),
        }
    }
}

enum Created {
    Yes(String),
    NameTaken,
}

#[async_trait]
impl ContainerRuntime for Docker {
    async fn info(&self) -> Result<EngineInfo, EngineError> {
        let info = self.client().await?.info();
        let info = Self::within(self.asked("info", "", INSPECT_DEADLINE), info).await?;
        let cores = info.ncpu.and_then(|n| u64::try_from(n).ok()).unwrap_or(0);
        let memory = info.mem_total.and_then(|n| u64::try_from(n).ok());
        Ok(EngineInfo {
            version: info.server_version.unwrap_or_default(),
            os: info.os_type.unwrap_or_default(),
            arch: info.architecture.unwrap_or_default(),
            capacity: ResourceAmounts {
                cpus: MilliCpus(cores.saturating_mul(1000)),
                memory: Bytes(memory.unwrap_or(0)),
            },
        })
    }

    async fn list(&self, cluster: ClusterId) -> Result<Vec<SeenContainer>, EngineError> {
        let by = Instant::now() + LIST_DEADLINE;
        let label = format!("{}={cluster}", spec::LABEL_CLUSTER);
        let rows = self.rows(label, LIST_DEADLINE).await?;
        let mut containers: Vec<SeenContainer> = stream::iter(rows)
            .map(|row| self.complete(row, by))
            .buffer_unordered(INSPECTS_AT_ONCE_MAX)
            .collect()
            .await;
        containers.sort_by(|a, b| a.id.cmp(&b.id));
        self.starts().retain(|id, _| {
            containers
                .binary_search_by(|seen| seen.id.as_str().cmp(id))
                .is_ok()
        });
        Ok(containers)
    }

    async fn inspect(&self, container: &str) -> Result<SeenContainer, EngineError> {
        let asked = self.asked("inspect", container, INSPECT_DEADLINE);
        let client = self.client().await?;
        let inspected = Self::within(asked, client.inspect_container(container, None)).await?;
        let seen = seen::from_inspect(inspected).ok_or_else(|| {
            EngineError::Failed(format!("it shows container {container} without an id"))
        })?;
        match seen.status {
            ContainerStatus::Running { since, .. } => {
                self.starts().insert(seen.id.clone(), since);
            }
            _ => self.forget_start(&seen.id),
        }
        Ok(seen)
    }

    async fn ensure_image(&self, spec: &ServiceSpec) -> Result<(), EngineError> {
        self.pulls.ensure(self, spec).await
    }

    async fn create(&self, container: &TaskContainer) -> Result<String, EngineError> {
        let plain = spec::container_name(container);
        for attempt in 1..=NAMES_TRIED_MAX {
            let name = match attempt {
                1 => plain.clone(),
                more => format!("{plain}-{more}"),
            };
            match self.create_named(&name, container).await {
                Ok(Created::Yes(id)) => return Ok(id),
                Ok(Created::NameTaken) => {
                    // By an earlier attempt of ours, or by a stranger or a ghost: then under another name.
                    if let Some(id) = self.find(container.task).await? {
                        return Ok(id);
                    }
                }
                // The reply may be lost and the container made.
                Err(lost @ (EngineError::TimedOut { .. } | EngineError::Unreachable { .. })) => {
                    return match self.find(container.task).await {
                        Ok(Some(id)) => Ok(id),
                        Ok(None) | Err(_) => Err(lost),
                    };
                }
                Err(err) => return Err(err),
            }
        }
        Err(EngineError::Refused(format!(
            "the container names {plain} to {plain}-{NAMES_TRIED_MAX} are taken by other containers"
        )))
    }

    async fn start(&self, container: &str) -> Result<(), EngineError> {
        self.forget_start(container);
        let asked = self.asked("start", container, START_DEADLINE);
        let client = self.client().await?;
        Self::within(asked, client.start_container(container, None)).await
    }

    async fn stop(&self, container: &str, grace: Duration) -> Result<(), EngineError> {
        self.forget_start(container);
        let options = StopContainerOptionsBuilder::new()
            .t(spec::whole_seconds(grace))
            .build();
        let asked = self.asked("stop", container, grace.saturating_add(STOP_SLACK));
        let client = self.client().await?;
        match Self::within(asked, client.stop_container(container, Some(options))).await {
            Err(EngineError::Gone(_)) => Ok(()),
            other => other,
        }
    }

    async fn remove(&self, container: &str) -> Result<(), EngineError> {
        self.forget_start(container);
        let options = RemoveContainerOptionsBuilder::new()
            .v(true)
            .force(true)
            .build();
        let asked = self.asked("remove", container, REMOVE_DEADLINE);
        let client = self.client().await?;
        match Self::within(asked, client.remove_container(container, Some(options))).await {
            Err(EngineError::Gone(_)) => Ok(()),
            other => other,
        }
    }

    async fn logs(
        &self,
        container: &str,
        query: LogQuery,
    ) -> Result<mpsc::Receiver<LogLine>, EngineError> {
        // A wrong id would otherwise show up as an empty log.
        self.inspect(container).await?;
        let tail = query
            .tail
            .map_or_else(|| "all".to_owned(), |n| n.to_string());
        let since = query.since.map_or(0, |since| since.millis() / 1000);
        let options = LogsOptionsBuilder::new()
            .stdout(true)
            .stderr(true)
            .timestamps(true)
            .follow(query.follow)
            .tail(&tail)
            .since(i32::try_from(since).unwrap_or(i32::MAX))
            .build();
        let frames = self.client().await?.logs(container, Some(options));
        let (lines_out, lines) = mpsc::channel(logs::LINES_QUEUED_MAX);
        tokio::spawn(logs::forward(frames, query, lines_out));
        Ok(lines)
    }

    async fn events(&self, cluster: ClusterId) -> Result<mpsc::Receiver<Stirred>, EngineError> {
        let label = format!("{}={cluster}", spec::LABEL_CLUSTER);
        let options = EventsOptionsBuilder::new()
            .filters(&HashMap::from([
                ("type", vec!["container".to_owned()]),
                ("label", vec![label]),
            ]))
            .build();
        let events = self.client().await?.events(Some(options));
        let (hints_out, hints) = mpsc::channel(events::HINTS_QUEUED_MAX);
        tokio::spawn(events::forward(events, hints_out));
        Ok(hints)
    }
}
