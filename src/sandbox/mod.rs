//! A shop that changes: what `eds demo`, the tests and the benchmarks stream.

pub mod check;
pub mod export;
pub mod feed;
pub mod hq;
#[cfg(feature = "jetstream")]
pub mod nats;
pub mod shop;
pub mod tables;
