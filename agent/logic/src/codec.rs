//! Bytes: how values travel and rest. The one place that knows bincode.
//!
//! Every encoded value starts with a version byte; decoding has a size limit and must use up all of its input, so that
//! a value of another shape is an error and never a different value. Persisted enums are append-only.

use serde::Serialize;
use serde::de::DeserializeOwned;

/// First byte of everything encoded here.
const FORMAT: u8 = 1;

/// Most bytes of one log entry or message.
pub const MESSAGE_BYTES_MAX: usize = 4 << 20;
/// Most bytes of a snapshot of the whole state.
pub const SNAPSHOT_BYTES_MAX: usize = 256 << 20;

/// Why bytes could not be read, or a value not be written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("cannot encode: {0}")]
    Encode(String),
    #[error("cannot decode: {0}")]
    Decode(String),
    #[error("format {0} is not known to this version")]
    UnknownFormat(u8),
    #[error("{left} bytes are left over after the value")]
    LeftOver { left: usize },
    #[error("no bytes at all")]
    Empty,
    #[error("{size} bytes are more than the {limit} allowed")]
    TooLarge { size: usize, limit: usize },
}

/// Encodes a value.
///
/// # Errors
/// When the value has a shape that bincode cannot write (never for the types of this workspace).
pub fn encode<T: Serialize>(value: &T) -> Result<Vec<u8>, CodecError> {
    let mut bytes = vec![FORMAT];
    bincode::serde::encode_into_std_write(value, &mut bytes, bincode::config::standard())
        .map_err(|err| CodecError::Encode(err.to_string()))?;
    Ok(bytes)
}

/// Decodes one message or log entry of at most [`MESSAGE_BYTES_MAX`].
///
/// # Errors
/// When the bytes are not exactly one value of this type.
pub fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_limited::<T, MESSAGE_BYTES_MAX>(bytes)
}

/// Decodes a snapshot of at most [`SNAPSHOT_BYTES_MAX`].
///
/// # Errors
/// When the bytes are not exactly one value of this type.
pub fn decode_snapshot<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, CodecError> {
    decode_limited::<T, SNAPSHOT_BYTES_MAX>(bytes)
}

fn decode_limited<T: DeserializeOwned, const LIMIT: usize>(bytes: &[u8]) -> Result<T, CodecError> {
    if bytes.len() > LIMIT {
        return Err(CodecError::TooLarge {
            size: bytes.len(),
            limit: LIMIT,
        });
    }
    let (&format, body) = bytes.split_first().ok_or(CodecError::Empty)?;
    if format != FORMAT {
        return Err(CodecError::UnknownFormat(format));
    }
    let config = bincode::config::standard().with_limit::<LIMIT>();
    let (value, used) = bincode::serde::decode_from_slice(body, config)
        .map_err(|err| CodecError::Decode(err.to_string()))?;
    match body.len() - used {
        0 => Ok(value),
        left => Err(CodecError::LeftOver { left }),
    }
}

/// A spec inside an entry: JSON in a byte string, so that specs may grow fields while entries stay as they are.
pub mod spec_as_json {
    use kawanan_api::ServiceSpec;
    use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

    pub fn serialize<S: Serializer>(spec: &ServiceSpec, serializer: S) -> Result<S::Ok, S::Error> {
        serde_json::to_string(spec)
            .map_err(ser::Error::custom)?
            .serialize(serializer)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<ServiceSpec, D::Error> {
        serde_json::from_str(&String::deserialize(deserializer)?).map_err(de::Error::custom)
    }
}

/// The same for a service's revisions.
pub mod specs_as_json {
    use std::collections::BTreeMap;
    use std::sync::Arc;

    use kawanan_api::{Revision, ServiceSpec};
    use serde::{Deserialize, Deserializer, Serializer, de, ser};

    pub fn serialize<S: Serializer>(
        specs: &BTreeMap<Revision, Arc<ServiceSpec>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let texts: BTreeMap<Revision, String> = specs
            .iter()
            .map(|(revision, spec)| Ok((*revision, serde_json::to_string(spec)?)))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(ser::Error::custom)?;
        serializer.collect_map(texts)
    }

    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<BTreeMap<Revision, Arc<ServiceSpec>>, D::Error> {
        BTreeMap::<Revision, String>::deserialize(deserializer)?
            .into_iter()
            .map(|(revision, text)| Ok((revision, Arc::new(serde_json::from_str(&text)?))))
            .collect::<Result<_, serde_json::Error>>()
            .map_err(de::Error::custom)
    }
}
