//! What the API shows.
