//! The first look: all rows of the destination, page by page, against those of the export.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::{Duration, Instant, sleep_until};
use tracing::info;

use super::canon::{ComparedColumn, expected_row};
use super::export::RowsOfExport;
use super::store::TableProgress;
use super::{Comparison, Difference, VerifyError};
use crate::change::held::HeldLabel;
use crate::change::stamps::Stamp;
use crate::change::value::rfc3339;
use crate::change::{TableSchema, Version};
use crate::destination::{StoredRow, TableShape};

/// Rows of the destination that are read at once.
const PAGE_ROWS: usize = 2_000;

/// A table that is compared.
pub struct ComparedTable {
    /// Its columns that the destination has.
    pub schema: Arc<TableSchema>,
    /// The same, and how their values are compared.
    pub columns: Vec<ComparedColumn>,
    /// When the export read it.
    pub moment: Version,
    /// The stream had passed that moment before the second look.
    pub is_passed: bool,
    /// Why its rows cannot be compared.
    pub not_compared: Option<String>,
}

impl ComparedTable {
    /// `shape` is what the destination has, `held` what it keeps because it cannot be written.
    pub fn new(
        schema: Arc<TableSchema>,
        shape: Option<&TableShape>,
        moment: Version,
        (held, float_digits): (Option<&HeldLabel>, Option<u32>),
    ) -> ComparedTable {
        let columns =
            shape.map_or_else(Vec::new, |shape| ComparedColumn::all(&schema, shape, float_digits));
        let odd_key = columns.iter().take(schema.keys).find(|column| !column.finds_rows());
        let not_compared = match (shape, held, odd_key) {
            (None, ..) => Some("the destination has no such table".to_owned()),
            (_, Some(held), _) => {
                let since = rfc3339(i64::try_from(held.since_unix).unwrap_or(0) * 1_000_000);
                Some(format!("it is held since {since}: its changes wait; {}", held.reason))
            }
            (.., Some(column)) => Some(format!(
                "column {:?} of its key is neither a text nor an integer",
                column.name()
            )),
            _ => None,
        };
        ComparedTable { schema, columns, moment, is_passed: false, not_compared }
    }

    /// The values as they are compared.
    pub fn found_row(&self, row: &StoredRow) -> Vec<Option<String>> {
        let columns = self.columns.iter().zip(row);
        columns.map(|(column, shown)| shown.as_deref().map(|text| column.found(text))).collect()
    }

    /// The text of the key, as the export's rows have it.
    pub fn key_of(&self, found: &[Option<String>]) -> String {
        let keys = found.iter().take(self.schema.keys);
        let values: Vec<&str> = keys.map(|value| value.as_deref().unwrap_or_default()).collect();
        serde_json::Value::from(values).to_string()
    }

    /// The places of the columns in which a row of the export and one of the destination differ.
    /// A row that fits no table of its schema differs in all of them.
    pub fn differences(
        &self,
        rows: &mut RowsOfExport,
        line: Vec<u8>,
        found: &[Option<String>],
    ) -> Result<(Vec<usize>, Vec<Option<String>>), VerifyError> {
        let change = rows.row(Bytes::from(line))?;
        let Ok(expected) = expected_row(&self.columns, &change) else {
            return Ok(((0..self.columns.len()).collect(), vec![None; self.columns.len()]));
        };
        // What EDS adds is no value of the source's.
        let is_other = |i: &usize| {
            let column = &self.columns[*i];
            Stamp::named(column.name()).is_none()
                && !column.is_same(
                    expected[*i].as_deref(),
                    found.get(*i).and_then(|value| value.as_deref()),
                )
        };
        Ok(((0..self.columns.len()).filter(is_other).collect(), expected))
    }
}

/// Lets so many rows through in a second.
struct ReadPace {
    rows_per_s_max: Option<u64>,
    begun: Instant,
    rows: u64,
}

impl ReadPace {
    async fn after(&mut self, rows: usize) {
        self.rows += rows as u64;
        if let Some(rate) = self.rows_per_s_max {
            let due = Duration::from_secs_f64(self.rows as f64 / rate.max(1) as f64);
            sleep_until(self.begun + due).await;
        }
    }
}

impl Comparison {
    /// Reads each page in a snapshot of its own: a snapshot that lasts holds up changes of the
    /// table, and with them the stream. What moves between two pages is looked at again.
    pub(super) async fn compare(&mut self) -> Result<(), VerifyError> {
        let rows_per_s_max = self.request.rows_per_s_max;
        let mut pace = ReadPace { rows_per_s_max, begun: Instant::now(), rows: 0 };
        for number in 0..self.tables.len() {
            if self.tables[number].not_compared.is_some() {
                continue;
            }
            let after = match self.store.progress(number)? {
                TableProgress::Done => continue,
                TableProgress::Behind(after) => after,
            };
            self.compare_table(number, after, &mut pace).await?;
            self.store.note_missing(number)?;
            self.store.note_done(number)?;
            info!("table {:?} is compared", self.tables[number].schema.table);
        }
        Ok(())
    }

    /// Compares the rows behind the key `after`.
    async fn compare_table(
        &mut self,
        number: usize,
        mut after: Option<Vec<String>>,
        pace: &mut ReadPace,
    ) -> Result<(), VerifyError> {
        let schema = self.tables[number].schema.clone();
        let mut rows_of_export = RowsOfExport::new(&schema);
        loop {
            self.reader()?.begin_snapshot().await?;
            let page = self.reader()?.page(&schema, after.as_deref(), PAGE_ROWS).await?;
            self.reader()?.end_snapshot().await?;
            let mut suspects = Vec::new();
            for row in &page {
                let table = &self.tables[number];
                let found = table.found_row(row);
                let key = table.key_of(&found);
                match self.store.see(number, &key)? {
                    None if self.is_part => {}
                    None => suspects.push((key, Difference::Extra)),
                    Some(line) => {
                        let (columns, _) = table.differences(&mut rows_of_export, line, &found)?;
                        if !columns.is_empty() {
                            suspects.push((key, Difference::Different));
                        }
                    }
                }
            }
            let keys = page.last().map(|last| last.iter().take(schema.keys));
            after = keys.map(|keys| keys.map(|key| key.clone().unwrap_or_default()).collect());
            self.store.note(number, &suspects, after.as_deref())?;
            self.changed.look_if_due()?;
            pace.after(page.len()).await;
            if page.len() < PAGE_ROWS {
                return Ok(());
            }
        }
    }
}
