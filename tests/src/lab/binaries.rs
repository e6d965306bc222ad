//! The binaries under test: Cargo puts them beside, or one folder above, the running test.

use std::env;
use std::path::PathBuf;

use anyhow::{Context, Result, ensure};

/// `target/<profile>`: where `agent`, `kawan` and what the lab builds itself are.
pub fn directory() -> Result<PathBuf> {
    let mut directory = env::current_exe()?;
    directory.pop();
    if directory.ends_with("deps") || directory.ends_with("examples") {
        directory.pop();
    }
    Ok(directory)
}

/// The path of `agent` or `kawan`.
///
/// # Errors
/// When it has not been built.
pub fn path(name: &str) -> Result<PathBuf> {
    let path = directory().context("where is this program?")?.join(name);
    ensure!(
        path.exists(),
        "{} is missing: run `cargo build --workspace` first, with the profile of the tests",
        path.display()
    );
    Ok(path)
}
