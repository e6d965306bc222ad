//! The rules that a spec must meet before anything else in the system sees it.

use std::collections::BTreeSet;
use std::ops::Deref;

use super::{HealthTest, Mode, MountKind, PortMode, ServiceSpec};
use crate::errors::ApiError;

/// Longest name of a service: what fits a DNS label (RFC 1035, 2.3.4).
const NAME_LENGTH_MAX: usize = 63;
/// Most replicas of one service; far past what 50 nodes can run.
pub const REPLICAS_MAX: u32 = 10_000;
/// Longest spec as JSON: one log entry stays small beside Raft's 1 MiB message.
const SPEC_BYTES_MAX: usize = 256 * 1024;
/// Least memory that Docker accepts as a limit (6 MiB, moby `daemon/daemon_unix.go`).
const MEMORY_LIMIT_MIN: u64 = 6 << 20;

/// A spec that meets every rule. Made only by [`ValidSpec::check`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ValidSpec(ServiceSpec);

impl Deref for ValidSpec {
    type Target = ServiceSpec;
    fn deref(&self) -> &ServiceSpec {
        &self.0
    }
}

impl ValidSpec {
    /// Checks all rules.
    ///
    /// # Errors
    /// The first rule that does not hold, worded for the user, with code [`crate::ErrorCode::Invalid`].
    pub fn check(spec: ServiceSpec) -> Result<Self, ApiError> {
        check_name("service", &spec.name)?;
        check_labels(&spec)?;
        check_container(&spec)?;
        check_counts(&spec)?;
        check_resources(&spec)?;
        check_ports(&spec)?;
        let size = serde_json::to_vec(&spec)
            .map_err(|err| ApiError::invalid(err.to_string()))?
            .len();
        if size > SPEC_BYTES_MAX {
            return Err(ApiError::invalid(format!(
                "the service is described in {size} bytes, more than the {SPEC_BYTES_MAX} that fit"
            )));
        }
        Ok(Self(spec))
    }

    pub fn into_inner(self) -> ServiceSpec {
        self.0
    }
}

/// Checks the name of a service or a node: 1-63 characters of `a-z A-Z 0-9 - _ .`, first and last a letter or digit.
///
/// # Errors
/// With the rule that the name breaks.
pub fn check_name(what: &str, name: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    let edges_fine = name.starts_with(|c: char| c.is_ascii_alphanumeric())
        && name.ends_with(|c: char| c.is_ascii_alphanumeric());
    if !name.is_empty() && name.len() <= NAME_LENGTH_MAX && name.chars().all(allowed) && edges_fine
    {
        return Ok(());
    }
    Err(ApiError::invalid(format!("`{name}` is not a name for a {what}")).with_hint(format!(
        "use 1 to {NAME_LENGTH_MAX} letters, digits, `-`, `_` or `.`, starting and ending with a letter or digit"
    )))
}

/// Checks the key of a label: 1-128 characters of `a-z A-Z 0-9 - _ . /`.
///
/// # Errors
/// With the rule that the key breaks.
pub fn check_label_key(key: &str) -> Result<(), ApiError> {
    let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.' | '/');
    if !key.is_empty() && key.len() <= 128 && key.chars().all(allowed) {
        return Ok(());
    }
    Err(ApiError::invalid(format!("`{key}` is not a label key"))
        .with_hint("use 1 to 128 letters, digits, `-`, `_`, `.` or `/`"))
}

fn check_labels(spec: &ServiceSpec) -> Result<(), ApiError> {
    for key in spec.labels.keys().chain(spec.container.labels.keys()) {
        check_label_key(key)?;
        if key.starts_with("kawanan.") || key.starts_with("com.docker.swarm.") {
            return Err(ApiError::invalid(format!("label `{key}` is reserved"))
                .with_hint("labels that start with `kawanan.` or `com.docker.swarm.` are set by Kawanan itself"));
        }
    }
    Ok(())
}

fn check_container(spec: &ServiceSpec) -> Result<(), ApiError> {
    let container = &spec.container;
    if container.image.is_empty()
        || container
            .image
            .contains(|c: char| c.is_whitespace() || c.is_control())
    {
        return Err(
            ApiError::invalid(format!("`{}` is not an image", container.image)).with_hint(
                "give a reference such as nginx:1.27 or registry.example.com/team/app@sha256:...",
            ),
        );
    }
    for name in container.env.keys() {
        if name.is_empty() || name.contains('=') || name.contains('\0') {
            return Err(ApiError::invalid(format!(
                "`{name}` is not the name of an environment variable"
            )));
        }
    }
    let mut targets = BTreeSet::new();
    for mount in &container.mounts {
        if !mount.target.starts_with('/') {
            return Err(ApiError::invalid(format!(
                "mount target `{}` is not an absolute path",
                mount.target
            )));
        }
        if !targets.insert(&mount.target) {
            return Err(ApiError::invalid(format!(
                "two mounts have the target `{}`",
                mount.target
            )));
        }
        if let MountKind::Bind { source } = &mount.kind
            && !source.starts_with('/')
        {
            return Err(ApiError::invalid(format!(
                "bind mount source `{source}` is not an absolute path"
            ))
            .with_hint("for a named volume write type=volume"));
        }
    }
    if let Some(health) = &container.health
        && matches!(&health.test, HealthTest::Exec(command) if command.is_empty())
    {
        return Err(ApiError::invalid("the health check has no command"));
    }
    Ok(())
}

fn check_counts(spec: &ServiceSpec) -> Result<(), ApiError> {
    if let Mode::Replicated { replicas } = spec.mode
        && replicas > REPLICAS_MAX
    {
        return Err(ApiError::invalid(format!(
            "{replicas} replicas are more than the {REPLICAS_MAX} that a service may have"
        )));
    }
    if spec.update.parallelism == 0 {
        return Err(ApiError::invalid("update parallelism must be at least 1"));
    }
    if spec.placement.max_per_node == Some(0) {
        return Err(ApiError::invalid(
            "at most 0 tasks per node leaves no place to run",
        ));
    }
    Ok(())
}

fn check_resources(spec: &ServiceSpec) -> Result<(), ApiError> {
    let (reserved, limit) = (&spec.resources.reservations, &spec.resources.limits);
    if limit.memory.0 != 0 && limit.memory.0 < MEMORY_LIMIT_MIN {
        return Err(ApiError::invalid(format!(
            "a memory limit of {} is less than the 6 MiB that Docker accepts",
            limit.memory
        )));
    }
    if limit.memory.0 != 0 && reserved.memory > limit.memory {
        return Err(ApiError::invalid(format!(
            "the memory reservation ({}) is larger than the limit ({})",
            reserved.memory, limit.memory
        )));
    }
    if limit.cpus.0 != 0 && reserved.cpus > limit.cpus {
        return Err(ApiError::invalid(format!(
            "the cpu reservation ({}) is larger than the limit ({})",
            reserved.cpus, limit.cpus
        )));
    }
    Ok(())
}

fn check_ports(spec: &ServiceSpec) -> Result<(), ApiError> {
    let mut published = BTreeSet::new();
    for port in &spec.ports {
        if !published.insert((port.published, port.protocol)) {
            return Err(ApiError::invalid(format!(
                "port {}/{} is published twice",
                port.published, port.protocol
            )));
        }
        if port.mode == PortMode::Ingress && port.published.get() == crate::DEFAULT_PORT {
            return Err(ApiError::invalid(format!(
                "port {} is the agents' own",
                port.published
            )));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_smallest_spec_is_valid() {
        assert!(ValidSpec::check(ServiceSpec::new("web", "nginx")).is_ok());
    }

    #[test]
    fn bad_names_are_refused_with_the_rule() {
        for name in ["", "-web", "web-", "we b", "wéb", &"a".repeat(64)] {
            let error = ValidSpec::check(ServiceSpec::new(name, "nginx")).unwrap_err();
            assert!(error.hint.is_some(), "{name}");
        }
    }

    #[test]
    fn a_spec_reads_back_from_json_and_fields_may_be_left_out() {
        let spec = ServiceSpec::new("web", "nginx");
        let json = serde_json::to_string(&spec).unwrap();
        assert_eq!(serde_json::from_str::<ServiceSpec>(&json).unwrap(), spec);
        let short = r#"{"name":"web","container":{"image":"nginx"}}"#;
        assert_eq!(serde_json::from_str::<ServiceSpec>(short).unwrap(), spec);
    }
}
