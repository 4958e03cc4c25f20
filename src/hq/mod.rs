//! HQ, the control service of a fleet of servers: enrolment, sessions and exports over HTTP;
//! notifications, heartbeats and answers over NATS. The schemas that it publishes are read in
//! `registry`.

mod api;
#[cfg(feature = "server")]
pub mod enrolment;
pub mod export_job;
#[cfg(feature = "server")]
pub mod nats;
#[cfg(feature = "server")]
pub mod notice;
#[cfg(feature = "server")]
pub mod session;

pub use api::{Hq, HqError, api_of, api_of_code};
