//! Stories, each told with a [`Cluster`] of values.

mod drains;
mod losses;
mod replicas;
mod restarts;
mod rollouts;
mod simulation;
