//! Amounts of memory and processor as docker's users write them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Memory in bytes. Read from `512m`, `64MiB`, `1.5g` or a bare number; units are powers of 1024 as docker's are.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Bytes(pub u64);

/// Processor time in thousandths of a core. Read from `0.5` or `2`.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct MilliCpus(pub u64);

/// Text that is not an amount.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseQuantityError {
    #[error("`{0}` is not an amount of memory; write for example 512m or 1.5g")]
    Memory(String),
    #[error("`{0}` is not a number of processors; write for example 0.5 or 2")]
    Cpus(String),
}

/// A decimal number in thousandths, exactly: no floating point on the way to something that must be deterministic.
fn thousandths(text: &str) -> Option<u64> {
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    let digits_only = |part: &str| part.bytes().all(|byte| byte.is_ascii_digit());
    if (whole.is_empty() && fraction.is_empty()) || !digits_only(whole) || !digits_only(fraction) {
        return None;
    }
    let whole: u64 = if whole.is_empty() {
        0
    } else {
        whole.parse().ok()?
    };
    let three = format!("{fraction:0<3}");
    whole
        .checked_mul(1000)?
        .checked_add(three[..3].parse().ok()?)
}

impl FromStr for Bytes {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        let wrong = || ParseQuantityError::Memory(text.to_owned());
        let lower = text.trim().to_ascii_lowercase();
        let number_end = lower
            .find(|c: char| c.is_ascii_alphabetic())
            .unwrap_or(lower.len());
        let (number, unit) = lower.split_at(number_end);
        let shift = match unit {
            "" | "b" => 0,
            "k" | "kb" | "kib" => 10,
            "m" | "mb" | "mib" => 20,
            "g" | "gb" | "gib" => 30,
            "t" | "tb" | "tib" => 40,
            _ => return Err(wrong()),
        };
        let scaled = u128::from(thousandths(number.trim()).ok_or_else(wrong)?) << shift;
        u64::try_from(scaled / 1000).map(Self).map_err(|_| wrong())
    }
}

impl fmt::Display for Bytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (shift, unit) in [(40, "TiB"), (30, "GiB"), (20, "MiB"), (10, "KiB")] {
            if self.0 >= 1 << shift {
                let tenths = (u128::from(self.0) * 10) >> shift;
                return match tenths % 10 {
                    0 => write!(f, "{} {unit}", tenths / 10),
                    tenth => write!(f, "{}.{tenth} {unit}", tenths / 10),
                };
            }
        }
        write!(f, "{} B", self.0)
    }
}

impl FromStr for MilliCpus {
    type Err = ParseQuantityError;
    fn from_str(text: &str) -> Result<Self, ParseQuantityError> {
        thousandths(text.trim())
            .map(Self)
            .ok_or_else(|| ParseQuantityError::Cpus(text.to_owned()))
    }
}

impl fmt::Display for MilliCpus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = format!("{}.{:03}", self.0 / 1000, self.0 % 1000);
        f.pad(text.trim_end_matches('0').trim_end_matches('.'))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn memory_as_docker_users_write_it() {
        for (text, bytes) in [
            ("512m", 512 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            ("100", 100),
            ("1KB", 1024),
        ] {
            assert_eq!(text.parse::<Bytes>(), Ok(Bytes(bytes)), "{text}");
        }
        for text in ["", "m", "-1", "1x", "1.2.3"] {
            assert!(text.parse::<Bytes>().is_err(), "{text}");
        }
        assert_eq!(Bytes(3 << 29).to_string(), "1.5 GiB");
    }

    #[test]
    fn cpus_in_thousandths() {
        assert_eq!("0.5".parse(), Ok(MilliCpus(500)));
        assert_eq!("2".parse(), Ok(MilliCpus(2000)));
        assert_eq!(MilliCpus(1250).to_string(), "1.25");
        assert!("1e3".parse::<MilliCpus>().is_err());
    }
}
