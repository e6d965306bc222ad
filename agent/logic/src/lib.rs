//! Kawanan's brain: what the cluster knows, how the log changes it, and what should happen next.
//!
//! Everything is a function of values: `(state, observation, now) -> commands`. There is no clock, no randomness, no
//! tokio and no I/O in this package; `clippy.toml` forbids them. Time and fresh ids come in as arguments, so every
//! decision can be repeated, on another node or in a test, and comes out the same.

pub mod codec;
pub mod command;
pub mod converge;
pub mod invariants;
pub mod join_token;
pub mod membership;
pub mod observation;
pub mod place;
pub mod reconcile;
pub mod route;
pub mod snapshot;
pub mod state;
pub mod view;

mod apply;
#[cfg(test)]
mod testing;

pub use apply::check_level;
pub use command::{Command, Entry};
pub use join_token::JoinToken;
pub use observation::{NodeSeen, Observation};
pub use reconcile::reconcile;
pub use state::ClusterState;
