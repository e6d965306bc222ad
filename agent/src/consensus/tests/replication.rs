//! Elections, writes and reads.

use std::time::Duration;

use bytes::Bytes;
use kawanan_api::{ErrorCode, RaftId};
use tokio::time::{Instant, sleep, timeout};

use super::cluster::Cluster;
use super::toy::{node_id, note};
use crate::consensus::handle::ENTRY_BYTES_MAX;
use crate::consensus::{ProposeError, ReadError, Role, Stage};

#[tokio::test(start_paused = true)]
async fn a_write_through_any_node_reaches_all() {
    let mut cluster = Cluster::of(3).await;
    for raft in 1..=3 {
        let revision = cluster.write(raft, &format!("by {raft}")).await;
        assert_eq!(
            cluster.state(cluster.leader().unwrap()).notes.len() as u64,
            raft
        );
        assert!(revision.0 > 0);
    }
    cluster.agree().await;
    for raft in 1..=3 {
        assert_eq!(cluster.state(raft).notes, ["by 1", "by 2", "by 3"]);
    }
}

#[tokio::test(start_paused = true)]
async fn a_founder_alone_leads_at_once_and_a_joiner_waits_outside() {
    let mut cluster = Cluster::new();
    let begun = Instant::now();
    cluster.found(1);
    cluster.boot(2, crate::log_store::MemoryDisk::default());
    cluster.wait("leader", |it| it.leader() == Some(1)).await;
    assert!(begun.elapsed() < Duration::from_millis(20));
    cluster.write(1, "first").await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.role(2), Role::Outsider);
    assert_eq!(cluster.status(2).stage(), Stage::Outsider);
    assert_eq!(cluster.status(2).term, 0);
}

#[tokio::test(start_paused = true)]
async fn a_dead_leader_is_replaced_within_the_time_promised() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.crash(leader);
    let begun = Instant::now();
    cluster.settled().await;
    let took = begun.elapsed();
    assert!(took > Duration::from_millis(400), "{took:?}");
    assert!(took < Duration::from_millis(1200), "{took:?}");
}

#[tokio::test(start_paused = true)]
async fn an_isolated_leader_steps_down_and_never_serves_a_read() {
    let mut cluster = Cluster::of(3).await;
    let old = cluster.settled().await;
    cluster.write(old, "before").await;
    cluster.isolate(old);
    let begun = Instant::now();
    let handle = cluster.handle(old).clone();
    let reads = tokio::spawn(async move {
        let mut answers = Vec::new();
        for _ in 0..20 {
            answers.push(handle.read_index().await);
            sleep(Duration::from_millis(50)).await;
        }
        answers
    });
    cluster
        .wait("another leader", |it| {
            it.leader().is_some_and(|leader| leader != old)
        })
        .await;
    let new = cluster.leader().unwrap();
    cluster.write(new, "after").await;
    for answer in reads.await.unwrap() {
        assert!(
            matches!(answer, Err(ReadError::NotLeader { .. })),
            "{answer:?}"
        );
    }
    assert!(begun.elapsed() < Duration::from_secs(4));
    assert!(!cluster.status(old).is_leader());
    let refused = cluster.handle(old).propose(&note(900, "too late")).await;
    assert!(matches!(refused, Err(ProposeError::NotLeader { .. })));
    cluster.bus.heal();
    cluster.agree().await;
    assert_eq!(cluster.state(old).notes, ["before", "after"]);
}

#[tokio::test(start_paused = true)]
async fn a_write_caught_by_the_loss_of_leadership_is_in_doubt_and_can_be_repeated() {
    let cluster = Cluster::of(3).await;
    let old = cluster.settled().await;
    cluster.isolate(old);
    let entry = note(77, "in doubt");
    let answer = cluster.handle(old).propose(&entry).await;
    assert_eq!(answer, Err(ProposeError::OutcomeUnknown));
    cluster.bus.heal();
    let proposer = cluster.machines[&old].proposer.clone();
    let first = proposer.submit(&entry, Duration::from_secs(10)).await;
    let again = proposer.submit(&entry, Duration::from_secs(10)).await;
    assert_eq!(first, again);
    cluster.agree().await;
    assert_eq!(cluster.state(old).notes, ["in doubt"]);
}

#[tokio::test(start_paused = true)]
async fn a_request_id_takes_effect_once_however_often_and_wherever_it_is_sent() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let entry = note(5, "once");
    let sent = (1..=3).flat_map(|raft| std::iter::repeat_n(raft, 4));
    let tasks: Vec<_> = sent
        .map(|raft| {
            let proposer = cluster.machines[&raft].proposer.clone();
            let entry = entry.clone();
            tokio::spawn(async move { proposer.submit(&entry, Duration::from_secs(5)).await })
        })
        .collect();
    let mut outcomes = Vec::new();
    for task in tasks {
        outcomes.push(task.await.unwrap().unwrap().unwrap());
    }
    outcomes.dedup();
    assert_eq!(outcomes.len(), 1, "{outcomes:?}");
    cluster.agree().await;
    assert_eq!(cluster.state(leader).notes, ["once"]);
    let applied = cluster.status(leader).applied;
    let again = cluster.handle(leader).propose(&entry).await.unwrap();
    assert_eq!(again, Ok(outcomes[0]));
    assert_eq!(cluster.status(leader).applied, applied, "no new entry");
}

#[tokio::test(start_paused = true)]
async fn a_returning_node_does_not_disturb_the_term() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let away = (1..=3).find(|raft| *raft != leader).unwrap();
    let term = cluster.status(leader).term;
    cluster.isolate(away);
    cluster.write(leader, "meanwhile").await;
    sleep(Duration::from_secs(20)).await;
    assert_eq!(cluster.role(away), Role::Candidate);
    cluster.bus.heal();
    cluster.agree().await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.settled().await, leader);
    assert_eq!(cluster.status(leader).term, term);
    assert_eq!(cluster.status(away).term, term);
}

#[tokio::test(start_paused = true)]
async fn leadership_goes_where_it_is_sent() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let next = (1..=3).find(|raft| *raft != leader).unwrap();
    let begun = Instant::now();
    cluster
        .handle(leader)
        .transfer_leadership(RaftId(next))
        .await
        .unwrap();
    cluster
        .wait("the new leader", |it| it.leader() == Some(next))
        .await;
    assert!(begun.elapsed() < Duration::from_millis(200));
    cluster.write(leader, "goes on").await;
    let stranger = cluster.handle(next).transfer_leadership(RaftId(8)).await;
    assert!(stranger.is_err());
}

#[tokio::test(start_paused = true)]
async fn an_agent_that_ends_hands_leadership_over_first() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.write(leader, "kept").await;
    let begun = Instant::now();
    cluster.handle(leader).shutdown().await;
    assert!(begun.elapsed() < Duration::from_secs(1));
    cluster.machines.remove(&leader);
    let next = cluster.leader().expect("the next leader is there already");
    cluster.bus.unplug(node_id(leader));
    assert_eq!(cluster.state(next).notes, ["kept"]);
    cluster.write(next, "and on").await;
}

#[tokio::test(start_paused = true)]
async fn without_a_majority_the_error_names_who_is_missing() {
    let mut cluster = Cluster::of(3).await;
    cluster.crash(1);
    cluster.crash(2);
    let proposer = cluster.machines[&3].proposer.clone();
    let begun = Instant::now();
    let err = proposer
        .submit(&note(1, "lost"), Duration::from_secs(3))
        .await
        .unwrap_err();
    assert_eq!(begun.elapsed().as_secs(), 3);
    assert_eq!(err.code, ErrorCode::NoLeader);
    assert_eq!(
        err.message,
        "no leader: 2 of 3 voters cannot be reached (m1, m2)"
    );
    let err = proposer
        .read_index(Duration::from_secs(1))
        .await
        .unwrap_err();
    assert_eq!(err.code, ErrorCode::NoLeader);
}

#[tokio::test(start_paused = true)]
async fn a_fresh_read_on_a_follower_sees_every_acknowledged_write() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let follower = (1..=3).find(|raft| *raft != leader).unwrap();
    for round in 0..20 {
        let written = cluster.write(leader, &format!("note {round}")).await;
        let proposer = cluster.machines[&follower].proposer.clone();
        let read = proposer.read_index(Duration::from_secs(5)).await.unwrap();
        assert!(read >= written);
        assert_eq!(cluster.state(follower).notes.len(), round + 1);
    }
}

#[tokio::test(start_paused = true)]
async fn many_reads_at_once_share_one_question_to_the_majority() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    sleep(Duration::from_secs(1)).await;
    let before = cluster.bus.messages_sent();
    let reads: Vec<_> = (0..500)
        .map(|_| {
            let handle = cluster.handle(leader).clone();
            tokio::spawn(async move { handle.read_index().await })
        })
        .collect();
    for read in reads {
        read.await.unwrap().unwrap();
    }
    let messages = cluster.bus.messages_sent() - before;
    assert!(messages <= 16, "{messages} messages for 500 reads");
}

#[tokio::test(start_paused = true)]
async fn entries_near_the_limit_pass_and_larger_ones_are_refused() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let large = "x".repeat(ENTRY_BYTES_MAX - 100);
    let writes: Vec<_> = (0..8)
        .map(|request| {
            let handle = cluster.handle(leader).clone();
            let entry = note(1000 + request, &large);
            tokio::spawn(async move { handle.propose(&entry).await })
        })
        .collect();
    for write in writes {
        write.await.unwrap().unwrap().unwrap();
    }
    let too_large = note(2000, &"x".repeat(ENTRY_BYTES_MAX));
    let proposer = cluster.machines[&leader].proposer.clone();
    let err = proposer
        .submit(&too_large, Duration::from_secs(5))
        .await
        .unwrap_err();
    assert_eq!(err.code, ErrorCode::LimitReached);
    cluster.write(leader, "small").await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_quiet_cluster_says_little_and_writes_nothing() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.write(leader, "one").await;
    sleep(Duration::from_secs(2)).await;
    let writes = |it: &Cluster| it.machines.values().map(|m| m.disk.writes()).sum::<u64>();
    let (messages, written) = (cluster.bus.messages_sent(), writes(&cluster));
    let revision = cluster.state(leader).revision;
    sleep(Duration::from_secs(60)).await;
    let per_second = (cluster.bus.messages_sent() - messages) / 60;
    assert!(per_second <= 28, "{per_second} messages per second");
    assert_eq!(writes(&cluster), written);
    assert_eq!(cluster.state(leader).revision, revision);
}

#[tokio::test(start_paused = true)]
async fn the_commit_index_reaches_the_disk_soon_after_the_last_write() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let revision = cluster.write(leader, "last").await;
    cluster.agree().await;
    sleep(Duration::from_millis(200)).await;
    for raft in 1..=3 {
        let disk = cluster.crash(raft);
        let commit = super::cluster::persisted(&disk, raft).hard_state.commit;
        assert!(commit >= revision.0, "{raft}: {commit}");
    }
}

#[tokio::test(start_paused = true)]
async fn nonsense_and_false_names_are_dropped_and_counted() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let follower = (1..=3).find(|raft| *raft != leader).unwrap();
    let other = (1..=3)
        .find(|raft| *raft != leader && *raft != follower)
        .unwrap();
    let to = node_id(follower);
    cluster
        .bus
        .inject(node_id(leader), to, Bytes::from_static(b"\x01garbage"))
        .await;
    // A true message of the leader, sent by a machine that is not the leader.
    let heartbeat = super::wire_heartbeat(leader, follower, cluster.status(leader).term + 7);
    cluster.bus.inject(node_id(other), to, heartbeat).await;
    cluster
        .wait("both dropped", |it| {
            it.status(follower).refused_messages == 2
        })
        .await;
    assert_eq!(cluster.settled().await, leader);
    assert!(cluster.status(follower).term < 7 + cluster.status(leader).term);
}

#[tokio::test(start_paused = true)]
async fn a_handle_answers_quickly_when_many_ask() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let handle = cluster.handle(leader).clone();
    let writes: Vec<_> = (0..900u128)
        .map(|request| {
            let handle = handle.clone();
            tokio::spawn(async move {
                handle
                    .propose(&note(10_000 + request, &request.to_string()))
                    .await
            })
        })
        .collect();
    for write in writes {
        timeout(Duration::from_secs(1), write)
            .await
            .unwrap()
            .unwrap()
            .unwrap()
            .unwrap();
    }
    assert_eq!(cluster.state(leader).notes.len(), 900);
}
