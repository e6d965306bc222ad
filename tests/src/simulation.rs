//! Whole clusters in one thread and virtual time: the agent's own logic, consensus, leader and node code over simulated
//! links, disks and container engines.
//!
//! Two ways to use it. [`seed`] draws a schedule of troubles from a number and checks the promises of the cluster at every
//! step; the same number gives the same run, event by event. [`stage`] plays stories written as text and compares what
//! the cluster then looks like.
//!
//! Nothing here decides what a cluster should do: that is the agent's code. This is the weather, the clients and the
//! judges.

pub mod clients;
pub mod edges;
pub mod expected;
pub mod faults;
pub mod gossip;
pub mod ledger;
pub mod life;
pub mod look;
pub mod machine;
pub mod run;
pub mod runtime;
pub mod seed;
pub mod settled;
pub mod stage;
pub mod story;
pub mod trace;
pub mod world;
