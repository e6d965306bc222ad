//! Environment variables as docker reads them: `NAME=VALUE`, or `NAME` for the caller's own value.

use std::env;
use std::fs;

use crate::failure::Failure;

/// Most bytes of a file of variables: more than a service may hold anyway.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// A variable and its value; `None` removes one that the image sets.
pub type Variable = (String, Option<String>);

/// Reads one `--env`. A name without a value takes the caller's; without one there, the variable is removed.
pub fn variable(text: &str) -> Result<Variable, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, env::var(text).ok()),
    };
    if name.is_empty() || name.contains(char::is_whitespace) {
        return Err(format!("`{text}` is not NAME=VALUE"));
    }
    Ok((name.to_owned(), value))
}

/// Reads a file with one variable per line; empty lines and those that start with `#` are passed over.
pub fn file(path: &str) -> Result<Vec<Variable>, Failure> {
    let failed =
        |cause: String| Failure::usage(format!("cannot read the environment file {path}: {cause}"));
    let size = fs::metadata(path)
        .map_err(|err| failed(err.to_string()))?
        .len();
    if size > FILE_BYTES_MAX {
        return Err(failed(format!("{size} bytes are too many")));
    }
    let text = fs::read_to_string(path).map_err(|err| failed(err.to_string()))?;
    (text.lines().enumerate())
        .map(|(number, line)| (number + 1, line.trim_start().trim_end_matches('\r')))
        .filter(|(_, line)| !line.is_empty() && !line.starts_with('#'))
        .map(|(number, line)| variable(line).map_err(|err| failed(format!("line {number}: {err}"))))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    #[test]
    fn a_file_of_variables_reads_and_names_the_line_that_is_wrong() {
        let mut good = tempfile::NamedTempFile::new().unwrap();
        writeln!(good, "# comment\n\nA=1\nB=x=y z\r\nKAWAN_SURELY_UNSET").unwrap();
        let variables = file(good.path().to_str().unwrap()).unwrap();
        assert_eq!(
            variables,
            [
                ("A".to_owned(), Some("1".to_owned())),
                ("B".to_owned(), Some("x=y z".to_owned())),
                ("KAWAN_SURELY_UNSET".to_owned(), None),
            ]
        );
        let mut bad = tempfile::NamedTempFile::new().unwrap();
        writeln!(bad, "A=1\n=2").unwrap();
        let error = file(bad.path().to_str().unwrap()).unwrap_err();
        assert!(error.to_string().contains("line 2"), "{error}");
    }
}
