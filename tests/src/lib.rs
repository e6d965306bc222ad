//! Tests that are larger than one package: the lab.

pub mod lab;
