//! What went wrong, as a sentence for people and an exit code for scripts.

use std::io;

use kawanan_api::client::{ClientError, ParseHostError};
use kawanan_api::{ApiError, ErrorCode};

use crate::print::style::Style;

pub const ERROR: u8 = 1;
pub const USAGE: u8 = 2;
pub const ROLLOUT: u8 = 3;
pub const UNPLACEABLE: u8 = 4;
pub const TIMED_OUT: u8 = 5;
pub const NO_LEADER: u8 = 6;

/// Why `kawan` ends with something else than 0.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// What was typed makes no sense.
    #[error("{message}")]
    Usage {
        message: String,
        hint: Option<String>,
    },
    #[error(transparent)]
    Client(#[from] ClientError),
    /// New tasks fail, or the rollout was paused.
    #[error("{message}")]
    Rollout { message: String, hint: String },
    /// Some tasks have no node that could run them.
    #[error("{message}")]
    Unplaceable { message: String, hint: String },
    /// Not there yet when the time was up; it goes on.
    #[error("{message}")]
    TimedOut { message: String, hint: String },
    /// Nobody leads, so nothing goes on.
    #[error("{message}")]
    NoLeader { message: String, hint: String },
    #[error("{message}")]
    Other {
        message: String,
        hint: Option<String>,
    },
    /// Several objects were named and these failed; each was reported when it happened.
    #[error("{failed} of {asked} failed")]
    Several {
        failed: usize,
        asked: usize,
        code: u8,
    },
    /// The reader of standard output went away: no reason to complain.
    #[error("standard output is closed")]
    OutputClosed,
}

impl Failure {
    pub fn usage(message: impl Into<String>) -> Self {
        Self::Usage {
            message: message.into(),
            hint: None,
        }
    }

    pub fn other(message: impl Into<String>) -> Self {
        Self::Other {
            message: message.into(),
            hint: None,
        }
    }

    pub fn code(&self) -> u8 {
        match self {
            Self::Usage { .. } => USAGE,
            Self::Client(error) if error.is_no_leader() => NO_LEADER,
            Self::Client(ClientError::Api(error)) if error.code == ErrorCode::Invalid => USAGE,
            Self::Client(_) | Self::Other { .. } => ERROR,
            Self::Rollout { .. } => ROLLOUT,
            Self::Unplaceable { .. } => UNPLACEABLE,
            Self::TimedOut { .. } => TIMED_OUT,
            Self::NoLeader { .. } => NO_LEADER,
            Self::Several { code, .. } => *code,
            Self::OutputClosed => 0,
        }
    }

    fn hint(&self) -> Option<String> {
        match self {
            Self::Usage { hint, .. } | Self::Other { hint, .. } => hint.clone(),
            Self::Client(error) => error.hint(),
            Self::Rollout { hint, .. }
            | Self::Unplaceable { hint, .. }
            | Self::TimedOut { hint, .. }
            | Self::NoLeader { hint, .. } => Some(hint.clone()),
            Self::Several { .. } | Self::OutputClosed => None,
        }
    }

    /// Writes the failure to standard error.
    pub fn print(&self) {
        if matches!(self, Self::Several { .. } | Self::OutputClosed) {
            return;
        }
        let style = Style::of_stderr();
        eprintln!("{} {self}", style.bad("error:"));
        for line in self.hint().iter().flat_map(|hint| hint.lines()) {
            eprintln!("{} {line}", style.faint(" hint:"));
        }
    }
}

impl From<ApiError> for Failure {
    fn from(error: ApiError) -> Self {
        Self::Client(ClientError::Api(error))
    }
}

impl From<ParseHostError> for Failure {
    fn from(error: ParseHostError) -> Self {
        Self::usage(error.to_string())
    }
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::OutputClosed;
        }
        Self::other(format!("cannot write: {error}"))
    }
}
