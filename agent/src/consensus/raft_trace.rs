//! What raft-rs has to say, into our own trace. Its news is our detail: one level lower.

use std::fmt::{self, Write as _};

use kawanan_api::RaftId;
use slog::{Drain, KV, Key, Level, Logger, Never, OwnedKVList, Record, Serializer, o};

/// A logger for the raft-rs of one member.
pub(super) fn logger(member: RaftId) -> Logger {
    Logger::root(IntoTracing { member }, o!())
}

struct IntoTracing {
    member: RaftId,
}

/// The details of a message, as text behind it.
struct Details(String);

impl Serializer for Details {
    fn emit_arguments(&mut self, key: Key, value: &fmt::Arguments<'_>) -> slog::Result {
        write!(self.0, ", {key}: {value}").map_err(slog::Error::from)
    }
}

impl Drain for IntoTracing {
    type Ok = ();
    type Err = Never;

    fn log(&self, record: &Record<'_>, _: &OwnedKVList) -> Result<(), Never> {
        if !self.is_enabled(record.level()) {
            return Ok(());
        }
        let mut details = Details(String::new());
        if record.kv().serialize(record, &mut details).is_err() {
            details.0.push_str(" (and more)");
        }
        let (member, news, details) = (self.member, record.msg(), details.0);
        match record.level() {
            Level::Critical | Level::Error => {
                tracing::error!(target: "kawanan::raft", %member, "{news}{details}");
            }
            Level::Warning => tracing::warn!(target: "kawanan::raft", %member, "{news}{details}"),
            Level::Info => tracing::debug!(target: "kawanan::raft", %member, "{news}{details}"),
            Level::Debug | Level::Trace => {
                tracing::trace!(target: "kawanan::raft", %member, "{news}{details}");
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
