//! The inner agent: everything that decides and acts, standing on edges that the caller brings.
//!
//! The daemon brings QUIC, redb and Docker; simulation brings their twins and runs many cores in one thread. What is
//! wired here is the same in both, so simulation runs what users run.
