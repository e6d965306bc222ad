//! The runtime in which simulations run: one thread, time that jumps to the next thing due, and no panic unnoticed.

use std::cell::RefCell;
use std::future::Future;
use std::io;
use std::sync::Once;

use anyhow::{Context, bail};
use tokio::runtime::Builder;
use tracing_subscriber::EnvFilter;

use super::trace::Trace;

thread_local! {
    /// Panics of tokio tasks, which tokio would keep to itself; `None` outside of simulations.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
}

thread_local! {
    static TRACE: RefCell<Option<Trace>> = const { RefCell::new(None) };
}

static HOOK: Once = Once::new();

/// Runs a simulation to its end.
///
/// # Errors
/// When anything in it panicked.
pub fn run<T>(simulation: impl Future<Output = T>) -> anyhow::Result<T> {
    HOOK.call_once(|| {
        let before = std::panic::take_hook();
        std::panic::set_hook(Box::new(move |info| {
            let ours = PANICS.with_borrow_mut(|panics| match panics {
                Some(panics) => {
                    panics.push(info.to_string());
                    true
                }
                None => false,
            });
            if !ours {
                before(info);
            }
        }));
    });
    let runtime = Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .context("cannot make a runtime")?;
    PANICS.set(Some(Vec::new()));
    let value = runtime.block_on(simulation);
    TRACE.set(None);
    drop(runtime);
    let panics = PANICS.take().unwrap_or_default();
    if !panics.is_empty() {
        bail!("something panicked:\n{}", panics.join("\n"));
    }
    Ok(value)
}

/// Writes the agents' own log lines into the event log while `work` runs: those that `RUST_LOG` asks for, by default
/// `info` and worse.
pub fn with_logs<T>(work: impl FnOnce() -> T) -> T {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .without_time()
        .with_ansi(false)
        .with_writer(|| LogLines)
        .finish();
    tracing::subscriber::with_default(subscriber, work)
}

/// Makes `trace` the event log of the simulation that runs on this thread.
pub fn set_trace(trace: &Trace) {
    TRACE.set(Some(trace.clone()));
}

/// Takes formatted log lines, each written with one call.
struct LogLines;

impl io::Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        TRACE.with_borrow(|trace| {
            if let Some(trace) = trace {
                trace.note("log", String::from_utf8_lossy(bytes).trim());
            }
        });
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Panics of this simulation so far.
pub fn panics() -> Vec<String> {
    PANICS.with_borrow(|panics| panics.clone().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_in_a_task_that_nobody_awaits_is_noticed() {
        let run = run(async {
            tokio::spawn(async { panic!("unseen") });
            tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        });
        assert!(run.unwrap_err().to_string().contains("unseen"));
    }
}
