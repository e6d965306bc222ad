//! Tests that are larger than one package: the lab, the simulation, and the machinery of the tidiness rules.

pub mod lab;
pub mod simulation;
pub mod source;
