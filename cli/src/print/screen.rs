//! A few lines at the bottom of the terminal that are drawn again and again.

use std::io::{self, Write};

use unicode_width::UnicodeWidthChar;

use super::style::{Style, terminal_width};

const WIDTH_UNKNOWN: usize = 80;

/// Draws on standard error. On anything but a terminal it draws nothing.
pub struct Screen {
    pub style: Style,
    drawn: usize,
}

impl Screen {
    pub fn new() -> Self {
        Self {
            style: Style::of_stderr(),
            drawn: 0,
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
        let mut text = self.back();
        for line in lines {
            text.push_str(&clipped(line, width));
            text.push('\n');
        }
        self.drawn = lines.len();
        self.put(&text);
    }

    /// Leaves what was drawn where it is.
    pub fn keep(&mut self) {
        self.drawn = 0;
    }

    /// Takes away what was drawn.
    pub fn clear(&mut self) {
        if self.is_live() && self.drawn > 0 {
            let text = self.back();
            self.drawn = 0;
            self.put(&text);
        }
    }

    /// Up to the first drawn line, and everything below it erased.
    fn back(&self) -> String {
        match self.drawn {
            0 => String::new(),
            lines => format!("\u{1b}[{lines}A\r\u{1b}[J"),
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
    use super::clipped;

    #[test]
    fn a_line_is_cut_without_its_colors_being_lost() {
        let line = "\u{1b}[31mfailed\u{1b}[0m now";
        assert_eq!(clipped(line, 4), "\u{1b}[31mfail\u{1b}[0m");
        assert_eq!(clipped("plain", 80), "plain");
    }
}
