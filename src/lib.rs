//! EDS: streams a business system's change events into a destination and keeps it equal to their
//! source.
#![warn(missing_docs)]

pub mod backoff;
pub mod cause;
pub mod change;
pub mod cli;
pub mod clock;
#[cfg(feature = "http")]
pub mod config;
pub mod destination;
pub mod duration;
pub mod export;
pub mod feed;
#[cfg(feature = "http")]
pub mod hq;
#[cfg(feature = "http")]
pub mod http;
#[cfg(feature = "http")]
pub mod import;
pub mod logs;
#[cfg(feature = "server")]
pub mod machine;
pub mod pipeline;
pub mod private;
pub mod registry;
#[cfg(feature = "server")]
pub mod release;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod secret;
pub mod signals;
pub mod state;
pub mod status;
#[cfg(feature = "server")]
pub mod supervisor;
#[cfg(feature = "validator")]
pub mod validator;
#[cfg(not(feature = "validator"))]
#[path = "validator/absent.rs"]
pub mod validator;
pub mod worker;
