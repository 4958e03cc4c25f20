//! Objects: one per change, or of many changes.

use std::time::Duration;

use super::{Abilities, CheckpointIn, SchemaMode, WriteMode};

/// What every keeper of objects can do.
pub const ABILITIES: Abilities = Abilities {
    write_mode: WriteMode::Append,
    checkpoint_in: CheckpointIn::StateFile,
    schema_mode: SchemaMode::Schemaless,
    batch_changes_max: 1_000,
    batch_bytes_max: 8 << 20,
    loaders_max: 1,
    flush_interval_preferred: Duration::ZERO,
};

/// The same where an object holds many changes: a file costs a request, and whoever reads them
/// wants few.
pub const BATCHED: Abilities = Abilities {
    batch_changes_max: 20_000,
    batch_bytes_max: 16 << 20,
    flush_interval_preferred: Duration::from_secs(60),
    ..ABILITIES
};

/// The same where what it holds has types.
pub const TYPED: Abilities = Abilities { schema_mode: SchemaMode::Typed, ..BATCHED };

#[cfg(feature = "file")]
pub mod file;
pub mod name;
#[cfg(feature = "parquet")]
mod parquet;
pub mod parts;

#[cfg(feature = "s3")]
pub mod s3;
