//! Who takes part: joining, voting, leaving, being replaced.

use std::time::Duration;

use kawanan_api::RaftId;
use tokio::time::sleep;

use super::cluster::{Cluster, ids, persisted};
use super::toy::{node_id, note};
use crate::consensus::{ChangeError, MemberStep, Role, Stage};
use crate::log_store::MemoryDisk;

fn voters(add: impl IntoIterator<Item = u64>, remove: impl IntoIterator<Item = u64>) -> MemberStep {
    MemberStep::SetVoters {
        add: ids(add),
        remove: ids(remove),
    }
}

#[tokio::test(start_paused = true)]
async fn a_cluster_grows_from_one_to_three_to_five_voters() {
    let mut cluster = Cluster::of(3).await;
    cluster.write(1, "three").await;
    for raft in [4, 5] {
        cluster.boot(raft, MemoryDisk::default());
        cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
        cluster
            .wait("learner", |it| it.role(raft) == Role::Learner)
            .await;
    }
    cluster.change(voters([4, 5], [])).await;
    cluster
        .wait("five voters", |it| {
            (1..=5).all(|raft| {
                let status = it.status(raft);
                status.members.voters == ids(1..=5)
                    && !status.is_joint()
                    && status.stage() == Stage::Voter
            })
        })
        .await;
    let leader = cluster.settled().await;
    cluster.crash(leader);
    let next = cluster.settled().await;
    cluster.crash(next);
    let last = cluster.settled().await;
    cluster.write(last, "two of five are dead").await;
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_dead_voter_is_replaced_in_one_step() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let dead = (1..=3).find(|raft| *raft != leader).unwrap();
    cluster.crash(dead);
    cluster.boot(4, MemoryDisk::default());
    cluster.change(MemberStep::AddLearner(RaftId(4))).await;
    cluster.change(voters([4], [dead])).await;
    cluster
        .wait("the new voters", |it| {
            let members = it.status(leader).members;
            !members.is_joint()
                && members.voters.contains(&RaftId(4))
                && members.learners == ids([dead])
        })
        .await;
    cluster.change(MemberStep::RemoveMember(RaftId(dead))).await;
    // The two that are left and voted before do not make a majority without the new one's help.
    let other = (1..=3)
        .find(|raft| *raft != leader && *raft != dead)
        .unwrap();
    cluster.crash(other);
    cluster.write(4, "with the new voter").await;
    assert_eq!(
        cluster.status(leader).members.voters,
        ids([leader, other, 4])
    );
}

#[tokio::test(start_paused = true)]
async fn the_next_leader_ends_a_joint_change_that_the_last_one_began() {
    let mut cluster = Cluster::of(3).await;
    for raft in [4, 5] {
        cluster.boot(raft, MemoryDisk::default());
        cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
    }
    cluster.agree().await;
    let leader = cluster.settled().await;
    let step = voters([4, 5], []);
    cluster.handle(leader).change_members(step).await.unwrap();
    assert!(cluster.status(leader).is_joint(), "it has just begun");
    cluster.crash(leader);
    cluster
        .wait("the change is ended", |it| {
            it.machines.keys().all(|raft| {
                let members = it.status(*raft).members;
                members.voters == ids(1..=5) && !members.is_joint()
            })
        })
        .await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_loses_its_vote_hands_leadership_over_before_the_change_ends() {
    let mut cluster = Cluster::of(3).await;
    for raft in [4, 5] {
        cluster.boot(raft, MemoryDisk::default());
        cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
    }
    cluster.agree().await;
    // Node 2 has the shortest patience, so it leads when 1 is gone.
    assert_eq!(cluster.settled().await, 1);
    let step = voters([4, 5], [2, 3]);
    cluster.handle(1).change_members(step).await.unwrap();
    cluster
        .wait("2 knows of the change", |it| it.status(2).is_joint())
        .await;
    cluster.crash(1);
    cluster
        .wait("the change is ended", |it| {
            it.machines.keys().all(|raft| {
                let members = it.status(*raft).members;
                members.voters == ids([1, 4, 5])
                    && members.learners == ids([2, 3])
                    && !members.is_joint()
            })
        })
        .await;
    cluster
        .wait("a voter leads", |it| {
            it.leader().is_some_and(|leader| [4, 5].contains(&leader)) && !it.status(2).is_leader()
        })
        .await;
    cluster.write(2, "through a former voter").await;
}

#[tokio::test(start_paused = true)]
async fn a_second_change_is_refused_while_the_first_is_under_way() {
    let mut cluster = Cluster::of(3).await;
    cluster.boot(4, MemoryDisk::default());
    cluster.boot(5, MemoryDisk::default());
    let leader = cluster.settled().await;
    let handle = cluster.handle(leader);
    let first = handle.change_members(MemberStep::AddLearner(RaftId(4)));
    let second = handle.change_members(MemberStep::AddLearner(RaftId(5)));
    let (first, second) = tokio::join!(first, second);
    assert_eq!(first, Ok(()));
    assert_eq!(second, Err(ChangeError::Busy));
    assert_eq!(cluster.status(leader).members.learners, ids([4]));
}

#[tokio::test(start_paused = true)]
async fn impossible_changes_are_refused_with_the_reason() {
    let cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let follower = (1..=3).find(|raft| *raft != leader).unwrap();
    for (step, why) in [
        (voters([], [leader]), "hand leadership over first"),
        (MemberStep::RemoveMember(RaftId(leader)), "hand leadership"),
        (voters([8], []), "only a learner can become a voter"),
        (voters([], [8]), "only a voter can lose its vote"),
        (voters([], []), "nothing would change"),
        (MemberStep::RemoveMember(RaftId(8)), "it is no member"),
        (MemberStep::AddLearner(RaftId(follower)), "has a vote"),
        (MemberStep::LeaveJoint, "no change of the voters"),
    ] {
        let err = cluster
            .handle(leader)
            .change_members(step.clone())
            .await
            .unwrap_err();
        assert!(err.to_string().contains(why), "{step:?}: {err}");
    }
    let elsewhere = cluster
        .handle(follower)
        .change_members(voters([], [leader]))
        .await;
    assert!(matches!(
        elsewhere,
        Err(ChangeError::NotLeader { leader: Some(_) })
    ));
}

#[tokio::test(start_paused = true)]
async fn a_learner_gets_a_snapshot_when_the_log_it_needs_is_gone() {
    let mut cluster = Cluster::tuned(|config| {
        config.checkpoint_entries = 50;
        config.kept_entries = 10;
    });
    cluster.grow(3).await;
    for round in 0..200 {
        cluster.write(1, &format!("note {round}")).await;
    }
    cluster.boot(4, MemoryDisk::default());
    cluster.change(MemberStep::AddLearner(RaftId(4))).await;
    cluster.agree().await;
    assert_eq!(cluster.state(4).notes.len(), 200);
    assert_eq!(cluster.role(4), Role::Learner);
    cluster.write(4, "through the learner").await;
    cluster.agree().await;

    let disk = cluster.crash(4);
    assert!(persisted(&disk, 4).start.index > 150, "began by snapshot");
    cluster.boot(4, disk);
    cluster.agree().await;
    assert_eq!(cluster.state(4).notes.len(), 201);
}

#[tokio::test(start_paused = true)]
async fn a_voter_that_was_away_too_long_gets_a_snapshot() {
    let mut cluster = Cluster::tuned(|config| {
        config.checkpoint_entries = 20;
        config.kept_entries = 0;
    });
    cluster.grow(3).await;
    let leader = cluster.settled().await;
    let away = (1..=3).find(|raft| *raft != leader).unwrap();
    let disk = cluster.crash(away);
    for round in 0..100 {
        cluster.write(leader, &format!("note {round}")).await;
    }
    let before = cluster.bus.snapshots_sent();
    cluster.boot(away, disk);
    cluster.agree().await;
    assert!(cluster.bus.snapshots_sent() > before);
    assert_eq!(cluster.role(away), Role::Follower);
}

#[tokio::test(start_paused = true)]
async fn a_snapshot_lost_on_the_way_is_sent_again() {
    let mut cluster = Cluster::of(1).await;
    cluster.write(1, "one").await;
    cluster.bus.lose_next_snapshots(1);
    cluster.boot(2, MemoryDisk::default());
    cluster.change(MemberStep::AddLearner(RaftId(2))).await;
    sleep(Duration::from_secs(5)).await;
    assert_eq!(cluster.role(2), Role::Outsider);
    sleep(Duration::from_secs(6)).await;
    cluster.agree().await;
    assert_eq!(cluster.role(2), Role::Learner);
    assert_eq!(cluster.bus.snapshots_sent(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_learner_does_not_count_for_the_majority() {
    let mut cluster = Cluster::of(3).await;
    cluster.boot(4, MemoryDisk::default());
    cluster.boot(5, MemoryDisk::default());
    for raft in [4, 5] {
        cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
    }
    let leader = cluster.settled().await;
    for raft in (1..=3).filter(|raft| *raft != leader) {
        cluster.crash(raft);
    }
    let answer = cluster.handle(leader).propose(&note(1, "alone")).await;
    assert!(answer.is_err(), "{answer:?}");
    assert!(!cluster.status(leader).is_leader());
}

#[tokio::test(start_paused = true)]
async fn a_wiped_machine_comes_back_under_a_new_number() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let wiped = (1..=3).find(|raft| *raft != leader).unwrap();
    cluster.crash(wiped);
    cluster.boot(wiped + 100, MemoryDisk::default());
    sleep(Duration::from_secs(2)).await;
    // Messages for its former self do not reach it.
    assert_eq!(cluster.role(wiped + 100), Role::Outsider);
    assert!(cluster.status(wiped + 100).refused_messages > 0);
    cluster
        .change(MemberStep::AddLearner(RaftId(wiped + 100)))
        .await;
    cluster.change(voters([wiped + 100], [wiped])).await;
    cluster
        .change(MemberStep::RemoveMember(RaftId(wiped)))
        .await;
    cluster.write(wiped + 100, "back").await;
    cluster.agree().await;
    assert_eq!(cluster.role(wiped + 100), Role::Follower);
}

#[tokio::test(start_paused = true)]
async fn a_member_without_a_vote_cannot_claim_to_lead_while_the_leader_lives() {
    let mut cluster = Cluster::of(3).await;
    cluster.boot(4, MemoryDisk::default());
    cluster.change(MemberStep::AddLearner(RaftId(4))).await;
    let leader = cluster.settled().await;
    let term = cluster.status(leader).term;
    for raft in 1..=3 {
        let claim = super::wire_heartbeat(4, raft, term + 5);
        cluster.bus.inject(node_id(4), node_id(raft), claim).await;
    }
    cluster
        .wait("the claims are dropped", |it| {
            (1..=3).all(|raft| it.status(raft).refused_messages == 1)
        })
        .await;
    assert_eq!(cluster.settled().await, leader);
    assert_eq!(cluster.status(leader).term, term);
    cluster.write(4, "undisturbed").await;
}

#[tokio::test(start_paused = true)]
async fn many_learners_join_at_once() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..20 {
        cluster.write(1, &format!("note {round}")).await;
    }
    for raft in 4..=9 {
        cluster.boot(raft, MemoryDisk::default());
    }
    for raft in 4..=9 {
        cluster.change(MemberStep::AddLearner(RaftId(raft))).await;
    }
    cluster.agree().await;
    assert_eq!(cluster.status(1).members.learners, ids(4..=9));
}

/// raft-rs resets its own flag twice per second; who looked in step with that saw nobody active for ever.
#[tokio::test(start_paused = true)]
async fn a_member_that_answers_is_seen_active_at_every_instant() {
    let mut cluster = Cluster::of(1).await;
    cluster.boot(2, MemoryDisk::default());
    cluster.change(MemberStep::AddLearner(RaftId(2))).await;
    let active = |cluster: &Cluster| {
        let status = cluster.status(1);
        status.progress.get(&RaftId(2)).is_some_and(|it| it.active)
    };
    cluster.wait("the learner answers", active).await;
    for _ in 0..3_000 {
        sleep(Duration::from_millis(1)).await;
        assert!(active(&cluster));
    }
    cluster.crash(2);
    cluster.wait("its death is seen", |it| !active(it)).await;
}
