//! Tests of apply services.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::spec::{Mode, PortMode};
use kawanan_api::{ErrorCode, Revision, ServiceId, ServiceSpec};

use crate::Command;
use crate::state::Rollout;
use crate::testing::{Cluster, spec};

fn create(id: u128, spec: ServiceSpec) -> Command {
    Command::CreateService {
        id: ServiceId::from_bits(id),
        spec,
    }
}

fn publishing(name: &str, port: &str) -> ServiceSpec {
    let mut spec = spec(name, 1);
    spec.ports = vec![port.parse().unwrap()];
    spec
}

#[test]
fn names_are_unique_among_services_that_are_not_being_removed() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let error = cluster.refused(create(1, spec("web", 1)));
    assert_eq!(error.message, "a service named web exists already");
    let other = cluster.create(spec("other", 1));
    let error = cluster.refused(Command::UpdateService {
        id: other,
        spec: spec("web", 1),
        if_revision: None,
    });
    assert_eq!(error.code, ErrorCode::Conflict);
    cluster.ok(Command::RemoveService { id: web });
    cluster.ok(create(2, spec("web", 1)));
    assert_eq!(cluster.state.services.len(), 3);
    let error = cluster.refused(Command::RemoveService { id: web });
    assert_eq!(error.message, "service web is being removed");
}

#[test]
fn an_ingress_port_belongs_to_one_service() {
    let mut cluster = Cluster::new(1);
    cluster.create(publishing("web", "8080:80"));
    let error = cluster.refused(create(1, publishing("api", "8080:90")));
    assert_eq!(
        error.message,
        "port 8080/tcp is published by service web already"
    );
    cluster.ok(create(2, publishing("dns", "8080:80/udp")));
    let mut host = publishing("host", "8080:80");
    host.ports[0].mode = PortMode::Host;
    assert_eq!(
        cluster.refused(create(3, host.clone())).code,
        ErrorCode::Conflict
    );
    // Two in host mode run on different nodes.
    for (id, name) in [(4, "a"), (5, "b")] {
        host.name = name.to_owned();
        host.ports[0].published = 9000.try_into().unwrap();
        cluster.ok(create(id, host.clone()));
    }
}

#[test]
fn an_update_for_another_revision_is_refused() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    let read = cluster.state.services[&web].spec_revision;
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    let update = |if_revision| Command::UpdateService {
        id: web,
        spec: spec("web", 3),
        if_revision,
    };
    let error = cluster.refused(update(Some(read)));
    let now = cluster.state.services[&web].spec_revision;
    assert_eq!(
        error.message,
        format!(
            "service web was changed by somebody else: it is at revision {now}, the change was made for {read}"
        )
    );
    assert_eq!(cluster.ok(update(Some(now))), cluster.state.revision);
}

#[test]
fn what_cannot_be_is_refused_and_changes_nothing() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    let mut global = spec("agent", 1);
    global.mode = Mode::Global;
    let agent = cluster.create(global.clone());
    global.name = "web".to_owned();
    let error = cluster.refused(Command::UpdateService {
        id: web,
        spec: global,
        if_revision: None,
    });
    assert_eq!(
        error.message,
        "service web cannot change between replicated and global"
    );
    let services = cluster.state.services.clone();
    let scale = |replicas: &[(ServiceId, u32)]| Command::ScaleServices {
        replicas: replicas.iter().copied().collect::<BTreeMap<_, _>>(),
    };
    let error = cluster.refused(scale(&[(web, 5), (agent, 2)]));
    assert_eq!(
        error.message,
        "service agent is global and cannot be scaled"
    );
    assert_eq!(
        cluster.refused(scale(&[(web, 10_001)])).code,
        ErrorCode::Invalid
    );
    let nobody = ServiceId::from_bits(404);
    assert_eq!(
        cluster.refused(scale(&[(web, 2), (nobody, 2)])).code,
        ErrorCode::NotFound
    );
    assert_eq!(cluster.state.services, services);
}

#[test]
fn only_changes_that_make_other_containers_start_a_rollout() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    let first = cluster.state.services[&web].spec_revision;
    cluster.advance(Duration::from_secs(3));
    cluster.update(web, |spec| {
        spec.labels.insert("team".to_owned(), "blue".to_owned());
    });
    cluster.scale(web, 2);
    let service = cluster.state.services[&web].clone();
    assert_eq!(service.rollout, Rollout::Steady);
    assert_ne!(service.spec_revision, first);
    assert!(service.is_current(first));
    cluster.update(web, |spec| spec.container.image = "app:2".to_owned());
    let service = &cluster.state.services[&web];
    let expected = Rollout::Updating {
        started_at: cluster.now(),
        since: service.spec_revision,
    };
    assert_eq!(service.rollout, expected);
    assert!(!service.is_current(first));
}

#[test]
fn an_update_that_changes_nothing_makes_no_revision() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    let before = cluster.state.services[&web].clone();
    cluster.update(web, |_| {});
    cluster.scale(web, 1);
    assert_eq!(cluster.state.services[&web], before);
}

#[test]
fn revisions_that_nothing_needs_are_dropped_and_the_way_back_is_kept() {
    let mut cluster = Cluster::new(1);
    let web = cluster.create(spec("web", 1));
    cluster.settle();
    for version in 2..6 {
        cluster.update(web, |spec| spec.container.image = format!("app:{version}"));
        cluster.settle();
    }
    for replicas in 2..6 {
        cluster.scale(web, replicas);
        cluster.settle();
    }
    // Also without a task that would hold on to it.
    let idle = cluster.create(spec("idle", 1));
    cluster.update(idle, |spec| spec.container.image = "app:2".to_owned());
    for replicas in 2..5 {
        cluster.scale(idle, replicas);
    }
    let kept = cluster.state.services[&idle].revisions.values();
    let kept: Vec<_> = kept
        .map(|spec| (&*spec.container.image, spec.replicas()))
        .collect();
    assert_eq!(
        kept,
        vec![("app:1", Some(1)), ("app:2", Some(3)), ("app:2", Some(4))]
    );
    let service = &cluster.state.services[&web];
    let used: Vec<Revision> = cluster
        .state
        .tasks_of(web)
        .map(|task| task.spec_revision)
        .collect();
    let spare: Vec<_> = service
        .revisions
        .iter()
        .filter(|(revision, _)| !used.contains(revision) && **revision != service.spec_revision)
        .map(|(_, spec)| (&*spec.container.image, spec.replicas()))
        .collect();
    assert!(spare.len() <= 2, "{spare:?}");
    let images: Vec<_> = service
        .revisions
        .values()
        .map(|spec| &*spec.container.image)
        .collect();
    assert!(images.contains(&"app:4"), "no way back in {images:?}");
    // Its replicas one step back are known as well.
    assert!(
        service
            .revisions
            .values()
            .any(|spec| spec.replicas() == Some(4))
    );
}
