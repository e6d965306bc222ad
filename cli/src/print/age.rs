//! Time as people say it: `2 minutes ago`.

use std::time::Duration;

use kawanan_api::Timestamp;

/// How long ago something was, in docker's words.
pub fn ago(at: Timestamp, now: Timestamp) -> String {
    format!("{} ago", length(now.since(at)))
}

/// The same within a sentence.
pub fn ago_inside(at: Timestamp, now: Timestamp) -> String {
    ago(at, now)
        .replacen("About", "about", 1)
        .replacen("Less", "less", 1)
}

/// How long until something happens.
pub fn until(at: Timestamp, now: Timestamp) -> String {
    if at <= now {
        return ago(at, now);
    }
    // A token of 24 hours that is a second old still expires in 24 hours.
    let length = length(at.since(now) + Duration::from_secs(30));
    format!(
        "in {}",
        length
            .replacen("About", "about", 1)
            .replacen("Less", "less", 1)
    )
}

/// A length of time in its largest fitting unit, as docker rounds it.
fn length(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match () {
        () if seconds < 1 => "Less than a second".to_owned(),
        () if seconds == 1 => "1 second".to_owned(),
        () if seconds < 60 => format!("{seconds} seconds"),
        () if minutes == 1 => "About a minute".to_owned(),
        () if minutes < 60 => format!("{minutes} minutes"),
        () if hours == 1 => "About an hour".to_owned(),
        () if hours < 48 => format!("{hours} hours"),
        () if days < 14 => format!("{days} days"),
        () if days < 60 => format!("{} weeks", days / 7),
        () if days < 730 => format!("{} months", days / 30),
        () => format!("{} years", days / 365),
    }
}

/// A short measured time: `2.1 s`, `3 min 20 s`.
pub fn taken(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 60 {
        format!("{:.1} s", duration.as_secs_f64())
    } else {
        format!("{} min {} s", seconds / 60, seconds % 60)
    }
}

/// A length of time that somebody chose: `2 s`, `0.5 s`.
pub fn chosen(duration: Duration) -> String {
    if duration.subsec_millis() == 0 && duration.as_secs() < 60 {
        format!("{} s", duration.as_secs())
    } else {
        taken(duration)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_read_as_dockers_do() {
        let now = Timestamp::from_millis(100_000_000_000);
        for (seconds, text) in [
            (0, "Less than a second ago"),
            (2, "2 seconds ago"),
            (75, "About a minute ago"),
            (150, "2 minutes ago"),
            (4000, "About an hour ago"),
            (7200 * 5, "10 hours ago"),
            (86_400 * 3, "3 days ago"),
        ] {
            let at = Timestamp::from_millis(now.millis() - seconds * 1000);
            assert_eq!(ago(at, now), text);
        }
        let tomorrow = now.saturating_add(Duration::from_secs(86_399));
        assert_eq!(until(tomorrow, now), "in 24 hours");
        assert_eq!(taken(Duration::from_secs(2)), "2.0 s");
        assert_eq!(chosen(Duration::from_secs(2)), "2 s");
        assert_eq!(chosen(Duration::from_millis(500)), "0.5 s");
        assert_eq!(taken(Duration::from_millis(2140)), "2.1 s");
    }
}
