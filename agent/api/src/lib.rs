//! The words that the agent and the command line tool share: ids, specs and their validation, views, error codes.
//!
//! Everything here is a value. Nothing here reads a clock, draws a random number or opens a socket, except
//! [`client`], which exists only with the feature of that name.

pub mod duration;
pub mod errors;
pub mod ids;
pub mod quantity;
pub mod spec;
pub mod time;
pub mod views;

#[cfg(feature = "client")]
pub mod client;

pub use errors::{ApiError, ErrorCode};
pub use ids::{ClusterId, NodeId, RaftId, RequestId, Revision, ServiceId, Slot, TaskId, TokenId};
pub use spec::{ServiceSpec, ValidSpec};
pub use time::Timestamp;

/// The one port of an agent, UDP for its peers.
pub const DEFAULT_PORT: u16 = 7700;
