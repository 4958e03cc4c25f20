//! Rows as a destination keeps them, read back to be compared with their source.

use async_trait::async_trait;

use super::{Failure, Recorded};
use crate::change::TableSchema;
use crate::change::held::HeldLabel;

/// A row as the destination shows it: one text per column of the schema, `None` for NULL.
pub type StoredRow = Vec<Option<String>>;

/// What a person should know of a table before rows are written to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableConcern {
    /// As the source calls it; `None` where it is about all tables.
    pub table: Option<String>,
    /// Whether no row can be written.
    pub keeps_rows_out: bool,
    /// What it is.
    pub what: String,
    /// What to do.
    pub cure: String,
}

/// Reads rows of tables, and writes nothing. [`super::Destination::tables`] has to be called before
/// rows are read.
#[async_trait]
pub trait RowReader: Send {
    /// The checkpoints of all consumers; none where nothing was ever recorded.
    async fn positions(&mut self) -> Result<Vec<Recorded>, Failure>;

    /// What is kept of tables that `consumer` could not write.
    async fn held(&mut self, consumer: &str) -> Result<Vec<HeldLabel>, Failure>;

    /// What a person should know of the tables before rows are written to them, by the database's
    /// catalog. Only for `eds doctor`.
    async fn concerns(&mut self) -> Result<Vec<TableConcern>, Failure>;

    /// How many digits of the texts of floating-point numbers are sure; `None`: all of them.
    fn float_digits(&self) -> Option<u32>;

    /// From now on all rows are read as they are now, where the destination can do that for more
    /// than one call. It holds no lock that a writer waits for.
    async fn begin_snapshot(&mut self) -> Result<(), Failure>;

    /// Ends what [`RowReader::begin_snapshot`] began.
    async fn end_snapshot(&mut self) -> Result<(), Failure>;

    /// The next rows in the order of the key, at most `rows_max`: those behind the key `after`.
    async fn page(
        &mut self,
        schema: &TableSchema,
        after: Option<&[String]>,
        rows_max: usize,
    ) -> Result<Vec<StoredRow>, Failure>;

    /// The rows with these keys, in any order.
    async fn rows(
        &mut self,
        schema: &TableSchema,
        keys: &[Vec<String>],
    ) -> Result<Vec<StoredRow>, Failure>;
}
