//! Services: created, changed, scaled, removed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kawanan_api::spec::{Mode, PortMode, REPLICAS_MAX};
use kawanan_api::{ApiError, ErrorCode, Revision, ServiceId, ServiceSpec, Timestamp};

use super::Applied;
use crate::state::{ClusterState, Desired, Rollout, Service};

fn unknown(id: ServiceId) -> ApiError {
    ApiError::not_found(format!("no service has the id {id}"))
        .with_hint("list the services with `kawan service ls`")
}

impl ClusterState {
    pub(super) fn create_service(
        &mut self,
        index: Revision,
        at: Timestamp,
        id: ServiceId,
        spec: &ServiceSpec,
    ) -> Applied {
        if self.services.contains_key(&id) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("a service with the id {id} exists already"),
            ));
        }
        self.check_spec_fits(id, spec)?;
        let service = Service {
            id,
            spec_revision: index,
            revisions: BTreeMap::from([(index, Arc::new(spec.clone()))]),
            created_at: at,
            updated_at: at,
            rollout: Rollout::Steady,
            removed_at: None,
        };
        self.services.insert(id, Arc::new(service));
        Ok(())
    }

    /// A spec that makes the same containers changes no task. One that makes others starts a rollout, and so does any
    /// update of a service whose rollout is paused: that is how it is resumed.
    pub(super) fn update_service(
        &mut self,
        index: Revision,
        at: Timestamp,
        id: ServiceId,
        spec: &ServiceSpec,
        if_revision: Option<Revision>,
    ) -> Applied {
        let service = self.live_service(id)?;
        let name = &service.spec().name;
        if let Some(expected) = if_revision
            && expected != service.spec_revision
        {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!(
                    "service {name} was changed by somebody else: it is at revision {}, the change was made for {expected}",
                    service.spec_revision
                ),
            )
            .with_hint(format!(
                "look at it with `kawan service inspect {name}` and make the change again"
            )));
        }
        if spec.replicas().is_some() != service.spec().replicas().is_some() {
            return Err(ApiError::new(
                ErrorCode::Refused,
                format!("service {name} cannot change between replicated and global"),
            )
            .with_hint("remove it and create it again, or create a second one beside it"));
        }
        self.check_spec_fits(id, spec)?;
        let paused = matches!(service.rollout, Rollout::Paused { .. });
        let roll_out = paused || !service.spec().same_task_as(spec);
        if roll_out || spec != &**service.spec() {
            self.set_spec(index, at, id, spec.clone());
        }
        if roll_out && let Some(service) = self.services.get_mut(&id) {
            Arc::make_mut(service).rollout = Rollout::Updating {
                started_at: at,
                since: index,
            };
        }
        Ok(())
    }

    pub(super) fn scale_services(
        &mut self,
        index: Revision,
        at: Timestamp,
        replicas: &BTreeMap<ServiceId, u32>,
    ) -> Applied {
        let mut specs = Vec::new();
        for (&id, &wanted) in replicas {
            let service = self.live_service(id)?;
            let mut spec = ServiceSpec::clone(service.spec());
            if spec.mode == Mode::Global {
                return Err(ApiError::new(
                    ErrorCode::Refused,
                    format!("service {} is global and cannot be scaled", spec.name),
                )
                .with_hint("it runs one task on every node that meets its constraints"));
            }
            spec.mode = Mode::Replicated { replicas: wanted };
            check_replicas(&spec)?;
            if spec != **service.spec() {
                specs.push((id, spec));
            }
        }
        for (id, spec) in specs {
            self.set_spec(index, at, id, spec);
        }
        Ok(())
    }

    /// The name is free at once; the service itself goes with its last task.
    pub(super) fn remove_service(&mut self, at: Timestamp, id: ServiceId) -> Applied {
        self.live_service(id)?;
        if let Some(service) = self.services.get_mut(&id) {
            Arc::make_mut(service).removed_at = Some(at);
        }
        for task in self.tasks.values_mut().filter(|task| task.service == id) {
            if task.desired != Desired::Remove {
                Arc::make_mut(task).desired = Desired::Remove;
            }
        }
        self.tidy_services(&BTreeSet::from([id]));
        Ok(())
    }

    fn live_service(&self, id: ServiceId) -> Result<&Arc<Service>, ApiError> {
        let service = self.services.get(&id).ok_or_else(|| unknown(id))?;
        if service.is_live() {
            Ok(service)
        } else {
            let name = &service.spec().name;
            Err(ApiError::not_found(format!(
                "service {name} is being removed"
            )))
        }
    }

    fn set_spec(&mut self, index: Revision, at: Timestamp, id: ServiceId, spec: ServiceSpec) {
        if let Some(service) = self.services.get_mut(&id) {
            let service = Arc::make_mut(service);
            service.revisions.insert(index, Arc::new(spec));
            service.spec_revision = index;
            service.updated_at = at;
        }
        self.tidy_services(&BTreeSet::from([id]));
    }

    /// What must hold between services: names and published ports are theirs alone.
    fn check_spec_fits(&self, id: ServiceId, spec: &ServiceSpec) -> Applied {
        check_replicas(spec)?;
        let others = || {
            self.services
                .values()
                .filter(move |other| other.id != id && other.is_live())
        };
        if others().any(|other| other.spec().name == spec.name) {
            return Err(ApiError::new(
                ErrorCode::Conflict,
                format!("a service named {} exists already", spec.name),
            )
            .with_hint(format!(
                "choose another name, or change it with `kawan service update {}`",
                spec.name
            )));
        }
        for port in &spec.ports {
            // Two services may publish one port in host mode: they then run on different nodes.
            let taken = others().find(|other| {
                other.spec().ports.iter().any(|theirs| {
                    (theirs.published, theirs.protocol) == (port.published, port.protocol)
                        && (theirs.mode == PortMode::Ingress || port.mode == PortMode::Ingress)
                })
            });
            if let Some(other) = taken {
                return Err(ApiError::new(
                    ErrorCode::Conflict,
                    format!(
                        "port {}/{} is published by service {} already",
                        port.published,
                        port.protocol,
                        other.spec().name
                    ),
                )
                .with_hint("publish another port, or remove that one first"));
            }
        }
        Ok(())
    }

    /// Drops what nothing refers to any more: removed services without tasks, and revisions that are neither current,
    /// nor a way back, nor run by a task.
    pub(super) fn tidy_services(&mut self, touched: &BTreeSet<ServiceId>) {
        let mut used: BTreeMap<ServiceId, BTreeSet<Revision>> =
            touched.iter().map(|id| (*id, BTreeSet::new())).collect();
        for task in self.tasks.values() {
            if let Some(revisions) = used.get_mut(&task.service) {
                revisions.insert(task.spec_revision);
            }
        }
        for (id, revisions) in used {
            let Some(service) = self.services.get_mut(&id) else {
                continue;
            };
            if !service.is_live() && revisions.is_empty() {
                self.services.remove(&id);
                continue;
            }
            let kept = kept_revisions(service, revisions);
            if kept.len() < service.revisions.len() {
                Arc::make_mut(service)
                    .revisions
                    .retain(|revision, _| kept.contains(revision));
            }
        }
    }
}

/// Revisions to keep: those of tasks, the current one, the one before it, and the last one that made other containers
/// (so that a rollback reaches it also when the service was scaled in between).
fn kept_revisions(service: &Service, used: BTreeSet<Revision>) -> BTreeSet<Revision> {
    let mut kept = used;
    let current = service.spec_revision;
    kept.insert(current);
    let mut before = service.revisions.range(..current).rev();
    let differs = service
        .revisions
        .range(..current)
        .rev()
        .find(|(_, spec)| !spec.same_task_as(service.spec()));
    kept.extend(before.next().into_iter().chain(differs).map(|(id, _)| *id));
    kept
}

fn check_replicas(spec: &ServiceSpec) -> Applied {
    match spec.replicas() {
        Some(replicas) if replicas > REPLICAS_MAX => Err(ApiError::invalid(format!(
            "{replicas} replicas are more than the {REPLICAS_MAX} that a service may have"
        ))),
        _ => Ok(()),
    }
}
