//! Tables as docker prints them: a heading, columns three spaces apart, no lines.

use unicode_width::UnicodeWidthStr;

use super::style::{Style, terminal_width};
use super::{harmless, line};
use crate::failure::Failure;

const GAP: usize = 3;
/// A column that is cut to fit the terminal keeps at least this much, so that the reason in it can still be read.
const CUT_WIDTH_MIN: usize = 40;

/// What a cell means, for its color.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tone {
    Plain,
    Good,
    Changing,
    Bad,
    Faint,
}

#[derive(Debug, Clone)]
pub struct Cell {
    text: String,
    tone: Tone,
}

impl Cell {
    pub fn toned(text: impl Into<String>, tone: Tone) -> Self {
        Self {
            text: text.into(),
            tone,
        }
    }
}

impl<T: Into<String>> From<T> for Cell {
    fn from(text: T) -> Self {
        Self::toned(text, Tone::Plain)
    }
}

pub struct Table {
    headings: Vec<&'static str>,
    /// The column that gives way when the terminal is too narrow.
    flexible: Option<usize>,
    rows: Vec<Vec<Cell>>,
}

impl Table {
    pub fn new(headings: &[&'static str]) -> Self {
        Self {
            headings: headings.to_vec(),
            flexible: None,
            rows: Vec::new(),
        }
    }

    /// Lets the column of that heading be cut on a terminal that is too narrow.
    #[must_use]
    pub fn flexible(mut self, heading: &str) -> Self {
        self.flexible = self.headings.iter().position(|name| *name == heading);
        self
    }

    pub fn row(&mut self, cells: Vec<Cell>) {
        let harmless = |cell: Cell| Cell {
            text: harmless(&cell.text),
            tone: cell.tone,
        };
        self.rows.push(cells.into_iter().map(harmless).collect());
    }

    /// Writes the table to standard output.
    pub fn print(&self, style: Style) -> Result<(), Failure> {
        let width = if style.terminal {
            terminal_width()
        } else {
            None
        };
        for text in self.lines(style, width) {
            line(&text)?;
        }
        Ok(())
    }

    fn lines(&self, style: Style, width: Option<usize>) -> Vec<String> {
        let mut widths: Vec<usize> = self
            .headings
            .iter()
            .map(|heading| heading.width())
            .collect();
        for row in &self.rows {
            for (column, cell) in row.iter().enumerate() {
                widths[column] = widths[column].max(cell.text.width());
            }
        }
        self.narrow(&mut widths, width);
        let heading = self
            .headings
            .iter()
            .map(|heading| Cell::from(*heading))
            .collect();
        std::iter::once(&heading)
            .chain(&self.rows)
            .map(|row| line_of(row, &widths, style))
            .collect()
    }

    fn narrow(&self, widths: &mut [usize], width: Option<usize>) {
        let (Some(column), Some(width)) = (self.flexible, width) else {
            return;
        };
        let all = widths.iter().sum::<usize>() + GAP * widths.len().saturating_sub(1);
        if all > width {
            let kept = CUT_WIDTH_MIN.min(widths[column]);
            widths[column] = widths[column].saturating_sub(all - width).max(kept);
        }
    }
}

fn line_of(row: &[Cell], widths: &[usize], style: Style) -> String {
    let mut text = String::new();
    let mut gap = 0;
    for (cell, width) in row.iter().zip(widths) {
        let shown = cut(&cell.text, *width);
        text.push_str(&" ".repeat(if shown.is_empty() { 0 } else { gap }));
        gap = if shown.is_empty() { gap } else { 0 };
        gap += width - shown.width() + GAP;
        text.push_str(&match cell.tone {
            Tone::Plain => shown,
            Tone::Good => style.good(&shown),
            Tone::Changing => style.changing(&shown),
            Tone::Bad => style.bad(&shown),
            Tone::Faint => style.faint(&shown),
        });
    }
    text
}

/// The text, or its beginning and an ellipsis when it is wider than `width`.
pub fn cut(text: &str, width: usize) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let mut kept = String::new();
    for c in text.chars() {
        if kept.width() + unicode_width::UnicodeWidthChar::width(c).unwrap_or(0) + 1 > width {
            break;
        }
        kept.push(c);
    }
    kept.push('…');
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    const PLAIN: Style = Style {
        terminal: false,
        colors: false,
    };

    #[test]
    fn columns_align_and_no_line_ends_with_spaces() {
        let mut table = Table::new(&["ID", "NAME", "PORTS"]);
        table.row(vec!["1".into(), "web".into(), "".into()]);
        table.row(vec!["2".into(), "".into(), "80".into()]);
        table.row(vec!["3".into(), "größe".into(), "80".into()]);
        assert_eq!(
            table.lines(PLAIN, None),
            [
                "ID   NAME    PORTS",
                "1    web",
                "2            80",
                "3    größe   80"
            ]
        );
    }

    #[test]
    fn the_flexible_column_gives_way_to_the_terminal() {
        let mut table = Table::new(&["NAME", "ERROR"]).flexible("ERROR");
        let long = "no node fits: 3 nodes lack memory (3 GiB asked, 1 GiB free at most)";
        table.row(vec!["web.1".into(), long.into()]);
        let lines = table.lines(PLAIN, Some(60));
        assert_eq!(lines[1].width(), 60);
        assert!(lines[1].ends_with('…'), "{}", lines[1]);
        let lines = table.lines(PLAIN, Some(20));
        assert_eq!(lines[1].width(), "web.1   ".len() + CUT_WIDTH_MIN);
    }
}
