//! The join token: one string that a person copies from one machine to another.
//!
//! `KWN1-` and lower-case base 32 (RFC 4648, no padding): no character that a shell, a mail program or a line break
//! treats in a special way. Inside: what the joiner must know before it says anything (which cluster, the digest of
//! its authority), what it shows (token id, secret), where to knock, and a CRC-32 over all of it. A change of any one
//! character is always noticed, because base 32 turns it into a burst shorter than the CRC.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;

use data_encoding::BASE32_NOPAD;
use kawanan_api::{ClusterId, TokenId};
use sha2::{Digest, Sha256};

/// Addresses in one token. One is enough to join; the others help when that machine is down.
pub const SEEDS_MAX: usize = 4;

/// What starts every token, of any version.
const FAMILY: &str = "KWN";
const PREFIX: &str = "KWN1-";
/// Seed count and families, cluster, authority digest, token id, secret.
const FIXED_BYTES: usize = 1 + 16 + 32 + 16 + 16;
const SUM_BYTES: usize = 4;

/// A permission to join a cluster. Whoever holds it can join: `Debug` leaves the secret out, `Display` is the token.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    pub cluster: ClusterId,
    /// SHA-256 of the certificate (DER) of the cluster's authority.
    pub authority_digest: [u8; 32],
    pub token: TokenId,
    pub secret: [u8; 16],
    /// Agents to ask, 1 to [`SEEDS_MAX`].
    seeds: Vec<SocketAddr>,
}

/// A token needs 1 to [`SEEDS_MAX`] addresses, and ports that are not 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a join token holds 1 to {SEEDS_MAX} addresses with a port, not {0:?}")]
pub struct SeedsError(Vec<SocketAddr>);

/// Text that is not a join token of this version.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    #[error("this is not a Kawanan join token: those start with {PREFIX}")]
    NotAToken,
    #[error("the join token is incomplete: its end is missing; copy the whole line")]
    Truncated,
    #[error("the join token is mistyped: its checksum does not match; copy it again")]
    Mistyped,
    #[error(
        "the join token was made by a newer version of Kawanan; install that version here first"
    )]
    NewerVersion,
}

impl JoinToken {
    /// Puts a token together.
    ///
    /// # Errors
    /// When there are no seeds, or too many.
    pub fn new(
        cluster: ClusterId,
        authority_digest: [u8; 32],
        token: TokenId,
        secret: [u8; 16],
        seeds: Vec<SocketAddr>,
    ) -> Result<Self, SeedsError> {
        let usable = seeds.iter().all(|seed| seed.port() != 0);
        if seeds.is_empty() || seeds.len() > SEEDS_MAX || !usable {
            return Err(SeedsError(seeds));
        }
        // Scope and flow of an IPv6 address mean something on one machine only.
        let seeds = seeds
            .into_iter()
            .map(|seed| SocketAddr::new(seed.ip(), seed.port()))
            .collect();
        Ok(Self {
            cluster,
            authority_digest,
            token,
            secret,
            seeds,
        })
    }

    pub fn seeds(&self) -> &[SocketAddr] {
        &self.seeds
    }

    /// What the cluster keeps of the secret.
    pub fn secret_hash(&self) -> [u8; 32] {
        hash_secret(&self.secret)
    }

    /// The digest of an authority's certificate, as tokens carry it.
    pub fn digest_of(authority_der: &[u8]) -> [u8; 32] {
        Sha256::digest(authority_der).into()
    }

    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = vec![self.header()];
        bytes.extend_from_slice(&self.cluster.bits().to_be_bytes());
        bytes.extend_from_slice(&self.authority_digest);
        bytes.extend_from_slice(&self.token.bits().to_be_bytes());
        bytes.extend_from_slice(&self.secret);
        for seed in &self.seeds {
            match seed.ip() {
                IpAddr::V4(ip) => bytes.extend_from_slice(&ip.octets()),
                IpAddr::V6(ip) => bytes.extend_from_slice(&ip.octets()),
            }
            bytes.extend_from_slice(&seed.port().to_be_bytes());
        }
        let sum = checksum(&bytes);
        bytes.extend_from_slice(&sum);
        bytes
    }

    /// Low half: how many seeds; high half: which of them are IPv6, the first one's bit lowest.
    fn header(&self) -> u8 {
        let six = self
            .seeds
            .iter()
            .enumerate()
            .filter(|(_, seed)| seed.is_ipv6());
        six.fold(self.seeds.len() as u8, |header, (place, _)| {
            header | 0x10 << place
        })
    }
}

/// SHA-256 of a token's secret: the only form in which the cluster keeps it.
pub fn hash_secret(secret: &[u8; 16]) -> [u8; 32] {
    Sha256::digest(secret).into()
}

/// The prefix is under the checksum too: a token cannot turn into one of another version unnoticed.
fn checksum(body: &[u8]) -> [u8; SUM_BYTES] {
    let mut crc = crc32fast::Hasher::new();
    crc.update(PREFIX.as_bytes());
    crc.update(body);
    crc.finalize().to_be_bytes()
}

/// Bytes of a whole token with this header, or `None` when no token has it.
fn bytes_expected(header: u8) -> Option<usize> {
    let (count, six) = (usize::from(header & 0x0f), header >> 4);
    if count == 0 || count > SEEDS_MAX || usize::from(six) >= 1 << count {
        return None;
    }
    let six = six.count_ones() as usize;
    Some(FIXED_BYTES + count * (4 + 2) + six * (16 - 4) + SUM_BYTES)
}

fn decode_base32(text: &str) -> Option<Vec<u8>> {
    let strict = text
        .bytes()
        .all(|byte| matches!(byte, b'a'..=b'z' | b'2'..=b'7'));
    if !strict {
        return None;
    }
    BASE32_NOPAD
        .decode(text.to_ascii_uppercase().as_bytes())
        .ok()
}

/// Reads one field after the other.
struct Fields<'a>(&'a [u8]);

impl Fields<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (field, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*field)
    }
}

fn read_fields(bytes: &[u8]) -> Option<JoinToken> {
    let mut fields = Fields(bytes);
    let [header] = fields.take()?;
    let cluster = ClusterId::from_bits(u128::from_be_bytes(fields.take()?));
    let authority_digest = fields.take()?;
    let token = TokenId::from_bits(u128::from_be_bytes(fields.take()?));
    let secret = fields.take()?;
    let mut seeds = Vec::new();
    for place in 0..header & 0x0f {
        let ip: IpAddr = if header & 0x10 << place == 0 {
            Ipv4Addr::from(fields.take::<4>()?).into()
        } else {
            Ipv6Addr::from(fields.take::<16>()?).into()
        };
        seeds.push(SocketAddr::new(ip, u16::from_be_bytes(fields.take()?)));
    }
    JoinToken::new(cluster, authority_digest, token, secret, seeds).ok()
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;
    fn from_str(text: &str) -> Result<Self, ParseTokenError> {
        let text = text.trim();
        let Some(body) = text.strip_prefix(PREFIX) else {
            return Err(not_this_version(text));
        };
        // The first two characters hold the first byte, which says how long the token is.
        let Some(head) = body.get(..2) else {
            return Err(ParseTokenError::Truncated);
        };
        let expected = first_byte(head)
            .and_then(bytes_expected)
            .ok_or(ParseTokenError::Mistyped)?;
        let characters = BASE32_NOPAD.encode_len(expected);
        if body.len() < characters {
            return Err(ParseTokenError::Truncated);
        }
        if body.len() > characters {
            return Err(ParseTokenError::Mistyped);
        }
        let bytes = decode_base32(body).ok_or(ParseTokenError::Mistyped)?;
        let (fields, sum) = bytes
            .split_at_checked(expected - SUM_BYTES)
            .ok_or(ParseTokenError::Mistyped)?;
        if checksum(fields) != *sum {
            return Err(ParseTokenError::Mistyped);
        }
        read_fields(fields).ok_or(ParseTokenError::Mistyped)
    }
}

fn first_byte(head: &str) -> Option<u8> {
    let value = head.bytes().try_fold(0u16, |value, byte| {
        let digit = match byte {
            b'a'..=b'z' => byte - b'a',
            b'2'..=b'7' => byte - b'2' + 26,
            _ => return None,
        };
        Some(value << 5 | u16::from(digit))
    })?;
    u8::try_from(value >> 2).ok()
}

fn not_this_version(text: &str) -> ParseTokenError {
    if !text.is_empty() && PREFIX.starts_with(text) {
        return ParseTokenError::Truncated;
    }
    let version = text
        .strip_prefix(FAMILY)
        .and_then(|rest| rest.split_once('-'))
        .and_then(|(version, _)| version.parse::<u32>().ok());
    match version {
        Some(version) if version > 1 => ParseTokenError::NewerVersion,
        _ => ParseTokenError::NotAToken,
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let body = BASE32_NOPAD.encode(&self.to_bytes()).to_ascii_lowercase();
        write!(f, "{PREFIX}{body}")
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinToken")
            .field("cluster", &self.cluster)
            .field("token", &self.token)
            .field("seeds", &self.seeds)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
