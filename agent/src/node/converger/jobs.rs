//! What the converger has done by others: one engine call after another, each in a tokio task of its own, so that a call
//! that hangs holds up nothing but itself. Jobs decide nothing; they say how it went.

use std::sync::Arc;
use std::time::Duration;

use kawanan_api::TaskId;
use kawanan_api::spec::PortMode;
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use super::sight::Began;
use crate::containers::{EngineError, SeenContainer, SharedRuntime, Stirred, TaskContainer};
use crate::network::{PortKey, SharedPorts};
use crate::node::permits::Permits;
use crate::node::progress::Progress;

/// How long a stop waits for the port proxy to stop sending connections.
const PORTS_DEADLINE: Duration = Duration::from_secs(2);

/// How a job went.
pub(super) enum Done {
    Listed {
        began: Began,
        result: Result<Vec<SeenContainer>, EngineError>,
    },
    Subscribed(Result<mpsc::Receiver<Stirred>, EngineError>),
    Looked {
        container: String,
        result: Result<SeenContainer, EngineError>,
    },
    Ran {
        task: TaskId,
        /// The container, if it came to one.
        container: Option<String>,
        result: Result<(), RunFailure>,
    },
    Stopped {
        container: String,
        result: Result<(), EngineError>,
    },
    Removed {
        container: String,
        result: Result<(), EngineError>,
    },
}

/// Why a task did not start.
pub(super) enum RunFailure {
    Engine(EngineError),
    /// Another process has a port that the task publishes.
    Port(String),
    /// It is not wanted any more.
    Canceled,
}

/// What jobs work with. Cheap to clone.
#[derive(Clone)]
pub(super) struct Tools {
    pub engine: SharedRuntime,
    pub ports: SharedPorts,
    pub permits: Permits,
    pub progress: Progress,
    pub node_name: Arc<str>,
}

/// Told when the task is not wanted any more: the sender is dropped then.
pub(super) type Canceled = watch::Receiver<()>;

impl Tools {
    /// Brings a task's container up, in `existing` when there is one.
    pub(super) async fn run(
        self,
        wanted: TaskContainer,
        existing: Option<String>,
        mut canceled: Canceled,
    ) -> Done {
        let task = wanted.task;
        let mut container = existing;
        let result = self.bring_up(&wanted, &mut container, &mut canceled).await;
        Done::Ran {
            task,
            container,
            result,
        }
    }

    async fn bring_up(
        &self,
        wanted: &TaskContainer,
        container: &mut Option<String>,
        canceled: &mut Canceled,
    ) -> Result<(), RunFailure> {
        self.open_ports(wanted).await?;
        if container.is_none() {
            let image = &wanted.spec.container.image;
            self.progress
                .note(wanted.task, &format!("preparing image {image}"));
            tokio::select! {
                biased;
                gone = canceled.changed() => {
                    debug_assert!(gone.is_err(), "nothing is ever sent, the sender only goes");
                    return Err(RunFailure::Canceled);
                }
                result = self.engine.ensure_image(&wanted.spec) => result.map_err(RunFailure::Engine)?,
            }
        }
        self.progress.note(wanted.task, "starting");
        let started = self.permits.start(async {
            if canceled.has_changed().is_err() {
                return Err(RunFailure::Canceled);
            }
            let id = match container.take() {
                Some(id) => id,
                None => self
                    .engine
                    .create(wanted)
                    .await
                    .map_err(RunFailure::Engine)?,
            };
            let started = self.engine.start(&id).await.map_err(RunFailure::Engine);
            *container = Some(id);
            started
        });
        started.await
    }

    /// A port that somebody else has is a reason not to start, rather than a hole that nobody sees.
    async fn open_ports(&self, wanted: &TaskContainer) -> Result<(), RunFailure> {
        for port in &wanted.spec.ports {
            if port.mode != PortMode::Ingress {
                continue;
            }
            let key = PortKey {
                port: port.published.get(),
                protocol: port.protocol,
            };
            if let Err(refused) = self.ports.ensure(key).await {
                return Err(RunFailure::Port(refused.on_node(&self.node_name)));
            }
        }
        Ok(())
    }

    pub(super) async fn stop(self, container: String, grace: Duration) -> Done {
        // The proxy has the table without this container: once it confirms, no new connection comes.
        if timeout(PORTS_DEADLINE, self.ports.settled()).await.is_err() {
            tracing::warn!(container, "stopped while the port proxy may still know it");
        }
        let result = self
            .permits
            .stop(grace, self.engine.stop(&container, grace))
            .await;
        Done::Stopped { container, result }
    }

    pub(super) async fn remove(self, container: String) -> Done {
        let result = self.permits.remove(self.engine.remove(&container)).await;
        Done::Removed { container, result }
    }

    pub(super) async fn look(self, container: String) -> Done {
        let result = self.engine.inspect(&container).await;
        Done::Looked { container, result }
    }
}
