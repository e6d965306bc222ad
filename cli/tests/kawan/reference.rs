//! Tests of kawan reference.

use std::path::Path;

use crate::harness::{compare, kawan, said};

#[test]
fn the_committed_reference_is_what_the_flags_say() {
    let written = said(kawan("unix:///nonexistent").arg("docs").output().unwrap());
    assert_eq!(written.code, 0, "{written:?}");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/reference/kawan.md");
    compare(&written.stdout, &path);
}

#[test]
fn completions_exist_for_the_usual_shells() {
    for shell in ["bash", "zsh", "fish"] {
        let script = said(
            kawan("unix:///nonexistent")
                .args(["completion", shell])
                .output()
                .unwrap(),
        );
        assert_eq!(script.code, 0, "{shell}");
        assert!(script.stdout.contains("update-parallelism"), "{shell}");
    }
}
