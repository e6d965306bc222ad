//! The rules of the architecture, as tests. Each rule is a table here; a new file or library is a line in one of them.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use tests::source::{self, Source, workspace};

/// Most lines of a file, tests not counted.
const FILE_LINES_MAX: usize = 500;
/// Most lines of a function, from its name to its closing brace.
const FUNCTION_LINES_MAX: usize = 70;

/// Names that say nothing about what is inside.
const EMPTY_NAMES: [&str; 8] = [
    "util", "utils", "common", "helper", "helpers", "manager", "managers", "misc",
];

/// Each foreign library stays in its places, so that changing it changes one folder.
const LIBRARIES: &[(&str, &[&str])] = &[
    ("bollard", &["agent/src/containers"]),
    ("quinn", &["agent/src/transport"]),
    ("rustls", &["agent/src/transport", "agent/src/identity"]),
    ("rcgen", &["agent/src/identity"]),
    (
        "x509_parser",
        &["agent/src/identity", "agent/src/transport"],
    ),
    ("ring", &["agent/src/identity", "agent/src/transport"]),
    ("raft", &["agent/src/consensus", "agent/src/log_store"]),
    (
        "raft_proto",
        &["agent/src/consensus", "agent/src/log_store"],
    ),
    ("protobuf", &["agent/src/consensus", "agent/src/log_store"]),
    ("slog", &["agent/src/consensus"]),
    ("chitchat", &["agent/src/gossip"]),
    ("redb", &["agent/src/log_store"]),
    ("bincode", &["agent/logic/src/codec"]),
    ("axum", &["agent/src/http"]),
    ("hyper", &["agent/src/http", "agent/api/src/client"]),
    ("hyper_util", &["agent/src/http", "agent/api/src/client"]),
    (
        "http_body_util",
        &["agent/src/http", "agent/api/src/client"],
    ),
    (
        "clap",
        &[
            "agent/src/main",
            "agent/src/commands",
            "agent/src/config",
            "cli",
        ],
    ),
    (
        "clap_complete",
        &["agent/src/main", "agent/src/commands", "cli"],
    ),
    (
        "tracing_subscriber",
        &["agent/src/main", "agent/src/commands"],
    ),
];

/// Modules of `agent/src`, lowest first. Code uses its own layer and those below, never one above.
const LAYERS: [&[&str]; 6] = [
    &[
        "clock",
        "random",
        "log_store",
        "identity",
        "transport",
        "containers",
        "vitals",
    ],
    // The peers' words, and their answers, which reach up to those who know them; door and service share a name.
    &[
        "consensus",
        "gossip",
        "directory",
        "config",
        "data_dir",
        "network",
    ],
    &["leader", "node", "submit"],
    &["admission", "facts", "certificates", "core", "http"],
    &["peer"],
    // The wiring: it builds all others.
    &["agent", "commands", "main", "lib"],
];

/// Files that are too long today and wait to be split; nothing may be added to this list.
const TO_BE_SPLIT: &[&str] = &["agent/src/consensus/log_node", "tests/src/simulation/world"];

/// Functions that are one straight story, longer than the limit: wiring and printing, without branches to get lost in.
const LONG_STORIES: &[(&str, &str)] = &[
    ("agent/src/agent.rs", "start"),
    ("cli/src/commands/service/inspect.rs", "pretty"),
    ("tests/src/simulation/run.rs", "start"),
    ("tests/src/simulation/story.rs", "parse_act"),
];

/// What must not appear in some place, the files that may, and what to do instead.
const FORBIDDEN: &[(&str, &str, &[&str], &str)] = &[
    (
        "std::time::Instant",
        "agent/src",
        &["agent/src/clock"],
        "use tokio::time::Instant, which simulation controls",
    ),
    (
        "SystemTime",
        "agent/src",
        &["agent/src/clock"],
        "ask the Clock, which simulation controls",
    ),
    (
        "unbounded_channel",
        "agent",
        &[],
        "give the queue a limit, with its reason",
    ),
    (
        "std::thread::sleep",
        "agent/src",
        &[],
        "use tokio::time::sleep, which simulation controls",
    ),
];

/// Walls between packages: manifest, and what its `[dependencies]` must not have.
const WALLS: &[(&str, &[&str])] = &[
    (
        "agent/logic",
        &[
            "tokio",
            "rand",
            "futures",
            "async-trait",
            "agent",
            "tracing",
            "rustix",
            "jiff",
        ],
    ),
    ("agent/api", &["kawanan-logic", "agent", "rand", "tracing"]),
    (
        "cli",
        &[
            "kawanan-logic",
            "agent",
            "raft",
            "quinn",
            "chitchat",
            "bollard",
        ],
    ),
];

/// Fails with all findings, one per line.
fn none(findings: Vec<String>) -> Result<()> {
    ensure!(
        findings.is_empty(),
        "{} found:\n{}",
        findings.len(),
        findings.join("\n")
    );
    Ok(())
}

fn rust_files() -> Result<Vec<Source>> {
    source::files(&[".rs"])
}

#[test]
fn files_are_short() -> Result<()> {
    let long = rust_files()?.into_iter().filter(|file| !file.is_test() && !file.is_in(TO_BE_SPLIT)).filter_map(|file| {
        let lines = file.line_count();
        (lines > FILE_LINES_MAX)
            .then(|| format!("{}: {lines} lines, at most {FILE_LINES_MAX}: split it by what changes together", file.path))
    });
    none(long.collect())
}

#[test]
fn functions_are_short() -> Result<()> {
    let mut long = Vec::new();
    for file in rust_files()?.iter().filter(|file| !file.is_test()) {
        for function in file.functions() {
            if function.lines > FUNCTION_LINES_MAX
                && !LONG_STORIES.contains(&(&file.path, &function.name))
            {
                long.push(format!(
                    "{}:{}: fn {} has {} lines, at most {FUNCTION_LINES_MAX}",
                    file.path, function.line, function.name, function.lines
                ));
            }
        }
    }
    none(long)
}

#[test]
fn every_foreign_library_stays_in_its_place() -> Result<()> {
    let mut strays = Vec::new();
    for file in rust_files()?.iter().filter(|file| !file.is_in(&["tests"])) {
        for (library, places) in LIBRARIES.iter().filter(|(_, places)| !file.is_in(places)) {
            for line in file.lines_that_name(library) {
                strays.push(format!(
                    "{}:{line}: {library} is used outside of {}",
                    file.path,
                    places.join(", ")
                ));
            }
        }
    }
    none(strays)
}

#[test]
fn modules_have_a_name_of_their_own() -> Result<()> {
    let mut bad = Vec::new();
    for file in rust_files()? {
        if file.path.ends_with("/mod.rs") {
            bad.push(format!(
                "{}: write NAME.rs beside NAME/ instead of mod.rs",
                file.path
            ));
        }
        let mut parts = file.path.trim_end_matches(".rs").split('/');
        if let Some(part) = parts.find(|part| EMPTY_NAMES.contains(part)) {
            bad.push(format!(
                "{}: `{part}` says nothing about what is inside",
                file.path
            ));
        }
    }
    none(bad)
}

fn layer_of(module: &str) -> Option<usize> {
    LAYERS.iter().position(|layer| layer.contains(&module))
}

/// The module right below `agent/src` that a file belongs to.
fn agent_module(file: &Source) -> Option<&str> {
    let rest = file.path.strip_prefix("agent/src/")?;
    Some(
        rest.split('/')
            .next()
            .unwrap_or(rest)
            .trim_end_matches(".rs"),
    )
}

#[test]
fn every_module_of_the_agent_has_a_layer() -> Result<()> {
    let files = rust_files()?;
    let modules: BTreeSet<&str> = files.iter().filter_map(agent_module).collect();
    let unknown = modules
        .into_iter()
        .filter(|module| layer_of(module).is_none());
    none(
        unknown
            .map(|module| {
                format!("agent/src/{module}: give it a layer in LAYERS of tests/tests/tidy.rs")
            })
            .collect(),
    )
}

#[test]
fn the_agents_modules_use_only_what_is_below_them() -> Result<()> {
    let mut upward = Vec::new();
    for file in rust_files()?.iter().filter(|file| !file.is_test()) {
        let Some(layer) = agent_module(file).and_then(layer_of) else {
            continue;
        };
        for (module, line) in file.crate_modules() {
            // `peer` is the words that members exchange; everybody may say them. Only its servers reach up.
            // `identity` dials through `transport`'s joiner door, and `transport` shows its certificates: one pair.
            if module != "peer" && layer_of(&module).is_some_and(|target| target > layer) {
                upward.push(format!(
                    "{}:{line}: uses crate::{module}, which is above it: pass a handle or a value in from agent.rs",
                    file.path
                ));
            }
        }
    }
    none(upward)
}

#[test]
fn packages_keep_behind_their_walls() -> Result<()> {
    let mut breaches = Vec::new();
    for (package, forbidden) in WALLS {
        let path = workspace().join(package).join("Cargo.toml");
        let manifest = std::fs::read_to_string(&path).context("a package's manifest")?;
        for line in dependencies(&manifest) {
            let name = line.split(['.', '=', ' ']).next().unwrap_or(line);
            if forbidden.contains(&name) && !line.contains("optional = true") {
                breaches.push(format!("{package}/Cargo.toml: must not depend on {name}"));
            }
            if *package == "agent/logic" && name == "kawanan-api" && line.contains("client") {
                breaches.push(format!(
                    "{package}/Cargo.toml: the client feature brings sockets in"
                ));
            }
        }
    }
    none(breaches)
}

/// The lines of `[dependencies]`.
fn dependencies(manifest: &str) -> impl Iterator<Item = &str> {
    let lines = manifest
        .lines()
        .skip_while(|line| line.trim() != "[dependencies]")
        .skip(1);
    lines
        .take_while(|line| !line.starts_with('['))
        .filter(|line| !line.trim().is_empty())
}

#[test]
fn every_file_says_at_its_top_what_it_is() -> Result<()> {
    let silent = rust_files()?
        .into_iter()
        .filter(|file| !file.text.starts_with("//! "));
    none(
        silent
            .map(|file| format!("{}: begin with `//! What this is`", file.path))
            .collect(),
    )
}

#[test]
fn forbidden_words_stay_out() -> Result<()> {
    let mut found = Vec::new();
    for file in rust_files()?.iter().filter(|file| !file.is_test()) {
        for (word, place, except, instead) in FORBIDDEN {
            if file.is_in(&[place]) && !file.is_in(except) {
                let lines = file.lines_with(word).into_iter();
                found.extend(lines.map(|line| format!("{}:{line}: {word}: {instead}", file.path)));
            }
        }
    }
    none(found)
}

#[test]
fn every_select_of_the_agent_is_biased() -> Result<()> {
    let mut unbiased = Vec::new();
    for file in rust_files()?
        .iter()
        .filter(|file| file.is_in(&["agent/src"]) && !file.is_test())
    {
        for (at, call) in file.code.match_indices("select! {") {
            if !file.code[at + call.len()..]
                .trim_start()
                .starts_with("biased;")
            {
                let line = file.code[..at].matches('\n').count() + 1;
                unbiased.push(format!(
                    "{}:{line}: begin with `biased;`: a run must repeat from its seed",
                    file.path
                ));
            }
        }
    }
    none(unbiased)
}

#[test]
fn what_is_left_to_do_says_why() -> Result<()> {
    // In parts, so that this file does not find itself.
    let never = [
        concat!("FIX", "ME"),
        concat!("X", "XX"),
        concat!("HA", "CK"),
    ];
    let later = concat!("TO", "DO");
    let mut bad = Vec::new();
    for file in source::files(&[".rs", ".sh", ".toml"])? {
        for (number, line) in file.text.lines().enumerate() {
            let place = format!("{}:{}", file.path, number + 1);
            if let Some(mark) = never.iter().find(|mark| source::has_word(line, mark)) {
                bad.push(format!(
                    "{place}: {mark}: mend it, or write {later} with the reason"
                ));
            }
            let reason = line
                .split_once(later)
                .map(|(_, reason)| reason.trim_start_matches(':'));
            if reason.is_some_and(|reason| reason.split_whitespace().count() < 4) {
                bad.push(format!(
                    "{place}: {later} without a reason: say what is missing and what it waits for"
                ));
            }
        }
    }
    none(bad)
}

#[test]
fn nothing_names_a_directory_of_one_machine() -> Result<()> {
    let local = [
        concat!("/ho", "me/"),
        concat!("/ro", "ot/"),
        concat!("/wo", "rk/"),
        concat!("/Us", "ers/"),
    ];
    let mut bad = Vec::new();
    for file in source::files(&[
        ".rs", ".sh", ".toml", ".md", ".txt", ".yml", ".json", ".service",
    ])? {
        // Its chroot has a user of its own, whose home it names.
        if file.path == "tests/install_test.sh" {
            continue;
        }
        for (number, line) in file.text.lines().enumerate() {
            for path in local {
                let begins = line.match_indices(path).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || "_-./}~".contains(c))
                });
                if begins {
                    bad.push(format!("{}:{}: {path}...", file.path, number + 1));
                }
            }
        }
    }
    none(bad)
}
