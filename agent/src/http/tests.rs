//! The API through its socket, with the real client, over a cluster in memory.

mod logs;
mod nodes;
mod raw;
mod services;
mod tokens;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kawanan_api::client::{Client, ClientError, Host};
use kawanan_api::{ApiError, ErrorCode, ServiceSpec};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::fake::FakeCluster;
use super::{Api, ApiSocket, serve};
use crate::clock::SystemClock;
use crate::random::SeededRandom;

const DEADLINE: Duration = Duration::from_secs(10);

/// A served cluster. Stops when dropped.
struct Served {
    fake: Arc<FakeCluster>,
    client: Client,
    path: PathBuf,
    stop: watch::Sender<bool>,
    server: JoinHandle<()>,
    life: JoinHandle<()>,
    _dir: tempfile::TempDir,
}

impl Drop for Served {
    fn drop(&mut self) {
        self.life.abort();
        self.server.abort();
    }
}

async fn served(nodes: u32) -> Served {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("api.sock");
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(7)));
    let fake = FakeCluster::new(nodes, clock.clone(), random.clone());
    let life = fake.live();
    let (stop, stopped) = watch::channel(false);
    let socket = ApiSocket::bind(&path).await.unwrap();
    let server = tokio::spawn(serve(
        socket,
        Api::new(fake.clone(), clock, random, stopped),
    ));
    Served {
        client: Client::new(vec![Host::Unix(path.clone())]),
        fake,
        path,
        stop,
        server,
        life,
        _dir: dir,
    }
}

/// A service of that many tasks.
fn spec(name: &str, image: &str, replicas: u32) -> ServiceSpec {
    let mut spec = ServiceSpec::new(name, image);
    spec.mode = kawanan_api::spec::Mode::Replicated { replicas };
    spec
}

fn api_error<T: std::fmt::Debug>(result: Result<T, ClientError>) -> ApiError {
    match result {
        Err(ClientError::Api(error)) => error,
        other => panic!("{other:?}"),
    }
}

async fn converged(served: &Served, service: &str) -> kawanan_api::views::ProgressEvent {
    let mut progress = served.client.service_progress(service).await.unwrap();
    let wait = async {
        loop {
            let event = progress.next().await.unwrap().expect("the stream goes on");
            if event.converged {
                return event;
            }
        }
    };
    tokio::time::timeout(DEADLINE, wait)
        .await
        .expect("it converges")
}

async fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let wait = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    assert!(tokio::time::timeout(DEADLINE, wait).await.is_ok(), "{what}");
}

#[tokio::test]
async fn when_the_agent_stops_streams_end_and_the_socket_is_gone() {
    let served = served(1).await;
    let written = served
        .client
        .create_service(&spec("web", "nginx", 1))
        .await
        .unwrap();
    let mut progress = served.client.service_progress(&written.id).await.unwrap();
    assert!(progress.next().await.unwrap().is_some());
    served.stop.send(true).unwrap();
    let rest = async { while let Ok(Some(_)) = progress.next().await {} };
    tokio::time::timeout(DEADLINE, rest)
        .await
        .expect("the stream ends");
    eventually("the server ends", || served.server.is_finished()).await;
    assert!(!served.path.exists());
}

#[tokio::test]
async fn a_consistent_read_asks_for_a_barrier_and_fails_without_a_leader() {
    let served = served(1).await;
    let consistent = Client::new(vec![Host::Unix(served.path.clone())]).consistent(true);
    served.client.nodes().await.unwrap();
    assert_eq!(served.fake.barriers(), 0);
    consistent.nodes().await.unwrap();
    assert_eq!(served.fake.barriers(), 1);
    served.fake.set_leader(None);
    assert_eq!(
        api_error(consistent.nodes().await).code,
        ErrorCode::NoLeader
    );
    assert!(served.client.nodes().await.is_ok());
}

#[tokio::test]
async fn the_first_host_that_answers_is_used() {
    let served = served(1).await;
    let gone = Host::Unix(PathBuf::from("/nonexistent/api.sock"));
    let client = Client::new(vec![gone.clone(), Host::Unix(served.path.clone())]);
    assert_eq!(client.nodes().await.unwrap().len(), 1);
    let nobody = Client::new(vec![gone]).nodes().await.unwrap_err();
    assert!(nobody.is_no_leader());
    assert_eq!(
        nobody.to_string(),
        "no agent answers at /nonexistent/api.sock"
    );
    assert!(nobody.hint().unwrap().contains("systemctl status agent"));
}
