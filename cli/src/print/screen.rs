//! A few lines at the bottom of the terminal that are drawn again and again.

use std::io::{self, Write};

use unicode_width::UnicodeWidthChar;

use super::style::{Style, terminal_width};

const WIDTH_UNKNOWN: usize = 80;

/// Draws on standard error. On anything but a terminal it draws nothing.
pub struct Screen {
    pub style: Style,
    /// What is on the screen, with the cursor below it.
    drawn: Vec<String>,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            style: Style::of_stderr(),
            drawn: Vec::new(),
        }
    }

    pub fn is_live(&self) -> bool {
        self.style.terminal
    }

    /// Replaces what was drawn. A terminal that cannot be written to is no reason to stop.
    pub fn draw(&mut self, lines: &[String]) {
        if !self.is_live() {
            return;
        }
        let width = terminal_width().unwrap_or(WIDTH_UNKNOWN);
        let lines: Vec<String> = lines.iter().map(|line| clipped(line, width)).collect();
        let text = redrawn(&self.drawn, &lines);
        self.drawn = lines;
        self.put(&text);
    }

    /// Leaves what was drawn where it is.
    pub fn keep(&mut self) {
        self.drawn.clear();
    }

    /// Takes away what was drawn.
    pub fn clear(&mut self) {
        if self.is_live() && !self.drawn.is_empty() {
            let text = redrawn(&self.drawn, &[]);
            self.drawn.clear();
            self.put(&text);
        }
    }

    fn put(&mut self, text: &str) {
        let mut out = io::stderr().lock();
        if out
            .write_all(text.as_bytes())
            .and_then(|()| out.flush())
            .is_err()
        {
            self.style.terminal = false;
        }
    }
}

/// From one picture to the next: lines that stay are not touched, so that nothing flickers.
fn redrawn(before: &[String], lines: &[String]) -> String {
    let mut text = match before.len() {
        0 => String::new(),
        count => format!("\u{1b}[{count}A\r"),
    };
    for (place, line) in lines.iter().enumerate() {
        if before.get(place) != Some(line) {
            text.push_str("\u{1b}[2K");
            text.push_str(line);
        }
        text.push('\n');
    }
    if before.len() > lines.len() {
        text.push_str("\u{1b}[J");
    }
    text
}

/// The line cut at the terminal's edge, colors not counted, so that it stays one line.
fn clipped(line: &str, width: usize) -> String {
    let (mut kept, mut used, mut in_escape) = (String::new(), 0, false);
    for c in line.chars() {
        if in_escape {
            kept.push(c);
            in_escape = c != 'm';
        } else if c == '\u{1b}' {
            kept.push(c);
            in_escape = true;
        } else {
            used += c.width().unwrap_or(0);
            if used <= width {
                kept.push(c);
            }
        }
    }
    kept
}

#[cfg(test)]
mod tests {
    use super::{clipped, redrawn};

    #[test]
    fn only_lines_that_changed_are_drawn_again() {
        let lines = |texts: &[&str]| {
            texts
                .iter()
                .map(|text| (*text).to_owned())
                .collect::<Vec<_>>()
        };
        let (first, second) = (lines(&["a", "b", "c"]), lines(&["a", "x"]));
        assert_eq!(redrawn(&[], &first), "\u{1b}[2Ka\n\u{1b}[2Kb\n\u{1b}[2Kc\n");
        assert_eq!(
            redrawn(&first, &second),
            "\u{1b}[3A\r\n\u{1b}[2Kx\n\u{1b}[J"
        );
    }

    #[test]
    fn a_line_is_cut_without_its_colors_being_lost() {
        let line = "\u{1b}[31mfailed\u{1b}[0m now";
        assert_eq!(clipped(line, 4), "\u{1b}[31mfail\u{1b}[0m");
        assert_eq!(clipped("plain", 80), "plain");
    }
}
