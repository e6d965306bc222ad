//! How things look: tables, ages, colors, live progress. Standard output is for results.

pub mod age;
pub mod lines;
pub mod progress;
pub mod screen;
pub mod style;
pub mod table;

use std::io::{self, Write};

use kawanan_api::spec::PortSpec;
use serde::Serialize;

use crate::failure::Failure;

/// Writes one line to standard output.
pub fn line(text: &str) -> Result<(), Failure> {
    writeln!(io::stdout().lock(), "{text}")?;
    Ok(())
}

/// Writes a value as JSON, for programs and for people who pipe it to one.
pub fn json<T: Serialize>(value: &T) -> Result<(), Failure> {
    let text = serde_json::to_string_pretty(value)
        .map_err(|err| Failure::other(format!("cannot write the answer as JSON: {err}")))?;
    line(&text)
}

/// Ports as docker's tables have them.
pub fn ports(ports: &[PortSpec]) -> String {
    let each: Vec<String> = ports.iter().map(ToString::to_string).collect();
    each.join(", ")
}

/// Text from elsewhere (containers, labels, errors) made safe for a terminal: control characters are shown, not obeyed.
pub fn harmless(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        if c == '\t' {
            safe.push(c);
        } else if c.is_control() || is_invisible_direction(c) {
            safe.extend(c.escape_default());
        } else {
            safe.push(c);
        }
    }
    safe
}

/// Characters that reorder the text around them.
fn is_invisible_direction(c: char) -> bool {
    matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

#[cfg(test)]
mod tests {
    #[test]
    fn escape_sequences_are_shown_and_not_obeyed() {
        assert_eq!(super::harmless("a\u{1b}[2Jb\r"), "a\\u{1b}[2Jb\\r");
        assert_eq!(super::harmless("grün\tok"), "grün\tok");
    }
}
