//! Power failures, broken disks, broken invariants.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kawanan_api::RaftId;
use tokio::time::sleep;

use super::cluster::{Cluster, persisted};
use super::toy::{Toy, node_id, note};
use crate::consensus::persist::Setup;
use crate::consensus::{
    ConsensusConfig, ProposeError, ReadError, Role, StartError, Surroundings, found, start,
};
use crate::log_store::{Fault, LogStore, MemoryDisk, RedbStore, StoreError};

#[tokio::test(start_paused = true)]
async fn acknowledged_writes_survive_the_leaders_death_in_mid_flight() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let survivor = (1..=3).find(|raft| *raft != leader).unwrap();
    let writes: Vec<_> = (0..200u128)
        .map(|request| {
            let proposer = cluster.machines[&survivor].proposer.clone();
            tokio::spawn(async move {
                sleep(Duration::from_millis(u64::try_from(request / 4).unwrap())).await;
                let entry = note(request, &request.to_string());
                proposer.submit(&entry, Duration::from_secs(10)).await
            })
        })
        .collect();
    sleep(Duration::from_millis(20)).await;
    let disk = cluster.crash(leader);
    let mut acknowledged = Vec::new();
    for (request, write) in writes.into_iter().enumerate() {
        write.await.unwrap().unwrap().unwrap();
        acknowledged.push(request.to_string());
    }
    assert_eq!(acknowledged.len(), 200);
    cluster.boot(leader, disk);
    cluster.agree().await;
    for raft in 1..=3 {
        let mut notes = cluster.state(raft).notes.clone();
        let applied = notes.len();
        notes.sort_unstable_by_key(|note| note.parse::<u32>().unwrap());
        notes.dedup();
        assert_eq!(notes, acknowledged, "node {raft}");
        assert_eq!(applied, 200, "node {raft} applied something twice");
    }
}

#[tokio::test(start_paused = true)]
async fn all_nodes_losing_power_at_once_lose_nothing() {
    let mut cluster = Cluster::tuned(|config| {
        config.checkpoint_entries = 10;
        config.kept_entries = 4;
    });
    cluster.grow(5).await;
    for round in 0..37 {
        cluster.write(1 + round % 5, &format!("note {round}")).await;
    }
    let disks: Vec<_> = (1..=5).map(|raft| (raft, cluster.crash(raft))).collect();
    for (raft, disk) in disks {
        cluster.boot(raft, disk);
    }
    let leader = cluster.settled().await;
    cluster.write(leader, "afterwards").await;
    cluster.agree().await;
    assert_eq!(cluster.state(3).notes.len(), 38);
}

/// Runs writes on one node until its disk dies with the `nth` write; returns what was acknowledged.
async fn write_until_the_disk_dies(disk: &MemoryDisk, nth: u64, fault: Fault) -> Vec<String> {
    let setup = Setup::simulated(
        CountDown {
            store: disk.open(),
            disk: disk.clone(),
            left: nth,
            fault,
        },
        Box::new(|| Duration::from_millis(1)),
    );
    let bus = super::bus::Bus::start();
    let (links, inbound) = bus.plug_in(node_id(1));
    let mut config = ConsensusConfig::new(node_id(1), RaftId(1));
    config.checkpoint_entries = 5;
    config.kept_entries = 2;
    let surroundings = Surroundings {
        links,
        inbound,
        hints: [].into(),
    };
    let (handle, running) = match start::<Toy>(config, setup, surroundings) {
        Ok(started) => started,
        Err(err) => panic!("after {nth} writes: {err}"),
    };
    let mut acknowledged = Vec::new();
    // Only now it knows what it had committed before.
    drop(handle.read_index().await);
    let begun = handle.state().borrow().notes.len();
    for request in begun..begun + 20 {
        let text = request.to_string();
        let entry = note(request as u128, &text);
        match handle.propose(&entry).await {
            Ok(outcome) => {
                outcome.unwrap();
                acknowledged.push(text);
            }
            Err(_) => break,
        }
    }
    running.crash();
    disk.crash();
    acknowledged
}

/// Lets the disk fail at a certain write.
struct CountDown {
    store: crate::log_store::MemoryStore,
    disk: MemoryDisk,
    left: u64,
    fault: Fault,
}

impl LogStore for CountDown {
    fn load(&mut self, owner: RaftId) -> Result<crate::log_store::Persisted, StoreError> {
        self.store.load(owner)
    }

    fn write(&mut self, write: &crate::log_store::Write) -> Result<(), StoreError> {
        if self.left == 0 {
            self.disk.inject(self.fault);
        }
        self.left = self.left.wrapping_sub(1);
        self.store.write(write)
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_crashes_at_any_write_starts_again_with_everything_acknowledged() {
    for fault in [Fault::CrashBefore, Fault::CrashAfter, Fault::SyncFails] {
        for nth in 0..40 {
            let disk = MemoryDisk::default();
            found::<Toy>(&mut disk.open(), RaftId(1)).unwrap();
            let acknowledged = write_until_the_disk_dies(&disk, nth, fault).await;
            let found = persisted(&disk, 1);
            let again = write_until_the_disk_dies(&disk, 1000, fault).await;
            assert_eq!(again.len(), 20, "{fault:?} at write {nth}: {found:?}");
            let next: usize = again[0].parse().unwrap();
            // The entry in flight may have survived or not; nothing acknowledged may be missing.
            assert!(
                next == acknowledged.len() || next == acknowledged.len() + 1,
                "{fault:?} at write {nth}: {} acknowledged, {next} found",
                acknowledged.len()
            );
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_sync_ends_the_nodes_part_and_nothing_else() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.machines[&leader].disk.inject(Fault::SyncFails);
    let answer = cluster.handle(leader).propose(&note(500, "doubtful")).await;
    assert_eq!(answer, Err(ProposeError::OutcomeUnknown));
    let Role::Failed(reason) = cluster.role(leader) else {
        panic!("{:?}", cluster.role(leader));
    };
    assert_eq!(
        reason,
        "the disk failed while writing the log: input/output error; check the disk, then restart the agent"
    );
    let handle = cluster.handle(leader).clone();
    assert_eq!(
        handle.propose(&note(501, "no")).await,
        Err(ProposeError::Stopped)
    );
    assert_eq!(handle.read_index().await, Err(ReadError::Stopped));
    let writes = cluster.machines[&leader].disk.writes();

    let disk = cluster.machines[&leader].disk.clone();
    let machine = cluster.machines.remove(&leader).unwrap();
    let next = cluster.settled().await;
    // Also through the node whose part has ended.
    let outcome = machine
        .proposer
        .submit(&note(502, "goes on"), Duration::from_secs(5))
        .await;
    assert!(outcome.is_err(), "it knows no leader any more");
    cluster.write(next, "goes on").await;
    assert_eq!(disk.writes(), writes, "nothing is written after a failure");
    machine.running.unwrap().crash();
    disk.crash();
    cluster.boot(leader, disk);
    cluster.agree().await;
}

#[tokio::test(start_paused = true)]
async fn a_leader_whose_disk_hangs_lets_another_lead() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.machines[&leader]
        .latency
        .store(60_000, Ordering::Relaxed);
    let proposer = cluster.machines[&leader].proposer.clone();
    let entry = note(300, "while it hangs");
    let outcome = proposer.submit(&entry, Duration::from_secs(9)).await;
    outcome.unwrap().unwrap();
    let next = cluster.leader().unwrap();
    assert_ne!(next, leader);
    cluster.write(next, "goes on").await;
    assert_eq!(cluster.role(leader), Role::Follower);
}

#[tokio::test(start_paused = true)]
async fn a_follower_whose_disk_hangs_is_heard_all_the_same() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let term = cluster.status(leader).term;
    for raft in (1..=3).filter(|raft| *raft != leader) {
        cluster.machines[&raft]
            .latency
            .store(5_000, Ordering::Relaxed);
    }
    // Needs a majority of disks, so it takes as long as theirs; leadership does not.
    cluster.write(leader, "slow").await;
    assert_eq!(cluster.status(leader).term, term);
    assert_eq!(cluster.leader(), Some(leader));
}

#[tokio::test(start_paused = true)]
async fn a_full_disk_says_so() {
    let cluster = Cluster::of(1).await;
    cluster.machines[&1].disk.inject(Fault::Full);
    let answer = cluster.handle(1).propose(&note(1, "no room")).await;
    assert_eq!(answer, Err(ProposeError::OutcomeUnknown));
    assert_eq!(
        cluster.role(1),
        Role::Failed(
            "the disk is full while writing the log: free some space and restart the agent".into()
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_panic_inside_the_log_ends_the_nodes_part_and_not_the_agent() {
    let cluster = Cluster::of(1).await;
    let answer = cluster.handle(1).propose(&note(1, "poison")).await;
    assert_eq!(answer, Err(ProposeError::OutcomeUnknown));
    let Role::Failed(reason) = cluster.role(1) else {
        panic!("{:?}", cluster.role(1));
    };
    assert!(
        reason.starts_with("an invariant of the log broke"),
        "{reason}"
    );
}

#[tokio::test(start_paused = true)]
async fn a_leader_that_denies_committed_entries_is_not_believed() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    cluster.write(leader, "committed").await;
    cluster.agree().await;
    let follower = (1..=3).find(|raft| *raft != leader).unwrap();
    let status = cluster.status(follower);
    let conflict = super::wire_append(leader, follower, status.term + 1, status.applied.0 - 2);
    cluster
        .bus
        .inject(node_id(leader), node_id(follower), conflict)
        .await;
    sleep(Duration::from_secs(3)).await;
    // Whatever the follower made of it, the committed entry is still there and the cluster works.
    assert_eq!(cluster.state(follower).notes, ["committed"]);
    let voice = cluster
        .machines
        .keys()
        .copied()
        .find(|raft| !matches!(cluster.role(*raft), Role::Failed(_)))
        .unwrap();
    cluster.write(voice, "still works").await;
}

#[tokio::test(start_paused = true)]
async fn a_damaged_log_is_not_started() {
    let mut cluster = Cluster::of(3).await;
    for round in 0..5 {
        cluster.write(1, &round.to_string()).await;
    }
    let disk = cluster.crash(2);
    let index = persisted(&disk, 2).entries[3].index;
    assert!(disk.damage_entry(index));
    let setup = Setup::simulated(disk.open(), Box::new(|| Duration::ZERO));
    let (links, inbound) = cluster.bus.plug_in(node_id(2));
    let surroundings = Surroundings {
        links,
        inbound,
        hints: [].into(),
    };
    let config = ConsensusConfig::new(node_id(2), RaftId(2));
    let err = start::<Toy>(config, setup, surroundings).unwrap_err();
    assert_eq!(
        err.to_string(),
        format!(
            "the log is damaged: the checksum of entry {index} is wrong; this node's copy cannot be trusted: remove its \
             data directory and join again with a new token"
        )
    );
}

#[tokio::test(start_paused = true)]
async fn a_disk_that_went_back_in_time_is_found_out() {
    let mut cluster = Cluster::of(3).await;
    let leader = cluster.settled().await;
    let restored = (1..=3).find(|raft| *raft != leader).unwrap();
    cluster.write(leader, "early").await;
    cluster.agree().await;
    let disk = cluster.crash(restored);
    let backup = disk.copy();
    cluster.boot(restored, disk);
    for round in 0..5 {
        cluster.write(leader, &round.to_string()).await;
    }
    cluster.agree().await;
    sleep(Duration::from_secs(1)).await;
    cluster.crash(restored);
    cluster.boot(restored, backup);
    cluster
        .wait("the loss is noticed", |it| {
            matches!(it.role(restored), Role::Failed(_))
        })
        .await;
    let Role::Failed(reason) = cluster.role(restored) else {
        unreachable!()
    };
    assert!(reason.contains("its disk went back in time"), "{reason}");
    cluster.write(leader, "goes on").await;
}

#[test]
fn a_cluster_is_founded_once_and_a_log_belongs_to_one_member() {
    let disk = MemoryDisk::default();
    found::<Toy>(&mut disk.open(), RaftId(1)).unwrap();
    assert_eq!(
        found::<Toy>(&mut disk.open(), RaftId(1)),
        Err(StartError::AlreadyFounded { entries: 1 })
    );
    assert!(matches!(
        disk.open().load(RaftId(2)),
        Err(StoreError::OtherOwner { .. })
    ));
}

#[tokio::test]
async fn a_node_on_a_real_disk_keeps_its_log_over_a_restart() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join(crate::log_store::FILE_NAME);
    found::<Toy>(&mut RedbStore::open(&path).unwrap(), RaftId(1)).unwrap();
    for round in 0..3u128 {
        let bus = super::bus::Bus::start();
        let (links, inbound) = bus.plug_in(node_id(1));
        let mut config = ConsensusConfig::new(node_id(1), RaftId(1));
        config.checkpoint_entries = 30;
        config.kept_entries = 5;
        let surroundings = Surroundings {
            links: Arc::clone(&links),
            inbound,
            hints: [].into(),
        };
        let setup = Setup::on_thread(RedbStore::open(&path).unwrap());
        let (handle, running) = start::<Toy>(config, setup, surroundings).unwrap();
        let kept = handle.state().borrow().notes.len() as u128;
        assert_eq!(kept, round * 50);
        for request in kept..kept + 50 {
            let entry = note(request, &request.to_string());
            handle.propose(&entry).await.unwrap().unwrap();
        }
        let second = RedbStore::open(&path).unwrap_err();
        assert!(matches!(second, StoreError::InUse { .. }), "{second}");
        handle.shutdown().await;
        running.ended().await;
        wait_for_release(&path).await;
    }
}

/// The disk's thread lets go of the file a moment after its owner has ended.
async fn wait_for_release(path: &std::path::Path) {
    for _ in 0..500 {
        if RedbStore::open(path).is_ok() {
            return;
        }
        sleep(Duration::from_millis(10)).await;
    }
    panic!("the log is still open");
}
