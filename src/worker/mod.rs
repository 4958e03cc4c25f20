//! The worker: what carries a feed's changes into one destination, by itself or under the
//! supervisor of a server.

#[cfg(feature = "jetstream")]
pub mod desk;
pub mod exit_codes;
pub mod letters;
#[cfg(feature = "jetstream")]
pub mod nats_login;
#[cfg(feature = "server")]
pub mod pipe;
pub mod run;
#[cfg(feature = "jetstream")]
pub mod stream;
#[cfg(feature = "server")]
pub mod supervised;
#[cfg(feature = "server")]
pub mod supervisor_pipe;
pub mod why;
