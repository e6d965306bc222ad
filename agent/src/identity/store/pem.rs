//! Certificates and keys as text that `openssl` reads too.

use data_encoding::BASE64;

/// Text that is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(super) enum PemError {
    #[error("no `{0}` in it")]
    Nothing(&'static str),
    #[error("a `{0}` that is cut off or not Base64")]
    Broken(&'static str),
}

const CERTIFICATE: &str = "CERTIFICATE";
const PRIVATE_KEY: &str = "PRIVATE KEY";
const LINE_CHARS: usize = 64;

/// All certificates of a file, DER; at least one.
pub(super) fn certificates(text: &str) -> Result<Vec<Vec<u8>>, PemError> {
    sections(text, CERTIFICATE)
}

/// The one private key of a file, PKCS#8 in DER.
pub(super) fn private_key(text: &str) -> Result<Vec<u8>, PemError> {
    sections(text, PRIVATE_KEY).map(|mut keys| keys.swap_remove(0))
}

pub(super) fn print_certificates(certificates: &[Vec<u8>]) -> String {
    certificates
        .iter()
        .map(|der| print(CERTIFICATE, der))
        .collect()
}

pub(super) fn print_private_key(der: &[u8]) -> String {
    print(PRIVATE_KEY, der)
}

fn print(label: &str, der: &[u8]) -> String {
    let encoded = BASE64.encode(der);
    let mut text = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, left) = rest.split_at(rest.len().min(LINE_CHARS));
        text.push_str(line);
        text.push('\n');
        rest = left;
    }
    text.push_str(&format!("-----END {label}-----\n"));
    text
}

fn sections(text: &str, label: &'static str) -> Result<Vec<Vec<u8>>, PemError> {
    let begin = format!("-----BEGIN {label}-----");
    let end = format!("-----END {label}-----");
    let mut found = Vec::new();
    let mut rest = text;
    while let Some((_, after)) = rest.split_once(&begin) {
        let (body, left) = after.split_once(&end).ok_or(PemError::Broken(label))?;
        let encoded: String = body.chars().filter(|c| !c.is_ascii_whitespace()).collect();
        let der = BASE64
            .decode(encoded.as_bytes())
            .map_err(|_| PemError::Broken(label))?;
        found.push(der);
        rest = left;
    }
    if found.is_empty() {
        return Err(PemError::Nothing(label));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_is_printed_reads_back(
            certificates in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..300), 1..4),
        ) {
            prop_assert_eq!(super::certificates(&print_certificates(&certificates)), Ok(certificates));
        }

        #[test]
        fn any_text_is_read_without_a_panic(text: String) {
            prop_assert!(certificates(&text).is_err());
        }
    }

    #[test]
    fn a_file_that_is_cut_off_is_an_error() {
        let text = print_certificates(&[vec![1; 100]]);
        assert_eq!(
            certificates(&text[..text.len() - 30]),
            Err(PemError::Broken(CERTIFICATE))
        );
    }
}
