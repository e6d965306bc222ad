//! `KEY=VALUE`.

/// `key=value`, or `key` alone with an empty value, as docker reads labels.
pub fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').unwrap_or((text, ""));
    kawanan_api::spec::check_label_key(key).map_err(|err| err.to_string())?;
    Ok((key.to_owned(), value.to_owned()))
}

/// `name=number`.
pub fn scale(text: &str) -> Result<(String, u32), String> {
    let wrong = || format!("`{text}` is not SERVICE=REPLICAS; write for example web=3");
    let (name, number) = text.rsplit_once('=').ok_or_else(wrong)?;
    if name.is_empty() {
        return Err(wrong());
    }
    let replicas = number.parse().map_err(|_| {
        format!("`{number}` is not a number of replicas; write for example {name}=3")
    })?;
    Ok((name.to_owned(), replicas))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_read_or_say_what_to_write() {
        assert_eq!(
            label("tier=front"),
            Ok(("tier".to_owned(), "front".to_owned()))
        );
        assert_eq!(label("a=b=c"), Ok(("a".to_owned(), "b=c".to_owned())));
        assert!(label("=x").is_err());
        assert_eq!(scale("web=3"), Ok(("web".to_owned(), 3)));
        for text in ["web", "web=", "web=x", "=3", "web=-1"] {
            assert!(scale(text).is_err(), "{text}");
        }
    }
}
