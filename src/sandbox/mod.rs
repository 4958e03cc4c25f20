//! A shop that changes: what `eds demo`, the tests and the benchmarks stream.

#[cfg(feature = "jetstream")]
pub mod account;
pub mod check;
pub mod export;
pub mod feed;
pub mod hq;
#[cfg(feature = "jetstream")]
pub mod nats;
#[cfg(feature = "jetstream")]
pub mod prompt;
pub mod screen;
pub mod shop;
pub mod source;
pub mod tables;
mod values;
