//! Numbers that say why a connection or stream was ended. Spoken between versions: never reused.

use quinn::VarInt;

// Connections.
pub(super) const SHUTDOWN: VarInt = VarInt::from_u32(1);
/// The node's certificate is good, but it is no member (any more).
pub(super) const NOT_ADMITTED: VarInt = VarInt::from_u32(2);
/// Spoke the members' protocol without a certificate.
pub(super) const NO_CERTIFICATE: VarInt = VarInt::from_u32(3);
pub(super) const SUPERSEDED: VarInt = VarInt::from_u32(4);
pub(super) const IDLE: VarInt = VarInt::from_u32(5);
pub(super) const FORGOTTEN: VarInt = VarInt::from_u32(6);
/// Too many joiners at once.
pub(super) const BUSY: VarInt = VarInt::from_u32(7);
/// A joiner got its answer, or did something else than ask for one.
pub(super) const JOIN_OVER: VarInt = VarInt::from_u32(8);

// Streams.
/// Half-written: not a message.
pub(super) const ABANDONED: VarInt = VarInt::from_u32(32);
pub(super) const REFUSED: VarInt = VarInt::from_u32(33);
/// No room in the queue: not carried out.
pub(super) const OVERLOADED: VarInt = VarInt::from_u32(34);
/// Nobody answered.
pub(super) const UNANSWERED: VarInt = VarInt::from_u32(35);
pub(super) const TOO_LARGE: VarInt = VarInt::from_u32(36);
pub(super) const UNKNOWN_KIND: VarInt = VarInt::from_u32(37);
