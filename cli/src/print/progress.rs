//! One picture of a service on its way, as a few lines for a terminal or as news for a log file.

use std::collections::BTreeMap;
use std::time::Duration;

use kawanan_api::views::{ProgressEvent, RolloutState, SeatView, TaskState};
use unicode_width::UnicodeWidthStr;

use super::age::taken;
use super::harmless;
use super::style::Style;

/// Seats with a line of their own; more are only counted, as docker has it.
const SEATS_SHOWN_MAX: usize = 20;

/// The picture as lines that are drawn over each other.
pub fn picture(
    headline: &str,
    event: &ProgressEvent,
    elapsed: Duration,
    style: Style,
) -> Vec<String> {
    let mut lines = vec![style.bold(&harmless(headline))];
    if event.seats.len() <= SEATS_SHOWN_MAX {
        let names = event
            .seats
            .iter()
            .map(|seat| seat.name.width())
            .max()
            .unwrap_or(0);
        let nodes = event
            .seats
            .iter()
            .map(|seat| node_of(seat).width())
            .max()
            .unwrap_or(0);
        lines.extend(
            event
                .seats
                .iter()
                .map(|seat| seat_line(seat, names, nodes, style)),
        );
    } else {
        lines.push(format!("  {}", counts(event)));
        lines.extend(worst_seats(event, style));
    }
    lines.push(overall(event, elapsed, style));
    lines
}

fn seat_line(seat: &SeatView, names: usize, nodes: usize, style: Style) -> String {
    let state = format!("{:<9}", seat.task.state);
    let state = match seat.task.state {
        TaskState::Running if seat.up_to_date => style.good(&state),
        TaskState::Complete => style.good(&state),
        TaskState::Failed | TaskState::Rejected | TaskState::Orphaned => style.bad(&state),
        _ => style.changing(&state),
    };
    let pad = |text: &str, width: usize| {
        format!("{text}{}", " ".repeat(width.saturating_sub(text.width())))
    };
    let name = pad(&harmless(&seat.name), names);
    let node = pad(&harmless(node_of(seat)), nodes);
    format!(
        "  {name}  {node}  {state}  {}",
        style.faint(&harmless(&remark(seat)))
    )
    .trim_end()
    .to_owned()
}

fn node_of(seat: &SeatView) -> &str {
    seat.task.node.as_deref().unwrap_or("-")
}

/// What there is to say about a seat beside its state.
fn remark(seat: &SeatView) -> String {
    if seat.task.state == TaskState::Running && seat.up_to_date {
        return seat.task.message.clone().unwrap_or_default();
    }
    let (message, error) = (
        &seat.task.message,
        seat.task.error.as_ref().or(seat.last_error.as_ref()),
    );
    let remark = match (message, error) {
        (Some(message), Some(error)) => format!("{message}: {error}"),
        (Some(only), None) | (None, Some(only)) => only.clone(),
        (None, None) if !seat.up_to_date => "to be replaced".to_owned(),
        (None, None) if seat.older_runs => "the older one still runs".to_owned(),
        (None, None) => String::new(),
    };
    match seat.ended {
        0 => remark,
        1 => format!("ended once; {remark}"),
        ended => format!("ended {ended} times; {remark}"),
    }
}

fn counts(event: &ProgressEvent) -> String {
    let mut states: BTreeMap<TaskState, usize> = BTreeMap::new();
    for seat in &event.seats {
        *states.entry(seat.task.state).or_default() += 1;
    }
    let each: Vec<String> = states
        .iter()
        .rev()
        .map(|(state, count)| format!("{count} {state}"))
        .collect();
    each.join(", ")
}

/// Of many seats the few that somebody should know about.
fn worst_seats(event: &ProgressEvent, style: Style) -> Vec<String> {
    let mut reasons: BTreeMap<String, usize> = BTreeMap::new();
    for seat in event
        .seats
        .iter()
        .filter(|seat| seat.task.state != TaskState::Running)
    {
        let remark = remark(seat);
        if !remark.is_empty() {
            *reasons.entry(remark).or_default() += 1;
        }
    }
    let mut reasons: Vec<_> = reasons.into_iter().collect();
    reasons.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    let line = |(remark, count): (String, usize)| {
        format!("  {count} x {}", style.faint(&harmless(&remark)))
    };
    reasons.into_iter().take(3).map(line).collect()
}

fn overall(event: &ProgressEvent, elapsed: Duration, style: Style) -> String {
    let mut text = format!("  {}/{} running", event.running, event.wanted);
    if event.complete > 0 {
        text.push_str(&format!(", {} complete", event.complete));
    }
    if event.leaving > 0 {
        text.push_str(&format!(", {} leaving", event.leaving));
    }
    text.push_str(&style.faint(&format!("  {}", taken(elapsed))));
    if event.leaderless {
        text.push_str(&style.bad("  no node is leader at the moment"));
    } else if event.rollout.state == RolloutState::Paused {
        text.push_str(&style.bad("  paused"));
    } else if event.converged {
        text.push_str(&style.faint("  making sure that they stay up"));
    }
    text
}

/// For what is no terminal: a line for each thing that changed, once.
#[derive(Default)]
pub struct News {
    told: BTreeMap<String, String>,
    counted: String,
    began: bool,
}

impl News {
    pub fn of(&mut self, headline: &str, event: &ProgressEvent) -> Vec<String> {
        let headline = (!std::mem::replace(&mut self.began, true)).then(|| harmless(headline));
        headline.into_iter().chain(self.changes(event)).collect()
    }

    fn changes(&mut self, event: &ProgressEvent) -> Vec<String> {
        if event.seats.len() > SEATS_SHOWN_MAX {
            let counted = format!("{}: {}", event.name, counts(event));
            if counted == self.counted {
                return Vec::new();
            }
            self.counted.clone_from(&counted);
            return vec![harmless(&counted)];
        }
        let mut lines = Vec::new();
        for seat in &event.seats {
            let on = match &seat.task.node {
                Some(node) if seat.task.slot.is_some() => format!(" on {node}"),
                _ => String::new(),
            };
            let mut line = format!("{}{on}: {}", seat.name, seat.task.state);
            // Not the message: a countdown in it would make a line of every second.
            if let Some(error) = &seat.task.error {
                line.push_str(&format!(": {error}"));
            }
            if !seat.up_to_date {
                line.push_str(" (to be replaced)");
            }
            if self.told.insert(seat.name.clone(), line.clone()).as_ref() != Some(&line) {
                lines.push(harmless(&line));
            }
        }
        lines
    }
}
