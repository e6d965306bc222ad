//! Reading the workspace's own source, for the rules in `tests/tidy.rs`.
//!
//! Not a parser: text with comments, strings and test modules blanked out, in which words and braces can be trusted.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};

/// Folders that hold no source of ours.
const SKIPPED: [&str; 2] = ["target", ".git"];

/// One file of the workspace.
pub struct Source {
    /// Relative to the workspace, with `/` between the parts.
    pub path: String,
    pub text: String,
    /// Rust only: the same lines without comments, without what is inside strings, and without test modules.
    pub code: String,
}

/// A function and its extent.
#[derive(Debug, PartialEq, Eq)]
pub struct Function {
    pub name: String,
    /// Counted from 1.
    pub line: usize,
    pub lines: usize,
}

/// The workspace that this package is part of.
pub fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// All files below the workspace whose name ends in one of these.
pub fn files(endings: &[&str]) -> Result<Vec<Source>> {
    let root = workspace();
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder)? {
            let path = entry?.path();
            let name = path
                .file_name()
                .and_then(|name| name.to_str())
                .context("a file's name")?;
            if path.is_dir() {
                if !SKIPPED.contains(&name) {
                    folders.push(path);
                }
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let text = fs::read_to_string(&path)
                    .with_context(|| format!("cannot read {}", path.display()))?;
                let code = if name.ends_with(".rs") {
                    without_test_modules(&without_comments_and_strings(&text))
                } else {
                    String::new()
                };
                let path = path.strip_prefix(&root)?.display().to_string();
                found.push(Source { path, text, code });
            }
        }
    }
    found.sort_by(|a, b| a.path.cmp(&b.path));
    ensure!(!found.is_empty(), "no files below {}", root.display());
    Ok(found)
}

impl Source {
    /// Whether the file is nothing but tests: of a package, or a `tests.rs` beside the code.
    pub fn is_test(&self) -> bool {
        ["/tests/", "/benches/", "/examples/"]
            .iter()
            .any(|folder| self.path.contains(folder))
            || self.path.ends_with("/tests.rs")
            || self.path.ends_with("_tests.rs")
    }

    /// Whether the file is below one of these folders, or is one of these files (with or without `.rs`).
    pub fn is_in(&self, places: &[&str]) -> bool {
        places.iter().any(|place| {
            self.path
                .strip_prefix(place)
                .is_some_and(|rest| rest.is_empty() || rest == ".rs" || rest.starts_with('/'))
        })
    }

    /// Lines of code that are not tests, without blank lines at the end.
    pub fn line_count(&self) -> usize {
        self.code.trim_end().lines().count()
    }

    /// Lines in which `name` begins a path (`name::`) or is imported (`use name`). A later part of a path does not count.
    pub fn lines_that_name(&self, name: &str) -> Vec<usize> {
        let begins_path = |line: &str| {
            line.match_indices(name).any(|(at, _)| {
                let (before, after) = (&line[..at], &line[at + name.len()..]);
                let stands_alone = !before.ends_with(|c: char| is_word(c) || c == ':' || c == '.');
                let imported =
                    before.trim_end().ends_with("use") && !after.starts_with(|c: char| is_word(c));
                stands_alone && (after.starts_with("::") || imported)
            })
        };
        let lines = self.code.lines().enumerate();
        lines
            .filter(|(_, line)| begins_path(line))
            .map(|(number, _)| number + 1)
            .collect()
    }

    /// Lines of code that contain this text, not as part of a longer word.
    pub fn lines_with(&self, text: &str) -> Vec<usize> {
        let lines = self.code.lines().enumerate();
        lines
            .filter(|(_, line)| has_word(line, text))
            .map(|(number, _)| number + 1)
            .collect()
    }

    /// Modules of the own crate that the code reaches into, with the line: `crate::NAME`, also in `use crate::{A, B}`.
    pub fn crate_modules(&self) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("crate::") {
            if self.code[..at].ends_with(is_word) {
                continue;
            }
            let line = self.code[..at].matches('\n').count() + 1;
            let rest = &self.code[at + "crate::".len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    found.extend(first_names(group).into_iter().map(|name| (name, line)));
                }
                None => found.push((word(rest), line)),
            }
        }
        found
    }

    /// Functions with a body, in the order of the file.
    pub fn functions(&self) -> Vec<Function> {
        let mut found = Vec::new();
        for (at, _) in self.code.match_indices("fn ") {
            let name = word(self.code[at + 3..].trim_start());
            if self.code[..at].ends_with(is_word) || name.is_empty() {
                continue;
            }
            let rest = &self.code[at..];
            let Some(open) = rest.find(['{', ';']) else {
                continue;
            };
            if rest[open..].starts_with(';') && !rest[..open].contains('[') {
                continue;
            }
            let Some(open) = rest.find('{') else { continue };
            let Some(close) = closing_brace(&rest[open..]) else {
                continue;
            };
            found.push(Function {
                name,
                line: self.code[..at].matches('\n').count() + 1,
                lines: rest[..open + close].matches('\n').count() + 1,
            });
        }
        found
    }
}

/// Whether the text is in the line, not as part of a longer word.
pub fn has_word(line: &str, text: &str) -> bool {
    line.match_indices(text).any(|(at, _)| {
        !line[..at].ends_with(is_word) && !line[at + text.len()..].starts_with(is_word)
    })
}

fn is_word(c: char) -> bool {
    c.is_alphanumeric() || c == '_'
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| is_word(*c)).collect()
}

/// The names at the top level of `A, b::{c, d}, E}`.
fn first_names(group: &str) -> Vec<String> {
    let (mut depth, mut names, mut expected) = (0, Vec::new(), true);
    for (at, c) in group.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => expected = true,
            c if expected && is_word(c) => {
                names.push(word(&group[at..]));
                expected = false;
            }
            _ => {}
        }
    }
    names
}

/// Where the brace that opens `code` is closed, in bytes.
fn closing_brace(code: &str) -> Option<usize> {
    let mut depth = 0usize;
    for (at, c) in code.char_indices() {
        match c {
            '{' => depth += 1,
            '}' => {
                depth = depth.checked_sub(1)?;
                if depth == 0 {
                    return Some(at);
                }
            }
            _ => {}
        }
    }
    None
}

/// Blanks modules behind `#[cfg(test)]`.
fn without_test_modules(code: &str) -> String {
    const MARK: &str = "#[cfg(test)]";
    let (mut kept, mut rest) = (String::new(), code);
    while let Some(at) = rest.find(MARK) {
        let after = &rest[at + MARK.len()..];
        let is_module = after
            .trim_start()
            .trim_start_matches("pub ")
            .starts_with("mod ");
        let body = after
            .find(['{', ';'])
            .filter(|open| is_module && after[*open..].starts_with('{'));
        let end = body.and_then(|open| closing_brace(&after[open..]).map(|close| open + close + 1));
        let end = at + MARK.len() + end.unwrap_or(0);
        kept.push_str(&rest[..at]);
        kept.push_str(&blank(&rest[at..end]));
        rest = &rest[end..];
    }
    kept + rest
}

/// The same lines, with nothing on them.
fn blank(text: &str) -> String {
    text.chars().filter(|c| *c == '\n').collect()
}

/// Blanks comments and what is between quotes; quotes and line breaks stay.
fn without_comments_and_strings(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let begins_word = !out.ends_with(is_word);
        let skipped = if rest.starts_with("//") {
            rest.find('\n').unwrap_or(rest.len())
        } else if rest.starts_with("/*") {
            block_comment(rest)
        } else if let Some(length) = raw_string(rest).filter(|_| begins_word) {
            out.push_str("\"\"");
            length
        } else if c == '"' {
            out.push_str("\"\"");
            quoted(rest)
        } else if let Some(length) = char_literal(rest) {
            out.push_str("' '");
            length
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
            continue;
        };
        out.push_str(&blank(&rest[..skipped]));
        rest = &rest[skipped..];
    }
    out
}

fn block_comment(text: &str) -> usize {
    let (mut depth, mut at) = (0usize, 0);
    while at < text.len() {
        if text[at..].starts_with("/*") {
            depth += 1;
            at += 2;
        } else if text[at..].starts_with("*/") {
            depth -= 1;
            at += 2;
            if depth == 0 {
                return at;
            }
        } else {
            at += text[at..].chars().next().map_or(1, char::len_utf8);
        }
    }
    text.len()
}

fn raw_string(text: &str) -> Option<usize> {
    let body = text.strip_prefix("br").or_else(|| text.strip_prefix('r'))?;
    let hashes = body.len() - body.trim_start_matches('#').len();
    body[hashes..].strip_prefix('"')?;
    let begin = text.len() - body.len() + hashes + 1;
    let end = format!("\"{}", "#".repeat(hashes));
    Some(
        text[begin..]
            .find(&end)
            .map_or(text.len(), |at| begin + at + end.len()),
    )
}

fn quoted(text: &str) -> usize {
    let mut escaped = false;
    for (at, c) in text.char_indices().skip(1) {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            '"' => return at + 1,
            _ => {}
        }
    }
    text.len()
}

/// The length of `'x'` or `'\n'`; nothing for a lifetime.
fn char_literal(text: &str) -> Option<usize> {
    let body = text.strip_prefix('\'')?;
    let mut chars = body.char_indices();
    let (_, first) = chars.next()?;
    if first == '\\' {
        chars.next()?;
        return body[2..].find('\'').map(|at| at + 4);
    }
    let (at, close) = chars.next()?;
    (close == '\'').then_some(at + 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(text: &str) -> Source {
        let code = without_test_modules(&without_comments_and_strings(text));
        Source {
            path: "agent/src/a.rs".to_owned(),
            text: text.to_owned(),
            code,
        }
    }

    #[test]
    fn words_in_comments_strings_and_tests_are_not_code() {
        let text = r##"
//! raft::one
use raft::two; // raft::three
const S: &str = "raft::four \" raft::five";
const R: &str = r#"raft::"six""#;
/* raft::seven /* nested */ raft::eight */
fn f<'a>(c: &'a char) -> bool { *c == '"' || *c == '\'' } // "
#[cfg(test)]
mod tests {
    use raft::nine;
}
fn g() { raft::ten() }
"##;
        let source = source(text);
        assert_eq!(source.lines_that_name("raft"), [3, 12]);
        assert_eq!(
            source.code.lines().count(),
            text.lines().count(),
            "lines keep their numbers"
        );
    }

    #[test]
    fn only_the_first_part_of_a_path_names_a_library() {
        let source =
            source("use crate::raft::A;\nuse raft;\nlet draft::x = my_raft::y;\nx.raft::<u8>();\n");
        assert_eq!(source.lines_that_name("raft"), [2]);
    }

    #[test]
    fn modules_of_the_crate_are_found_also_in_groups() {
        let source =
            source("use crate::{clock::Clock, node::{a, b}};\nfn f() { crate::gossip::x() }\n");
        let names: Vec<_> = source.crate_modules().into_iter().collect();
        let expected = [("clock", 1), ("node", 1), ("gossip", 2)];
        assert_eq!(names, expected.map(|(name, line)| (name.to_owned(), line)));
    }

    #[test]
    fn functions_are_measured_to_their_closing_brace() {
        let source = source(
            "trait T { fn none(&self); }\nfn two() {\n}\nfn four(\n) -> [u8; 2] {\n    { \"}\" }\n}\n",
        );
        let measured: Vec<_> = source
            .functions()
            .into_iter()
            .map(|f| (f.name, f.line, f.lines))
            .collect();
        assert_eq!(
            measured,
            [("two".to_owned(), 2, 2), ("four".to_owned(), 4, 4)]
        );
    }
}
