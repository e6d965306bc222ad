//! Tests that are larger than one package: the lab, and the machinery of the tidiness rules.

pub mod lab;
pub mod source;
