//! Destinations that store objects, one per change or of many changes: S3, files, and what both
//! share – names, formats, what becomes of a name that is taken.

#[cfg(feature = "file")]
pub mod file;
pub mod format;
pub mod name;
#[cfg(feature = "parquet")]
mod parquet;
pub mod parts;
pub mod placing;
#[cfg(feature = "s3")]
pub mod s3;

use std::time::Duration;

use super::{Abilities, CheckpointIn, SchemaMode, Settings, WriteMode};

/// An object per change.
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
const MANY_CHANGES: Abilities = Abilities {
    batch_changes_max: 20_000,
    batch_bytes_max: 16 << 20,
    flush_interval_preferred: Duration::from_secs(60),
    ..ABILITIES
};

/// What a destination of objects can do: the option `format` decides how many changes an object
/// holds, and whether they have types. An unknown format is refused once the destination is opened.
pub fn abilities(settings: &Settings) -> Abilities {
    match settings.parameter("format") {
        None | Some("json") => ABILITIES,
        Some("parquet") => Abilities { schema_mode: SchemaMode::Typed, ..MANY_CHANGES },
        Some(_) => MANY_CHANGES,
    }
}
