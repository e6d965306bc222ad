//! Records with a checksum, and byte strings that serde copies in one go.

/// Puts a checksum over `key` and `body` before `body`: bytes under the wrong key are found out, too.
pub(super) fn seal(key: &[u8], body: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(4 + body.len());
    record.extend_from_slice(&checksum(key, body).to_le_bytes());
    record.extend_from_slice(body);
    record
}

/// The body of a record, when its checksum holds.
pub(super) fn unseal<'a>(key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (sum, body) = record.split_first_chunk::<4>()?;
    (u32::from_le_bytes(*sum) == checksum(key, body)).then_some(body)
}

fn checksum(key: &[u8], body: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(body);
    hasher.finalize()
}

/// `#[serde(with)]` for [`bytes::Bytes`]: a length and the bytes, without a call per byte.
pub mod raw_bytes {
    use std::fmt;

    use bytes::Bytes;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;

    pub fn serialize<S: Serializer>(bytes: &Bytes, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(bytes)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Bytes, D::Error> {
        struct Raw;
        impl Visitor<'_> for Raw {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a byte string")
            }
            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes::copy_from_slice(bytes))
            }
            fn visit_byte_buf<E: Error>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
                Ok(Bytes::from(bytes))
            }
        }
        deserializer.deserialize_byte_buf(Raw)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_is_refused_after_any_single_changed_bit_or_under_another_key() {
        let record = seal(b"key", b"some body");
        assert_eq!(unseal(b"key", &record), Some(b"some body".as_slice()));
        assert_eq!(unseal(b"kez", &record), None);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(unseal(b"key", &damaged), None, "bit {bit}");
        }
        assert_eq!(unseal(b"key", &record[..3]), None);
    }
}
