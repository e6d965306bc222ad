//! The operating system's clock, for ages in tables. The only place that asks for the time of day.

use std::time::{SystemTime, UNIX_EPOCH};

use kawanan_api::Timestamp;

pub fn now() -> Timestamp {
    let since_epoch = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or_default();
    Timestamp::from_millis(u64::try_from(since_epoch.as_millis()).unwrap_or(u64::MAX))
}
