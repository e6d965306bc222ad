//! Making a cluster: tokens good and bad, and machines that must not get in.

use std::fs;
use std::time::Duration;

use anyhow::{Result, ensure};
use tests::lab::{Cluster, Host, Lab, node_row, stays_true, wait_until};

const SOON: Duration = Duration::from_secs(20);

/// A refusal must come quickly, and must leave the machine as it was: the next, good try works.
fn refused_join(host: &Host, token: &str, words: &[&str]) -> Result<()> {
    host.run(&format!("timeout 20 agent join {token}"))?
        .refused(words)?;
    Ok(())
}

#[test]
fn three_hosts_join_by_one_token() -> Result<()> {
    Lab::run("join", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        for host in cluster.nodes() {
            let rows = host.kawan_rows("node ls")?;
            for (row, node) in rows.iter().zip(cluster.nodes()) {
                ensure!(row["name"] == node.name(), "names in order: {row}");
                ensure!(row["availability"] == "active", "{row}");
                ensure!(row["voter"] == true, "three nodes are three voters: {row}");
                let address = row["address"].as_str().unwrap_or_default();
                ensure!(address.starts_with(&node.address().to_string()), "{row}");
                ensure!(row["id"].as_str().is_some_and(|id| id.len() == 25), "{row}");
            }
        }
        Ok(())
    })
}

#[test]
fn a_token_that_is_no_longer_good_says_why() -> Result<()> {
    Lab::run("bad_tokens", |lab| {
        let hosts = lab.start_hosts(&["n1", "n2"])?;
        let (first, second) = (&hosts[0], &hosts[1]);
        first.start_agent_init()?;

        let good = first.token("")?;
        refused_join(second, &good[..good.len() - 4], &["token"])?;
        let mistyped = format!(
            "{}{}",
            &good[..good.len() - 1],
            if good.ends_with('a') { 'b' } else { 'a' }
        );
        refused_join(second, &mistyped, &["token"])?;
        refused_join(second, "hello", &["token"])?;

        let short_lived = first.token("--expires 1s")?;
        wait_until("the token has expired", SOON, || {
            // Joining once too early would make it a member, so the list is asked instead.
            let list = first.run("agent token ls")?.ok()?;
            ensure!(list.to_lowercase().contains("expired"), "{list}");
            Ok(())
        })?;
        refused_join(second, &short_lived, &["expired"])?;

        let revoked = first.token("")?;
        first.run(&format!("agent token revoke {revoked}"))?.ok()?;
        refused_join(second, &revoked, &["revoked"])?;

        ensure!(
            first.kawan_rows("node ls")?.len() == 1,
            "none of them got in"
        );
        second.join(&good)
    })
}

#[test]
fn a_token_for_one_machine_admits_one() -> Result<()> {
    Lab::run("token_uses", |lab| {
        let hosts = lab.start_hosts(&["n1", "n2", "n3"])?;
        hosts[0].start_agent_init()?;
        let once = hosts[0].token("--uses 1")?;
        hosts[1].join(&once)?;
        refused_join(&hosts[2], &once, &["used"])
    })
}

#[test]
fn a_token_of_another_cluster_is_refused_before_its_secret_is_sent() -> Result<()> {
    Lab::run("foreign_token", |lab| {
        let hosts = lab.start_hosts(&["n1", "n2"])?;
        hosts[0].start_agent_init()?;
        let foreign = hosts[0].token("")?;
        // The machine is set up anew and founds another cluster at the same address.
        hosts[0].stop_agent()?;
        fs::remove_dir_all(hosts[0].data_dir())?;
        hosts[0].start_agent_init()?;
        refused_join(&hosts[1], &foreign, &["another cluster"])?;
        ensure!(hosts[0].kawan_rows("node ls")?.len() == 1);
        hosts[1].join(&hosts[0].token("")?)
    })
}

#[test]
fn a_member_does_not_join_a_second_cluster() -> Result<()> {
    Lab::run("second_join", |lab| {
        let hosts = lab.start_hosts(&["n1", "n2"])?;
        hosts[0].start_agent_init()?;
        hosts[1].start_agent_init()?;
        let token = hosts[0].token("")?;
        hosts[1].stop_agent()?;
        refused_join(&hosts[1], &token, &["already"])?;
        hosts[1].restart_agent()?;
        ensure!(hosts[0].kawan_rows("node ls")?.len() == 1);
        ensure!(hosts[1].kawan_rows("node ls")?.len() == 1);
        Ok(())
    })
}

#[test]
fn the_agent_of_a_second_cluster_at_a_known_address_is_refused() -> Result<()> {
    Lab::run("second_cluster", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        let (first, third) = (cluster.node(0), cluster.node(2));
        let create = "service create --name web --mode global --detach web:v1";
        first.kawan(create)?.ok()?;
        cluster.wait_running("web", 3)?;

        third.stop_agent()?;
        fs::rename(third.data_dir(), third.dir().join("data-of-old"))?;
        third.start_agent_init()?;
        cluster.wait_status(first, "n3", "down")?;
        stays_true("the clusters stay apart", Duration::from_secs(5), || {
            ensure!(node_row(first, "n3")?["status"] == "down");
            let own = third.kawan_rows("node ls")?;
            ensure!(own.len() == 1 && own[0]["status"] == "ready", "{own:?}");
            ensure!(third.kawan_rows("service ls")?.is_empty());
            Ok(())
        })
    })
}

#[test]
fn without_docker_the_agent_says_so_and_starts_later() -> Result<()> {
    Lab::run("no_docker", |lab| {
        let host = lab.host("n1")?;
        host.engine().stop()?;
        host.run("timeout 30 agent init")?.refused(&["docker"])?;
        host.engine().start(host.machine())?;
        host.start_agent_init()
    })
}

#[test]
fn a_data_directory_has_one_agent() -> Result<()> {
    Lab::run("data_dir", |lab| {
        let host = lab.host("n1")?;
        host.start_agent_init()?;
        host.run("timeout 20 agent run")?.refused(&["in use"])?;
        host.wait_ready()
    })
}
