//! Names of things, each with a type of its own so that one cannot be given where another is meant.
//!
//! An object id is 128 bits, printed as 25 lower-case base-36 digits: the length and alphabet that tools made for
//! Docker expect of a node, service or task id. This module never draws ids: callers bring the 128 bits.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer, de};

/// Digits that 128 bits need in base 36 (36^24 < 2^128 < 36^25).
pub const ID_DIGITS: usize = 25;

/// Text that is not an id: wrong length, a character outside `0-9a-z`, or more than 128 bits.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not an id: an id is {ID_DIGITS} characters out of 0-9 and a-z")]
pub struct ParseIdError(String);

fn print_base36(mut value: u128) -> [u8; ID_DIGITS] {
    let mut digits = [b'0'; ID_DIGITS];
    for place in digits.iter_mut().rev() {
        let digit = (value % 36) as u8;
        *place = if digit < 10 {
            b'0' + digit
        } else {
            b'a' + digit - 10
        };
        value /= 36;
    }
    digits
}

fn parse_base36(text: &str) -> Option<u128> {
    if text.len() != ID_DIGITS {
        return None;
    }
    text.bytes().try_fold(0u128, |value, byte| {
        let digit = match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'z' => byte - b'a' + 10,
            _ => return None,
        };
        value.checked_mul(36)?.checked_add(u128::from(digit))
    })
}

macro_rules! object_id {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(u128);

        impl $name {
            /// From 128 bits of the caller's: random ones, or the head of a digest.
            pub const fn from_bits(bits: u128) -> Self {
                Self(bits)
            }

            /// The 128 bits behind the printed form.
            pub const fn bits(self) -> u128 {
                self.0
            }

            /// The first 12 digits: enough to tell objects apart in a table, and accepted wherever an id is.
            pub fn short(self) -> String {
                self.to_string()[..12].to_owned()
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                let digits = print_base36(self.0);
                f.pad(std::str::from_utf8(&digits).map_err(|_| fmt::Error)?)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({})", stringify!($name), self)
            }
        }

        impl FromStr for $name {
            type Err = ParseIdError;
            fn from_str(text: &str) -> Result<Self, ParseIdError> {
                parse_base36(text).map(Self).ok_or_else(|| ParseIdError(text.to_owned()))
            }
        }

        impl Serialize for $name {
            fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                if serializer.is_human_readable() {
                    serializer.collect_str(self)
                } else {
                    self.0.serialize(serializer)
                }
            }
        }

        impl<'de> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                if deserializer.is_human_readable() {
                    let text = String::deserialize(deserializer)?;
                    text.parse().map_err(de::Error::custom)
                } else {
                    u128::deserialize(deserializer).map(Self)
                }
            }
        }
    };
}

object_id! {
    /// One cluster. Drawn at `agent init`, never changed.
    ClusterId
}
object_id! {
    /// One machine's identity: the first 128 bits of SHA-256 over its public key. Lasts as long as the key.
    NodeId
}
object_id! {
    /// One service, from its creation to its removal.
    ServiceId
}
object_id! {
    /// One attempt to fill a slot on one node. Never moves, is never used again.
    TaskId
}
object_id! {
    /// The public half of a join token.
    TokenId
}
object_id! {
    /// The idempotency key of one write: the same key never takes effect twice.
    RequestId
}

/// The number under which a data directory takes part in Raft. Random, never 0, never used again: a wiped directory
/// draws another one, so it cannot vote twice in a term under one name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct RaftId(pub u64);

impl fmt::Display for RaftId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// A place in the service log: the index of the entry that made, or last changed, something. 0 is before all entries.
#[derive(
    Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize,
)]
#[serde(transparent)]
pub struct Revision(pub u64);

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A lasting seat of a replicated service, from 1. Tasks come and go in it; history and names stay with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Slot(pub u32);

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn every_id_prints_as_25_digits_and_reads_back(bits: u128) {
            let id = TaskId::from_bits(bits);
            let text = id.to_string();
            prop_assert_eq!(text.len(), ID_DIGITS);
            prop_assert_eq!(text.parse::<TaskId>(), Ok(id));
        }
    }

    #[test]
    fn text_that_is_no_id_is_refused() {
        for text in [
            "",
            "abc",
            "0123456789012345678901234A",
            "zzzzzzzzzzzzzzzzzzzzzzzzz",
        ] {
            assert!(text.parse::<NodeId>().is_err(), "{text}");
        }
    }
}
