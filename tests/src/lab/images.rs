//! The images of the lab, made from static binaries by `tests/apps/build.sh`: no registry is asked for them.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use anyhow::{Context, Result};

use super::{binaries, process};

/// Compiles one small file; a busy machine may take its time.
const BUILD_DEADLINE: Duration = Duration::from_secs(180);

/// The archive for `docker load`, made anew when its sources are newer.
pub fn archive() -> Result<PathBuf> {
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("apps");
    let out = binaries::directory()?.join("lab-images");
    let archive = out.join("images.tar");
    if changed_at(&archive).is_none_or(|made| newest(&sources).is_none_or(|source| source > made)) {
        let script = sources.join("build.sh");
        let (script, out) = (script.display().to_string(), out.display().to_string());
        process::run_here("bash", &[&script, &out], BUILD_DEADLINE)?
            .ok()
            .context("cannot make the test images")?;
    }
    Ok(archive)
}

fn newest(dir: &Path) -> Option<SystemTime> {
    fs::read_dir(dir)
        .ok()?
        .filter_map(|entry| changed_at(&entry.ok()?.path()))
        .max()
}

fn changed_at(path: &Path) -> Option<SystemTime> {
    fs::metadata(path).ok()?.modified().ok()
}
