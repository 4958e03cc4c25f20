//! Who tells whom what: HQ the server over NATS, and the supervisor its worker over a pipe.

pub mod notice;
pub mod pipe;
pub mod post;
