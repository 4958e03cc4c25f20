//! A log of changes: one message per change, named the same on every broker.

use std::time::Duration;

use super::{Abilities, CheckpointIn, SchemaMode, WriteMode};
use crate::change::Change;

#[cfg(feature = "eventhubs")]
pub mod eventhubs;
#[cfg(feature = "kafka")]
pub mod kafka;

/// What every broker can do.
pub const ABILITIES: Abilities = Abilities {
    write_mode: WriteMode::Append,
    checkpoint_in: CheckpointIn::StateFile,
    schema_mode: SchemaMode::Schemaless,
    batch_changes_max: 10_000,
    batch_bytes_max: 8 << 20,
    loaders_max: 1,
    flush_interval_preferred: Duration::ZERO,
};

/// Stands for a company or location that a change does not name.
const NOBODY: &str = "NONE";

/// What the message of a change is named by, and assigned to a partition by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    table: String,
    operation: &'static str,
    company: String,
    location: String,
    /// The record's primary key.
    key: String,
}

impl Names {
    /// Those of `change`.
    pub fn of(change: &Change) -> Names {
        let event = &change.event;
        let or_nobody = |name: String| if name.is_empty() { NOBODY.to_owned() } else { name };
        Names {
            table: event.table().into_owned(),
            operation: event.operation.as_str(),
            company: or_nobody(event.company().into_owned()),
            location: or_nobody(event.location().into_owned()),
            key: String::from_utf8_lossy(&change.key).into_owned(),
        }
    }

    /// `<table>.<company>.<location>.<primary key>`: changes of one row have one.
    pub fn partition_key(&self) -> String {
        format!("{}.{}.{}.{}", self.table, self.company, self.location, self.key)
    }

    /// `dbchange.<table>.<operation>.<company>.<location>.<last>`
    pub fn subject(&self, last: &str) -> String {
        format!(
            "dbchange.{}.{}.{}.{}.{last}",
            self.table, self.operation, self.company, self.location
        )
    }
}
