//! What every engine must do, run against the twin always and against a real Docker where one answers.
//!
//! `KAWANAN_REQUIRE_DOCKER=1` turns a missing Docker into a failure, so that a build server cannot skip it unseen.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kawanan_api::spec::{HealthCheck, HealthTest, Mount, MountKind};
use kawanan_api::{ClusterId, NodeId, ServiceId, ServiceSpec, Slot, TaskId, Timestamp};
use tokio::time::{Instant, sleep, timeout};

use super::simulated::{Behavior, HealthPlan, Latencies, SimulatedRuntime};
use super::{
    ContainerRuntime, ContainerStatus, EngineError, Health, LogQuery, SeenContainer, TaskContainer,
};
use crate::clock::SimulatedClock;
use crate::random::{Random, SystemRandom};

mod real;

const PATIENCE: Duration = Duration::from_secs(30);

/// An engine under test, and how its containers are told to behave.
trait Bench {
    fn engine(&self) -> &dyn ContainerRuntime;
    /// Runs until it is stopped, at once when asked to.
    fn runs(&self) -> ServiceSpec;
    /// Ignores the stop signal.
    fn stubborn(&self) -> ServiceSpec;
    /// Exits with this code after half a second, having written `bye` to stdout.
    fn exits(&self, code: i32) -> ServiceSpec;
    /// Becomes healthy, or unhealthy, within a few seconds.
    fn checked(&self, passes: bool) -> ServiceSpec;
    /// An image that nobody has.
    fn missing_image(&self) -> &str;
    /// A port of the machine that somebody listens on.
    fn occupied_port(&self) -> u16;
}

fn container(cluster: ClusterId, spec: ServiceSpec) -> TaskContainer {
    TaskContainer {
        cluster,
        node: NodeId::from_bits(7),
        node_name: "contract".to_owned(),
        service: ServiceId::from_bits(8),
        task: TaskId::from_bits(SystemRandom.bits()),
        slot: Some(Slot(1)),
        spec: Arc::new(spec),
    }
}

/// Waits until the engine shows what is wanted.
async fn wait_for<T, F: Future<Output = Option<T>>>(what: &str, mut look: impl FnMut() -> F) -> T {
    let by = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(
            Instant::now() < by,
            "waited {PATIENCE:?} in vain until {what}"
        );
        sleep(Duration::from_millis(50)).await;
    }
}

async fn only(engine: &dyn ContainerRuntime, cluster: ClusterId) -> SeenContainer {
    let mut containers = engine.list(cluster).await.unwrap();
    assert_eq!(containers.len(), 1, "{containers:?}");
    containers.remove(0)
}

async fn suite(bench: &dyn Bench, cluster: ClusterId) {
    a_container_lives_and_dies(bench, cluster).await;
    creating_twice_makes_one_container(bench, cluster).await;
    an_exit_shows_its_code(bench, cluster).await;
    stopping_kills_after_the_grace(bench, cluster).await;
    health_is_seen(bench, cluster, true).await;
    health_is_seen(bench, cluster, false).await;
    what_is_gone_is_gone(bench, cluster).await;
    refusals_name_their_cause(bench, cluster).await;
    events_come_for_changes(bench, cluster).await;
    assert_eq!(bench.engine().list(cluster).await.unwrap(), []);
}

async fn a_container_lives_and_dies(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.runs());
    engine.ensure_image(&wanted.spec).await.unwrap();
    let id = engine.create(&wanted).await.unwrap();

    let seen = only(engine, cluster).await;
    assert_eq!(seen.status, ContainerStatus::Created);
    assert_eq!((seen.task, &seen.id), (Some(wanted.task), &id));
    assert_eq!(seen.service, Some(wanted.service));
    assert_eq!(seen.node, Some(wanted.node));
    assert_eq!(seen.name, format!("contract.1.{}", wanted.task.short()));

    engine.start(&id).await.unwrap();
    engine.start(&id).await.unwrap();
    let seen = only(engine, cluster).await;
    let ContainerStatus::Running { health, since } = seen.status else {
        panic!("{seen:?}");
    };
    assert_eq!(health, Health::NoCheck);
    assert!(since > Timestamp::from_millis(0));
    assert!(seen.address.is_some());
    assert_eq!(engine.inspect(&id).await.unwrap(), seen);
    assert_eq!(
        only(engine, cluster).await,
        seen,
        "a second look shows the same"
    );
    assert_eq!(engine.list(ClusterId::from_bits(0)).await.unwrap(), []);

    engine.stop(&id, Duration::from_secs(5)).await.unwrap();
    engine.stop(&id, Duration::from_secs(5)).await.unwrap();
    let seen = only(engine, cluster).await;
    assert!(
        matches!(seen.status, ContainerStatus::Exited { .. }),
        "{seen:?}"
    );
    assert_eq!(seen.address, None);

    engine.remove(&id).await.unwrap();
    assert_eq!(engine.list(cluster).await.unwrap(), []);
}

async fn creating_twice_makes_one_container(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.runs());
    let first = engine.create(&wanted).await.unwrap();
    let second = engine.create(&wanted).await.unwrap();
    assert_eq!(first, second);
    assert_eq!(only(engine, cluster).await.id, first);

    // Another task of the same seat is another container.
    let other = container(cluster, bench.runs());
    let third = engine.create(&other).await.unwrap();
    assert_ne!(first, third);
    engine.remove(&first).await.unwrap();
    engine.remove(&third).await.unwrap();
}

async fn an_exit_shows_its_code(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.exits(3));
    let id = engine.create(&wanted).await.unwrap();
    engine.start(&id).await.unwrap();
    let status = wait_for("it has exited", || async {
        let seen = engine.inspect(&id).await.unwrap();
        matches!(seen.status, ContainerStatus::Exited { .. }).then_some(seen.status)
    })
    .await;
    let ContainerStatus::Exited { code, at, .. } = status else {
        unreachable!();
    };
    assert_eq!(code, 3);
    assert!(at > Timestamp::from_millis(0));
    assert_eq!(only(engine, cluster).await.status, status);

    let query = LogQuery {
        follow: false,
        tail: Some(1),
        since: None,
    };
    let mut lines = engine.logs(&id, query).await.unwrap();
    let line = timeout(PATIENCE, lines.recv()).await.unwrap().unwrap();
    assert_eq!(
        (line.text, line.stderr),
        (Bytes::from_static(b"bye"), false)
    );
    assert!(line.at > Timestamp::from_millis(0));
    assert_eq!(timeout(PATIENCE, lines.recv()).await.unwrap(), None);

    // It can run once more.
    engine.start(&id).await.unwrap();
    let seen = engine.inspect(&id).await.unwrap();
    assert!(
        matches!(seen.status, ContainerStatus::Running { .. }),
        "{seen:?}"
    );
    engine.remove(&id).await.unwrap();
}

async fn stopping_kills_after_the_grace(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.stubborn());
    let id = engine.create(&wanted).await.unwrap();
    engine.start(&id).await.unwrap();
    let asked = Instant::now();
    engine.stop(&id, Duration::from_secs(1)).await.unwrap();
    assert!(
        asked.elapsed() >= Duration::from_millis(900),
        "{:?}",
        asked.elapsed()
    );
    let seen = engine.inspect(&id).await.unwrap();
    assert!(
        matches!(seen.status, ContainerStatus::Exited { code: 137, .. }),
        "{seen:?}"
    );
    engine.remove(&id).await.unwrap();
}

async fn health_is_seen(bench: &dyn Bench, cluster: ClusterId, passes: bool) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.checked(passes));
    let id = engine.create(&wanted).await.unwrap();
    engine.start(&id).await.unwrap();
    let seen = engine.inspect(&id).await.unwrap();
    assert!(
        matches!(
            seen.status,
            ContainerStatus::Running {
                health: Health::Starting,
                ..
            }
        ),
        "{seen:?}"
    );
    let outcome = if passes {
        Health::Healthy
    } else {
        Health::Unhealthy
    };
    let shows = |seen: &SeenContainer| matches!(seen.status, ContainerStatus::Running { health, .. } if health == outcome);
    wait_for("its health is decided", || async {
        let listed = only(engine, cluster).await;
        shows(&listed).then_some(())
    })
    .await;
    assert!(shows(&engine.inspect(&id).await.unwrap()));
    engine.remove(&id).await.unwrap();
}

async fn what_is_gone_is_gone(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let wanted = container(cluster, bench.runs());
    let id = engine.create(&wanted).await.unwrap();
    engine.remove(&id).await.unwrap();
    engine.remove(&id).await.unwrap();
    engine.stop(&id, Duration::ZERO).await.unwrap();
    let gone = EngineError::Gone(id.clone());
    assert_eq!(engine.start(&id).await, Err(gone.clone()));
    assert_eq!(engine.inspect(&id).await, Err(gone));
    let query = LogQuery {
        follow: false,
        tail: None,
        since: None,
    };
    assert!(engine.logs(&id, query).await.is_err());
}

async fn refusals_name_their_cause(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();

    let mut spec = bench.runs();
    spec.container.image = bench.missing_image().to_owned();
    let err = engine.create(&container(cluster, spec)).await.unwrap_err();
    let wanted = format!("no such image: {}", bench.missing_image());
    assert!(err.to_string().starts_with(&wanted), "{err}");
    assert!(matches!(err, EngineError::NoSuchImage { .. }), "{err:?}");

    let mut spec = bench.runs();
    spec.container.mounts = vec![Mount {
        target: "/data".to_owned(),
        kind: MountKind::Bind {
            source: "/nowhere/at/all".to_owned(),
        },
        read_only: false,
    }];
    let err = engine.create(&container(cluster, spec)).await.unwrap_err();
    assert_eq!(
        err,
        EngineError::Refused("the mount source /nowhere/at/all does not exist".to_owned())
    );

    let port = bench.occupied_port();
    let mut spec = bench.runs();
    spec.ports = vec![
        format!("published={port},target=80,mode=host")
            .parse()
            .unwrap(),
    ];
    let id = engine.create(&container(cluster, spec)).await.unwrap();
    let err = engine.start(&id).await.unwrap_err();
    assert_eq!(
        err,
        EngineError::Refused(format!("port {port} is already in use on this machine"))
    );
    engine.remove(&id).await.unwrap();
}

async fn events_come_for_changes(bench: &dyn Bench, cluster: ClusterId) {
    let engine = bench.engine();
    let mut events = engine.events(cluster).await.unwrap();
    let wanted = container(cluster, bench.exits(0));
    let id = engine.create(&wanted).await.unwrap();
    let heard = timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
    assert_eq!(heard.container.as_ref(), Some(&id));
    engine.start(&id).await.unwrap();
    // An event follows every change, so whoever looks at each one sees the exit.
    loop {
        timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
        let seen = engine.inspect(&id).await.unwrap();
        if matches!(seen.status, ContainerStatus::Exited { .. }) {
            break;
        }
    }
    engine.remove(&id).await.unwrap();
    timeout(PATIENCE, events.recv()).await.unwrap().unwrap();
}

struct Twin(SimulatedRuntime);

impl Twin {
    fn new() -> Self {
        let clock = SimulatedClock::starting_at(Timestamp::from_millis(1_700_000_000_000));
        let engine = SimulatedRuntime::new(1, Latencies::default(), Arc::new(clock));
        let behaviors = [
            ("runs", Behavior::default()),
            (
                "stubborn",
                Behavior {
                    ignores_stop: true,
                    ..Behavior::default()
                },
            ),
            (
                "exits",
                Behavior {
                    exits: Some((Duration::from_millis(500), 3)),
                    says: Some("bye".to_owned()),
                    ..Behavior::default()
                },
            ),
            ("healthy", Self::checked_behavior(true)),
            ("unhealthy", Self::checked_behavior(false)),
        ];
        for (image, behavior) in behaviors {
            engine.add_image(image);
            engine.set_behavior(image, behavior);
        }
        engine.occupy_port(18_080);
        Self(engine)
    }

    fn checked_behavior(passes: bool) -> Behavior {
        Behavior {
            health: Some(HealthPlan {
                decided_after: Duration::from_secs(2),
                passes,
            }),
            ..Behavior::default()
        }
    }
}

impl Bench for Twin {
    fn engine(&self) -> &dyn ContainerRuntime {
        &self.0
    }
    fn runs(&self) -> ServiceSpec {
        ServiceSpec::new("contract", "runs")
    }
    fn stubborn(&self) -> ServiceSpec {
        ServiceSpec::new("contract", "stubborn")
    }
    fn exits(&self, code: i32) -> ServiceSpec {
        let behavior = Behavior {
            exits: Some((Duration::from_millis(500), code)),
            says: Some("bye".to_owned()),
            ..Behavior::default()
        };
        self.0.set_behavior("exits", behavior);
        ServiceSpec::new("contract", "exits")
    }
    fn checked(&self, passes: bool) -> ServiceSpec {
        ServiceSpec::new("contract", if passes { "healthy" } else { "unhealthy" })
    }
    fn missing_image(&self) -> &str {
        "nobody/has-this"
    }
    fn occupied_port(&self) -> u16 {
        18_080
    }
}

#[tokio::test(start_paused = true)]
async fn the_simulated_engine_keeps_the_contract() {
    suite(&Twin::new(), ClusterId::from_bits(42)).await;
}
