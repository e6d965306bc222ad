//! Lines of containers, each with the task it comes from.

use std::collections::BTreeMap;

use kawanan_api::views::LogEvent;

use super::harmless;
use super::style::Style;

pub struct LogPrinter {
    pub timestamps: bool,
    pub task_ids: bool,
    pub prefix: bool,
    style: Style,
    /// Tasks in the order of their first line, for their colors.
    seen: BTreeMap<String, usize>,
    widest: usize,
}

impl LogPrinter {
    pub fn new(style: Style, timestamps: bool, task_ids: bool, prefix: bool) -> Self {
        Self {
            timestamps,
            task_ids,
            prefix,
            style,
            seen: BTreeMap::new(),
            widest: 0,
        }
    }

    /// Makes room for the longest of these before the first line.
    pub fn expect(&mut self, task: &str, id: &str, node: &str) {
        self.widest = self.widest.max(self.prefix_of(task, id, node).len());
    }

    /// The line as it is printed; `None` for events that are no line.
    pub fn text(&mut self, event: &LogEvent) -> Option<String> {
        let LogEvent::Line {
            at,
            task,
            task_name,
            node,
            text,
            ..
        } = event
        else {
            return None;
        };
        let mut line = String::new();
        if self.timestamps {
            line.push_str(&format!("{at} "));
        }
        if self.prefix {
            let prefix = self.prefix_of(task_name, &task.short(), node);
            self.widest = self.widest.max(prefix.len());
            let next = self.seen.len();
            let number = *self.seen.entry(prefix.clone()).or_insert(next);
            let padded = format!("{prefix:<width$} |", width = self.widest);
            line.push_str(&self.style.distinct(number, &padded));
            line.push(' ');
        }
        line.push_str(&harmless(text.trim_end_matches('\r')));
        Some(line)
    }

    fn prefix_of(&self, task: &str, id: &str, node: &str) -> String {
        if self.task_ids {
            format!("{task}.{id}@{node}")
        } else {
            format!("{task}@{node}")
        }
    }
}
