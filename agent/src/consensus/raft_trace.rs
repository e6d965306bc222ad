//! What raft-rs has to say, into our own trace. Its news is our detail: one level lower.

use slog::{Drain, Level, Logger, Never, OwnedKVList, Record, o};

/// A logger for raft-rs.
pub(super) fn logger() -> Logger {
    Logger::root(IntoTracing, o!())
}

struct IntoTracing;

impl Drain for IntoTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "kawanan::raft", "{}", record.msg());
            }
            Level::Warning => tracing::warn!(target: "kawanan::raft", "{}", record.msg()),
            Level::Info => tracing::debug!(target: "kawanan::raft", "{}", record.msg()),
            Level::Debug | Level::Trace => {
                tracing::trace!(target: "kawanan::raft", "{}", record.msg());
            }
        }
        Ok(())
    }

    fn is_enabled(&self, level: Level) -> bool {
        match level {
            Level::Critical | Level::Error => {
                tracing::enabled!(target: "kawanan::raft", tracing::Level::ERROR)
            }
            Level::Warning => tracing::enabled!(target: "kawanan::raft", tracing::Level::WARN),
            Level::Info => tracing::enabled!(target: "kawanan::raft", tracing::Level::DEBUG),
            Level::Debug | Level::Trace => {
                tracing::enabled!(target: "kawanan::raft", tracing::Level::TRACE)
            }
        }
    }
}
