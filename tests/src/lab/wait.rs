//! Waiting for something to become true, instead of sleeping and hoping.

use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// Pause before the second look; each one after that is twice as long, up to `PAUSE_MAX`.
const PAUSE_MIN: Duration = Duration::from_millis(10);
const PAUSE_MAX: Duration = Duration::from_millis(100);

/// An error that waiting cannot cure, such as a process that has ended.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct Hopeless(pub String);

/// Looks until `look` succeeds, and returns what it returned. An error of `look` means "not yet", unless it is
/// [`Hopeless`].
///
/// # Errors
/// When it has not succeeded by the deadline: with `what`, and why not yet.
pub fn wait_until<T>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> Result<T>,
) -> Result<T> {
    let begin = Instant::now();
    let mut pause = PAUSE_MIN;
    loop {
        let error = match look() {
            Ok(value) => return Ok(value),
            Err(error) => error,
        };
        if error.is::<Hopeless>() {
            return Err(error).context(format!("never: {what}"));
        }
        if begin.elapsed() >= deadline {
            return Err(error).context(format!("not within {deadline:?}: {what}"));
        }
        thread::sleep(pause);
        pause = PAUSE_MAX.min(pause * 2);
    }
}

/// Watches that something stays true for a while: fails as soon as `look` does.
///
/// # Errors
/// The first error of `look`, with `what` and how long it had been true.
pub fn stays_true(what: &str, span: Duration, mut look: impl FnMut() -> Result<()>) -> Result<()> {
    let begin = Instant::now();
    while begin.elapsed() < span {
        look().with_context(|| format!("only for {:?}: {what}", begin.elapsed()))?;
        thread::sleep(PAUSE_MAX);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::bail;

    #[test]
    fn a_condition_that_never_holds_names_itself_and_the_last_reason() {
        let error = wait_until::<()>("pigs fly", Duration::ZERO, || bail!("still on the ground"))
            .unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("pigs fly") && text.contains("still on the ground"),
            "{text}"
        );
    }

    #[test]
    fn nobody_waits_for_what_is_hopeless() {
        let begin = Instant::now();
        let result = wait_until::<()>("it rises", Duration::from_secs(60), || {
            Err(Hopeless("it is dead".to_owned()).into())
        });
        assert!(result.is_err() && begin.elapsed() < Duration::from_secs(30));
    }

    #[test]
    fn a_condition_that_holds_later_is_waited_for() {
        let mut looks = 0;
        let value = wait_until("third look", Duration::from_secs(5), || {
            looks += 1;
            if looks < 3 {
                bail!("look {looks}")
            } else {
                Ok(looks)
            }
        });
        assert_eq!(value.unwrap(), 3);
    }
}
