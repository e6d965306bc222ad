//! What each command does and when it is refused, and that any log at all leaves a sound state.

mod golden;
mod nodes;
mod random;
mod services;
mod tasks;
