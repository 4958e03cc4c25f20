//! What travels through EDS: changes of rows, as slices of the events that brought them. Nothing
//! here does I/O.

pub mod batch;
pub mod columns;
pub mod compact;
pub mod cutover;
pub mod dead_letter;
pub mod decode;
pub mod filter;
pub mod held;
pub mod import;
pub mod json;
pub mod schema;
pub mod stamps;
pub mod value;
pub mod version;

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

pub use batch::{Batch, TableGroup};
pub use columns::{ColumnRules, MessageOrigin};
pub use cutover::Cutover;
pub use dead_letter::{DeadLetter, NumberedLetter};
pub use decode::{Decoder, Event, Malformed};
pub use held::{HeldChunk, Release};
pub use schema::{Column, ColumnType, TableSchema};
pub use version::Version;

use decode::told_of_deleted;
use json::Slot;

/// What happened to the row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// The row is new.
    Insert,
    /// The row has other values.
    Update,
    /// The row is gone.
    Delete,
}

impl Operation {
    /// The word of the contract, as in the field `operation`.
    pub fn as_str(self) -> &'static str {
        match self {
            Operation::Insert => "INSERT",
            Operation::Update => "UPDATE",
            Operation::Delete => "DELETE",
        }
    }
}

/// A place in the stream. Sequences start at 1; a stream that was recreated starts at 1 again,
/// with later times.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default)]
pub struct Position {
    /// The number that the stream gave the event.
    pub sequence: u64,
    /// When the event was published, Unix nanoseconds. As part of a checkpoint: the latest of all
    /// events so far.
    pub time_ns: i64,
}

impl Position {
    /// Whether an event delivered at `event` is already contained in a checkpoint at `self`:
    /// neither its sequence nor its time is beyond. A lower sequence with a later time belongs to a
    /// stream that was recreated.
    pub fn contains(&self, event: Position) -> bool {
        event.sequence <= self.sequence && event.time_ns <= self.time_ns
    }

    /// The checkpoint after `next` has been applied too.
    pub fn advanced_to(&self, next: Position) -> Position {
        Position { sequence: next.sequence, time_ns: next.time_ns.max(self.time_ns) }
    }
}

/// Which of the two changes that an update of a primary key is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventPart {
    /// The row that is left is deleted, and the other written.
    Both,
    /// The row that is left is deleted.
    Left,
    /// The event's own row is written or deleted.
    Own,
}

impl EventPart {
    /// Which of them a change is.
    pub fn of(change: &Change) -> EventPart {
        if change.event.leaves_row() { EventPart::Left } else { EventPart::Own }
    }
}

/// One change of one row: the event, and where in its payload each column of its table's schema
/// stands.
#[derive(Clone, Debug)]
pub struct Change {
    /// The event that brought it.
    pub event: Event,
    /// Where it came from, for people: a NATS subject, or file and line.
    pub subject: Box<str>,
    /// Its place in the stream; the default for a row of an import.
    pub position: Position,
    /// `None` where the destination needs no schemas.
    pub schema: Option<Arc<TableSchema>>,
    /// One slot per column of `schema`; of a delete that removes the row only the key columns.
    pub row: Box<[Slot]>,
    /// The primary key in a form in which equal keys have equal bytes.
    pub key: Bytes,
}

impl Change {
    /// The JSON token of column `index`; `None` where it is missing or null.
    pub fn token(&self, index: usize) -> Option<&str> {
        let slot = self.row.get(index)?;
        match slot.as_stamp() {
            Some(stamp) => self.event.stamp(stamp),
            None => slot.present(self.event.payload()),
        }
    }

    /// Whether it and `next` are of one event: an update of the primary key leaves one row and
    /// writes another.
    pub fn is_of_same_event(&self, next: &Change) -> bool {
        std::ptr::eq(self.event.payload(), next.event.payload())
    }

    /// The same change; of a row that stays after its deletion only what the event tells of it.
    pub fn as_told(self) -> Change {
        let schema = self.schema.as_ref();
        let told = schema.and_then(|schema| told_of_deleted(&self.event, schema, &self.row));
        match told {
            Some((schema, row)) => Change { schema: Some(Arc::new(schema)), row, ..self },
            None => self,
        }
    }

    /// The same change with a schema that lacks some columns of its own one.
    pub fn with_schema(self, schema: &Arc<TableSchema>) -> Change {
        let Some(own) = &self.schema else { return self };
        let slot = |column: &Column| own.column(&column.name).and_then(|i| self.row.get(i));
        let row = schema.columns.iter().map_while(|column| slot(column).copied()).collect();
        Change { row, schema: Some(schema.clone()), ..self }
    }

    /// Tells its row from others; 0 where it has no schema.
    pub fn row_hash(&self) -> u64 {
        let schema = self.schema.as_ref();
        schema.map_or(0, |schema| dead_letter::row_hash(&schema.table, &self.key))
    }

    /// Whether the row is gone at the source.
    pub fn is_delete(&self) -> bool {
        self.event.operation == Operation::Delete
    }

    /// Whether it takes the row out of its table; else a row that is gone is marked.
    pub fn removes_row(&self) -> bool {
        self.is_delete() && !self.schema.as_ref().is_some_and(|schema| schema.keeps_deleted())
    }

    /// The bytes that the change occupies in memory, for the limits on pending changes.
    pub fn size(&self) -> usize {
        size_of::<Change>()
            + self.subject.len()
            + self.event.payload().len()
            + self.row.len() * size_of::<Slot>()
    }
}
