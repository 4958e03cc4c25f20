//! Rows in tables: apply, checkpoint, migrate and import, written once for every SQL database.
//!
//! Each database is a folder with the same files inside, where it needs them: `mod` (the driver and
//! its session), `dialect` (how it writes SQL), `login` and `tls` (how a connection is made),
//! `failure` (what its error codes mean), `catalog` (what it knows of its tables), `rows` (the
//! upsert), `encode` (values in the form of the wire), `import` (bulk loads). Snowflake, which is
//! reached over HTTP, has more: `form` (HQ's), `key` (logins by key pair), `session` and `answer`
//! (requests and what comes back), `stage` (files on their way). SQLite, which
//! is a library, has three.

pub mod as_of;
pub mod checkpoint;
pub mod codes;
pub mod connection;
pub mod destination;
pub mod dialect;
pub mod form;
pub mod held;
pub mod import;
pub mod json_rows;
pub mod lent;
pub mod letters;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod read_back;
pub mod render;
#[cfg(feature = "snowflake")]
pub mod snowflake;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "sqlserver")]
pub mod sqlserver;
pub mod types;
pub mod widen;

use std::sync::Arc;
use std::time::Duration;

use super::{Abilities, CheckpointIn, Failure, SchemaMode, WriteMode};
use crate::change::value::TypeMismatch;
use crate::change::{Batch, Column, TableGroup, TableSchema};
pub use connection::{
    BulkLoader, Connection, Fence, ListedColumn, Parameter, RowWriter, SessionTag, SqlCatalog,
    SqlSession,
};
pub use destination::SqlDestination;
pub use widen::reject_rounded;

/// What every SQL destination can do.
pub const ABILITIES: Abilities = Abilities {
    write_mode: WriteMode::Upsert,
    checkpoint_in: CheckpointIn::Destination,
    schema_mode: SchemaMode::Managed,
    batch_changes_max: 10_000,
    batch_bytes_max: 16 << 20,
    loaders_max: 16,
    flush_interval_preferred: Duration::ZERO,
};

/// How long a session that does not stream (yet) waits for a lock of another session.
pub const LOCK_WAIT_MAX: Duration = Duration::from_secs(10);
/// The same of a session that streams: readers of a table wait behind a change of it that waits.
pub const STREAM_LOCK_WAIT_MAX: Duration = Duration::from_millis(500);
/// A statement about rows that takes longer is taken for a connection that went silent.
pub const ANSWER_WAIT_MAX: Duration = Duration::from_secs(300);
/// A change of a table may have to copy or rewrite it.
pub const DDL_WAIT_MAX: Duration = Duration::from_secs(24 * 3600);
/// How long a server may take to take the goodbye.
pub const GOODBYE_WAIT_MAX: Duration = Duration::from_secs(2);

/// A table as a change knows it, by which a session finds what it has prepared for it.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct TableVersion {
    /// The table's name.
    pub table: Arc<str>,
    /// The version of its model.
    pub version: Arc<str>,
    /// Which of its columns: a row that is deleted and stays may be told in part.
    columns_hash: u64,
}

impl TableVersion {
    /// That of `schema`.
    pub fn of(schema: &TableSchema) -> TableVersion {
        let (table, version) = (schema.table.clone(), schema.version.clone());
        TableVersion { table, version, columns_hash: schema.columns_hash }
    }
}

/// Which rows of a group a statement is about.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum RowSet {
    /// Those that are deleted: only their keys count.
    Deletes,
    /// Those that are upserted: whole rows.
    Upserts,
}

impl RowSet {
    /// The changes of the group that belong to it, by index.
    pub fn indices(self, group: &TableGroup) -> &[u32] {
        match self {
            RowSet::Deletes => &group.deletes,
            RowSet::Upserts => &group.upserts,
        }
    }

    /// The columns that count.
    pub fn columns(self, schema: &TableSchema) -> &[Column] {
        match self {
            RowSet::Deletes => schema.key_columns(),
            RowSet::Upserts => &schema.columns,
        }
    }
}

/// The failure of a batch in which a value was met that does not fit its column: its culprits are
/// all changes of the batch with such a value.
pub fn reject_mismatches(batch: &Batch) -> Failure {
    Failure::rejected(batch.type_mismatches())
}

/// The failure of a batch whose change at `index` does not fit: its culprits are all changes that
/// do not fit, or that one alone where only this database refuses its value.
pub fn reject_mismatch(batch: &Batch, table: &str, index: u32, why: &TypeMismatch) -> Failure {
    let all = batch.type_mismatches();
    let known = all.iter().any(|(culprit, _)| *culprit == index);
    Failure::rejected(if known { all } else { vec![(index, format!("table {table:?}: {why}"))] })
}
