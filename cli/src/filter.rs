//! `--filter key=value`, as docker understands it: the same key twice means either, different keys mean both.

use std::collections::BTreeMap;

use crate::failure::Failure;

#[derive(Debug, Default)]
pub struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Reads what was typed.
    ///
    /// # Errors
    /// Usage: no `=`, or a key that this command does not know.
    pub fn parse(texts: &[String], known: &[&str]) -> Result<Self, Failure> {
        let mut filters: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for text in texts {
            let (key, value) = (text.split_once('=')).ok_or_else(|| {
                Failure::usage(format!(
                    "filter `{text}` has no `=`; write for example name=web"
                ))
            })?;
            if !known.contains(&key) {
                let known = known.join(", ");
                return Err(Failure::usage(format!(
                    "there is no filter `{key}` here; known are {known}"
                )));
            }
            filters
                .entry(key.to_owned())
                .or_default()
                .push(value.to_owned());
        }
        Ok(Self(filters))
    }

    /// Whether one of the values of `key` fits, or nothing is asked of it.
    pub fn fits(&self, key: &str, fits: impl Fn(&str) -> bool) -> bool {
        (self.0.get(key)).is_none_or(|values| values.iter().any(|value| fits(value)))
    }

    /// A name that contains the value, as docker has it.
    pub fn fits_name(&self, key: &str, name: &str) -> bool {
        self.fits(key, |value| name.contains(value))
    }

    pub fn fits_id(&self, id: &str) -> bool {
        self.fits("id", |value| id.starts_with(value))
    }

    /// `label=key` or `label=key=value`; each of several must hold.
    pub fn fits_labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let Some(wanted) = self.0.get("label") else {
            return true;
        };
        wanted.iter().all(|wanted| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|label| label == value),
            None => labels.contains_key(wanted),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filters(texts: &[&str]) -> Filters {
        let texts: Vec<String> = texts.iter().map(|text| (*text).to_owned()).collect();
        Filters::parse(&texts, &["name", "label", "id"]).unwrap()
    }

    #[test]
    fn the_same_key_means_either_and_different_keys_mean_both() {
        let either = filters(&["name=web", "name=db"]);
        assert!(either.fits_name("name", "web-1") && either.fits_name("name", "db"));
        assert!(!either.fits_name("name", "cache"));
        let labels = BTreeMap::from([("tier".to_owned(), "front".to_owned())]);
        assert!(filters(&["label=tier"]).fits_labels(&labels));
        assert!(filters(&["label=tier=front"]).fits_labels(&labels));
        assert!(!filters(&["label=tier=back"]).fits_labels(&labels));
        assert!(!filters(&["label=tier", "label=zone"]).fits_labels(&labels));
    }

    #[test]
    fn an_unknown_filter_is_named() {
        let error = Filters::parse(&["color=red".to_owned()], &["name"]).unwrap_err();
        assert!(error.to_string().contains("`color`"), "{error}");
    }
}
