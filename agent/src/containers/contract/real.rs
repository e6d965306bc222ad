//! The contract on a real Docker Engine, with an image made here out of a static busybox.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Stdio};

use super::*;
use crate::containers::docker::Docker;

const BUSYBOX: &str = "/bin/busybox";

/// A real engine and an image of its own; takes everything away again when dropped.
struct Machine {
    engine: Docker,
    cluster: ClusterId,
    image: String,
    missing: String,
    occupied: TcpListener,
}

fn docker(arguments: &[&str]) -> Option<String> {
    let output = Command::new("docker")
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .ok()?;
    let answer = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    output.status.success().then_some(answer)
}

impl Machine {
    /// `None` when this machine has no Docker to test with, unless one is required.
    fn find() -> Option<Self> {
        let usable = Path::new(BUSYBOX).exists() && docker(&["version"]).is_some();
        if !usable {
            let required = std::env::var("KAWANAN_REQUIRE_DOCKER").is_ok_and(|value| value == "1");
            assert!(
                !required,
                "KAWANAN_REQUIRE_DOCKER=1, but there is no Docker or no {BUSYBOX}"
            );
            eprintln!("skipped: no Docker Engine or no {BUSYBOX} on this machine");
            return None;
        }
        let cluster = ClusterId::from_bits(SystemRandom.bits());
        let image = format!("kawanan-test/contract:{}", cluster.short());
        import_busybox(&image);
        Some(Self {
            engine: Docker::connect("").unwrap(),
            missing: format!("localhost:1/kawanan-test/{}", cluster.short()),
            occupied: TcpListener::bind("0.0.0.0:0").unwrap(),
            cluster,
            image,
        })
    }

    fn running(&self, script: &str) -> ServiceSpec {
        let mut spec = ServiceSpec::new("contract", &self.image);
        let words = ["/bin/busybox", "sh", "-c", script];
        spec.container.entrypoint = Some(words.map(str::to_owned).to_vec());
        spec
    }

    fn labeled(&self) -> String {
        format!("label=kawanan.cluster={}", self.cluster)
    }
}

/// An image with one static program in it.
fn import_busybox(image: &str) {
    let mut tar = Command::new("tar")
        .args(["-C", "/", "-c", "bin/busybox"])
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let imported = Command::new("docker")
        .args(["import", "--change", "ENV FROM_IMAGE=yes", "-", image])
        .stdin(tar.stdout.take().unwrap())
        .stdout(Stdio::null())
        .status()
        .unwrap();
    assert!(tar.wait().unwrap().success() && imported.success());
}

impl Drop for Machine {
    fn drop(&mut self) {
        let left = docker(&["ps", "-aq", "--filter", &self.labeled()]).unwrap_or_default();
        for id in left.split_whitespace() {
            docker(&["rm", "-f", "-v", id]);
        }
        docker(&["rmi", "-f", &self.image]);
    }
}

impl Bench for Machine {
    fn engine(&self) -> &dyn ContainerRuntime {
        &self.engine
    }
    fn runs(&self) -> ServiceSpec {
        self.running("trap 'exit 0' TERM; while true; do busybox sleep 0.1; done")
    }
    fn stubborn(&self) -> ServiceSpec {
        self.running("trap '' TERM; while true; do busybox sleep 0.1; done")
    }
    fn exits(&self, code: i32) -> ServiceSpec {
        self.running(&format!(
            "echo hello; busybox sleep 0.5; echo bye; exit {code}"
        ))
    }
    fn checked(&self, passes: bool) -> ServiceSpec {
        let mut spec = self.runs();
        let verdict = if passes { "true" } else { "false" };
        spec.container.health = Some(HealthCheck {
            test: HealthTest::Exec(vec!["/bin/busybox".to_owned(), verdict.to_owned()]),
            interval: Some("1s".parse().unwrap()),
            timeout: None,
            retries: Some(1),
            start_period: None,
        });
        spec
    }
    fn missing_image(&self) -> &str {
        &self.missing
    }
    fn occupied_port(&self) -> u16 {
        self.occupied.local_addr().unwrap().port()
    }
}

#[tokio::test]
async fn docker_keeps_the_contract() {
    let Some(machine) = Machine::find() else {
        return;
    };
    suite(&machine, machine.cluster).await;
}

/// Runs a container to its end and returns what it wrote.
async fn output_of(machine: &Machine, spec: ServiceSpec) -> Vec<String> {
    let engine = &machine.engine;
    let id = engine
        .create(&container(machine.cluster, spec))
        .await
        .unwrap();
    engine.start(&id).await.unwrap();
    let query = LogQuery {
        follow: true,
        tail: None,
        since: None,
    };
    let mut lines = engine.logs(&id, query).await.unwrap();
    let mut output = Vec::new();
    while let Some(line) = timeout(PATIENCE, lines.recv()).await.unwrap() {
        output.push(String::from_utf8_lossy(&line.text).into_owned());
    }
    engine.remove(&id).await.unwrap();
    output
}

#[tokio::test]
async fn the_whole_spec_reaches_a_docker_container() {
    let Some(machine) = Machine::find() else {
        return;
    };
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("greeting"), "from the host\n").unwrap();
    let mut spec = machine.running(
        "busybox env; busybox id -u; busybox pwd; busybox cat /host/greeting; busybox df /scratch; \
         busybox touch /root-file; busybox cat /sys/fs/cgroup/memory/memory.limit_in_bytes; busybox hostname",
    );
    spec.container.user = Some("1000".to_owned());
    spec.container.workdir = Some("/bin".to_owned());
    spec.container.hostname = Some("inside".to_owned());
    spec.container.read_only = true;
    spec.container.env = [
        ("GIVEN".to_owned(), Some("a=b c".to_owned())),
        ("FROM_IMAGE".to_owned(), None),
    ]
    .into();
    spec.container.mounts = vec![
        Mount {
            target: "/host".to_owned(),
            kind: MountKind::Bind {
                source: directory.path().to_str().unwrap().to_owned(),
            },
            read_only: true,
        },
        Mount {
            target: "/scratch".to_owned(),
            kind: MountKind::Tmpfs {
                size: Some(kawanan_api::quantity::Bytes(1 << 20)),
            },
            read_only: false,
        },
        Mount {
            target: "/anonymous".to_owned(),
            kind: MountKind::Volume { name: None },
            read_only: false,
        },
    ];
    spec.resources.limits.memory = kawanan_api::quantity::Bytes(32 << 20);
    spec.resources.limits.cpus = kawanan_api::quantity::MilliCpus(500);
    spec.resources.pids_limit = Some(50);
    let output = output_of(&machine, spec).await;
    let has = |text: &str| output.iter().any(|line| line.contains(text));
    assert!(has("GIVEN=a=b c"), "{output:?}");
    assert!(!has("FROM_IMAGE"), "{output:?}");
    assert!(output.iter().any(|line| line == "1000"), "{output:?}");
    assert!(output.iter().any(|line| line == "/bin"), "{output:?}");
    assert!(has("from the host") && has("tmpfs"), "{output:?}");
    assert!(has("Read-only file system"), "{output:?}");
    assert!(output.iter().any(|line| line == "inside"), "{output:?}");
}

#[tokio::test]
async fn a_missing_program_is_named() {
    let Some(machine) = Machine::find() else {
        return;
    };
    let mut spec = ServiceSpec::new("contract", &machine.image);
    spec.container.args = vec!["no-such-program".to_owned()];
    let engine = &machine.engine;
    let id = engine
        .create(&container(machine.cluster, spec))
        .await
        .unwrap();
    assert_eq!(
        engine.start(&id).await,
        Err(EngineError::Refused(
            "the image has no program `no-such-program`".to_owned()
        ))
    );
}

#[tokio::test]
async fn an_image_that_no_registry_has_is_said_to_be_missing_or_unreachable() {
    let Some(machine) = Machine::find() else {
        return;
    };
    let mut spec = machine.runs();
    machine.engine.ensure_image(&spec).await.unwrap();
    spec.container.image = machine.missing.clone();
    let err = machine.engine.ensure_image(&spec).await.unwrap_err();
    // Nobody listens on that registry's port.
    assert!(matches!(err, EngineError::Image { .. }), "{err:?}");
    assert!(
        err.to_string().starts_with("cannot pull localhost:1/"),
        "{err}"
    );
}

#[tokio::test]
async fn an_engine_that_is_not_there_is_named_with_its_socket() {
    let engine = Docker::connect("unix:///nowhere/docker.sock").unwrap();
    let err = engine.info().await.unwrap_err();
    assert_eq!(
        err.to_string(),
        "cannot reach the container engine at unix:///nowhere/docker.sock: \
         /nowhere/docker.sock does not exist; is Docker installed and running?"
    );
    assert!(Docker::connect("tcp://127.0.0.1:2375").is_err());
}

#[tokio::test]
async fn a_name_that_a_stranger_took_is_avoided() {
    let Some(machine) = Machine::find() else {
        return;
    };
    let wanted = container(machine.cluster, machine.runs());
    let name = format!("contract.1.{}", wanted.task.short());
    let label = format!("kawanan.cluster={}", machine.cluster);
    let stranger = docker(&[
        "create",
        "--name",
        &name,
        "--label",
        &label,
        &machine.image,
        "/bin/busybox",
        "true",
    ]);
    assert!(stranger.is_some());
    let id = machine.engine.create(&wanted).await.unwrap();
    let seen = machine.engine.inspect(&id).await.unwrap();
    assert_eq!(seen.name, format!("{name}-2"));
    assert_eq!(machine.engine.create(&wanted).await, Ok(id));
}
