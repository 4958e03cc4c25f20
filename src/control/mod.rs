//! What the supervisor and its worker tell each other.

pub mod pipe;
