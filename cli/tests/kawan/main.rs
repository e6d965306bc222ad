//! `kawan` as its users meet it: the program itself against the real API over a cluster in memory. What it prints is
//! kept in `golden/`; `UPDATE_EXPECT=1` writes it anew.

#![allow(clippy::unwrap_used, reason = "a test ends where something is wrong")]

mod exit_codes;
mod harness;
mod json;
mod reference;
mod ssh;
mod stories;
mod writes;
