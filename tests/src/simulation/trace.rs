//! What happened in a simulated cluster, in order: the event log of a seed.
//!
//! Two runs of one seed must write the same trace, line by line; that is how a leak of real time or real randomness is
//! found. Beside the lines it keeps a running hash over everything that is too much to write down (each message between
//! nodes), and writes the hash down once per second, so that the first second that differs is known.

use std::fmt::Write as _;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// Clones write into the same log.
#[derive(Debug, Clone)]
pub struct Trace {
    started: Instant,
    inner: Arc<Mutex<Inner>>,
}

#[derive(Debug)]
struct Inner {
    lines: Vec<String>,
    hash: u64,
    folded: u64,
}

impl Trace {
    /// An empty log that starts now. Call inside the simulated runtime.
    pub fn starting_now() -> Self {
        let inner = Inner {
            lines: Vec::new(),
            hash: FNV_OFFSET,
            folded: 0,
        };
        Self {
            started: Instant::now(),
            inner: Arc::new(Mutex::new(inner)),
        }
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Virtual time since the start.
    pub fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    /// Writes a line: the time, who, and what happened.
    pub fn note(&self, who: &str, what: impl AsRef<str>) {
        let at = self.elapsed();
        let line = format!(
            "{:>4}.{:03}  {who:<8} {}",
            at.as_secs(),
            at.subsec_millis(),
            what.as_ref()
        );
        self.inner().lines.push(line);
    }

    /// Folds something too frequent for a line into the hash.
    pub fn fold(&self, bytes: &[u8]) {
        let mut inner = self.inner();
        let micros = u64::try_from(self.started.elapsed().as_micros()).unwrap_or(u64::MAX);
        inner.hash = fnv(inner.hash, &micros.to_be_bytes());
        inner.hash = fnv(inner.hash, bytes);
        inner.folded += 1;
    }

    /// Writes the hash down.
    pub fn checkpoint(&self) {
        let (hash, folded) = {
            let inner = self.inner();
            (inner.hash, inner.folded)
        };
        self.note("-", format!("{folded} messages so far, hash {hash:016x}"));
    }

    pub fn lines(&self) -> Vec<String> {
        self.inner().lines.clone()
    }

    /// All lines as one text.
    pub fn text(&self) -> String {
        let inner = self.inner();
        let mut text = String::with_capacity(inner.lines.len() * 80);
        for line in &inner.lines {
            // Writing to a string cannot fail.
            writeln!(text, "{line}").unwrap_or_default();
        }
        text
    }
}

const FNV_OFFSET: u64 = 0xcbf2_9ce4_8422_2325;
const FNV_PRIME: u64 = 0x0100_0000_01b3;

/// FNV-1a: small, and the same in every process.
fn fnv(hash: u64, bytes: &[u8]) -> u64 {
    bytes.iter().fold(hash, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(FNV_PRIME)
    })
}
