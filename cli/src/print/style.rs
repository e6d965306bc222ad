//! Four colors with a meaning each, only where somebody sees them.

use std::env;
use std::io::{IsTerminal, stderr, stdout};

/// Whether and how to color one stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Style {
    pub terminal: bool,
    pub colors: bool,
}

impl Style {
    pub fn of_stdout() -> Self {
        Self::of(stdout().is_terminal())
    }

    pub fn of_stderr() -> Self {
        Self::of(stderr().is_terminal())
    }

    fn of(terminal: bool) -> Self {
        let set = |name: &str| env::var_os(name).is_some_and(|value| !value.is_empty());
        let forced =
            env::var_os("CLICOLOR_FORCE").is_some_and(|value| !value.is_empty() && value != "0");
        let dumb = env::var_os("TERM").is_some_and(|term| term == "dumb");
        Self {
            terminal: terminal && !dumb,
            colors: !set("NO_COLOR") && (forced || (terminal && !dumb)),
        }
    }

    pub fn good(self, text: &str) -> String {
        self.paint("32", text)
    }

    pub fn changing(self, text: &str) -> String {
        self.paint("33", text)
    }

    pub fn bad(self, text: &str) -> String {
        self.paint("31", text)
    }

    pub fn faint(self, text: &str) -> String {
        self.paint("2", text)
    }

    pub fn bold(self, text: &str) -> String {
        self.paint("1", text)
    }

    /// One of six colors that tell things apart and mean nothing.
    pub fn distinct(self, number: usize, text: &str) -> String {
        const COLORS: [&str; 6] = ["36", "35", "34", "96", "95", "94"];
        self.paint(COLORS[number % COLORS.len()], text)
    }

    fn paint(self, code: &str, text: &str) -> String {
        if self.colors && !text.is_empty() {
            format!("\u{1b}[{code}m{text}\u{1b}[0m")
        } else {
            text.to_owned()
        }
    }
}

/// Columns of the terminal behind standard output or standard error; `None` when there is none.
pub fn terminal_width() -> Option<usize> {
    let size = rustix::termios::tcgetwinsize(stdout())
        .or_else(|_| rustix::termios::tcgetwinsize(stderr()))
        .ok()?;
    (size.ws_col > 0).then_some(usize::from(size.ws_col))
}
