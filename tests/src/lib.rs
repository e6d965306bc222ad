//! Tests that are larger than one package: the lab, and the simulation.

pub mod lab;
pub mod simulation;
