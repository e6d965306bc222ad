//! The runtime in which simulations run: one thread, time that jumps to the next thing due, and no panic unnoticed.

use std::cell::RefCell;
use std::future::Future;
use std::sync::Once;

use anyhow::{Context, bail};
use tokio::runtime::Builder;

thread_local! {
    /// Panics of tokio tasks, which tokio would keep to itself; `None` outside of simulations.
    static PANICS: RefCell<Option<Vec<String>>> = const { RefCell::new(None) };
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
    drop(runtime);
    let panics = PANICS.take().unwrap_or_default();
    if !panics.is_empty() {
        bail!("something panicked:\n{}", panics.join("\n"));
    }
    Ok(value)
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
