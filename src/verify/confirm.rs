//! The second look: what differed is wrong only if it still differs once the stream has passed the
//! export's moment, and the stream has not changed it since.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use tokio::time::{Duration, Instant, sleep};
use tracing::{info, warn};

use super::changed::Explained;
use super::compare::ComparedTable;
use super::export::RowsOfExport;
use super::store::Suspect;
use super::{Comparison, Difference, FoundDifference, TableVerdict, VerifyError};
use crate::change::Position;

/// Keys that are looked for at once.
const KEYS_MAX: usize = 100;
/// Between two looks for how far the stream is.
const LOOK_INTERVAL: Duration = Duration::from_millis(500);
/// Between two questions whether a process streams: each takes its lock for a moment.
const OWNER_INTERVAL: Duration = Duration::from_secs(5);

/// What a look found of a row.
#[derive(Default, Serialize, Deserialize)]
struct Detail {
    columns: Vec<usize>,
    expected: Vec<Option<String>>,
    found: Vec<Option<String>>,
}

/// The stream has not come to the export's moment.
const NOT_PASSED: &str = "the stream has not passed the export's time";
/// Not all changes since the export are known.
const NOT_KNOWN: &str = "it may have changed since the export: take a fresh one";

/// The values of a key.
pub fn key_values(key: &str) -> Vec<String> {
    serde_json::from_str(key).unwrap_or_default()
}

impl Comparison {
    /// Waits for the stream, looks again, and waits until all that was applied by then is known.
    pub(super) async fn confirm(&mut self) -> Result<(), VerifyError> {
        let count = self.store.suspect_count()?;
        if count == 0 {
            return Ok(());
        }
        info!("{count} rows differ at the first look; looking again once the stream has passed");
        self.wait_until(NOT_PASSED, |comparison, position| comparison.has_passed(position)).await?;
        // What is applied while the rows are read again is not known to be there.
        let position = self.position().await?;
        for number in 0..self.tables.len() {
            let is_passed = self.changed.has_passed(self.tables[number].moment, position)?;
            self.tables[number].is_passed = is_passed;
        }
        self.look_again().await?;
        if self.store.suspect_count()? == 0 {
            return Ok(());
        }
        // What was read may have been applied until now.
        let read_by = self.position().await?;
        self.stream.position = read_by;
        let reaches = |comparison: &mut Comparison, _: Option<Position>| {
            Ok(comparison.changed.reaches(read_by))
        };
        self.wait_until("the running EDS has not saved what it applied", reaches).await?;
        for table in &mut self.tables {
            table.is_passed &= self.changed.is_beyond(table.moment)?;
        }
        Ok(())
    }

    /// Whether the stream has passed the moment of each table.
    fn has_passed(&mut self, position: Option<Position>) -> Result<bool, VerifyError> {
        let latest = self.tables.iter().map(|table| table.moment).max();
        latest.map_or(Ok(true), |moment| self.changed.has_passed(moment, position))
    }

    /// Waits until `is_there`, as long as it may and a process streams.
    async fn wait_until(
        &mut self,
        what_not: &str,
        is_there: impl Fn(&mut Comparison, Option<Position>) -> Result<bool, VerifyError>,
    ) -> Result<(), VerifyError> {
        let mut ask_at = Instant::now();
        loop {
            let position = self.position().await?;
            self.changed.look()?;
            if is_there(self, position)? {
                return Ok(());
            }
            if Instant::now() >= self.deadline {
                warn!("{what_not} within {:?} (--wait)", self.request.wait_max);
                return Ok(());
            }
            if Instant::now() >= ask_at {
                if !self.is_streaming() {
                    warn!("{what_not}, and no EDS streams with this data directory");
                    return Ok(());
                }
                ask_at = Instant::now() + OWNER_INTERVAL;
            }
            sleep(LOOK_INTERVAL).await;
        }
    }

    /// Reads all rows that differ, and forgets those that do not any more.
    async fn look_again(&mut self) -> Result<(), VerifyError> {
        for number in 0..self.tables.len() {
            let mut rows = RowsOfExport::new(&self.tables[number].schema);
            let mut after = String::new();
            loop {
                let suspects = self.store.suspects(number, &mut after, KEYS_MAX)?;
                if suspects.is_empty() {
                    break;
                }
                for (suspect, found) in self.reread(number, &suspects).await? {
                    let differs = self.look_at(number, &mut rows, &suspect, found)?;
                    let text = |d: &Detail| serde_json::to_string(d).unwrap_or_default();
                    let judged = differs.as_ref().map(|(what, detail)| (*what, text(detail)));
                    let judged = judged.as_ref().map(|(what, detail)| (*what, detail.as_str()));
                    self.store.judge(number, &suspect.key, judged)?;
                }
                self.changed.look_if_due()?;
            }
        }
        Ok(())
    }

    /// The rows of these keys as they are now.
    pub(super) async fn reread(
        &mut self,
        number: usize,
        suspects: &[Suspect],
    ) -> Result<Vec<(Suspect, Option<Vec<Option<String>>>)>, VerifyError> {
        let schema = self.tables[number].schema.clone();
        let keys: Vec<Vec<String>> = suspects.iter().map(|s| key_values(&s.key)).collect();
        let rows = self.reader()?.rows(&schema, &keys).await?;
        let table = &self.tables[number];
        let mut found: std::collections::HashMap<String, Vec<Option<String>>> = rows
            .iter()
            .map(|row| table.found_row(row))
            .map(|row| (table.key_of(&row), row))
            .collect();
        let pair = |s: &Suspect| (s.clone(), found.remove(&s.key));
        Ok(suspects.iter().map(pair).collect())
    }

    /// How the row differs, if it does.
    fn look_at(
        &self,
        number: usize,
        rows: &mut RowsOfExport,
        suspect: &Suspect,
        found: Option<Vec<Option<String>>>,
    ) -> Result<Option<(Difference, Detail)>, VerifyError> {
        let line = self.store.line(number, &suspect.key)?;
        Ok(match (line, found) {
            (None, None) => None,
            (Some(_), None) => Some((Difference::Missing, Detail::default())),
            (None, Some(_)) => Some((Difference::Extra, Detail::default())),
            (Some(line), Some(found)) => {
                let (columns, expected) = self.tables[number].differences(rows, line, &found)?;
                let detail = Detail { columns, expected, found };
                (!detail.columns.is_empty()).then_some((Difference::Different, detail))
            }
        })
    }

    /// Tells which rows are wrong, and counts them.
    pub(super) fn classify(
        &mut self,
        tell: &mut (dyn FnMut(&FoundDifference) + Send),
    ) -> Result<Vec<TableVerdict>, VerifyError> {
        let mut verdicts = Vec::new();
        for number in 0..self.tables.len() {
            let table = &self.tables[number];
            let mut verdict = TableVerdict {
                table: table.schema.table.to_string(),
                rows: self.store.count(number)?,
                not_compared: table.not_compared.clone(),
                ..TableVerdict::default()
            };
            let has_passed = table.is_passed;
            let mut rows = RowsOfExport::new(&table.schema);
            let mut after = String::new();
            loop {
                let suspects = self.store.suspects(number, &mut after, KEYS_MAX)?;
                if suspects.is_empty() {
                    break;
                }
                for suspect in suspects {
                    let doubt = match self.explain(number, &mut rows, &suspect)? {
                        Explained::Newer => {
                            verdict.newer += 1;
                            self.store.judge(number, &suspect.key, None)?;
                            continue;
                        }
                        Explained::Unchanged if has_passed => None,
                        Explained::Unchanged => Some(NOT_PASSED),
                        Explained::Unknown => Some(NOT_KNOWN),
                    };
                    count(&mut verdict, suspect.what, doubt);
                    tell(&told(&self.tables[number], &suspect, doubt));
                }
            }
            verdicts.push(verdict);
        }
        Ok(verdicts)
    }

    /// What the stream says of the row.
    pub(super) fn explain(
        &self,
        number: usize,
        rows: &mut RowsOfExport,
        suspect: &Suspect,
    ) -> Result<Explained, VerifyError> {
        let table = &self.tables[number];
        let line = match self.store.line(number, &suspect.key)? {
            Some(line) => line,
            None => table.schema.row_of_key(&key_values(&suspect.key)).into_bytes(),
        };
        let hash = rows.row(Bytes::from(line))?.row_hash();
        self.changed.explain(hash, table.moment, self.stream.position)
    }
}

fn count(verdict: &mut TableVerdict, what: Difference, doubt: Option<&str>) {
    let counter = match (doubt, what) {
        (Some(_), _) => &mut verdict.doubtful,
        (None, Difference::Missing) => &mut verdict.missing,
        (None, Difference::Extra) => &mut verdict.extra,
        (None, Difference::Different) => &mut verdict.different,
    };
    *counter += 1;
}

fn told(table: &ComparedTable, suspect: &Suspect, doubt: Option<&'static str>) -> FoundDifference {
    let detail: Detail = serde_json::from_str(&suspect.detail).unwrap_or_default();
    let value = |values: &[Option<String>], i: usize| {
        let value = values.get(i).cloned().flatten()?;
        Some(table.columns.get(i)?.shown(value))
    };
    let columns = detail.columns.iter();
    FoundDifference {
        table: table.schema.table.to_string(),
        key: key_values(&suspect.key),
        what: suspect.what,
        columns: columns
            .clone()
            .filter_map(|i| table.columns.get(*i))
            .map(|column| column.name().to_owned())
            .collect(),
        values: columns.map(|i| (value(&detail.expected, *i), value(&detail.found, *i))).collect(),
        doubt,
    }
}
