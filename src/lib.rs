//! EDS: streams a business system's change events into a destination and keeps it equal to their source.

pub mod change;
pub mod destination;
pub mod feed;
#[cfg(feature = "http")]
pub mod http;
pub mod pipeline;
pub mod registry;
pub mod secret;
pub mod state;
