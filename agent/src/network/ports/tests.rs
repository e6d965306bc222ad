//! The agent's side and the proxy together, over loopback: restarts of either, handover, switches of containers.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};

use kawanan_api::spec::Protocol;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use super::*;
use crate::network::proxy;

const PATIENCE: Duration = Duration::from_secs(20);

/// Proxies that live in threads of this process, so that they outlive the agent's side and can be killed.
#[derive(Clone)]
struct Threads {
    build: &'static str,
    idle_end: Duration,
    launched: Arc<AtomicU32>,
    running: Arc<Mutex<Vec<Runtime>>>,
}

impl Threads {
    fn of(build: &'static str) -> Self {
        Self {
            build,
            idle_end: Duration::from_secs(60),
            launched: Arc::default(),
            running: Arc::default(),
        }
    }

    fn launched(&self) -> u32 {
        self.launched.load(Ordering::SeqCst)
    }

    fn kill(&self) {
        let mut running = self.running.lock().unwrap_or_else(PoisonError::into_inner);
        for runtime in running.drain(..) {
            // Not from within a runtime; and it is dead only when its threads are.
            let killed = std::thread::spawn(move || runtime.shutdown_timeout(PATIENCE)).join();
            assert!(killed.is_ok());
        }
    }
}

impl Launch for Threads {
    fn launch(&self, files: &ProxyFiles) -> io::Result<()> {
        self.launched.fetch_add(1, Ordering::SeqCst);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        runtime.spawn(proxy::serve(files.clone(), self.build, self.idle_end));
        self.running.lock().unwrap().push(runtime);
        Ok(())
    }
}

struct Bench {
    directory: TempDir,
    threads: Threads,
}

impl Bench {
    fn new() -> Self {
        Self {
            directory: tempfile::tempdir().unwrap(),
            threads: Threads::of("1"),
        }
    }

    fn files(&self) -> ProxyFiles {
        ProxyFiles::new(self.directory.path())
    }

    fn agent(&self) -> PortsHandle {
        spawn_with(self.files(), self.threads.build, self.threads.clone()).0
    }
}

impl Drop for Bench {
    fn drop(&mut self) {
        self.threads.kill();
    }
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

fn tcp(port: u16) -> PortKey {
    PortKey {
        port,
        protocol: Protocol::Tcp,
    }
}

fn table(port: u16, backends: &[SocketAddr]) -> PortTable {
    [(tcp(port), backends.to_vec())].into()
}

/// Answers every line with its name; stops answering new connections when dropped, finishing the open ones.
struct Server {
    address: SocketAddr,
    stop: watch::Sender<()>,
}

impl Server {
    async fn named(name: &'static str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, mut stopped) = watch::channel(());
        tokio::spawn(async move {
            loop {
                tokio::select! {
                    biased;
                    _ = stopped.changed() => return,
                    accepted = listener.accept() => {
                        tokio::spawn(answer(accepted.unwrap().0, name));
                    }
                }
            }
        });
        Self { address, stop }
    }

    fn stop(self) {
        drop(self.stop);
    }
}

async fn answer(mut client: TcpStream, name: &str) {
    let mut byte = [0; 1];
    while let Ok(1) = client.read(&mut byte).await {
        if byte == *b"\n" && client.write_all(name.as_bytes()).await.is_err() {
            return;
        }
    }
}

/// One request over a connection of its own.
async fn ask(port: u16) -> io::Result<String> {
    let conversation = async {
        let mut client = TcpStream::connect(("127.0.0.1", port)).await?;
        client.write_all(b"hello\n").await?;
        client.shutdown().await?;
        let mut answer = String::new();
        client.read_to_string(&mut answer).await?;
        match answer.is_empty() {
            true => Err(io::Error::from(io::ErrorKind::UnexpectedEof)),
            false => Ok(answer),
        }
    };
    let answered = timeout(PATIENCE, conversation).await;
    answered.unwrap_or_else(|_| Err(io::Error::from(io::ErrorKind::TimedOut)))
}

/// Requests without a pause until they are told to stop; all of them must be answered.
struct Load {
    stop: Arc<AtomicBool>,
    clients: JoinSet<u32>,
}

impl Load {
    fn on(port: u16) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let mut clients = JoinSet::new();
        for _ in 0..8 {
            let stop = stop.clone();
            clients.spawn(async move {
                let mut answered = 0;
                while !stop.load(Ordering::SeqCst) {
                    if let Err(err) = ask(port).await {
                        panic!("a request was lost: {err}");
                    }
                    answered += 1;
                }
                answered
            });
        }
        Self { stop, clients }
    }

    async fn end(self) -> u32 {
        self.stop.store(true, Ordering::SeqCst);
        self.clients.join_all().await.into_iter().sum()
    }
}

async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    let begun = Instant::now();
    while !holds().await {
        assert!(begun.elapsed() < PATIENCE, "waited in vain until {what}");
        sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn nothing_is_started_while_nothing_is_published() {
    let bench = Bench::new();
    let agent = bench.agent();
    agent.update(PortTable::new());
    agent.settled().await;
    assert_eq!(bench.threads.launched(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn traffic_flows_while_the_agent_restarts_and_the_proxy_is_adopted() {
    let bench = Bench::new();
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    let load = Load::on(port);
    sleep(Duration::from_millis(100)).await;
    drop(agent);
    sleep(Duration::from_millis(100)).await;
    let agent = bench.agent();
    // A fresh agent does not know yet what should run: it must not close anything.
    agent.settled().await;
    sleep(Duration::from_millis(100)).await;
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    sleep(Duration::from_millis(100)).await;
    let answered = load.end().await;
    assert!(answered > 50, "{answered}");
    assert_eq!(bench.threads.launched(), 1, "the running one is adopted");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn switching_containers_loses_no_request() {
    let bench = Bench::new();
    let port = free_port();
    let agent = bench.agent();
    let mut current = Server::named("0").await;
    agent.update(table(port, &[current.address]));
    agent.settled().await;
    let load = Load::on(port);
    for name in ["1", "2", "3", "4", "5"] {
        sleep(Duration::from_millis(60)).await;
        // As the node does it: the new one gets connections, then the old one gets none, then it is stopped.
        let next = Server::named(name).await;
        agent.update(table(port, &[current.address, next.address]));
        agent.settled().await;
        agent.update(table(port, &[next.address]));
        agent.settled().await;
        std::mem::replace(&mut current, next).stop();
    }
    assert!(load.end().await > 50);
    assert_eq!(ask(port).await.unwrap(), "5");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_waits_for_a_container_that_comes_soon() {
    let bench = Bench::new();
    let port = free_port();
    let agent = bench.agent();
    agent.update(table(port, &[]));
    agent.settled().await;
    let early = tokio::spawn(ask(port));
    sleep(Duration::from_millis(300)).await;
    let server = Server::named("late").await;
    agent.update(table(port, &[server.address]));
    assert_eq!(early.await.unwrap().unwrap(), "late");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_newer_version_takes_over_without_losing_a_request() {
    let bench = Bench::new();
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    // A long connection through the old one must outlive it.
    let mut long = TcpStream::connect(("127.0.0.1", port)).await.unwrap();
    long.write_all(b"\n").await.unwrap();
    let mut name = [0; 1];
    long.read_exact(&mut name).await.unwrap();

    let load = Load::on(port);
    sleep(Duration::from_millis(100)).await;
    drop(agent);
    let newer = Threads::of("2");
    let (agent, _) = spawn_with(bench.files(), newer.build, newer.clone());
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    assert_eq!(newer.launched(), 1);
    sleep(Duration::from_millis(200)).await;
    assert!(load.end().await > 50);
    long.write_all(b"\n").await.unwrap();
    long.read_exact(&mut name).await.unwrap();
    assert_eq!(&name, b"a");
    // What serves now is the newer one alone.
    bench.threads.kill();
    assert_eq!(ask(port).await.unwrap(), "a");
    newer.kill();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_proxy_of_the_same_version_is_refused() {
    let bench = Bench::new();
    let port = free_port();
    let agent = bench.agent();
    agent.update(table(port, &[]));
    agent.settled().await;
    let second = proxy::serve(bench.files(), "1", PATIENCE);
    let refused = timeout(PATIENCE, second).await.unwrap().unwrap_err();
    assert_eq!(refused.kind(), io::ErrorKind::AddrInUse);
    agent.ensure(tcp(port)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_that_died_is_started_again_with_its_table() {
    let bench = Bench::new();
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    assert_eq!(ask(port).await.unwrap(), "a");
    bench.threads.kill();
    until("the port answers again", async || ask(port).await.is_ok()).await;
    assert_eq!(bench.threads.launched(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_without_an_agent_serves_its_last_table_again() {
    let bench = Bench::new();
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    drop(agent);
    bench.threads.kill();
    bench.threads.launch(&bench.files()).unwrap();
    until("the port answers again", async || ask(port).await.is_ok()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_port_of_another_process_is_refused_until_it_is_free() {
    let bench = Bench::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let agent = bench.agent();
    agent.update(PortTable::new());
    let refused = agent.ensure(tcp(port)).await.unwrap_err();
    assert_eq!(
        refused.on_node("n1"),
        format!("port {port} is in use on n1 by another process")
    );
    drop(taken);
    agent.ensure(tcp(port)).await.unwrap();
    agent.ensure(tcp(port)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_with_nothing_to_serve_ends_and_is_started_when_needed() {
    let mut bench = Bench::new();
    bench.threads.idle_end = Duration::from_millis(200);
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    agent.update(PortTable::new());
    agent.settled().await;
    let socket = bench.files().socket();
    until("its socket is gone", async || !socket.exists()).await;
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    assert_eq!(ask(port).await.unwrap(), "a");
    assert_eq!(bench.threads.launched(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_leaves_ends_its_proxy() {
    let bench = Bench::new();
    let (port, server) = (free_port(), Server::named("a").await);
    let agent = bench.agent();
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    agent.end_proxy().await;
    until("nobody listens", async || ask(port).await.is_err()).await;
    sleep(Duration::from_millis(300)).await;
    assert_eq!(bench.threads.launched(), 1, "it is not started again");
}

/// A proxy process of its own, made of this test binary.
struct Process;

const PROCESS_DIRECTORY: &str = "KAWANAN_TEST_PROXY_DIRECTORY";

impl Launch for Process {
    fn launch(&self, files: &ProxyFiles) -> io::Result<()> {
        tokio::process::Command::new("/proc/self/exe")
            .args([
                "--exact",
                "network::ports::tests::the_proxy_process",
                "--ignored",
            ])
            .env(PROCESS_DIRECTORY, files.directory())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            .spawn()
            .map(|_| ())
    }
}

#[tokio::test]
#[ignore = "the body of the process that the test below starts"]
async fn the_proxy_process() {
    let directory = std::env::var_os(PROCESS_DIRECTORY).unwrap();
    std::fs::write(
        Path::new(&directory).join("pid"),
        std::process::id().to_string(),
    )
    .unwrap();
    proxy::run(Path::new(&directory)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_process_lives_in_a_session_of_its_own_and_is_replaced_when_killed() {
    use rustix::process::{Pid, Signal, getsid, kill_process};
    let directory = tempfile::tempdir().unwrap();
    let files = ProxyFiles::new(directory.path());
    let (port, server) = (free_port(), Server::named("a").await);
    let (agent, _) = spawn_with(files, env!("CARGO_PKG_VERSION"), Process);
    agent.update(table(port, &[server.address]));
    agent.settled().await;
    assert_eq!(ask(port).await.unwrap(), "a");
    let pid = || -> Option<Pid> {
        let text = std::fs::read_to_string(directory.path().join("pid")).ok()?;
        Pid::from_raw(text.parse().ok()?)
    };
    let first = pid().unwrap();
    assert_eq!(getsid(Some(first)).unwrap(), first);
    kill_process(first, Signal::KILL).unwrap();
    until("another process serves", async || {
        pid() != Some(first) && ask(port).await.is_ok()
    })
    .await;
    agent.end_proxy().await;
    until("it ended", async || ask(port).await.is_err()).await;
}
