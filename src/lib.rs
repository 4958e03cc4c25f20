//! EDS: streams a business system's change events into a destination and keeps it equal to their source.

pub mod cause;
pub mod change;
pub mod cli;
pub mod destination;
pub mod export;
pub mod feed;
#[cfg(feature = "http")]
pub mod hq;
#[cfg(feature = "http")]
pub mod http;
pub mod pipeline;
pub mod registry;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod secret;
pub mod state;
pub mod status;
