//! How an import is going: counted by downloads and loaders, read by whoever shows it.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::ImportPlan;
use crate::destination::import::FileProgress;
use crate::pipeline::progress::ImportStatus;

/// Tables that are named while they are loaded.
const BUSY_NAMED_MAX: usize = 5;

/// One table's numbers.
#[derive(Clone, Debug, Default)]
pub struct TableCount {
    /// Files of the table, as far as they are known.
    pub files: u64,
    /// Files that are loaded.
    pub files_done: u64,
    /// Files whose size is known.
    pub files_known: u64,
    /// Their stored bytes.
    pub bytes: u64,
    /// Stored bytes that are loaded.
    pub bytes_done: u64,
    /// Rows that are loaded.
    pub rows: u64,
    /// Lines that were left out.
    pub skipped: u64,
    files_done_here: u64,
    /// Rows that an earlier run loaded.
    pub rows_before: u64,
    started: Option<Instant>,
    ended: Option<Instant>,
    /// It is loaded, and its key is being made.
    pub finishing: bool,
}

impl TableCount {
    /// How long it took so far, in this run.
    pub fn elapsed(&self) -> Duration {
        let end = self.ended.unwrap_or_else(Instant::now);
        self.started.map_or(Duration::ZERO, |start| end.saturating_duration_since(start))
    }

    /// Whether all rows of the table are loaded and its key is made.
    pub fn is_done(&self) -> bool {
        self.ended.is_some()
    }

    /// How much of this run's work is done, from 0 to 1; by bytes, those of files that are not at
    /// hand yet estimated.
    pub fn fraction(&self) -> f64 {
        let before = self.files_done.saturating_sub(self.files_done_here);
        let files = self.files.saturating_sub(before);
        let bytes = self.bytes as f64 / self.files_known.max(1) as f64 * files as f64;
        if self.is_done() || bytes <= 0.0 {
            f64::from(u8::from(self.is_done()))
        } else {
            (self.bytes_done as f64 / bytes).min(1.0)
        }
    }
}

/// All tables' numbers, and what is downloaded.
#[derive(Debug, Default)]
pub struct Counts {
    tables: Mutex<BTreeMap<String, TableCount>>,
    downloaded: Mutex<i64>,
}

impl Counts {
    fn tables(&self) -> MutexGuard<'_, BTreeMap<String, TableCount>> {
        self.tables.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn update(&self, table: &str, change: impl FnOnce(&mut TableCount)) {
        change(self.tables().entry(table.to_owned()).or_default());
    }

    /// What an earlier run did counts.
    pub fn resume(&self, plan: &ImportPlan, begun: &[FileProgress]) {
        for table in &plan.tables {
            let of_table: Vec<&FileProgress> =
                begun.iter().filter(|f| table.files.contains(&f.file)).collect();
            self.update(&table.schema.table, |count| {
                count.files = table.files.len() as u64;
                count.files_done = of_table.iter().filter(|f| f.done).count() as u64;
                count.rows_before = of_table.iter().map(|f| f.rows).sum();
                count.skipped = of_table.iter().map(|f| f.skipped).sum();
                count.rows = count.rows_before;
            });
        }
    }

    /// A file of this size was downloaded.
    pub fn downloaded(&self, table: &str, bytes: u64) {
        self.update(table, |count| {
            count.files_known += 1;
            count.bytes += bytes;
        });
    }

    /// A file of the table is being loaded from now on.
    pub fn begins(&self, table: &str) {
        self.update(table, |count| {
            count.started.get_or_insert_with(Instant::now);
        });
    }

    /// A piece of a file is durable: its rows, the lines left out of it, and its bytes.
    pub fn loaded(&self, table: &str, rows: u64, skipped: u64, bytes: u64) {
        self.update(table, |count| {
            count.rows += rows;
            count.skipped += skipped;
            count.bytes_done += bytes;
        });
    }

    /// A file of the table is loaded to its end.
    pub fn file_done(&self, table: &str) {
        self.update(table, |count| {
            count.files_done += 1;
            count.files_done_here += 1;
        });
    }

    /// All rows of the table are loaded; its key is being made.
    pub fn finishing(&self, table: &str) {
        self.update(table, |count| count.finishing = true);
    }

    /// Nothing of the table is left to do.
    pub fn done(&self, table: &str) {
        self.update(table, |count| {
            count.finishing = false;
            count.ended.get_or_insert_with(Instant::now);
        });
    }

    /// Bytes came, or are to come again.
    pub fn received(&self, bytes: i64) {
        *self.downloaded.lock().unwrap_or_else(PoisonError::into_inner) += bytes;
    }

    /// Bytes that were received, less those that have to come again.
    pub fn bytes_downloaded(&self) -> u64 {
        u64::try_from(*self.downloaded.lock().unwrap_or_else(PoisonError::into_inner)).unwrap_or(0)
    }

    /// All of it in one, for who looks from far; `since_unix`: when the import began.
    pub fn status(&self, since_unix: u64) -> ImportStatus {
        let tables = self.tables();
        let sum = |of: fn(&TableCount) -> f64| tables.values().map(of).sum::<f64>();
        let files = sum(|count| count.files.max(1) as f64);
        let done = sum(|count| {
            let before = count.files_done.saturating_sub(count.files_done_here) as f64;
            before + count.fraction() * (count.files.max(1) as f64 - before)
        });
        let is_busy = |count: &TableCount| count.started.is_some() && !count.is_done();
        let busy = tables.iter().filter(|(_, count)| is_busy(count));
        ImportStatus {
            since_unix,
            tables: tables.len() as u64,
            tables_done: tables.values().filter(|count| count.is_done()).count() as u64,
            rows: tables.values().map(|count| count.rows).sum(),
            fraction: if files > 0.0 { done / files } else { 0.0 },
            now: busy.take(BUSY_NAMED_MAX).map(|(name, _)| name.clone()).collect(),
        }
    }

    /// The counts of all tables by name, as they are now.
    pub fn snapshot(&self) -> BTreeMap<String, TableCount> {
        self.tables().clone()
    }
}
