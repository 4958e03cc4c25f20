//! One object per change.

use std::time::Duration;

use super::{Abilities, Commit, Keeps, Schema};

/// What every keeper of objects can do.
pub const ABILITIES: Abilities = Abilities {
    keeps: Keeps::Changes,
    commit: Commit::Piecewise,
    schema: Schema::Ignores,
    batch_changes_max: 1_000,
    batch_bytes_max: 8 << 20,
    loaders_max: 1,
    flush_interval_preferred: Duration::ZERO,
};

#[cfg(feature = "file")]
pub mod file;
pub mod name;

#[cfg(feature = "s3")]
pub mod s3;
