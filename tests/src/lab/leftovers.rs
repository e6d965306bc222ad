//! What a lab leaves in the file system, and removing it: its directory and its containers' control groups.
//!
//! The directory's name tells which process made it, so that a later lab can see that the maker is gone.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};
use std::{env, io, thread};

use anyhow::{Context, Result, ensure};
use rustix::process::Signal;

use super::machine::PROCESS_1_MARK;
use super::process;

const CGROUP_PARENT: &str = "kawanan-lab";
const CGROUP_ROOT: &str = "/sys/fs/cgroup";
/// The kernel empties a control group a moment after its last process ended.
const REMOVAL_DEADLINE: Duration = Duration::from_secs(5);

/// Makes the directory of a new lab: `NAME-PID-START-COUNT`.
pub fn claim(base: &Path, name: &str) -> Result<PathBuf> {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    ensure!(
        !name.is_empty()
            && name.len() <= 24
            && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'),
        "`{name}` is no name for a lab: at most 24 letters, digits or `_` (sockets have short paths)"
    );
    let pid = std::process::id();
    let (start, count) = (
        process::start_ticks(pid)?,
        COUNT.fetch_add(1, Ordering::Relaxed),
    );
    let dir = base.join(format!("{name}-{pid}-{start}-{count}"));
    fs::create_dir_all(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
    Ok(dir)
}

/// The control group that holds those of a lab's containers.
pub fn cgroup_of(dir: &Path) -> Result<String> {
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .context("a lab has a name")?;
    Ok(format!("{CGROUP_PARENT}/{name}"))
}

/// Removes what a lab left whose processes have all ended.
pub fn remove(dir: &Path) -> Result<()> {
    let cgroup = cgroup_of(dir)?;
    let mut hierarchies = vec![PathBuf::from(CGROUP_ROOT)];
    for entry in fs::read_dir(CGROUP_ROOT)? {
        hierarchies.push(entry?.path());
    }
    for hierarchy in hierarchies {
        remove_cgroup(&hierarchy.join(&cgroup))?;
        // The shared parent goes with the last lab; while there are others it is not empty.
        match fs::remove_dir(hierarchy.join(CGROUP_PARENT)) {
            Ok(()) => {}
            Err(err) if not_there(&err) || err.kind() == io::ErrorKind::ResourceBusy => {}
            Err(err) => return Err(err).context("cannot remove the labs' control group"),
        }
    }
    if env::var_os("KAWANAN_LAB_KEEP").is_some() {
        eprintln!("lab: files are kept in {}", dir.display());
        return Ok(());
    }
    fs::remove_dir_all(dir).with_context(|| format!("cannot remove {}", dir.display()))
}

/// Removes what is left of labs whose maker was killed.
pub fn sweep(base: &Path) -> Result<()> {
    let Ok(entries) = fs::read_dir(base) else {
        return Ok(());
    };
    for entry in entries {
        let dir = entry?.path();
        if maker_is_gone(&dir) {
            end_machines_of(&dir)?;
            remove(&dir)?;
        }
    }
    Ok(())
}

fn maker_is_gone(dir: &Path) -> bool {
    let name = dir
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let mut parts = name.rsplit('-');
    let _count = parts.next();
    let (Some(Ok(start)), Some(Ok(pid))) = (
        parts.next().map(str::parse::<u64>),
        parts.next().map(str::parse::<u32>),
    ) else {
        // Not made by a lab.
        return false;
    };
    process::start_ticks(pid).ok() != Some(start)
}

/// Machines end by themselves when their maker does; this is for one that is still on its way, or is stuck.
fn end_machines_of(dir: &Path) -> Result<()> {
    for entry in fs::read_dir("/proc")? {
        let name = entry?.file_name();
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else {
            continue;
        };
        // Gone since it was listed.
        let Ok(arguments) = fs::read(format!("/proc/{pid}/cmdline")) else {
            continue;
        };
        let arguments: Vec<_> = arguments.split(|byte| *byte == 0).collect();
        let is_ours = arguments.get(3) == Some(&PROCESS_1_MARK.as_bytes())
            && arguments
                .get(5)
                .is_some_and(|of| Path::new(String::from_utf8_lossy(of).as_ref()).starts_with(dir));
        if is_ours {
            process::signal(pid, Signal::KILL)?;
            let begin = Instant::now();
            while Path::new(&format!("/proc/{pid}")).exists() && begin.elapsed() < REMOVAL_DEADLINE
            {
                thread::sleep(Duration::from_millis(20));
            }
        }
    }
    Ok(())
}

/// Removes a control group and those in it. The files in a group are the kernel's and go with it.
fn remove_cgroup(group: &Path) -> Result<()> {
    let children = match fs::read_dir(group) {
        Ok(children) => children,
        Err(err) if not_there(&err) => return Ok(()),
        Err(err) => return Err(err).with_context(|| format!("cannot read {}", group.display())),
    };
    for child in children {
        let child = child?;
        if child.file_type()?.is_dir() {
            remove_cgroup(&child.path())?;
        }
    }
    let begin = Instant::now();
    loop {
        match fs::remove_dir(group) {
            Ok(()) => return Ok(()),
            Err(err) if not_there(&err) => return Ok(()),
            Err(err)
                if err.kind() == io::ErrorKind::ResourceBusy
                    && begin.elapsed() < REMOVAL_DEADLINE =>
            {
                thread::sleep(Duration::from_millis(20));
            }
            Err(err) => {
                return Err(err).with_context(|| format!("cannot remove {}", group.display()));
            }
        }
    }
}

/// A file among the hierarchies (in cgroup v2, all of the kernel's own) counts as "not there", too.
fn not_there(err: &io::Error) -> bool {
    matches!(
        err.kind(),
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
    )
}
