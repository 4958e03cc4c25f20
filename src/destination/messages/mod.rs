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
    /// Those of `change`, with the company and the location that the event names.
    #[cfg(feature = "kafka")]
    pub fn of_event(change: &Change) -> Names {
        Names::with(change, &change.event.company(), &change.event.location())
    }

    /// Those of `change`, with the company and the location that its row names; only where there
    /// is no row, those of the event.
    #[cfg(feature = "eventhubs")]
    pub fn of_row(change: &Change) -> Names {
        let event = &change.event;
        let company = event.column_text("companyId").unwrap_or_else(|| event.company());
        let location = event.column_text("locationId").unwrap_or_else(|| event.location());
        Names::with(change, &company, &location)
    }

    fn with(change: &Change, company: &str, location: &str) -> Names {
        let or_nobody = |name: &str| if name.is_empty() { NOBODY } else { name }.to_owned();
        Names {
            table: change.event.table().into_owned(),
            operation: change.event.operation.as_str(),
            company: or_nobody(company),
            location: or_nobody(location),
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
