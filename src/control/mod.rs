//! What HQ and the server tell each other over NATS.

pub mod notice;
pub mod post;
