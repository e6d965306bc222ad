//! A task's container in the engine's vocabulary. Pure: a [`TaskContainer`] in, the body of a create request out.

use std::collections::HashMap;
use std::time::Duration;

use bollard::auth::DockerCredentials;
use bollard::models::{
    ContainerCreateBody, HealthConfig, HostConfig, Mount as EngineMount, MountTmpfsOptions,
    MountType, PortBinding, PortMap, RestartPolicy, RestartPolicyNameEnum,
};
use kawanan_api::ServiceSpec;
use kawanan_api::spec::{
    ContainerSpec, HealthCheck, HealthTest, Mount, MountKind, PortMode, Resources,
};

use crate::containers::TaskContainer;

pub(super) const LABEL_CLUSTER: &str = "kawanan.cluster";
pub(super) const LABEL_TASK: &str = "kawanan.task.id";
pub(super) const LABEL_SERVICE: &str = "kawanan.service.id";
pub(super) const LABEL_NODE: &str = "kawanan.node.id";

/// `<service>.<slot>.<short task id>`; a global service has no slots, there its node stands in.
pub(super) fn container_name(container: &TaskContainer) -> String {
    let seat = match container.slot {
        Some(slot) => slot.to_string(),
        None => container.node.short(),
    };
    format!("{}.{seat}.{}", container.spec.name, container.task.short())
}

/// The user's labels and over them ours: `kawanan.*` is our identity, `com.docker.swarm.*` is what tools look for.
fn labels(container: &TaskContainer) -> HashMap<String, String> {
    let mut labels: HashMap<String, String> = container
        .spec
        .container
        .labels
        .iter()
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect();
    let (node, service) = (container.node.to_string(), container.service.to_string());
    let (task, name) = (container.task.to_string(), container.spec.name.clone());
    let seat = container
        .slot
        .map_or_else(|| node.clone(), |slot| slot.to_string());
    let ours = [
        (LABEL_CLUSTER, container.cluster.to_string()),
        (LABEL_SERVICE, service.clone()),
        ("kawanan.service.name", name.clone()),
        (LABEL_TASK, task.clone()),
        (LABEL_NODE, node.clone()),
        ("com.docker.swarm.node.id", node),
        ("com.docker.swarm.service.id", service),
        ("com.docker.swarm.service.name", name.clone()),
        ("com.docker.swarm.task", String::new()),
        ("com.docker.swarm.task.id", task.clone()),
        (
            "com.docker.swarm.task.name",
            format!("{name}.{seat}.{task}"),
        ),
    ];
    labels.extend(ours.map(|(key, value)| (key.to_owned(), value)));
    if let Some(slot) = container.slot {
        labels.insert("kawanan.slot".to_owned(), slot.to_string());
    }
    labels
}

/// The body of the request that creates the task's container.
pub(super) fn create_body(container: &TaskContainer) -> ContainerCreateBody {
    let spec = &container.spec.container;
    let (exposed_ports, port_bindings) = host_ports(&container.spec);
    ContainerCreateBody {
        image: Some(spec.image.clone()),
        hostname: spec.hostname.clone(),
        user: spec.user.clone(),
        tty: spec.tty.then_some(true),
        env: Some(environment(spec)),
        entrypoint: spec.entrypoint.clone(),
        cmd: (!spec.args.is_empty()).then(|| spec.args.clone()),
        working_dir: spec.workdir.clone(),
        healthcheck: spec.health.as_ref().map(health_check),
        labels: Some(labels(container)),
        stop_signal: spec.stop_signal.clone(),
        stop_timeout: spec
            .stop_grace
            .map(|grace| i64::from(whole_seconds(grace.duration()))),
        exposed_ports,
        host_config: Some(host_config(spec, &container.spec.resources, port_bindings)),
        ..ContainerCreateBody::default()
    }
}

/// `KEY=value`; a bare `KEY` takes a variable of the image away.
fn environment(spec: &ContainerSpec) -> Vec<String> {
    spec.env
        .iter()
        .map(|(key, value)| match value {
            Some(value) => format!("{key}={value}"),
            None => key.clone(),
        })
        .collect()
}

fn host_config(
    spec: &ContainerSpec,
    resources: &Resources,
    port_bindings: Option<PortMap>,
) -> HostConfig {
    let limits = &resources.limits;
    HostConfig {
        mounts: (!spec.mounts.is_empty()).then(|| spec.mounts.iter().map(mount).collect()),
        memory: (limits.memory.0 > 0).then(|| to_i64(limits.memory.0)),
        nano_cpus: (limits.cpus.0 > 0).then(|| to_i64(limits.cpus.0.saturating_mul(1_000_000))),
        pids_limit: resources.pids_limit.map(i64::from),
        readonly_rootfs: spec.read_only.then_some(true),
        init: spec.init.then_some(true),
        port_bindings,
        // Restarting is decided in one place, and that is not the engine.
        restart_policy: Some(RestartPolicy {
            name: Some(RestartPolicyNameEnum::NO),
            maximum_retry_count: None,
        }),
        ..HostConfig::default()
    }
}

/// Ports that the container publishes itself. Ingress ports are the port proxy's.
fn host_ports(spec: &ServiceSpec) -> (Option<Vec<String>>, Option<PortMap>) {
    let mut exposed = Vec::new();
    let mut bindings = PortMap::new();
    for port in spec.ports.iter().filter(|port| port.mode == PortMode::Host) {
        let inside = format!("{}/{}", port.target, port.protocol);
        bindings
            .entry(inside.clone())
            .or_insert_with(|| Some(Vec::new()))
            .get_or_insert_with(Vec::new)
            .push(PortBinding {
                host_ip: None,
                host_port: Some(port.published.to_string()),
            });
        exposed.push(inside);
    }
    if exposed.is_empty() {
        return (None, None);
    }
    exposed.dedup();
    (Some(exposed), Some(bindings))
}

/// The long mount form: with it a missing bind source is an error, where the short one would make an empty directory.
fn mount(mount: &Mount) -> EngineMount {
    let (typ, source, tmpfs_options) = match &mount.kind {
        MountKind::Volume { name } => (MountType::VOLUME, name.clone(), None),
        MountKind::Bind { source } => (MountType::BIND, Some(source.clone()), None),
        MountKind::Tmpfs { size } => {
            let options = size.map(|size| MountTmpfsOptions {
                size_bytes: Some(to_i64(size.0)),
                ..MountTmpfsOptions::default()
            });
            (MountType::TMPFS, None, options)
        }
    };
    EngineMount {
        target: Some(mount.target.clone()),
        source,
        typ: Some(typ),
        read_only: mount.read_only.then_some(true),
        tmpfs_options,
        ..EngineMount::default()
    }
}

fn health_check(check: &HealthCheck) -> HealthConfig {
    let words = |first: &str, rest: &[String]| {
        std::iter::once(first.to_owned())
            .chain(rest.iter().cloned())
            .collect::<Vec<_>>()
    };
    let test = match &check.test {
        HealthTest::None => words("NONE", &[]),
        HealthTest::Shell(line) => words("CMD-SHELL", std::slice::from_ref(line)),
        HealthTest::Exec(program) => words("CMD", program),
    };
    let nanos = |span: Option<kawanan_api::duration::Span>| {
        // Zero means "the image's or the default" to the engine, and below a millisecond it refuses.
        span.map(|span| to_i64(span.millis().saturating_mul(1_000_000)))
    };
    HealthConfig {
        test: Some(test),
        interval: nanos(check.interval),
        timeout: nanos(check.timeout),
        retries: check.retries.map(i64::from),
        start_period: nanos(check.start_period),
        start_interval: None,
    }
}

/// The login for the image's registry, in the shape that the engine passes on.
pub(super) fn credentials(spec: &ServiceSpec) -> Option<DockerCredentials> {
    let auth = spec.container.registry_auth.as_ref()?;
    Some(DockerCredentials {
        username: Some(auth.username.clone()),
        password: Some(auth.password.clone()),
        serveraddress: Some(registry_of(&spec.container.image)),
        ..DockerCredentials::default()
    })
}

/// The registry in an image's name: the part before the first slash when it looks like a host, else Docker Hub.
fn registry_of(image: &str) -> String {
    match image.split_once('/') {
        Some((host, _)) if host.contains(['.', ':']) || host == "localhost" => host.to_owned(),
        _ => "https://index.docker.io/v1/".to_owned(),
    }
}

/// The image with a tag or digest: without one the engine would pull every tag there is.
pub(super) fn pull_reference(image: &str) -> String {
    let last = image.rsplit('/').next().unwrap_or(image);
    if last.contains([':', '@']) {
        image.to_owned()
    } else {
        format!("{image}:latest")
    }
}

/// Seconds rounded up: a grace of 1.2 s must not become 1 s.
pub(super) fn whole_seconds(duration: Duration) -> i32 {
    i32::try_from(duration.as_millis().div_ceil(1000)).unwrap_or(i32::MAX)
}

fn to_i64(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use kawanan_api::quantity::{Bytes, MilliCpus};
    use kawanan_api::{ClusterId, NodeId, ServiceId, Slot, TaskId};

    use super::*;

    fn container(spec: ServiceSpec, slot: Option<u32>) -> TaskContainer {
        TaskContainer {
            cluster: ClusterId::from_bits(1),
            node: NodeId::from_bits(2),
            node_name: "n".to_owned(),
            service: ServiceId::from_bits(3),
            task: TaskId::from_bits(u128::MAX),
            slot: slot.map(Slot),
            spec: Arc::new(spec),
        }
    }

    #[test]
    fn names_show_service_seat_and_task() {
        let replica = container(ServiceSpec::new("web", "img"), Some(3));
        assert_eq!(container_name(&replica), "web.3.f5lxx1zz5pno");
        let global = container(ServiceSpec::new("web", "img"), None);
        assert_eq!(container_name(&global), "web.000000000000.f5lxx1zz5pno");
    }

    #[test]
    fn a_user_s_label_never_replaces_ours() {
        let mut spec = ServiceSpec::new("web", "img");
        spec.container
            .labels
            .insert(LABEL_TASK.to_owned(), "mine".to_owned());
        let body = create_body(&container(spec, Some(1)));
        let labels = body.labels.unwrap();
        assert_eq!(labels[LABEL_TASK], TaskId::from_bits(u128::MAX).to_string());
        assert_eq!(labels["kawanan.slot"], "1");
        assert_eq!(labels["com.docker.swarm.task"], "");
    }

    #[test]
    fn limits_and_ports_reach_the_engine_in_its_units() {
        let mut spec = ServiceSpec::new("web", "img");
        spec.resources.limits.cpus = MilliCpus(500);
        spec.resources.limits.memory = Bytes(64 << 20);
        spec.ports = vec![
            "published=8080,target=80,mode=host".parse().unwrap(),
            "9090:90".parse().unwrap(),
        ];
        let body = create_body(&container(spec, Some(1)));
        let host = body.host_config.unwrap();
        assert_eq!(host.nano_cpus, Some(500_000_000));
        assert_eq!(host.memory, Some(64 << 20));
        let bindings = host.port_bindings.unwrap();
        assert_eq!(bindings.keys().collect::<Vec<_>>(), ["80/tcp"]);
    }

    #[test]
    fn an_image_without_a_tag_means_latest() {
        for (image, wanted) in [
            ("busybox", "busybox:latest"),
            ("host:5000/a/b", "host:5000/a/b:latest"),
            ("host:5000/a/b:1", "host:5000/a/b:1"),
            ("a@sha256:00", "a@sha256:00"),
        ] {
            assert_eq!(pull_reference(image), wanted);
        }
    }

    #[test]
    fn the_login_is_for_the_image_s_own_registry() {
        assert_eq!(registry_of("busybox"), "https://index.docker.io/v1/");
        assert_eq!(registry_of("me/app:1"), "https://index.docker.io/v1/");
        assert_eq!(registry_of("ghcr.io/me/app"), "ghcr.io");
        assert_eq!(registry_of("localhost/app"), "localhost");
        assert_eq!(registry_of("reg:5000/app"), "reg:5000");
    }
}
