//! What is typed as one word and means several things.

pub mod docker_login;
pub mod environment;
pub mod mount;
pub mod pairs;
pub mod words;
