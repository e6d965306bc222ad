//! Getting images: present ones are used, missing ones are pulled once, however many tasks wait for them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use bollard::query_parameters::CreateImageOptionsBuilder;
use futures::StreamExt;
use kawanan_api::ServiceSpec;
use tokio::sync::Semaphore;
use tokio::time::{Instant, timeout};

use super::{Docker, INSPECT_DEADLINE, spec};
use crate::containers::EngineError;

/// A pull that moves no byte for so long is given up.
const STALL_DEADLINE: Duration = Duration::from_secs(60);
/// A longer queue at the registry only makes each pull slower.
const PULLS_AT_ONCE_MAX: usize = 3;

/// The pulls under way.
pub(super) struct Pulls {
    by_image: Mutex<BTreeMap<String, Arc<Pull>>>,
    permits: Semaphore,
}

/// One image being pulled, with all who wait for it.
#[derive(Default)]
struct Pull {
    turn: tokio::sync::Mutex<()>,
    last_failure: Mutex<Option<(Instant, EngineError)>>,
}

impl Default for Pulls {
    fn default() -> Self {
        Self {
            by_image: Mutex::default(),
            permits: Semaphore::new(PULLS_AT_ONCE_MAX),
        }
    }
}

impl Pulls {
    /// Makes sure that the image is here.
    pub(super) async fn ensure(
        &self,
        docker: &Docker,
        spec: &ServiceSpec,
    ) -> Result<(), EngineError> {
        let image = spec.container.image.as_str();
        if is_present(docker, image).await? {
            return Ok(());
        }
        let asked_at = Instant::now();
        let pull = self.entry(image);
        let result = {
            let _turn = pull.turn.lock().await;
            match pull.failure_since(asked_at) {
                Some(failure) => Err(failure),
                None => self.pull(docker, spec, &pull).await,
            }
        };
        self.forget(image, pull);
        result
    }

    async fn pull(
        &self,
        docker: &Docker,
        spec: &ServiceSpec,
        pull: &Pull,
    ) -> Result<(), EngineError> {
        let image = spec.container.image.as_str();
        // Whoever had the turn before may have brought it.
        if is_present(docker, image).await? {
            return Ok(());
        }
        let _permit = self
            .permits
            .acquire()
            .await
            .map_err(|err| EngineError::Failed(err.to_string()))?;
        let result = fetch(docker, spec).await;
        if let Err(err) = &result {
            pull.note_failure(err.clone());
        }
        result
    }

    fn entry(&self, image: &str) -> Arc<Pull> {
        let mut pulls = self.by_image.lock().unwrap_or_else(PoisonError::into_inner);
        pulls.entry(image.to_owned()).or_default().clone()
    }

    /// Drops the entry when nobody else waits for it.
    fn forget(&self, image: &str, pull: Arc<Pull>) {
        let mut pulls = self.by_image.lock().unwrap_or_else(PoisonError::into_inner);
        drop(pull);
        if pulls
            .get(image)
            .is_some_and(|pull| Arc::strong_count(pull) == 1)
        {
            pulls.remove(image);
        }
    }
}

impl Pull {
    /// A failure that came while the caller waited is the caller's answer too.
    fn failure_since(&self, asked_at: Instant) -> Option<EngineError> {
        let last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        last.as_ref()
            .filter(|(failed_at, _)| *failed_at >= asked_at)
            .map(|(_, failure)| failure.clone())
    }

    fn note_failure(&self, failure: EngineError) {
        let mut last = self
            .last_failure
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *last = Some((Instant::now(), failure));
    }
}

async fn is_present(docker: &Docker, image: &str) -> Result<bool, EngineError> {
    let asked = docker.asked("inspect image", image, INSPECT_DEADLINE);
    let client = docker.client().await?;
    match timeout(INSPECT_DEADLINE, client.inspect_image(image)).await {
        Ok(Ok(_)) => Ok(true),
        Ok(Err(bollard::errors::Error::DockerResponseServerError {
            status_code: 404, ..
        })) => Ok(false),
        Ok(Err(err)) => Err(asked.failed(err)),
        Err(_) => Err(asked.timed_out()),
    }
}

/// Pulls, for as long as there is progress.
async fn fetch(docker: &Docker, spec: &ServiceSpec) -> Result<(), EngineError> {
    let image = spec.container.image.as_str();
    let asked = docker.asked("pull", image, STALL_DEADLINE);
    let options = CreateImageOptionsBuilder::new()
        .from_image(&spec::pull_reference(image))
        .build();
    tracing::info!(image, "pulling");
    let client = docker.client().await?;
    let mut progress = client.create_image(Some(options), None, spec::credentials(spec));
    loop {
        match timeout(STALL_DEADLINE, progress.next()).await {
            Ok(Some(Ok(_))) => {}
            Ok(Some(Err(err))) => return Err(asked.pull_failed(err)),
            Ok(None) => break,
            Err(_) => {
                return Err(EngineError::Image {
                    image: image.to_owned(),
                    cause: format!("no progress for {} s", STALL_DEADLINE.as_secs()),
                });
            }
        }
    }
    if is_present(docker, image).await? {
        return Ok(());
    }
    Err(EngineError::Image {
        image: image.to_owned(),
        cause: "the engine pulled it, but does not have it".to_owned(),
    })
}
