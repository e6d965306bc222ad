//! `ssh://`: a stand-in for `ssh` runs the far end on this machine.

use std::os::unix::fs::PermissionsExt;

use crate::harness::{cluster, kawan, said};

#[test]
fn another_machine_is_reached_through_ssh() {
    let cluster = cluster(2);
    let bin = cluster.dir.path().join("bin");
    std::fs::create_dir(&bin).unwrap();
    let script = format!(
        "#!/bin/sh\necho \"$*\" > {asked}\nwhile [ \"$1\" != -- ]; do shift; done\nshift 2\nshift\n\
         exec {kawan} --host unix://{socket} \"$@\"\n",
        asked = cluster.dir.path().join("asked").display(),
        kawan = env!("CARGO_BIN_EXE_kawan"),
        socket = cluster.socket.display(),
    );
    let ssh = bin.join("ssh");
    std::fs::write(&ssh, script).unwrap();
    std::fs::set_permissions(&ssh, std::fs::Permissions::from_mode(0o755)).unwrap();
    let path = format!("{}:/usr/bin:/bin", bin.display());

    let run = |arguments: &[&str]| {
        said(
            kawan("ssh://root@n2:2222")
                .env("PATH", &path)
                .args(arguments)
                .output()
                .unwrap(),
        )
    };
    let listed = run(&["node", "ls", "-q"]);
    assert_eq!(
        (listed.code, listed.stdout.lines().count()),
        (0, 2),
        "{listed:?}"
    );
    let asked = std::fs::read_to_string(cluster.dir.path().join("asked")).unwrap();
    assert!(
        asked.contains("-p 2222 -l root -- n2 kawan dial-stdio"),
        "{asked}"
    );
    let created = run(&[
        "service",
        "create",
        "-q",
        "--name",
        "web",
        "--update-monitor",
        "0s",
        "nginx",
    ]);
    assert_eq!(created.code, 0, "{created:?}");

    std::fs::write(&ssh, "#!/bin/sh\necho 'no route to host' >&2\nexit 255\n").unwrap();
    let failed = run(&["node", "ls"]);
    assert_eq!(failed.code, 6, "{failed:?}");
    assert!(
        failed.stderr.contains("no route to host") && failed.stderr.contains("ssh://root@n2:2222"),
        "{failed:?}"
    );
}
