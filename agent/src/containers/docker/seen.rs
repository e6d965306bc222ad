//! What the engine shows, in our words. Everything here comes from outside and may be missing or odd.

use std::collections::HashMap;
use std::net::IpAddr;

use bollard::models::{
    ContainerInspectResponse, ContainerState, ContainerStateStatusEnum, ContainerSummary,
    ContainerSummaryStateEnum, EndpointSettings, HealthStatusEnum,
};
use kawanan_api::Timestamp;

use super::spec::{LABEL_NODE, LABEL_SERVICE, LABEL_TASK};
use crate::containers::{ContainerStatus, Health, SeenContainer};

/// One row of the engine's list, as far as a row says.
pub(super) struct Row {
    pub seen: SeenContainer,
    /// The row alone does not tell when it started, or how it ended.
    pub needs_inspect: bool,
}

pub(super) fn from_summary(row: ContainerSummary) -> Option<Row> {
    let id = row.id?;
    let text = row.status.unwrap_or_default();
    let since = Timestamp::from_millis(0);
    let (status, needs_inspect) = match row.state {
        Some(ContainerSummaryStateEnum::CREATED) => (ContainerStatus::Created, false),
        Some(ContainerSummaryStateEnum::PAUSED) => (ContainerStatus::Paused, false),
        Some(ContainerSummaryStateEnum::REMOVING) => (ContainerStatus::Removing, false),
        Some(ContainerSummaryStateEnum::DEAD) => (ContainerStatus::Dead, false),
        Some(ContainerSummaryStateEnum::EXITED) => (
            ContainerStatus::Exited {
                code: exit_code_in(&text),
                out_of_memory: false,
                at: since,
                error: String::new(),
            },
            true,
        ),
        _ => (
            ContainerStatus::Running {
                health: health_in(&text),
                since,
            },
            true,
        ),
    };
    let labels = row.labels.unwrap_or_default();
    let networks = row.network_settings.and_then(|settings| settings.networks);
    let name = row.names.and_then(|names| names.into_iter().next());
    Some(Row {
        seen: seen(id, name, &labels, status, networks),
        needs_inspect,
    })
}

pub(super) fn from_inspect(container: ContainerInspectResponse) -> Option<SeenContainer> {
    let status = status(&container.state.unwrap_or_default());
    let labels = container
        .config
        .and_then(|config| config.labels)
        .unwrap_or_default();
    let networks = container
        .network_settings
        .and_then(|settings| settings.networks);
    Some(seen(
        container.id?,
        container.name,
        &labels,
        status,
        networks,
    ))
}

fn seen(
    id: String,
    name: Option<String>,
    labels: &HashMap<String, String>,
    status: ContainerStatus,
    networks: Option<HashMap<String, EndpointSettings>>,
) -> SeenContainer {
    let running = matches!(status, ContainerStatus::Running { .. });
    SeenContainer {
        id,
        name: name.unwrap_or_default().trim_start_matches('/').to_owned(),
        task: labels.get(LABEL_TASK).and_then(|id| id.parse().ok()),
        service: labels.get(LABEL_SERVICE).and_then(|id| id.parse().ok()),
        node: labels.get(LABEL_NODE).and_then(|id| id.parse().ok()),
        status,
        address: networks.filter(|_| running).and_then(address),
    }
}

/// The address on the engine's default bridge, or else on the first network by name.
fn address(networks: HashMap<String, EndpointSettings>) -> Option<IpAddr> {
    let mut networks: Vec<_> = networks.into_iter().collect();
    networks.sort_by(|(a, _), (b, _)| (a != "bridge", a).cmp(&(b != "bridge", b)));
    networks
        .into_iter()
        .filter_map(|(_, endpoint)| endpoint.ip_address?.parse().ok())
        .next()
}

fn status(state: &ContainerState) -> ContainerStatus {
    let at = |time: &Option<String>| {
        time.as_deref()
            .and_then(timestamp)
            .unwrap_or(Timestamp::from_millis(0))
    };
    match state.status {
        Some(ContainerStateStatusEnum::CREATED) => ContainerStatus::Created,
        Some(ContainerStateStatusEnum::PAUSED) => ContainerStatus::Paused,
        Some(ContainerStateStatusEnum::REMOVING) => ContainerStatus::Removing,
        Some(ContainerStateStatusEnum::DEAD) => ContainerStatus::Dead,
        Some(ContainerStateStatusEnum::EXITED) => ContainerStatus::Exited {
            code: state
                .exit_code
                .and_then(|code| i32::try_from(code).ok())
                .unwrap_or(-1),
            out_of_memory: state.oom_killed.unwrap_or(false),
            at: at(&state.finished_at),
            error: state.error.clone().unwrap_or_default(),
        },
        _ => ContainerStatus::Running {
            health: health(state),
            since: at(&state.started_at),
        },
    }
}

fn health(state: &ContainerState) -> Health {
    match state.health.as_ref().and_then(|health| health.status) {
        Some(HealthStatusEnum::STARTING) => Health::Starting,
        Some(HealthStatusEnum::HEALTHY) => Health::Healthy,
        Some(HealthStatusEnum::UNHEALTHY) => Health::Unhealthy,
        _ => Health::NoCheck,
    }
}

/// `Up 3 seconds (health: starting)`: engines before API 1.52 put health nowhere else in a list.
fn health_in(text: &str) -> Health {
    if text.contains("(health: starting)") {
        Health::Starting
    } else if text.contains("(unhealthy)") {
        Health::Unhealthy
    } else if text.contains("(healthy)") {
        Health::Healthy
    } else {
        Health::NoCheck
    }
}

/// `Exited (137) 2 minutes ago`.
fn exit_code_in(text: &str) -> i32 {
    text.split_once('(')
        .and_then(|(_, rest)| rest.split_once(')'))
        .and_then(|(code, _)| code.parse().ok())
        .unwrap_or(-1)
}

/// The engine's RFC 3339; `0001-01-01T00:00:00Z` stands for "never".
pub(super) fn timestamp(text: &str) -> Option<Timestamp> {
    let instant: jiff::Timestamp = text.parse().ok()?;
    u64::try_from(instant.as_millisecond())
        .ok()
        .map(Timestamp::from_millis)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_row_gives_health_and_exit_code() {
        assert_eq!(
            health_in("Up 3 seconds (health: starting)"),
            Health::Starting
        );
        assert_eq!(health_in("Up 2 hours (healthy)"), Health::Healthy);
        assert_eq!(health_in("Up 2 hours (unhealthy)"), Health::Unhealthy);
        assert_eq!(health_in("Up 2 hours"), Health::NoCheck);
        assert_eq!(exit_code_in("Exited (137) 2 minutes ago"), 137);
        assert_eq!(exit_code_in(""), -1);
    }

    #[test]
    fn never_is_no_timestamp() {
        assert_eq!(timestamp("0001-01-01T00:00:00Z"), None);
        assert_eq!(
            timestamp("2023-11-14T22:13:20.123456789Z"),
            Some(Timestamp::from_millis(1_700_000_000_123))
        );
    }

    #[test]
    fn the_default_bridge_comes_first() {
        let endpoint = |ip: &str| EndpointSettings {
            ip_address: Some(ip.to_owned()),
            ..EndpointSettings::default()
        };
        let networks = HashMap::from([
            ("a".to_owned(), endpoint("10.0.0.1")),
            ("bridge".to_owned(), endpoint("172.17.0.2")),
        ]);
        assert_eq!(address(networks), "172.17.0.2".parse().ok());
        let host = HashMap::from([("host".to_owned(), endpoint(""))]);
        assert_eq!(address(host), None);
    }
}
