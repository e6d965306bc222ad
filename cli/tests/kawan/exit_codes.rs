//! The numbers that scripts rely on.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use crate::harness::{cluster, kawan, said, words};

#[test]
fn each_way_to_end_has_its_number() {
    let cluster = cluster(1);
    for (line, code) in [
        ("service create --name good --update-monitor 0s nginx", 0),
        ("service inspect nothing", 1),
        ("service create --name good nginx", 1),
        ("service create", 2),
        ("--no-such-flag", 2),
        ("service create --name a_b- nginx", 2),
        ("service create --name bad --restart-delay 10ms missing", 3),
        (
            "service create --name nowhere --constraint node.name==n9 nginx",
            4,
        ),
        ("service create --name slow --timeout 200ms slow", 5),
    ] {
        let said = cluster.run(line);
        assert_eq!(said.code, code, "kawan {line}: {said:?}");
    }
    cluster.fake.set_leader(None);
    let said = cluster.run("service create --name late nginx");
    assert_eq!(said.code, 6, "{said:?}");
    assert_eq!(cluster.run("--consistent ls").code, 6);
    assert_eq!(cluster.run("ls").code, 0, "reads need no leader");
}

#[test]
fn where_no_agent_answers_it_says_what_to_do() {
    let nowhere = said(
        kawan("unix:///nonexistent/api.sock")
            .args(["ls"])
            .output()
            .unwrap(),
    );
    assert_eq!(nowhere.code, 6);
    assert!(
        nowhere
            .stderr
            .contains("no agent answers at /nonexistent/api.sock"),
        "{nowhere:?}"
    );
    assert!(
        nowhere.stderr.contains("systemctl status agent"),
        "{nowhere:?}"
    );
    let cluster = cluster(1);
    let hosts = format!(
        "unix:///nonexistent/api.sock,unix://{}",
        cluster.socket.display()
    );
    let second = said(kawan(&hosts).args(["node", "ls"]).output().unwrap());
    assert_eq!(second.code, 0, "{second:?}");
}

#[test]
fn ctrl_c_leaves_it_to_the_cluster_and_says_how_to_look_again() {
    let cluster = cluster(1);
    let mut child = cluster
        .command()
        .args(words("service create --name slow slow:1"))
        .stderr(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut stderr = BufReader::new(child.stderr.take().unwrap());
    let mut line = String::new();
    while !line.contains("preparing") {
        line.clear();
        assert!(
            stderr.read_line(&mut line).unwrap() > 0,
            "it ended before it began"
        );
    }
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    let rest: Vec<String> = stderr.lines().map(Result::unwrap).collect();
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(0), "{rest:?}");
    assert_eq!(
        rest.last().map(String::as_str),
        Some("Kawanan goes on in the background; look again with `kawan service ps slow`.")
    );
    assert!(cluster.ok("ls -q").trim().len() == 12);
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let cluster = cluster(1);
    let mut child = cluster
        .command()
        .args(["completion", "bash"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
}
