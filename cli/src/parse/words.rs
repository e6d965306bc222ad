//! A command line in one string, split as a shell would split it. Nothing is expanded.

/// Splits at spaces; quotes and backslashes keep them.
pub fn split(text: &str) -> Result<Vec<String>, String> {
    let (mut words, mut word, mut in_word) = (Vec::new(), String::new(), false);
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        match c {
            '\'' => {
                in_word = true;
                quoted(&mut chars, '\'', &mut word).ok_or_else(|| unfinished(text))?;
            }
            '"' => {
                in_word = true;
                quoted(&mut chars, '"', &mut word).ok_or_else(|| unfinished(text))?;
            }
            '\\' => {
                in_word = true;
                word.push(chars.next().ok_or_else(|| unfinished(text))?);
            }
            c if c.is_whitespace() => {
                if in_word {
                    words.push(std::mem::take(&mut word));
                    in_word = false;
                }
            }
            c => {
                in_word = true;
                word.push(c);
            }
        }
    }
    if in_word {
        words.push(word);
    }
    Ok(words)
}

fn quoted(chars: &mut std::str::Chars<'_>, quote: char, word: &mut String) -> Option<()> {
    loop {
        match chars.next()? {
            c if c == quote => return Some(()),
            '\\' if quote == '"' => match chars.next()? {
                c @ ('"' | '\\' | '$' | '`') => word.push(c),
                other => word.extend(['\\', other]),
            },
            c => word.push(c),
        }
    }
}

fn unfinished(text: &str) -> String {
    format!("`{text}` ends inside quotes")
}

#[cfg(test)]
mod tests {
    use super::split;

    #[test]
    fn words_split_as_in_a_shell() {
        for (text, words) in [
            ("", vec![]),
            ("  nginx  -g x ", vec!["nginx", "-g", "x"]),
            (
                r#"sh -c "echo 'a b' \"c\"" d\ e"#,
                vec!["sh", "-c", r#"echo 'a b' "c""#, "d e"],
            ),
            ("'' x", vec!["", "x"]),
        ] {
            assert_eq!(split(text).unwrap(), words, "{text}");
        }
        assert!(split("sh -c 'x").is_err());
    }
}
