//! Services on real engines: create, scale, update, drain, remove; and what cannot be done says why.

use std::collections::BTreeSet;
use std::thread;

use anyhow::{Context, Result, ensure};
use tests::lab::{Cluster, Host, Lab, SETTLE_DEADLINE, service_row, wait_until};

/// What `kawan` promises for its exit code.
const ROLLOUT_FAILED: i32 = 3;
const CANNOT_BE_PLACED: i32 = 4;

fn create(host: &Host, arguments: &str) -> Result<()> {
    host.kawan(&format!("service create {arguments}"))?
        .ok()
        .map(drop)
}

#[test]
fn a_service_is_created_scaled_and_removed() -> Result<()> {
    Lab::run("service", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        // From any of them, also one that does not lead.
        create(
            cluster.node(2),
            "--name web --replicas 3 --publish 8080:80 --env COLOR=blue web:v1",
        )?;
        cluster.wait_running("web", 3)?;
        for node in cluster.nodes() {
            let here = node.engine().containers_of("web")?;
            ensure!(
                here.len() == 1,
                "three tasks spread over three nodes; {} has {}",
                node.name(),
                here.len()
            );
            check_labels(&here[0])?;
            let page = cluster.node(0).http_get(node, 8080, "/env")?;
            ensure!(page.body.contains("COLOR=blue"), "{page:?}");
        }
        let row = service_row(cluster.node(1), "web")?;
        ensure!(
            row["mode"] == "replicated" && row["replicas"] == 3 && row["image"] == "web:v1",
            "{row}"
        );

        cluster.node(1).kawan("service scale web=30")?.ok()?;
        cluster.wait_running("web", 30)?;
        let rows = cluster.node(0).kawan_rows("service ps web")?;
        let slots: BTreeSet<u64> = rows
            .iter()
            .filter(|row| row["state"] == "running")
            .filter_map(|row| row["slot"].as_u64())
            .collect();
        ensure!(slots == (1..=30).collect(), "each slot once: {slots:?}");

        cluster.node(1).kawan("service scale web=3")?.ok()?;
        cluster.wait_running("web", 3)?;
        cluster.node(0).kawan("service rm web")?.ok()?;
        wait_until("nothing of the service is left", SETTLE_DEADLINE, || {
            let left = cluster.containers_of("web")?;
            ensure!(left.is_empty(), "{} containers", left.len());
            ensure!(cluster.node(2).kawan_rows("service ls")?.is_empty());
            Ok(())
        })
    })
}

fn check_labels(container: &tests::lab::Container) -> Result<()> {
    for label in [
        "cluster",
        "service.id",
        "service.name",
        "task.id",
        "slot",
        "node.id",
    ] {
        ensure!(
            container.labels.contains_key(&format!("kawanan.{label}")),
            "kawanan.{label} is missing"
        );
    }
    for label in [
        "node.id",
        "service.id",
        "service.name",
        "task",
        "task.id",
        "task.name",
    ] {
        let label = format!("com.docker.swarm.{label}");
        ensure!(container.labels.contains_key(&label), "{label} is missing");
    }
    Ok(())
}

#[test]
fn an_update_starts_the_new_before_it_stops_the_old() -> Result<()> {
    Lab::run("update", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        create(
            cluster.node(0),
            "--name web --replicas 3 --publish 8080:80 web:v1",
        )?;
        cluster.wait_running("web", 3)?;
        thread::scope(|scope| -> Result<()> {
            let update = scope.spawn(|| cluster.node(1).kawan("service update --image web:v2 web"));
            while !update.is_finished() {
                let running = cluster.starts_of("web")?.len();
                ensure!(running >= 3, "only {running} tasks run during the update");
            }
            update
                .join()
                .expect("the update does not panic")?
                .ok()
                .map(drop)
        })?;
        cluster.wait_running("web", 3)?;
        for node in cluster.nodes() {
            let page = cluster.node(0).http_get(node, 8080, "/version")?;
            ensure!(page.body == "v2\n", "{} answers {page:?}", node.name());
        }
        Ok(())
    })
}

#[test]
fn an_update_to_a_broken_image_keeps_the_old_tasks() -> Result<()> {
    Lab::run("bad_update", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        create(cluster.node(0), "--name web --replicas 3 web:v1")?;
        cluster.wait_running("web", 3)?;
        let update = cluster
            .node(0)
            .kawan("service update --image web:broken web")?;
        ensure!(update.refused(&[])? == ROLLOUT_FAILED);
        let running = cluster.containers_of("web")?;
        let old = running
            .iter()
            .filter(|(_, c)| c.is_running() && c.image.contains("v1"))
            .count();
        ensure!(
            old >= 2,
            "{old} old tasks are left: a rollout of one at a time risks one"
        );
        Ok(())
    })
}

#[test]
fn a_global_service_runs_once_on_every_node_also_on_a_new_one() -> Result<()> {
    Lab::run("global", |lab| {
        let mut cluster = Cluster::start(lab, 2)?;
        create(cluster.node(0), "--name web --mode global web:v1")?;
        cluster.wait_running("web", 2)?;
        cluster.add(lab.host("n3")?)?;
        cluster.wait_running("web", 3)?;
        for node in cluster.nodes() {
            ensure!(
                node.engine().containers_of("web")?.len() == 1,
                "once on {}",
                node.name()
            );
        }
        Ok(())
    })
}

#[test]
fn a_drained_node_is_empty_and_takes_tasks_again() -> Result<()> {
    Lab::run("drain", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        create(cluster.node(0), "--name web --replicas 6 web:v1")?;
        cluster.wait_running("web", 6)?;
        let said = cluster.node(0).kawan("node drain n2")?;
        ensure!(
            said.success() && said.text().contains("reboot"),
            "says when it is safe: {said}"
        );
        let left = cluster.node(1).engine().containers_of("web")?;
        ensure!(
            !left.iter().any(|container| container.is_running()),
            "{left:?}"
        );
        cluster.wait_running("web", 6)?;

        cluster
            .node(0)
            .kawan("node update --availability active n2")?
            .ok()?;
        cluster.node(0).kawan("service scale web=9")?.ok()?;
        cluster.wait_running("web", 9)?;
        ensure!(
            !cluster.node(1).engine().containers_of("web")?.is_empty(),
            "n2 takes tasks again"
        );
        Ok(())
    })
}

#[test]
fn logs_of_all_tasks_come_together() -> Result<()> {
    Lab::run("logs", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        create(
            cluster.node(0),
            "--name web --replicas 3 --env LOG_EVERY=200 web:v1",
        )?;
        cluster.wait_running("web", 3)?;
        wait_until("three tasks have logged", SETTLE_DEADLINE, || {
            let text = cluster.node(1).kawan("service logs web")?.ok()?;
            for (host, container) in cluster.containers_of("web")? {
                let hostname = &container.id[..12];
                ensure!(
                    text.contains(&format!("line 2 of {hostname}")),
                    "nothing of {host} in:\n{text}"
                );
            }
            Ok(())
        })
    })
}

#[test]
fn images_come_from_a_registry() -> Result<()> {
    Lab::run("pull", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        let image = lab.registry()?.take(cluster.node(0), "web:v1")?;
        create(cluster.node(0), &format!("--name web --replicas 3 {image}"))?;
        cluster.wait_running("web", 3)
    })
}

#[test]
fn an_unknown_image_is_named() -> Result<()> {
    Lab::run("unknown_image", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        let image = lab.registry()?.name_of("web:v99");
        let said = cluster
            .node(0)
            .kawan(&format!("service create --name web --replicas 2 {image}"))?;
        ensure!(said.refused(&[&image])? == ROLLOUT_FAILED);
        let rows = cluster.node(0).kawan_rows("service ps web")?;
        let error = rows
            .iter()
            .find_map(|row| row["error"].as_str())
            .context("a task has the reason")?;
        ensure!(error.contains("web:v99"), "{error}");
        // The user corrects it, and it runs.
        cluster
            .node(0)
            .kawan("service update --image web:v1 web")?
            .ok()?;
        cluster.wait_running("web", 2)
    })
}

#[test]
fn a_port_that_is_taken_says_by_whom() -> Result<()> {
    Lab::run("port_taken", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        let first = cluster.node(0);
        create(first, "--name web --publish 8080:80 web:v1")?;
        first
            .kawan("service create --name other --publish 8080:80 web:v1")?
            .refused(&["8080", "web"])?;
        ensure!(
            first.kawan_rows("service ls")?.len() == 1,
            "nothing half done"
        );

        // Taken on two nodes by something that is not ours: the task runs on the third.
        for node in &cluster.nodes()[..2] {
            node.docker("run -d --name foreign -p 9090:80 web:v1")?;
        }
        create(
            first,
            "--name host --publish published=9090,target=80,mode=host web:v2",
        )?;
        let page = wait_until("it answers", SETTLE_DEADLINE, || {
            first.http_get(cluster.node(2), 9090, "/version")
        })?;
        ensure!(page.body == "v2\n", "{page:?}");
        Ok(())
    })
}

#[test]
fn what_fits_nowhere_says_why_node_by_node() -> Result<()> {
    Lab::run("no_place", |lab| {
        let cluster = Cluster::start(lab, 3)?;
        let first = cluster.node(0);
        let said = first.kawan("service create --name big --reserve-memory 100TB web:v1")?;
        ensure!(said.refused(&["memory", "3 nodes"])? == CANNOT_BE_PLACED);
        let said =
            first.kawan("service create --name ssd --constraint node.labels.disk==ssd web:v1")?;
        ensure!(said.refused(&["node.labels.disk==ssd"])? == CANNOT_BE_PLACED);
        // It waits, and runs as soon as a node fits.
        first.kawan("node update --label-add disk=ssd n3")?.ok()?;
        cluster.wait_running("ssd", 1)?;
        ensure!(cluster.node(2).engine().containers_of("ssd")?.len() == 1);
        Ok(())
    })
}

#[test]
fn a_bad_request_changes_nothing() -> Result<()> {
    Lab::run("bad_input", |lab| {
        let cluster = Cluster::start(lab, 1)?;
        let host = cluster.node(0);
        for (arguments, word) in [
            ("service create --name -web- web:v1", "name"),
            ("service create --name web --publish 80 web:v1", "port"),
            (
                "service create --name web --constraint disk=ssd web:v1",
                "constraint",
            ),
            ("service create --name web --replicas -1 web:v1", "replicas"),
            ("service scale nosuch=3", "nosuch"),
            ("service rm nosuch", "nosuch"),
            ("node drain nosuch", "nosuch"),
        ] {
            host.kawan(arguments)?.refused(&[word])?;
        }
        ensure!(host.kawan_rows("service ls")?.is_empty());
        create(host, "--name web web:v1")?;
        host.kawan("service create --name web web:v1")?
            .refused(&["web", "exists"])?;
        Ok(())
    })
}
