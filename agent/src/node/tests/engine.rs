//! The engine hangs, goes away, gets stuck with one container.

use super::*;

#[tokio::test(start_paused = true)]
async fn a_hung_engine_is_noticed_within_twenty_seconds_and_believed_when_it_answers() {
    let world = World::new(31);
    let node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    sleep(secs(30)).await;
    assert!(node.engine.borrow().ok);
    world.engine.hang();
    let took = world
        .until("the hang is noticed", secs(20), || !node.engine.borrow().ok)
        .await;
    assert!(took >= secs(5), "one slow answer is no hang: {took:?}");
    assert!(
        node.engine
            .borrow()
            .error
            .as_deref()
            .unwrap()
            .contains("did not answer")
    );
    assert!(
        node.is_turning().await,
        "the loop never waits for the engine"
    );
    sleep(secs(300)).await;
    world.engine.thaw();
    world
        .until("it is believed again", secs(10), || node.engine.borrow().ok)
        .await;
    sleep(secs(60)).await;
    assert_eq!(world.engine.starts_of(task(1)), 1);
    assert_eq!(world.log.state_of(task(1)), Some(TaskState::Running));
}

#[tokio::test(start_paused = true)]
async fn one_container_that_hangs_is_not_the_engine() {
    let world = World::new(32);
    let node = world.start();
    world.log.create(spec(), [task(1), task(2)]);
    world.until_state(task(1), TaskState::Running).await;
    world.until_state(task(2), TaskState::Running).await;
    world.engine.hang_container(task(1));
    sleep(secs(120)).await;
    assert!(node.engine.borrow().ok);
    // And the others are cared for.
    world.engine.kill_container(task(2), 4);
    let took = world.until_state(task(2), TaskState::Failed).await;
    assert!(took < secs(1), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn tasks_wait_for_an_engine_that_is_down_at_the_start() {
    let world = World::new(33);
    world.engine.set_unreachable(true);
    let node = world.start();
    world.log.create(spec(), [task(1)]);
    sleep(secs(60)).await;
    assert!(!node.engine.borrow().ok);
    assert_eq!(
        world.log.state_of(task(1)),
        Some(TaskState::Assigned),
        "it is not the task's fault"
    );
    world.engine.set_unreachable(false);
    world.until_state(task(1), TaskState::Running).await;
    world
        .until("the engine is believed", secs(10), || {
            node.engine.borrow().ok
        })
        .await;
    assert_eq!(
        node.engine_info.borrow().as_ref().unwrap().version,
        "simulated"
    );
}

#[tokio::test(start_paused = true)]
async fn tasks_that_died_with_their_engine_start_again_in_place() {
    let world = World::new(34);
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    // The daemon stops serving first, then its containers die, then it comes back.
    world.engine.set_unreachable(true);
    world.engine.power_cut();
    sleep(secs(20)).await;
    world.engine.set_unreachable(false);
    world
        .until("it runs again", secs(10), || {
            !world.engine.running().is_empty()
        })
        .await;
    sleep(secs(10)).await;
    assert_eq!(world.log.state_of(task(1)), Some(TaskState::Running));
    assert_eq!(world.engine.containers().len(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_removal_that_is_stuck_delays_no_replacement() {
    let world = World::new(35);
    let _node = world.start();
    world.log.create(spec(), (1..=10).map(task));
    for id in (1..=10).map(task) {
        world.until_state(id, TaskState::Running).await;
    }
    for id in (1..=10).map(task) {
        world.engine.hang_container(id);
        world.log.want(id, Desired::Remove);
    }
    let revision = world.log.state().services[&SERVICE].spec_revision;
    world.log.assign(revision, (11..=20).map(task));
    for id in (11..=20).map(task) {
        let took = world.until_state(id, TaskState::Running).await;
        assert!(took < secs(2), "{took:?}");
    }
    sleep(secs(600)).await;
    assert_eq!(
        world.engine.containers().len(),
        20,
        "the stuck ones are still there"
    );
    world.engine.thaw();
    world
        .until("the stuck ones are gone at last", secs(60), || {
            world.engine.containers().len() == 10
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn starts_that_hang_do_not_stop_the_others_for_long() {
    let world = World::new(36);
    let _node = world.start();
    world.log.create(spec(), (1..=4).map(task));
    for id in (1..=4).map(task) {
        world
            .until("it is created", secs(5), || {
                world
                    .engine
                    .containers()
                    .iter()
                    .any(|seen| seen.task == Some(id))
            })
            .await;
        world.engine.hang_container(id);
    }
    let revision = world.log.state().services[&SERVICE].spec_revision;
    world.log.assign(revision, (5..=8).map(task));
    for id in (5..=8).map(task) {
        let took = world.until_state(id, TaskState::Running).await;
        assert!(took < secs(12), "{took:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failing_engine_call_is_tried_again_and_then_given_back() {
    let world = World::new(37);
    let failed = || Reply::Fail(EngineError::Failed("no space left on device".to_owned()));
    world.engine.reply("create", failed());
    let _node = world.start();
    world.log.create(spec(), [task(1)]);
    world.until_state(task(1), TaskState::Running).await;
    for _ in 0..3 {
        world.engine.reply("create", failed());
    }
    let revision = world.log.state().services[&SERVICE].spec_revision;
    world.log.assign(revision, [task(2)]);
    world.until_state(task(2), TaskState::Rejected).await;
    assert_eq!(
        world.log.task(task(2)).unwrap().error.as_deref(),
        Some("the container engine failed: no space left on device")
    );
}
