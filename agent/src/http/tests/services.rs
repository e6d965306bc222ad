//! Tests of http services.

use std::collections::BTreeMap;

use kawanan_api::ErrorCode;
use kawanan_api::spec::{Mode, RegistryAuth};
use kawanan_api::views::{ScaleServices, TaskState, UpdateService, WaitsFor};

use super::*;

#[tokio::test]
async fn a_service_is_created_runs_and_is_listed() {
    let served = served(3).await;
    let mut web = spec("web", "nginx:1.27", 6);
    web.ports.push("8080:80".parse().unwrap());
    let written = served.client.create_service(&web).await.unwrap();
    let event = converged(&served, "web").await;
    assert_eq!((event.wanted, event.running, event.leaving), (6, 6, 0));
    assert_eq!(
        event.addresses,
        [
            "http://10.0.0.1:8080",
            "http://10.0.0.2:8080",
            "http://10.0.0.3:8080"
        ]
    );
    let listed = served.client.services().await.unwrap();
    assert_eq!(listed.len(), 1);
    assert_eq!((listed[0].running, listed[0].replicas), (6, 6));
    let tasks = served.client.service_tasks(&written.id[..6]).await.unwrap();
    let names: Vec<&str> = tasks.iter().map(|task| task.name.as_str()).collect();
    assert_eq!(
        names,
        ["web.1", "web.2", "web.3", "web.4", "web.5", "web.6"]
    );
    assert!(
        tasks
            .iter()
            .all(|task| task.state == TaskState::Running && task.exit_code.is_none())
    );
    let cluster = served.client.cluster().await.unwrap();
    assert!(cluster.healthy, "{:?}", cluster.problems);
    assert_eq!(
        (
            cluster.voters,
            cluster.losses_tolerated,
            cluster.tasks_running
        ),
        (3, 1, 6)
    );
}

#[tokio::test]
async fn a_write_whose_answer_is_lost_is_repeated_and_not_done_twice() {
    let served = served(1).await;
    served.fake.lose_answers(2);
    let written = served
        .client
        .create_service(&spec("web", "nginx", 1))
        .await
        .unwrap();
    let services = served.client.services().await.unwrap();
    assert_eq!(services.len(), 1);
    assert_eq!(services[0].id.to_string(), written.id);
}

#[tokio::test]
async fn tasks_that_nobody_can_take_are_rows_that_say_why() {
    let served = served(2).await;
    let mut big = spec("big", "nginx", 3);
    big.resources.reservations.memory.0 = 3 << 30;
    served.client.create_service(&big).await.unwrap();
    eventually("two run", || {
        let state = served.fake.now();
        state
            .tasks
            .values()
            .filter(|task| task.is_running())
            .count()
            == 2
    })
    .await;
    let tasks = served.client.service_tasks("big").await.unwrap();
    let pending: Vec<_> = tasks
        .iter()
        .filter(|task| task.state == TaskState::Pending)
        .collect();
    assert_eq!(pending.len(), 1);
    assert_eq!(pending[0].node, None);
    let why = pending[0].error.clone().unwrap();
    assert!(why.contains("memory"), "{why}");
    let again = served.client.service_tasks("big").await.unwrap();
    assert!(
        again.iter().any(|task| task.id == pending[0].id),
        "its id stays"
    );
    let listed = served.client.services().await.unwrap();
    assert_eq!((listed[0].running, listed[0].replicas), (2, 3));
    let mut progress = served.client.service_progress("big").await.unwrap();
    let event = progress.next().await.unwrap().unwrap();
    assert!(!event.converged);
    assert_eq!(
        event
            .seats
            .iter()
            .filter(|seat| seat.waits_for == Some(WaitsFor::Place))
            .count(),
        1
    );
    let cluster = served.client.cluster().await.unwrap();
    assert_eq!(cluster.problems, ["service big: 2 of 3 tasks run"]);
}

#[tokio::test]
async fn an_update_replaces_the_tasks_and_history_stays() {
    let served = served(2).await;
    let mut web = spec("web", "nginx:1", 2);
    web.update.monitor = kawanan_api::duration::Span::from_millis(0);
    web.update.parallelism = 2;
    served.client.create_service(&web).await.unwrap();
    converged(&served, "web").await;
    let detail = served.client.service("web").await.unwrap();
    let mut newer = detail.spec.clone();
    newer.container.image = "nginx:2".to_owned();
    let update = UpdateService {
        spec: newer,
        if_revision: Some(detail.revision),
    };
    served.client.update_service("web", &update).await.unwrap();
    converged(&served, "web").await;
    let tasks = served.client.service_tasks("web").await.unwrap();
    let shown: Vec<_> = tasks
        .iter()
        .map(|task| (task.name.as_str(), task.image.as_str(), task.state))
        .collect();
    assert_eq!(
        shown,
        [
            ("web.1", "nginx:2", TaskState::Running),
            ("web.1", "nginx:1", TaskState::Shutdown),
            ("web.2", "nginx:2", TaskState::Running),
            ("web.2", "nginx:1", TaskState::Shutdown),
        ]
    );
    let stale = api_error(served.client.update_service("web", &update).await);
    assert_eq!(stale.code, ErrorCode::Conflict);
}

#[tokio::test]
async fn several_services_scale_together_or_not_at_all() {
    let served = served(2).await;
    served
        .client
        .create_service(&spec("web", "nginx", 1))
        .await
        .unwrap();
    let mut everywhere = spec("everywhere", "nginx", 1);
    everywhere.mode = Mode::Global;
    served.client.create_service(&everywhere).await.unwrap();
    let both = ScaleServices {
        replicas: BTreeMap::from([("web".to_owned(), 3), ("everywhere".to_owned(), 2)]),
    };
    let refused = api_error(served.client.scale(&both).await);
    assert_eq!(refused.code, ErrorCode::Invalid);
    assert_eq!(
        served.client.service("web").await.unwrap().service.replicas,
        1
    );
    let one = ScaleServices {
        replicas: BTreeMap::from([("web".to_owned(), 3)]),
    };
    served.client.scale(&one).await.unwrap();
    assert_eq!(converged(&served, "web").await.running, 3);
    let global = converged(&served, "everywhere").await;
    assert_eq!((global.wanted, global.running), (2, 2));
    assert_eq!(global.seats[0].name, "everywhere.n1");
}

#[tokio::test]
async fn after_scaling_down_the_slots_that_stay_keep_their_numbers() {
    let served = served(3).await;
    served
        .client
        .create_service(&spec("web", "nginx", 9))
        .await
        .unwrap();
    converged(&served, "web").await;
    for replicas in [4, 0, 2] {
        let scale = ScaleServices {
            replicas: BTreeMap::from([("web".to_owned(), replicas)]),
        };
        served.client.scale(&scale).await.unwrap();
        let event = converged(&served, "web").await;
        assert_eq!((event.wanted, event.running), (replicas, replicas));
        eventually("the surplus is gone", || {
            served.fake.now().tasks.len() == replicas as usize
        })
        .await;
        let tasks = served.client.service_tasks("web").await.unwrap();
        assert_eq!(tasks.len(), replicas as usize);
    }
}

#[tokio::test]
async fn a_registry_password_is_never_shown_and_survives_an_update() {
    let served = served(1).await;
    let mut web = spec("web", "registry.example.com/web", 1);
    web.container.registry_auth = Some(RegistryAuth {
        username: "ann".to_owned(),
        password: "s3cret".to_owned(),
    });
    served.client.create_service(&web).await.unwrap();
    let detail = served.client.service("web").await.unwrap();
    assert_eq!(
        detail
            .spec
            .container
            .registry_auth
            .as_ref()
            .unwrap()
            .password,
        ""
    );
    let mut newer = detail.spec.clone();
    newer.container.args = vec!["--verbose".to_owned()];
    let update = UpdateService {
        spec: newer.clone(),
        if_revision: None,
    };
    served.client.update_service("web", &update).await.unwrap();
    let state = served.fake.now();
    let stored = state.service_named("web").unwrap().spec();
    assert_eq!(stored.container.registry_auth, web.container.registry_auth);
    if let Some(auth) = &mut newer.container.registry_auth {
        auth.username = "bob".to_owned();
    }
    let other = UpdateService {
        spec: newer,
        if_revision: None,
    };
    let refused = api_error(served.client.update_service("web", &other).await);
    assert_eq!(refused.code, ErrorCode::Invalid);
}

#[tokio::test]
async fn names_are_found_by_id_and_prefix_and_typos_get_a_suggestion() {
    let served = served(1).await;
    let written = served
        .client
        .create_service(&spec("website", "nginx", 1))
        .await
        .unwrap();
    for text in ["website", &written.id, &written.id[..4]] {
        assert_eq!(
            served.client.service(text).await.unwrap().service.name,
            "website"
        );
    }
    let typo = api_error(served.client.service("webiste").await);
    assert_eq!(typo.code, ErrorCode::NotFound);
    assert_eq!(typo.hint.as_deref(), Some("did you mean `website`?"));
    let odd = api_error(served.client.service("a/b?c d").await);
    assert!(odd.message.contains("`a/b?c d`"), "{}", odd.message);
    served.client.remove_service("website").await.unwrap();
    assert_eq!(
        api_error(served.client.service("website").await).code,
        ErrorCode::NotFound
    );
}

#[tokio::test]
async fn a_service_may_be_called_scale() {
    let served = served(1).await;
    served
        .client
        .create_service(&spec("scale", "nginx", 1))
        .await
        .unwrap();
    assert_eq!(
        served.client.service("scale").await.unwrap().service.name,
        "scale"
    );
    served.client.remove_service("scale").await.unwrap();
}

#[tokio::test]
async fn progress_tells_of_failures_and_of_the_end_of_the_service() {
    let served = served(1).await;
    served
        .client
        .create_service(&spec("bad", "missing:1", 1))
        .await
        .unwrap();
    let mut progress = served.client.service_progress("bad").await.unwrap();
    let failing = async {
        loop {
            let event = progress.next().await.unwrap().unwrap();
            if event.seats[0].ended > 0 {
                return event;
            }
        }
    };
    let event = tokio::time::timeout(DEADLINE, failing).await.unwrap();
    assert!(!event.converged);
    let why = event.seats[0].last_error.clone().unwrap();
    assert_eq!(why, "image missing:1: not found in its registry");
    served.client.remove_service("bad").await.unwrap();
    let ending = async {
        loop {
            match progress.next().await {
                Ok(Some(event)) if event.removed => return,
                Ok(Some(_)) => {}
                Err(ClientError::Api(error)) => {
                    assert_eq!(error.code, ErrorCode::NotFound);
                    return;
                }
                other => panic!("{other:?}"),
            }
        }
    };
    tokio::time::timeout(DEADLINE, ending)
        .await
        .expect("the removal is told");
}

#[tokio::test]
async fn without_a_leader_reads_work_and_writes_say_so() {
    let served = served(3).await;
    served
        .client
        .create_service(&spec("web", "nginx", 1))
        .await
        .unwrap();
    converged(&served, "web").await;
    served.fake.set_leader(None);
    assert_eq!(served.client.services().await.unwrap()[0].running, 1);
    let refused = api_error(
        served
            .client
            .create_service(&spec("db", "postgres", 1))
            .await,
    );
    assert_eq!(refused.code, ErrorCode::NoLeader);
    let mut progress = served.client.service_progress("web").await.unwrap();
    let event = progress.next().await.unwrap().unwrap();
    assert!(event.leaderless && !event.converged);
    assert!(!served.client.cluster().await.unwrap().healthy);
}
