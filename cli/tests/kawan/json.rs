//! The JSON that programs rely on.

use serde_json::Value;

use crate::harness::{Cluster, cluster};

fn json(cluster: &Cluster, line: &str) -> Value {
    serde_json::from_str(&cluster.ok(line)).unwrap()
}

fn has_keys(object: &Value, keys: &[&str]) {
    for key in keys {
        assert!(object.get(key).is_some(), "{key} in {object}");
    }
}

#[test]
fn lists_are_arrays_with_the_promised_fields() {
    let cluster = cluster(2);
    cluster.ok(
        "service create -q --name web --replicas 2 --publish 8080:80 --update-monitor 0s nginx",
    );
    cluster.ok("service create -d --name big --reserve-memory 100g nginx");
    let nodes = json(&cluster, "node ls -o json");
    let keys = [
        "id",
        "name",
        "status",
        "availability",
        "leader",
        "voter",
        "address",
        "version",
        "labels",
    ];
    has_keys(&nodes[0], &keys);
    assert_eq!(
        (&nodes[0]["status"], &nodes[0]["availability"]),
        (&"ready".into(), &"active".into())
    );
    assert_eq!(
        (&nodes[0]["leader"], &nodes[1]["leader"]),
        (&true.into(), &false.into())
    );
    let services = json(&cluster, "-o json service ls");
    let web = &services[1];
    has_keys(
        web,
        &[
            "id", "name", "mode", "image", "replicas", "running", "ports",
        ],
    );
    assert_eq!(
        (&web["name"], &web["replicas"], &web["running"]),
        (&"web".into(), &2.into(), &2.into())
    );
    assert_eq!(web["ports"][0]["published"], 8080);
    let tasks = json(&cluster, "service ps -o json web");
    let keys = [
        "id",
        "name",
        "slot",
        "node",
        "desired_state",
        "state",
        "error",
        "exit_code",
        "image",
    ];
    has_keys(&tasks[0], &keys);
    assert_eq!(
        (&tasks[0]["slot"], &tasks[0]["state"]),
        (&1.into(), &"running".into())
    );
    let pending = json(&cluster, "service ps -o json big");
    assert_eq!(
        (&pending[0]["state"], &pending[0]["node"]),
        (&"pending".into(), &Value::Null)
    );
    assert!(
        pending[0]["error"].as_str().unwrap().contains("memory"),
        "{pending}"
    );
}

#[test]
fn what_was_started_is_one_object_and_a_failure_is_in_it() {
    let cluster = cluster(1);
    let good = json(
        &cluster,
        "-o json service create --name web --publish 8080:80 --update-monitor 0s nginx",
    );
    has_keys(
        &good,
        &[
            "id",
            "name",
            "revision",
            "converged",
            "wanted",
            "running",
            "addresses",
            "seconds",
        ],
    );
    assert_eq!(
        (&good["converged"], &good["addresses"][0]),
        (&true.into(), &"http://10.0.0.1:8080".into())
    );
    let said = cluster.run("-o json service create --name bad --restart-delay 10ms missing:1");
    assert_eq!(said.code, 3);
    let bad: Value = serde_json::from_str(&said.stdout).unwrap();
    assert_eq!(bad["converged"], false);
    assert!(
        bad["error"].as_str().unwrap().contains("missing:1"),
        "{bad}"
    );
    let scaled = json(&cluster, "-o json service scale web=2");
    assert_eq!(scaled[0]["running"], 2);
}

#[test]
fn inspect_shows_everything_but_passwords() {
    let cluster = cluster(1);
    let mut create = cluster.command();
    create.args([
        "service",
        "create",
        "-d",
        "--name",
        "web",
        "--registry-user",
        "ann",
        "--registry-password-stdin",
    ]);
    create
        .arg("registry.example.com/web")
        .stdin(std::process::Stdio::piped());
    create.stdout(std::process::Stdio::null());
    let mut child = create.spawn().unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), b"s3cret\n").unwrap();
    assert!(child.wait().unwrap().success());
    let text = cluster.ok("service inspect web");
    assert!(
        text.contains("\"username\": \"ann\"") && !text.contains("s3cret"),
        "{text}"
    );
    let state = cluster.fake.now();
    let stored = state
        .service_named("web")
        .unwrap()
        .spec()
        .container
        .registry_auth
        .clone();
    assert_eq!(stored.unwrap().password, "s3cret");
    cluster.ok("service update -d --env-add A=1 web");
    let state = cluster.fake.now();
    let stored = state
        .service_named("web")
        .unwrap()
        .spec()
        .container
        .registry_auth
        .clone();
    assert_eq!(stored.unwrap().password, "s3cret");
}
