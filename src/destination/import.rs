//! How whole tables come into a destination: loaded beside the ones that are there, then put in
//! their place at once.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Failure, FailureKind};
use crate::change::cutover::TableSnapshot;
use crate::change::{Batch, TableSchema};

/// What the table that rows are loaded into is called, in front of the name of the table that it is
/// to become.
pub const NEW: &str = "_eds_new_";
/// The longest name of a table that databases agree on, in bytes.
const NAME_BYTES_MAX: usize = 60;

/// The schema under the name of the table that its rows are loaded into.
pub fn staged(schema: &TableSchema) -> TableSchema {
    let name = format!("{NEW}{}", schema.table);
    match name.len() <= NAME_BYTES_MAX {
        true => schema.renamed(&name),
        false => schema
            .renamed(&format!("{NEW}{:016x}", xxhash_rust::xxh3::xxh3_64(schema.table.as_bytes()))),
    }
}

/// How far a file is loaded.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FileProgress {
    pub file: String,
    /// Lines that are done with.
    pub lines: u64,
    pub rows: u64,
    /// Lines that could not be loaded and were left out.
    pub skipped: u64,
    pub done: bool,
}

/// A piece of a file on its way: what is recorded together with its rows.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FilePiece {
    pub job: String,
    /// Lines of the file that were done with before it.
    pub after_lines: u64,
    pub progress: FileProgress,
}

/// What is known of a job.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum JobStatus {
    /// How far each of its files is.
    Loading(Vec<FileProgress>),
    /// Its tables are in their places already.
    Done,
}

/// What an import is told that another one has overtaken.
pub fn another_import() -> Failure {
    Failure::new(
        FailureKind::Fenced,
        "another import into this destination has begun: this one ends",
    )
}

/// How a loaded table comes into its place.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum How {
    /// It takes the place of the old one, if there is one.
    Exchange,
    /// The old one stays, and its rows become those that were loaded.
    InPlace,
    /// The old one stays with its rows; those that were loaded are added or replace the ones of
    /// their key.
    Added,
}

/// A loaded table and its place.
#[derive(Clone, Debug)]
pub struct Placement {
    pub schema: Arc<TableSchema>,
    pub how: How,
    pub snapshot: TableSnapshot,
}

/// Loads whole tables. Calls never overlap; a call may be dropped half way, which leaves what a
/// failure leaves.
#[async_trait]
pub trait Loader: Send {
    /// Makes ready for `job`, which has these files: fresh tables for `schemas`, or those that it
    /// has filled so far. What another job left, or this one if it is to begin `anew`, is removed.
    async fn begin(
        &mut self,
        job: &str,
        schemas: &[Arc<TableSchema>],
        files: &[String],
        anew: bool,
    ) -> Result<JobStatus, Failure>;

    /// What is recorded of `job`; `None` where nothing is, because another one has begun. Changes
    /// nothing.
    async fn job_status(&mut self, job: &str) -> Result<Option<JobStatus>, Failure>;

    /// Makes this connection ready to load: several may do so at once.
    async fn enter_load_mode(&mut self) -> Result<(), Failure>;

    /// Loads the rows of `batch`, whose groups name the fresh tables, and records the piece with
    /// them. `Fenced`: another import has begun.
    async fn load(&mut self, batch: &Arc<Batch>, piece: &FilePiece) -> Result<(), Failure>;

    /// All rows of the table are loaded: what is cheaper made afterwards is made now. How many rows
    /// had the key of another one, which stays. Repeatable.
    async fn finish_load(&mut self, schema: &Arc<TableSchema>) -> Result<u64, Failure>;

    /// Why the old table has to stay, where it has to: what hangs on it, that an exchange would
    /// lose.
    async fn swap_blocker(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure>;

    /// Puts the loaded tables in their places, together with what the cutover has to say; sets back
    /// every consumer.
    async fn swap_in(&mut self, job: &str, placements: &[Placement]) -> Result<(), Failure>;

    /// Notes, for tables that no import has touched, that their rows are as of now; not where
    /// anything was streamed yet.
    async fn mark_current(&mut self, snapshots: &[TableSnapshot]) -> Result<(), Failure>;
}
