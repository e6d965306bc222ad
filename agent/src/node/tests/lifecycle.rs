//! From assignment to the end, with everything that may come between.

use super::*;

#[tokio::test(start_paused = true)]
async fn an_assigned_task_runs_and_says_so() {
    let world = World::new(1);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    let took = world.until_state(task(1), TaskState::Running).await;
    assert!(took < secs(1), "{took:?}");
    assert_eq!(world.engine.running(), [(task(1), 1)].into());
    assert_eq!(world.engine.starts_of(task(1)), 1);
    assert_eq!(world.log.submitted(), 1, "one entry tells it");
}

#[tokio::test(start_paused = true)]
async fn a_restarted_agent_adopts_what_runs() {
    let world = World::new(2);
    let node = world.start();
    let tasks: Vec<TaskId> = (1..=20).map(task).collect();
    world.log.create(spec(), tasks.clone());
    for id in &tasks {
        world.until_state(*id, TaskState::Running).await;
    }
    let entries = world.log.submitted();
    drop(node);
    sleep(secs(5)).await;
    let _node = world.start();
    sleep(secs(120)).await;
    for id in &tasks {
        assert_eq!(
            world.engine.starts_of(*id),
            1,
            "task {} was restarted",
            id.bits()
        );
        assert_eq!(world.log.state_of(*id), Some(TaskState::Running));
    }
    assert_eq!(
        world.log.submitted(),
        entries,
        "nothing happened, so nothing is told"
    );
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_dies_while_starting_tasks_makes_none_twice() {
    for after in [1, 5, 12, 20, 60, 120, 200, 260] {
        let world = World::new(after);
        let node = world.start();
        world.log.create(spec(), (1..=6).map(task));
        sleep(Duration::from_millis(after)).await;
        drop(node);
        sleep(secs(1)).await;
        let _node = world.start();
        for id in (1..=6).map(task) {
            world.until_state(id, TaskState::Running).await;
            assert_eq!(
                world.engine.running().get(&id),
                Some(&1),
                "died after {after} ms"
            );
        }
        assert_eq!(world.engine.containers().len(), 6);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lost_reply_makes_no_second_container() {
    let world = World::new(3);
    world.engine.reply("create", Reply::Lost);
    world.engine.reply("start", Reply::Lost);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    assert_eq!(world.engine.containers().len(), 1);
    assert_eq!(world.engine.starts_of(task(1)), 1);
}

#[tokio::test(start_paused = true)]
async fn a_task_that_is_to_stop_stops_and_is_told() {
    let world = World::new(4);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    world.log.want(task(1), Desired::Shutdown);
    world.until_state(task(1), TaskState::Shutdown).await;
    assert_eq!(world.engine.running(), BTreeMap::new());
    world.log.want(task(1), Desired::Remove);
    world
        .until("the task is forgotten", secs(30), || {
            world.log.task(task(1)).is_none()
        })
        .await;
    assert_eq!(world.engine.containers(), []);
}

#[tokio::test(start_paused = true)]
async fn a_container_that_ends_is_told_with_its_code_at_once() {
    let world = World::new(5);
    let _node = world.start();
    world.log.create(spec(), [task(1), task(2)]);
    world.until_state(task(1), TaskState::Running).await;
    world.until_state(task(2), TaskState::Running).await;
    world.engine.kill_container(task(1), 3);
    world.engine.kill_container(task(2), 0);
    let took = world.until_state(task(1), TaskState::Failed).await;
    world.until_state(task(2), TaskState::Complete).await;
    assert!(took < Duration::from_millis(500), "{took:?}");
    let failed = world.log.task(task(1)).unwrap();
    assert_eq!(failed.exit_code, Some(3));
    assert_eq!(failed.error.as_deref(), Some("it ended with exit code 3"));
    sleep(secs(60)).await;
    assert_eq!(
        world.engine.starts_of(task(1)),
        1,
        "the leader decides what follows"
    );
}

#[tokio::test(start_paused = true)]
async fn a_container_that_crashes_at_once_is_told_every_time() {
    let world = World::new(6);
    let crash = Behavior {
        exits: Some((Duration::from_millis(1), 1)),
        ..Behavior::default()
    };
    world.engine.set_behavior("app", crash);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Failed).await;
    let revision = world.log.state().services[&SERVICE].spec_revision;
    for attempt in 2..6 {
        world.log.assign(revision, [task(attempt)]);
        world.until_state(task(attempt), TaskState::Failed).await;
        assert_eq!(world.engine.starts_of(task(attempt)), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_container_that_somebody_removed_is_told() {
    let world = World::new(7);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    world.engine.remove_container(task(1));
    let took = world.until_state(task(1), TaskState::Failed).await;
    assert!(took < secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn events_are_only_hints() {
    let world = World::new(8);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    // From now on no event comes through.
    world
        .engine
        .reply("events", Reply::Fail(EngineError::Failed("no".to_owned())));
    world.engine.hang_call("events");
    world.engine.cut_events();
    sleep(secs(2)).await;
    world.engine.kill_container(task(1), 9);
    let took = world
        .until("the full pass found the end", secs(70), || {
            world.log.state_of(task(1)) == Some(TaskState::Failed)
        })
        .await;
    assert!(took <= secs(60), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn health_decides_when_a_task_runs() {
    let world = World::new(9);
    let plan = |passes| Behavior {
        health: Some(HealthPlan {
            decided_after: secs(4),
            passes,
        }),
        ..Behavior::default()
    };
    world.engine.set_behavior("app", plan(true));
    let node = world.start();
    world.log.create(spec(), [task(1)]);
    sleep(secs(2)).await;
    assert_eq!(world.log.state_of(task(1)), Some(TaskState::Assigned));
    assert_eq!(
        node.progress.borrow().get(&task(1)).map(String::as_str),
        Some("waiting for its health check")
    );
    world.until_state(task(1), TaskState::Running).await;
    assert_eq!(*node.progress.borrow(), BTreeMap::new());

    world.engine.set_behavior("app", plan(false));
    world.until_state(task(1), TaskState::Failed).await;
    world
        .until("the sick container is stopped", secs(30), || {
            world.engine.running().is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_missing_image_is_rejected_at_once_and_a_failing_registry_after_two_tries() {
    let world = World::new(10);
    let _node = world.start();
    let mut missing = spec();
    missing.container.image = "nope".to_owned();
    world.log.create(missing.clone(), [task(1)]);
    world.until_state(task(1), TaskState::Rejected).await;
    assert_eq!(
        world.log.task(task(1)).unwrap().error.as_deref(),
        Some("no such image: nope (the registry says: manifest unknown)")
    );
    assert_eq!(world.engine.calls("pull"), 1);

    world.engine.fail_pulls(
        "nope",
        EngineError::Image {
            image: "nope".to_owned(),
            cause: "connection reset".to_owned(),
        },
    );
    let revision = world.log.state().services[&SERVICE].spec_revision;
    world.log.assign(revision, [task(2)]);
    world.until_state(task(2), TaskState::Rejected).await;
    assert_eq!(world.engine.calls("pull"), 3);
    assert_eq!(
        world.log.task(task(2)).unwrap().error.as_deref(),
        Some("cannot pull nope: connection reset")
    );
}

#[tokio::test(start_paused = true)]
async fn a_registry_that_limits_pulls_is_waited_for() {
    let world = World::new(11);
    world.engine.fail_pulls(
        "later",
        EngineError::RegistryBusy {
            image: "later".to_owned(),
            cause: "toomanyrequests".to_owned(),
        },
    );
    let node = world.start();
    let mut limited = spec();
    limited.container.image = "later".to_owned();
    world.log.create(limited, [task(1)]);
    sleep(secs(120)).await;
    assert_eq!(world.log.state_of(task(1)), Some(TaskState::Assigned));
    let note = node.progress.borrow().get(&task(1)).cloned().unwrap();
    assert!(note.contains("the registry limits pulls"), "{note}");
    assert!(
        world.engine.calls("pull") < 12,
        "{}",
        world.engine.calls("pull")
    );
    world.engine.publish_image("later");
    world
        .until("it runs", secs(180), || {
            world.log.state_of(task(1)) == Some(TaskState::Running)
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_pull_ends_when_the_task_is_not_wanted_any_more() {
    let world = World::new(12);
    world.engine.hang_call("pull");
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    sleep(secs(1)).await;
    world.log.want(task(1), Desired::Shutdown);
    let took = world.until_state(task(1), TaskState::Shutdown).await;
    assert!(took < secs(1), "{took:?}");
    assert_eq!(world.engine.containers(), []);
}

#[tokio::test(start_paused = true)]
async fn a_port_of_another_process_is_a_clear_refusal() {
    let world = World::new(13);
    world.ports.occupy(8080);
    let _node = world.start();
    let mut published = spec();
    published.ports = vec!["8080:80".parse().unwrap()];
    world.log.create(published, [task(1)]);
    world.until_state(task(1), TaskState::Rejected).await;
    assert_eq!(
        world.log.task(task(1)).unwrap().error.as_deref(),
        Some("port 8080 is in use on n1 by another process")
    );
    assert_eq!(world.engine.containers(), [], "nothing was made for it");
}

#[tokio::test(start_paused = true)]
async fn the_port_table_follows_the_containers() {
    let world = World::new(14);
    let _node = world.start();
    let mut published = spec();
    published.ports = vec![
        "8080:80".parse().unwrap(),
        "published=9,target=9,mode=host".parse().unwrap(),
    ];
    world.log.create(published, [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    let table = world.ports.table().unwrap();
    assert_eq!(table.len(), 1, "host ports are Docker's own: {table:?}");
    let backends = table.values().next().unwrap();
    assert_eq!(backends.len(), 1);
    assert_eq!(backends[0].port(), 80);
    world.log.want(task(1), Desired::Shutdown);
    world
        .until("the port is closed", secs(1), || {
            world.ports.table().is_some_and(|table| table.is_empty())
        })
        .await;
    assert_eq!(
        world.engine.running().len(),
        1,
        "no connection comes before it is stopped"
    );
}

#[tokio::test(start_paused = true)]
async fn unknown_containers_are_touched_only_by_a_current_state() {
    let world = World::new(15);
    world.caught_up.send_replace(false);
    world.leave_behind(task(9), spec()).await;
    let _node = world.start();
    sleep(secs(300)).await;
    assert_eq!(world.engine.running(), [(task(9), 1)].into());
    world.caught_up.send_replace(true);
    world
        .until("it is gone", secs(5), || {
            world.engine.containers().is_empty()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn nothing_is_published_before_the_state_is_known() {
    let world = World::new(16);
    world.caught_up.send_replace(false);
    let _node = world.start();
    sleep(Duration::from_millis(500)).await;
    assert_eq!(
        world.ports.table(),
        None,
        "an adopted proxy keeps its table"
    );
    world.caught_up.send_replace(true);
    world
        .until("the table is told", secs(1), || {
            world.ports.table().is_some()
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_machine_that_was_switched_off_starts_its_tasks_again_in_place() {
    let world = World::new(17);
    let node = world.start();
    world.log.create(spec(), [task(1), task(2)]);
    world.until_state(task(1), TaskState::Running).await;
    world.until_state(task(2), TaskState::Running).await;
    drop(node);
    world.engine.power_cut();
    // No leader either: the whole cluster was switched off.
    world.log.set_leaderless(true);
    world.caught_up.send_replace(false);
    let _node = world.start();
    let both = [(task(1), 1), (task(2), 1)].into();
    world
        .until("both run again", secs(10), || {
            world.engine.running() == both
        })
        .await;
    assert_eq!(
        world.engine.containers().len(),
        2,
        "in their own containers"
    );
    world.log.set_leaderless(false);
    world.caught_up.send_replace(true);
    sleep(secs(60)).await;
    assert_eq!(world.log.state_of(task(1)), Some(TaskState::Running));
    assert_eq!(world.engine.starts_of(task(1)), 2);
}

#[tokio::test(start_paused = true)]
async fn without_a_leader_the_node_helps_itself_after_five_seconds() {
    let world = World::new(18);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    world.log.set_leaderless(true);
    world.engine.kill_container(task(1), 1);
    sleep(secs(4)).await;
    assert_eq!(
        world.engine.starts_of(task(1)),
        1,
        "a leader may still come"
    );
    world
        .until("it runs again", secs(5), || {
            !world.engine.running().is_empty()
        })
        .await;
    // Not for ever faster: each further end waits longer.
    for _ in 0..3 {
        world.engine.kill_container(task(1), 1);
        world
            .until("it runs again", secs(30), || {
                !world.engine.running().is_empty()
            })
            .await;
    }
    world.log.set_leaderless(false);
    sleep(secs(60)).await;
    assert_eq!(
        world.log.state_of(task(1)),
        Some(TaskState::Running),
        "its end was taken back"
    );
    assert_eq!(world.engine.running().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn logs_of_a_task_come_as_frames() {
    let world = World::new(19);
    let node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    world.engine.write_line(task(1), "hello");
    let query = LogQuery {
        follow: true,
        tail: None,
        since: None,
    };
    let mut frames = node.logs.open(task(1), query).await.unwrap();
    let text = |frame: Option<LogFrame>| match frame {
        Some(LogFrame::Line { text, .. }) => String::from_utf8(text).unwrap(),
        other => panic!("{other:?}"),
    };
    assert_eq!(text(frames.recv().await), "hello");
    world.engine.write_line(task(1), "again");
    assert_eq!(text(frames.recv().await), "again");
    let unknown = node.logs.open(task(2), query).await.unwrap_err();
    assert_eq!(unknown.code, ErrorCode::NotFound);
}
