//! How many writes a node with a real disk commits per second. Run with
//! `cargo test --release -p agent --lib -- --ignored --nocapture commits_per_second`.

use std::time::Duration;

use kawanan_api::RaftId;
use tokio::time::Instant;

use super::bus::Bus;
use super::toy::{Toy, node_id, note};
use crate::consensus::persist::Setup;
use crate::consensus::{ConsensusConfig, Surroundings, found, start};
use crate::log_store::RedbStore;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement, not a test"]
async fn commits_per_second() {
    for proposers in [1u128, 64] {
        let directory = tempfile::tempdir_in(".").unwrap();
        let path = directory.path().join(crate::log_store::FILE_NAME);
        found::<Toy>(&mut RedbStore::open(&path).unwrap(), RaftId(1)).unwrap();
        let bus = Bus::start();
        let (links, inbound) = bus.plug_in(node_id(1));
        let surroundings = Surroundings {
            links,
            inbound,
            hints: [].into(),
        };
        let setup = Setup::on_thread(RedbStore::open(&path).unwrap());
        let config = ConsensusConfig::new(node_id(1), RaftId(1));
        let (handle, running) = start::<Toy>(config, setup, surroundings).unwrap();
        let begun = Instant::now();
        let until = begun + Duration::from_secs(3);
        let tasks: Vec<_> = (0..proposers)
            .map(|proposer| {
                let handle = handle.clone();
                tokio::spawn(async move {
                    let mut done = 0u128;
                    while Instant::now() < until {
                        let entry = note((proposer << 64) + done, "a note of a usual length");
                        handle.propose(&entry).await.unwrap().unwrap();
                        done += 1;
                    }
                    done
                })
            })
            .collect();
        let mut done = 0;
        for task in tasks {
            done += task.await.unwrap();
        }
        let rate = done as f64 / begun.elapsed().as_secs_f64();
        println!("{proposers} proposers: {rate:.0} commits/s");
        handle.shutdown().await;
        running.ended().await;
    }
}
