//! The worker: what carries a feed's changes into one destination, by itself or under the
//! supervisor of a server.

pub mod exit_codes;
#[cfg(feature = "jetstream")]
pub mod nats;
#[cfg(feature = "server")]
pub mod pipe;
pub mod run;
#[cfg(feature = "server")]
pub mod stdio;
#[cfg(feature = "jetstream")]
pub mod stream;
#[cfg(feature = "server")]
pub mod work;
