//! The contract of imports: whole tables are loaded beside the old ones, then swapped in at once.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Failure, FailureKind};
use crate::change::cutover::TableSnapshot;
pub use crate::change::import::FileProgress;
use crate::change::{Batch, TableSchema};

/// What stands before a table's name in the name of the table that its rows are loaded into.
pub const STAGED_PREFIX: &str = "_eds_new_";
/// The longest name of a table that databases agree on, in bytes.
const NAME_BYTES_MAX: usize = 60;

/// The schema under the name of the table that its rows are loaded into.
pub fn staged(schema: &TableSchema) -> TableSchema {
    let name = format!("{STAGED_PREFIX}{}", schema.table);
    match name.len() <= NAME_BYTES_MAX {
        true => schema.renamed(&name),
        false => schema.renamed(&format!(
            "{STAGED_PREFIX}{:016x}",
            xxhash_rust::xxh3::xxh3_64(schema.table.as_bytes())
        )),
    }
}

/// A table that an import loads.
#[derive(Clone, Debug)]
pub struct LoadedTable {
    /// The table, under its own name.
    pub schema: Arc<TableSchema>,
    /// The names of its files.
    pub files: Vec<String>,
}

/// A piece of a file: what is recorded together with its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilePiece {
    /// The import's name.
    pub job: String,
    /// Lines of the file that were loaded or skipped before it.
    pub after_lines: u64,
    /// How far the file is once the piece is loaded.
    pub progress: FileProgress,
}

/// What the destination has recorded of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobStatus {
    /// How far each of its files is.
    Loading(Vec<FileProgress>),
    /// Its tables were swapped in.
    Done,
}

/// The failure of an import when another one has begun after it.
pub fn another_import() -> Failure {
    Failure::new(
        FailureKind::Fenced,
        "another import into this destination has begun: this one ends",
    )
}

/// How a loaded table is swapped in.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SwapMethod {
    /// It replaces the old table, if there is one.
    Exchange,
    /// The old table stays, and its rows are replaced by the loaded ones.
    ReplaceRows,
    /// The old table stays with its rows, and the loaded ones are upserted.
    UpsertRows,
}

/// A foreign key that the destination enforces.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ForeignKey {
    /// What the destination calls it.
    pub name: String,
    /// The table that has it.
    pub table: String,
    /// The table that has the rows it refers to.
    pub refers_to: String,
    /// Whether it can be checked at the end of a transaction.
    pub is_deferrable: bool,
}

impl ForeignKey {
    /// One that is checked by each statement: name, table, table that is referred to.
    pub fn immediate(listed: Vec<String>) -> Option<ForeignKey> {
        let [name, table, refers_to] = listed.try_into().ok()?;
        Some(ForeignKey { name, table, refers_to, is_deferrable: false })
    }
}

/// A loaded table that is to be swapped in.
#[derive(Clone, Debug)]
pub struct Placement {
    /// The table, under its own name.
    pub schema: Arc<TableSchema>,
    /// How it is swapped in.
    pub how: SwapMethod,
    /// Of which moment its rows are.
    pub snapshot: TableSnapshot,
}

/// Loads whole tables.
///
/// An import has one main connection and several that load at the same time, up to the driver's
/// `loaders_max`; each is a destination of its own. Calls of one connection never overlap: the
/// caller awaits each before it makes the next. A call may be dropped before it ends, which leaves
/// behind what a failure leaves. After [`FailureKind::Unavailable`] the caller opens another
/// connection and tries again, and asks `job_status` first where the lost answer may have been a
/// commit.
#[async_trait]
pub trait Loader: Send {
    /// Gets ready for `job`, which loads `tables`: creates empty ones, or keeps those that the job
    /// has filled so far, where their schema is still the same. Removes what another job has left,
    /// and with `restart` what this one has left, too.
    ///
    /// Called once for each run of an import, on the main connection, before anything is loaded;
    /// the whole import waits for it.
    async fn begin(
        &mut self,
        job: &str,
        tables: &[LoadedTable],
        restart: bool,
    ) -> Result<JobStatus, Failure>;

    /// What is recorded of `job`; `None` where nothing is, because another job has begun since.
    /// Changes nothing.
    ///
    /// Called on a new connection after a lost answer, before the call is repeated; the other
    /// connections load meanwhile.
    async fn job_status(&mut self, job: &str) -> Result<Option<JobStatus>, Failure>;

    /// Gets this connection ready to load.
    ///
    /// Called once for each connection that loads, before its first `load`; the others load
    /// meanwhile.
    async fn enter_load_mode(&mut self) -> Result<(), Failure>;

    /// Loads the rows of `batch`, whose groups name the staged tables, and records `piece` in the
    /// same transaction. Fails with [`FailureKind::Fenced`] where another import has begun.
    ///
    /// Called for each piece of each file. The pieces of one file come in order on one connection;
    /// other files are loaded at the same time on others, also into the same table.
    async fn load(&mut self, batch: &Arc<Batch>, piece: &FilePiece) -> Result<(), Failure>;

    /// Creates what is created faster once all rows of the table are loaded: keys and indexes.
    /// Answers how many rows were removed because another one has their key. Repeating it does
    /// nothing.
    ///
    /// Called once for each table, on the connection that has loaded its last piece; other tables
    /// are loaded meanwhile. It may take hours, and the swap waits for it.
    async fn finish_load(&mut self, schema: &Arc<TableSchema>) -> Result<u64, Failure>;

    /// Why rows of this schema could not be written to the table that is there: a column of a type
    /// that values of its kind are not turned into.
    ///
    /// Called once for each table that is there and needs no step, on the main connection, before
    /// anything is loaded. Changes nothing.
    async fn row_refusal(&mut self, _schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Why the old table cannot be replaced: what depends on it and would be lost.
    ///
    /// Called once for each table before each try of `swap_in`, on the main connection, when
    /// nothing is loaded any more; and before anything is loaded, to tell the user. Changes
    /// nothing.
    async fn swap_blocker(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure>;

    /// The foreign keys of these tables. A table of another name than these is called as the
    /// destination has it.
    ///
    /// Called on the main connection before anything is loaded, and before each try of `swap_in`.
    /// Changes nothing.
    async fn foreign_keys(
        &mut self,
        _schemas: &[Arc<TableSchema>],
    ) -> Result<Vec<ForeignKey>, Failure> {
        Ok(Vec::new())
    }

    /// Gets this connection ready to change tables that people read: from now on it waits for their
    /// locks so briefly that readers behind it hardly notice.
    ///
    /// Called on the main connection before each try of `swap_in`, before tables that stay get new
    /// columns.
    async fn enter_swap_mode(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Whether an old table always stays, and only its rows are replaced, also where nothing keeps
    /// it from being replaced.
    fn keeps_tables(&mut self) -> bool {
        false
    }

    /// Swaps the loaded tables in, records the cutovers and resets every consumer's checkpoint, at
    /// once as far as the database can. Rows of tables that stay are upserted in the order of
    /// `placements`, and deleted in the opposite one.
    ///
    /// Called last, on the main connection, when nothing is loaded any more; streaming processes
    /// may still write, and are fenced by it.
    async fn swap_in(&mut self, job: &str, placements: &[Placement]) -> Result<(), Failure>;

    /// Records, for tables that no import has loaded, that their rows are as of now. Does nothing
    /// where anything was streamed yet.
    ///
    /// Called once by an import that only creates tables, instead of all other calls.
    async fn mark_current(&mut self, snapshots: &[TableSnapshot]) -> Result<(), Failure>;
}
