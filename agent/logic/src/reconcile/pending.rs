//! What has to wait, and why, in words for people.

use std::fmt;
use std::sync::Arc;

use kawanan_api::{ServiceId, TaskId, Timestamp};

use crate::place::NoPlacement;
use crate::state::Seat;

/// A seat that waits for a task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pending {
    pub service: ServiceId,
    pub seat: Seat,
    /// The task that stays in the meantime: an outdated one, or one on a node that is to be emptied.
    pub keeps: Option<TaskId>,
    pub why: Why,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Why {
    NoPlace(Arc<NoPlacement>),
    /// The last attempt failed; the next one comes then.
    BackOff {
        until: Timestamp,
        error: Option<String>,
    },
    /// It failed as often as its restart policy allows.
    GaveUp {
        failures: u32,
        error: Option<String>,
    },
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (said, error) = match self {
            Self::NoPlace(why) => return why.fmt(f),
            Self::BackOff { until, error } => (format!("waits until {until} to try again"), error),
            Self::GaveUp { failures: 1, error } => {
                ("failed once and is not restarted".to_owned(), error)
            }
            Self::GaveUp { failures, error } => (
                format!("failed {failures} times and is not restarted"),
                error,
            ),
        };
        match error {
            Some(error) => write!(f, "{said}: {error}"),
            None => f.write_str(&said),
        }
    }
}
