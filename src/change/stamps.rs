//! The columns that EDS adds to tables by itself, where the user wants them: when a row was
//! deleted, the age of its version, and when EDS took it up. Their values are of the event and not
//! in its message, which is kept and compared as it came.

use super::cutover::CLOCKS_APART_MAX_NS;
use super::schema::{Column, ColumnType, TableSchema};
use super::value::rfc3339;
use super::{Event, Version};
use crate::clock::now_ns;

/// A column that EDS adds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Stamp {
    /// When the row was deleted at the source; NULL while it is there. With it rows stay.
    DeletedAt,
    /// The nanoseconds of the row's version: a later version has a higher number.
    Version,
    /// When EDS took up the change that made the row what it is.
    AppliedAt,
}

impl Stamp {
    /// All of them, in the order in which tables have them.
    pub const ALL: [Stamp; 3] = [Stamp::DeletedAt, Stamp::Version, Stamp::AppliedAt];

    /// The column's name.
    pub const fn name(self) -> &'static str {
        match self {
            Stamp::DeletedAt => "_eds_deleted_at",
            Stamp::Version => "_eds_version",
            Stamp::AppliedAt => "_eds_applied_at",
        }
    }

    /// The stamp that is a column of this name.
    pub fn named(name: &str) -> Option<Stamp> {
        Stamp::ALL.into_iter().find(|stamp| stamp.name() == name)
    }

    /// The column.
    pub(super) fn column(self) -> Column {
        let kind = match self {
            Stamp::DeletedAt | Stamp::AppliedAt => ColumnType::Time,
            Stamp::Version => ColumnType::Integer,
        };
        Column { name: self.name().into(), kind, nullable: true, declared: None }
    }
}

/// Which columns are added.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct AddedStamps {
    /// Rows that are deleted at the source stay and are marked.
    pub deleted_at: bool,
    /// The age of the row's version.
    pub version: bool,
    /// When EDS took up the change.
    pub applied_at: bool,
}

impl AddedStamps {
    /// Whether there are any.
    pub fn any(self) -> bool {
        self != AddedStamps::default()
    }

    /// Whether this one is added.
    pub fn has(self, stamp: Stamp) -> bool {
        match stamp {
            Stamp::DeletedAt => self.deleted_at,
            Stamp::Version => self.version,
            Stamp::AppliedAt => self.applied_at,
        }
    }
}

/// The values of one event's stamps, as JSON tokens.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct StampTokens {
    deleted_at: String,
    version: Option<String>,
    applied_at: String,
}

impl StampTokens {
    /// Of an event that is taken up now.
    pub(super) fn of_event(event: &Event) -> StampTokens {
        let now_ns = now_ns();
        let latest = u64::try_from(now_ns.saturating_add(CLOCKS_APART_MAX_NS)).unwrap_or(u64::MAX);
        let version = event.version().filter(|version| version.nanos <= latest);
        let told_us = match (version, event.timestamp_ms()) {
            (Some(version), _) => i64::try_from(version.nanos / 1_000).unwrap_or(i64::MAX),
            (None, ms) if ms > 0 => ms.saturating_mul(1_000),
            (None, _) => now_ns / 1_000,
        };
        StampTokens { deleted_at: time(told_us), ..StampTokens::of_row(version) }
    }

    /// Of a row of an export that is taken up now.
    pub fn of_row(version: Option<Version>) -> StampTokens {
        let now_us = now_ns() / 1_000;
        StampTokens {
            deleted_at: time(now_us),
            version: version.map(|version| version.nanos.to_string()),
            applied_at: time(now_us),
        }
    }

    /// The same of an event that is taken up at this time, as [`now`] has it.
    pub(super) fn taken_up(&mut self, at: &str) {
        at.clone_into(&mut self.applied_at);
    }

    /// The value of one.
    pub fn token(&self, stamp: Stamp) -> Option<&str> {
        match stamp {
            Stamp::DeletedAt => Some(&self.deleted_at),
            Stamp::Version => self.version.as_deref(),
            Stamp::AppliedAt => Some(&self.applied_at),
        }
    }
}

/// This moment, as a token.
pub fn now() -> String {
    time(now_ns() / 1_000)
}

fn time(micros: i64) -> String {
    format!("\"{}\"", rfc3339(micros))
}

impl TableSchema {
    /// Whether rows that are deleted at the source stay in the table.
    pub fn keeps_deleted(&self) -> bool {
        self.column(Stamp::DeletedAt.name()).is_some()
    }

    /// The same with the mark of rows that are deleted, of which no change of `self` tells
    /// anything: rows that are written by it lose the mark.
    pub fn clearing_mark(&self) -> TableSchema {
        let mark = std::iter::once(Stamp::DeletedAt.column());
        self.with_columns(self.columns.iter().cloned().chain(mark).collect())
    }
}
