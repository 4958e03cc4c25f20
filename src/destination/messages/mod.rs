//! A log of changes: one message per change, named the same on every broker.

use std::borrow::Cow;
use std::fmt::Write;
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
pub struct Names<'a> {
    table: Cow<'a, str>,
    operation: &'static str,
    company: Cow<'a, str>,
    location: Cow<'a, str>,
    /// The record's primary key.
    key: Cow<'a, str>,
}

impl<'a> Names<'a> {
    /// Those of `change`, with the company and the location that the event names.
    #[cfg(feature = "kafka")]
    pub fn of_event(change: &'a Change) -> Names<'a> {
        Names::with(change, change.event.company(), change.event.location())
    }

    /// Those of `change`, with the company and the location that its row names; only where there
    /// is no row, those of the event.
    #[cfg(feature = "eventhubs")]
    pub fn of_row(change: &'a Change) -> Names<'a> {
        let event = &change.event;
        let company = event.column_text("companyId").unwrap_or_else(|| event.company());
        let location = event.column_text("locationId").unwrap_or_else(|| event.location());
        Names::with(change, company, location)
    }

    fn with(change: &'a Change, company: Cow<'a, str>, location: Cow<'a, str>) -> Names<'a> {
        let or_nobody = |name: Cow<'a, str>| if name.is_empty() { NOBODY.into() } else { name };
        Names {
            table: change.event.table(),
            operation: change.event.operation.as_str(),
            company: or_nobody(company),
            location: or_nobody(location),
            key: String::from_utf8_lossy(&change.key),
        }
    }

    /// What [`Names::write_partition_key`] writes.
    #[cfg(feature = "eventhubs")]
    pub fn partition_key(&self) -> String {
        let mut key = String::new();
        self.write_partition_key(&mut key);
        key
    }

    /// Appends `<table>.<company>.<location>.<primary key>`: changes of one row have one.
    pub fn write_partition_key(&self, out: &mut String) {
        let Names { table, company, location, key, .. } = self;
        // A text takes all that is written to it.
        let _ = write!(out, "{table}.{company}.{location}.{key}");
    }

    /// `dbchange.<table>.<operation>.<company>.<location>.<primary key>`
    #[cfg(feature = "eventhubs")]
    pub fn object_id(&self) -> String {
        let mut id = String::new();
        self.write_subject(&self.key, &mut id);
        id
    }

    /// Appends `dbchange.<table>.<operation>.<company>.<location>.<last>`.
    pub fn write_subject(&self, last: &str, out: &mut String) {
        let Names { table, operation, company, location, .. } = self;
        let _ = write!(out, "dbchange.{table}.{operation}.{company}.{location}.{last}");
    }
}
