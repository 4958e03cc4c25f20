//! EDS: streams a business system's change events into a destination and keeps it equal to their
//! source.

pub mod cause;
pub mod change;
pub mod cli;
#[cfg(feature = "http")]
pub mod config;
#[cfg(feature = "server")]
pub mod control;
pub mod destination;
pub mod duration;
pub mod export;
pub mod feed;
#[cfg(feature = "http")]
pub mod hq;
#[cfg(feature = "http")]
pub mod http;
pub mod logs;
#[cfg(feature = "server")]
pub mod machine;
pub mod pipeline;
pub mod registry;
#[cfg(feature = "server")]
pub mod release;
#[cfg(feature = "sandbox")]
pub mod sandbox;
pub mod secret;
pub mod state;
pub mod status;
#[cfg(feature = "server")]
pub mod supervisor;
#[cfg(feature = "validator")]
pub mod validator;
#[cfg(not(feature = "validator"))]
#[path = "validator/absent.rs"]
pub mod validator;
