//! Kawanan's daemon as a library: everything that touches the world. The binary is `main.rs`; the map of the rooms is
//! in `docs/architecture.md`. Only the wiring (`agent.rs`) knows all of them.

pub mod clock;
pub mod consensus;
pub mod containers;
pub mod http;
pub mod identity;
pub mod log_store;
pub mod network;
pub mod node;
pub mod peer;
pub mod random;
pub mod transport;
