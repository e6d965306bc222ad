//! A served cluster, `kawan` run against it, and golden files.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use kawanan_agent::clock::SystemClock;
use kawanan_agent::http::fake::FakeCluster;
use kawanan_agent::http::{Api, ApiSocket, serve};
use kawanan_agent::random::SeededRandom;
use tokio::runtime::Runtime;
use tokio::sync::watch;

const DEADLINE: Duration = Duration::from_secs(20);

pub struct Cluster {
    pub fake: Arc<FakeCluster>,
    pub socket: PathBuf,
    pub dir: tempfile::TempDir,
    _runtime: Runtime,
    _stop: watch::Sender<bool>,
}

/// What one run of `kawan` left behind.
#[derive(Debug)]
pub struct Said {
    pub stdout: String,
    pub stderr: String,
    pub code: i32,
}

pub fn cluster(nodes: u32) -> Cluster {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .unwrap();
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("api.sock");
    let (clock, random) = (Arc::new(SystemClock), Arc::new(SeededRandom::new(7)));
    let fake = FakeCluster::new(nodes, clock.clone(), random.clone());
    let (stop, stopped) = watch::channel(false);
    runtime.block_on(async {
        fake.live();
        let socket = ApiSocket::bind(&socket).await.unwrap();
        tokio::spawn(serve(
            socket,
            Api::new(fake.clone(), clock, random, stopped),
        ));
    });
    Cluster {
        fake,
        socket,
        dir,
        _runtime: runtime,
        _stop: stop,
    }
}

/// `kawan` with an environment of its own.
pub fn kawan(host: &str) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_kawan"));
    command
        .env_clear()
        .env("KAWAN_HOST", host)
        .env("HOME", "/nonexistent")
        .stdin(Stdio::null());
    command
}

impl Cluster {
    pub fn command(&self) -> Command {
        kawan(&format!("unix://{}", self.socket.display()))
    }

    /// Runs `kawan` with these arguments, written as in a shell (double quotes only).
    pub fn run(&self, line: &str) -> Said {
        said(self.command().args(words(line)).output().unwrap())
    }

    /// The same, which must succeed; returns standard output.
    pub fn ok(&self, line: &str) -> String {
        let said = self.run(line);
        assert_eq!(said.code, 0, "kawan {line}: {said:?}");
        said.stdout
    }
}

pub fn said(output: Output) -> Said {
    Said {
        stdout: String::from_utf8(output.stdout).unwrap(),
        stderr: String::from_utf8(output.stderr).unwrap(),
        code: output.status.code().unwrap_or(-1),
    }
}

pub fn words(line: &str) -> Vec<String> {
    let parts = line.split('"').enumerate();
    parts
        .flat_map(|(place, part)| {
            if place % 2 == 1 {
                vec![part.to_owned()]
            } else {
                part.split_whitespace().map(str::to_owned).collect()
            }
        })
        .collect()
}

/// Waits until something holds.
pub fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "{what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// Runs the lines one after the other and compares all that they print with the golden file of that name.
pub fn story(cluster: &Cluster, name: &str, lines: &[&str]) {
    let mut text = String::new();
    for line in lines {
        let said = cluster.run(line);
        text.push_str(&format!("$ kawan {line}\n"));
        for line in said.stdout.lines() {
            text.push_str(&format!("{}\n", steady(line)));
        }
        for line in said.stderr.lines().filter(|line| !is_progress(line)) {
            text.push_str(&format!("! {}\n", steady(line)));
        }
        text.push_str(&format!("[exit {}]\n\n", said.code));
    }
    compare(
        &text,
        &Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("tests/kawan/golden/{name}.txt")),
    );
}

/// Compares with a file, or writes it when `UPDATE_EXPECT` is set.
pub fn compare(text: &str, path: &Path) {
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(path, text).unwrap();
        return;
    }
    let expected = std::fs::read_to_string(path).unwrap_or_default();
    if text == expected {
        return;
    }
    let (mut got, mut wanted) = (text.lines(), expected.lines());
    loop {
        match (got.next(), wanted.next()) {
            (None, None) => break,
            (got, wanted) if got == wanted => {}
            (got, wanted) => panic!(
                "{}:\n expected: {wanted:?}\n got:      {got:?}\nUPDATE_EXPECT=1 writes it anew; all of it:\n{text}",
                path.display()
            ),
        }
    }
    panic!("{} differs in its line ends", path.display());
}

/// Lines of progress depend on how often the program looked.
fn is_progress(line: &str) -> bool {
    [
        "pending",
        "assigned",
        "preparing",
        "starting",
        "running",
        "complete",
    ]
    .iter()
    .any(|state| line.contains(&format!(": {state}")) || line.contains(&format!("{state}, ")))
        && !line.starts_with("error:")
        || line.contains("to move")
}

/// The line without what differs from run to run: ids, tokens, times. Columns that shift with them are put together.
fn steady(line: &str) -> String {
    let mut text = line.to_owned();
    for age in [
        "Less than a second ago",
        "less than a second ago",
        "1 second ago",
    ] {
        text = text.replace(age, "moments ago");
    }
    let words: Vec<String> = text.split(' ').map(steady_word).collect();
    let mut text = words.join(" ");
    for seconds in (2..20).rev() {
        text = text.replace(&format!("{seconds} seconds ago"), "moments ago");
    }
    while text.contains("    ") {
        text = text.replace("    ", "   ");
    }
    text.trim_end().to_owned()
}

fn steady_word(word: &str) -> String {
    let bare = word.trim_matches(|c: char| !c.is_ascii_alphanumeric() && c != '-');
    let is_id = |text: &str| {
        matches!(text.len(), 12 | 25)
            && text
                .bytes()
                .all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
            && text.bytes().any(|byte| byte.is_ascii_digit())
    };
    let is_time = |text: &str| text.len() == 24 && text.ends_with('Z') && text.starts_with("20");
    let is_tenths = |text: &str| {
        text.split_once('.')
            .is_some_and(|(whole, tenths)| whole.parse::<u32>().is_ok() && tenths.len() == 1)
            && !word.contains(':')
    };
    let steady = if is_id(bare) {
        "ID"
    } else if is_time(bare) {
        "TIME"
    } else if bare.starts_with("KWN1-") {
        "KWN1-TOKEN"
    } else if is_tenths(bare) {
        "N"
    } else {
        return word.to_owned();
    };
    word.replace(bare, steady)
}
