//! Streams changes into a destination (`engine`), and loads exports into it (`import`).

pub mod apply;
pub mod batcher;
pub mod checkpoint;
pub mod dead_letter;
pub mod engine;
pub mod import;
pub mod migrate;
pub mod narrow;
pub mod progress;
pub mod recent;
mod refused;
pub mod resolve;
pub mod state_letters;

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use crate::change::ColumnRules;
use crate::change::filter::TableFilter;
use crate::destination::Abilities;
use crate::validator::Validator;

pub use dead_letter::{LetterOptions, OnRejected, WhenFull};
pub use engine::{End, Engine, EngineDeps, Halt};
pub use migrate::SchemaChange;
pub use progress::Progress;

/// What [`EngineOptions::held_bytes_max`] is for users.
pub const HELD_BYTES_MAX: u64 = 1 << 30;

/// What becomes of another consumer's checkpoint, where this one knows no position at all: a server
/// that was enrolled anew has another name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Adoption {
    /// It is for a person to say.
    Ask,
    /// This one begins by itself.
    Without,
    /// This one goes on where that one ended.
    Of(String),
}

/// What a user may choose about a run.
#[derive(Clone)]
pub struct EngineOptions {
    /// Whose checkpoint: the durable consumer's name, or the journal's.
    pub consumer: String,
    /// The tables that are wanted.
    pub filter: TableFilter,
    /// Begin at the start of the feed, whatever was recorded.
    pub restart: bool,
    /// Holds a flush that long even if the destination is free.
    pub pending_latency_min: Option<Duration>,
    /// The longest that a pending change waits for a flush.
    pub pending_latency_max: Option<Duration>,
    /// End once nothing is pending.
    pub until_caught_up: bool,
    /// What a consumer begins with that knows no position of its own.
    pub adoption: Adoption,
    /// What the feed is about: a comma list, `*` for all.
    pub companies: String,
    /// Events that they do not want are passed over.
    pub rules: Option<Arc<Validator>>,
    /// Which columns are left out or hashed.
    pub columns: Arc<ColumnRules>,
    /// Existing tables that may be written to though EDS did not make them.
    pub adopt: Vec<String>,
    /// What the destination can do.
    pub abilities: Abilities,
    /// The most bytes of changes of tables that cannot be written that the destination keeps;
    /// beyond them the stream waits.
    pub held_bytes_max: u64,
    /// What is done to tables whose schema changes.
    pub schema_change: SchemaChange,
    /// What becomes of changes that cannot be applied.
    pub letters: LetterOptions,
    /// How many events the feed delivers before it waits to be told of some.
    pub events_max: usize,
}

/// Resolves once the run is to end. A sender that is gone cannot ask for it any more.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    if stop.wait_for(|stop| *stop).await.is_err() {
        std::future::pending::<()>().await;
    }
}
