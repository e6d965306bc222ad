//! Rows of `service ls`, and what `service inspect` shows.

use std::collections::BTreeSet;
use std::net::{IpAddr, SocketAddr};

use kawanan_api::spec::Protocol;
use kawanan_api::views::{RolloutState, RolloutView, ServiceDetail, ServiceView};
use kawanan_api::{ApiError, ServiceId, ServiceSpec};

use super::View;
use crate::state::{Rollout, Service};

impl View<'_> {
    /// Services that are not being removed, by name.
    pub fn services(&self) -> Vec<ServiceView> {
        let mut services: Vec<_> = (self.state.services.values())
            .filter(|service| service.removed_at.is_none())
            .map(|service| self.service_row(service))
            .collect();
        services.sort_by(|a, b| a.name.cmp(&b.name));
        services
    }

    /// # Errors
    /// `not_found` when there is no such service.
    pub fn service(&self, id: ServiceId) -> Result<ServiceDetail, ApiError> {
        let service = self.known_service(id)?;
        Ok(ServiceDetail {
            service: self.service_row(service),
            revision: service.spec_revision,
            spec: without_password(service.spec()),
            revisions: service.revisions.keys().copied().collect(),
            addresses: self.addresses_of(service),
        })
    }

    pub(super) fn known_service(&self, id: ServiceId) -> Result<&Service, ApiError> {
        (self.state.services.get(&id))
            .map(AsRef::as_ref)
            .ok_or_else(|| ApiError::not_found(format!("service {id} does not exist")))
    }

    fn service_row(&self, service: &Service) -> ServiceView {
        let spec = service.spec();
        let seats = self.wanted_seats(service);
        let running = seats
            .iter()
            .filter(|seat| (self.tasks_in(service.id, **seat).iter()).any(|task| self.runs(task)))
            .count();
        ServiceView {
            id: service.id,
            name: spec.name.clone(),
            mode: match spec.replicas() {
                Some(_) => "replicated".to_owned(),
                None => "global".to_owned(),
            },
            image: spec.container.image.clone(),
            replicas: u32::try_from(seats.len()).unwrap_or(u32::MAX),
            running: u32::try_from(running).unwrap_or(u32::MAX),
            ports: spec.ports.clone(),
            labels: spec.labels.clone(),
            created_at: service.created_at,
            updated_at: service.updated_at,
            update: rollout_view(&service.rollout),
        }
    }

    /// Where the service answers now: each node that runs a task of it, with each published port.
    pub(super) fn addresses_of(&self, service: &Service) -> Vec<String> {
        let nodes: BTreeSet<IpAddr> = (self.tasks_by_seat(service.id))
            .flat_map(|(_, tasks)| tasks)
            .filter(|task| self.runs(task))
            .filter_map(|task| self.state.nodes.get(&task.node))
            .map(|node| node.facts.address.ip())
            .collect();
        let mut addresses = Vec::new();
        for port in &service.spec().ports {
            for node in &nodes {
                addresses.push(address(*node, port.published.get(), port.protocol));
            }
        }
        addresses
    }
}

fn address(node: IpAddr, port: u16, protocol: Protocol) -> String {
    let host = SocketAddr::new(node, port);
    match (protocol, port) {
        (Protocol::Udp, _) => format!("udp://{host}"),
        (Protocol::Tcp, 443) => format!("https://{host}"),
        (Protocol::Tcp, _) => format!("http://{host}"),
    }
}

pub(super) fn rollout_view(rollout: &Rollout) -> RolloutView {
    match rollout {
        Rollout::Steady => RolloutView {
            state: RolloutState::Steady,
            at: None,
            reason: None,
        },
        Rollout::Updating { started_at, .. } => RolloutView {
            state: RolloutState::Updating,
            at: Some(*started_at),
            reason: None,
        },
        Rollout::Paused { at, reason } => RolloutView {
            state: RolloutState::Paused,
            at: Some(*at),
            reason: Some(reason.clone()),
        },
    }
}

/// The spec as it may be shown.
fn without_password(spec: &ServiceSpec) -> ServiceSpec {
    let mut shown = spec.clone();
    if let Some(auth) = &mut shown.container.registry_auth {
        auth.password = String::new();
    }
    shown
}

/// Puts the stored registry password into a spec that came back with the one that views show: the empty one.
///
/// # Errors
/// When there is no password to put in: another user name, or no login so far.
pub fn with_kept_password(
    mut spec: ServiceSpec,
    stored: Option<&ServiceSpec>,
) -> Result<ServiceSpec, ApiError> {
    let Some(auth) = &mut spec.container.registry_auth else {
        return Ok(spec);
    };
    if auth.password.is_empty() {
        let kept = stored
            .and_then(|stored| stored.container.registry_auth.as_ref())
            .filter(|kept| kept.username == auth.username)
            .ok_or_else(|| {
                ApiError::invalid(format!(
                    "the registry login of `{}` has no password",
                    auth.username
                ))
            })?;
        auth.password.clone_from(&kept.password);
    }
    Ok(spec)
}
