//! The node adds little to what the engine itself needs.

use super::*;

/// The same containers, made with bare calls by as many workers.
async fn bare_calls(engine: &SimulatedRuntime, count: u128, workers: usize) -> Duration {
    let begun = Instant::now();
    let next = Arc::new(Mutex::new(1..=count));
    let mut set = JoinSet::new();
    for _ in 0..workers {
        let (engine, next) = (engine.clone(), next.clone());
        set.spawn(async move {
            loop {
                let Some(number) = next.lock().unwrap().next() else {
                    return;
                };
                let container = TaskContainer {
                    cluster: CLUSTER,
                    node: ME,
                    node_name: "n1".to_owned(),
                    service: SERVICE,
                    task: task(number),
                    slot: Some(Slot(number as u32)),
                    spec: Arc::new(spec()),
                };
                let id = engine.create(&container).await.unwrap();
                engine.start(&id).await.unwrap();
            }
        });
    }
    while set.join_next().await.is_some() {}
    begun.elapsed()
}

#[tokio::test(start_paused = true)]
async fn a_hundred_tasks_start_about_as_fast_as_bare_calls_could() {
    let bare = World::new(51);
    let wanted = bare_calls(&bare.engine, 100, 4).await;

    let world = World::new(51);
    let _node = world.start();
    sleep(secs(1)).await;
    let lists = world.engine.calls("list");
    let begun = Instant::now();
    world.log.create(spec(), (1..=100).map(task));
    world
        .until("all run", secs(60), || {
            let state = world.log.state();
            state
                .tasks
                .values()
                .all(|task| task.state == TaskState::Running)
        })
        .await;
    let took = begun.elapsed();
    assert!(
        took.as_secs_f64() <= 1.05 * wanted.as_secs_f64(),
        "{took:?} against {wanted:?}"
    );
    assert_eq!(world.engine.calls("list"), lists, "no list per action");
    assert!(
        world.engine.calls("inspect") <= 110,
        "{}",
        world.engine.calls("inspect")
    );
    assert!(
        world.log.submitted() <= 80,
        "{} entries",
        world.log.submitted()
    );
    assert!(
        world.engine.most_in_flight() <= 4,
        "{}",
        world.engine.most_in_flight()
    );
}

#[tokio::test(start_paused = true)]
async fn a_stable_node_asks_little_and_tells_nothing() {
    let world = World::new(52);
    let _node = world.start();
    world.log.create(spec(), (1..=50).map(task));
    sleep(secs(60)).await;
    let (told, lists, looks) = (
        world.log.submitted(),
        world.engine.calls("list"),
        world.engine.calls("inspect"),
    );
    sleep(secs(3600)).await;
    assert_eq!(world.log.submitted(), told);
    let lists = world.engine.calls("list") - lists;
    assert!((60..=105).contains(&lists), "{lists} lists in an hour");
    let looks = world.engine.calls("inspect") - looks;
    assert!(looks <= 455, "{looks} single looks in an hour");
}

#[tokio::test(start_paused = true)]
async fn many_stops_run_side_by_side() {
    let world = World::new(53);
    let stubborn = Behavior {
        ignores_stop: true,
        ..Behavior::default()
    };
    world.engine.set_behavior("app", stubborn);
    let _node = world.start();
    world.log.create(spec(), (1..=30).map(task));
    sleep(secs(10)).await;
    for id in (1..=30).map(task) {
        world.log.want(id, Desired::Shutdown);
    }
    let took = world
        .until("all are stopped", secs(60), || {
            world.engine.running().is_empty()
        })
        .await;
    assert!(took <= secs(12), "{took:?}");
    let containers = world.engine.containers();
    assert!(
        containers
            .iter()
            .all(|seen| matches!(seen.status, ContainerStatus::Exited { code: 137, .. }))
    );
}
