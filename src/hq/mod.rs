//! HQ, the control service of a fleet of servers: its API over HTTP, and its notifications over
//! NATS. Everything that knows HQ's addresses, names and forms is here.

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
