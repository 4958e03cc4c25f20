//! A generated shop that changes, and a stand-in for HQ: what `eds demo`, `eds sandbox`, the tests
//! and the benchmarks stream, import and compare.

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
