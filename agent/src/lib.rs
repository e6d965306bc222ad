//! Kawanan's daemon as a library: everything that touches the world. The binary is `main.rs`; the map of the rooms is
//! in `docs/architecture.md`. Only the wiring (`agent.rs`) knows all of them.

pub mod admission;
pub mod agent;
pub mod certificates;
pub mod clock;
pub mod commands;
pub mod config;
pub mod consensus;
pub mod containers;
pub mod core;
pub mod data_dir;
pub mod directory;
pub mod facts;
pub mod gossip;
pub mod http;
pub mod identity;
pub mod leader;
pub mod log_store;
pub mod network;
pub mod node;
pub mod peer;
pub mod random;
pub mod submit;
pub mod transport;
pub mod vitals;
