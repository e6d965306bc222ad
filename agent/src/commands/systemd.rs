//! Starting the installed unit, for `init` and `join` on a machine that systemd runs.

use std::path::Path;
use std::process::Command;

use super::Failure;
use crate::config::{DEFAULT_DATA_DIR, DEFAULT_RUN_DIR, Settings};

const UNIT: &str = "agent.service";
const UNIT_DIRS: [&str; 4] = [
    "/etc/systemd/system",
    "/run/systemd/system",
    "/usr/lib/systemd/system",
    "/lib/systemd/system",
];

/// Whether `init` and `join` should hand over to the unit: systemd runs this machine, the unit is installed, and the
/// directories are the ones the unit uses.
pub(super) fn takes_over(settings: &Settings) -> bool {
    let booted = Path::new("/run/systemd/system").is_dir();
    let installed = UNIT_DIRS
        .iter()
        .any(|dir| Path::new(dir).join(UNIT).exists());
    let usual_places = settings.data_dir == Path::new(DEFAULT_DATA_DIR)
        && settings.run_dir == Path::new(DEFAULT_RUN_DIR);
    booted && installed && usual_places
}

/// Starts the unit now and at every boot. Returns when it said that it is ready (Type=notify).
pub(super) fn start() -> Result<(), Failure> {
    systemctl(&["enable", "--now", UNIT])
}

/// Stops the unit now and at every boot.
pub(super) fn disable() -> Result<(), Failure> {
    systemctl(&["disable", "--now", UNIT])
}

fn systemctl(args: &[&str]) -> Result<(), Failure> {
    let failure = |cause: String| {
        Failure::new(format!("`systemctl {}` failed: {cause}", args.join(" ")))
            .with_hint("see `systemctl status agent` and `journalctl -u agent`")
    };
    let output = Command::new("systemctl")
        .args(args)
        .output()
        .map_err(|err| failure(err.to_string()))?;
    if output.status.success() {
        return Ok(());
    }
    Err(failure(
        String::from_utf8_lossy(&output.stderr).trim().to_owned(),
    ))
}
