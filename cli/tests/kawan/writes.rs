//! Tests of kawan writes.

use crate::harness::{cluster, said, words};

#[test]
fn updates_at_the_same_time_all_take_effect() {
    let cluster = cluster(1);
    cluster.ok("service create -q --name web --update-monitor 0s nginx");
    let children: Vec<_> = (0..4)
        .map(|number| {
            let line = format!("service update -d --label-add l{number}=x web");
            cluster
                .command()
                .args(words(&line))
                .stdout(std::process::Stdio::null())
                .spawn()
                .unwrap()
        })
        .collect();
    for child in children {
        let said = said(child.wait_with_output().unwrap());
        assert_eq!(said.code, 0, "{said:?}");
    }
    let state = cluster.fake.now();
    assert_eq!(state.service_named("web").unwrap().spec().labels.len(), 4);
}

#[test]
fn a_lost_answer_makes_no_second_service() {
    let cluster = cluster(1);
    cluster.fake.lose_answers(2);
    cluster.ok("service create -d --name web nginx");
    assert_eq!(cluster.ok("ls -q").lines().count(), 1);
}

#[test]
fn force_replaces_every_task() {
    let cluster = cluster(2);
    cluster.ok("service create -q --name web --replicas 2 --update-monitor 0s nginx");
    let before = cluster.ok("ps -q web");
    cluster.ok("service update -q --force web");
    let after = cluster.ok("ps -q --filter desired-state=running web");
    assert_eq!(after.lines().count(), 2);
    assert!(
        after.lines().all(|id| !before.contains(id)),
        "{before} {after}"
    );
}
