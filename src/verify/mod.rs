//! Compares a destination with an export while the stream runs, and repairs what differs
//! (docs/decisions/0020-verify.md).

mod canon;
mod changed;
mod compare;
mod confirm;
mod export;
mod repair;
mod store;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};
use tokio::time::Instant;
use tracing::info;

use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::filter::TableFilter;
use crate::change::{ColumnRules, Position, Version};
use crate::clock::now_ns;
use crate::destination::{Destination, Driver, Failure, Recorded, RowReader, Settings, Target};
use crate::help::HelpCode;
use crate::hq::Hq;
use crate::import::FilesFrom;
use crate::registry::SchemaSource;
use crate::state::{DataDirError, FILE_NAME, Lock, LockError, State, StateError};
use changed::ChangedRows;
use compare::ComparedTable;
pub use store::Difference;
use store::{ComparisonStore, Noted};

/// What is compared, and how.
pub struct VerifyRequest {
    /// The destination.
    pub destination: Settings,
    /// What opens it.
    pub driver: &'static Driver,
    /// The data directory of the EDS that streams.
    pub data_dir: PathBuf,
    /// Where an export is ordered; not needed with files of a directory and `schemas`.
    pub hq: Option<Hq>,
    /// Where the tables' schemas are published; `None` means HQ.
    pub schemas: Option<SchemaSource>,
    /// Where the export's files come from.
    pub files: FilesFrom,
    /// The tables that are compared.
    pub tables: TableFilter,
    /// Which columns are left out or hashed.
    pub columns: Arc<ColumnRules>,
    /// Companies whose rows are exported; none means all.
    pub company_ids: Vec<String>,
    /// Whose stream it is, where several write to the destination.
    pub consumer: Option<String>,
    /// The most rows that are read from the destination in a second.
    pub rows_per_s_max: Option<u64>,
    /// How long the stream is waited for at most.
    pub wait_max: Duration,
    /// Write the export's rows where they differ.
    pub repairs: bool,
    /// When repairing, delete the rows that the export does not have.
    pub deletes_extra: bool,
    /// Begin again, though a comparison was cut off that this one could go on with.
    pub is_fresh: bool,
}

impl VerifyRequest {
    /// What two comparisons must have in common for one to go on with the other.
    fn choice(&self) -> String {
        let files = match &self.files {
            FilesFrom::Directory(dir) => {
                dir.canonicalize().unwrap_or_else(|_| dir.clone()).display().to_string()
            }
            FilesFrom::Job(id) => id.clone(),
            FilesFrom::NewJob => String::new(),
        };
        json!({
            "destination": self.destination.place(), "files": files,
            "tables": self.tables.to_string(), "columns": self.columns.text(),
            "companies": self.company_ids, "consumer": self.consumer,
        })
        .to_string()
    }
}

/// Why nothing could be compared.
#[derive(Debug, thiserror::Error)]
pub enum VerifyError {
    /// What the user asked for cannot be done; the text says what to change.
    #[error("{0}")]
    Refused(String),
    /// The destination does not let it go on.
    #[error(transparent)]
    Destination(#[from] Failure),
    /// Another process has the data directory, or it cannot be used.
    #[error(transparent)]
    DataDir(#[from] DataDirError),
    /// Anything else: HQ, a file, a row.
    #[error("{0}")]
    Failed(String),
}

impl From<StateError> for VerifyError {
    fn from(error: StateError) -> VerifyError {
        VerifyError::DataDir(error.into())
    }
}

/// A row that differs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FoundDifference {
    /// Its table.
    pub table: String,
    /// The values of its key.
    pub key: Vec<String>,
    /// What is wrong.
    pub what: Difference,
    /// The columns whose values differ.
    pub columns: Vec<String>,
    /// Per column the value of the export and that of the destination.
    pub values: Vec<(Option<String>, Option<String>)>,
    /// Why it may yet be right; `None` where it is known to be wrong.
    pub doubt: Option<&'static str>,
}

/// How a table compares.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct TableVerdict {
    /// Its name.
    pub table: String,
    /// Rows that the export has.
    pub rows: u64,
    /// Rows that are known to be wrong: missing, extra, different.
    pub missing: u64,
    /// See `missing`.
    pub extra: u64,
    /// See `missing`.
    pub different: u64,
    /// Rows that the stream changed after the export, which say nothing.
    pub newer: u64,
    /// Rows that differ and may yet be right.
    pub doubtful: u64,
    /// Rows that were repaired.
    pub repaired: u64,
    /// Why its rows could not be compared.
    pub not_compared: Option<String>,
}

impl TableVerdict {
    /// Rows that are wrong.
    pub fn wrong(&self) -> u64 {
        self.missing + self.extra + self.different
    }

    /// Nothing is wrong or in doubt.
    pub fn is_equal(&self) -> bool {
        self.wrong() <= self.repaired && self.doubtful == 0 && self.not_compared.is_none()
    }

    /// For programs.
    pub fn to_json(&self) -> Json {
        json!({
            "type": "table", "table": self.table, "equal": self.is_equal(), "rows": self.rows,
            "missing": self.missing, "extra": self.extra, "different": self.different,
            "newer": self.newer, "unconfirmed": self.doubtful, "repaired": self.repaired,
            "not_compared": self.not_compared,
        })
    }
}

/// A comparison that is under way.
struct Comparison {
    request: VerifyRequest,
    destination: Box<dyn Destination>,
    /// Whose stream it is.
    stream: Recorded,
    /// The export has a part of the rows of each table: others say nothing.
    is_part: bool,
    store: ComparisonStore,
    changed: ChangedRows,
    tables: Vec<ComparedTable>,
    deadline: Instant,
}

/// Compares, tells each row that differs, and repairs where that is asked for. Answers how each
/// table compares.
pub async fn verify(
    request: VerifyRequest,
    tell: &mut (dyn FnMut(&FoundDifference) + Send),
) -> Result<Vec<TableVerdict>, VerifyError> {
    let mut comparison = Comparison::begin(request).await?;
    comparison.load().await?;
    comparison.compare().await?;
    comparison.confirm().await?;
    let mut verdicts = comparison.classify(tell)?;
    if comparison.request.repairs && verdicts.iter().any(|verdict| verdict.wrong() > 0) {
        comparison = comparison.repair(&mut verdicts).await?;
    }
    let Comparison { destination, store, changed, .. } = comparison;
    drop(changed);
    // Nothing is left to be lost.
    let _ = destination.close().await;
    store.remove();
    Ok(verdicts)
}

impl Comparison {
    /// Opens the destination, and what is known of its stream.
    async fn begin(request: VerifyRequest) -> Result<Comparison, VerifyError> {
        let target = Target::as_it_is(&request.destination);
        let mut destination = (request.driver.open)(&target).await?;
        let title = request.driver.title;
        let Some(reader) = destination.row_reader() else {
            return Err(VerifyError::Refused(format!(
                "rows of {title} cannot be compared: PostgreSQL, MySQL, MariaDB, SQL Server, SQLite \
                 and Snowflake can be"
            )));
        };
        let records = reader.positions().await?;
        let is_part = !request.company_ids.is_empty() || records.len() > 1;
        let stream = stream_of(records, request.consumer.as_deref())?;
        let state = State::open_if_there(&request.data_dir)?;
        let state = state.of_destination(&request.destination.place(), None)?;
        let choice = request.choice();
        let mut store = ComparisonStore::open(&request.data_dir, &choice, request.is_fresh)?;
        let changed = changes_since(&request, &mut store, state, &stream)?;
        let deadline = Instant::now() + request.wait_max;
        let tables = Vec::new();
        Ok(Comparison { request, destination, stream, is_part, store, changed, tables, deadline })
    }

    /// Forgets what was compared, to compare again from the start.
    fn begin_again(&mut self) -> Result<(), VerifyError> {
        self.store.clear()?;
        let state = State::open_if_there(&self.request.data_dir)?;
        let state = state.of_destination(&self.request.destination.place(), None)?;
        self.changed = changes_since(&self.request, &mut self.store, state, &self.stream)?;
        Ok(())
    }

    fn reader(&mut self) -> Result<&mut dyn RowReader, VerifyError> {
        let reader = self.destination.row_reader();
        reader.ok_or_else(|| VerifyError::Refused("the destination cannot be read back".into()))
    }

    /// Where the stream is now.
    async fn position(&mut self) -> Result<Option<Position>, VerifyError> {
        let consumer = self.stream.consumer.clone();
        let records = self.reader()?.positions().await?;
        let own = records.into_iter().find(|record| record.consumer == consumer);
        Ok(own.and_then(|record| record.position))
    }

    /// Whether a process streams with the data directory now.
    fn is_streaming(&self) -> bool {
        self.request.data_dir.join(FILE_NAME).exists()
            && matches!(Lock::take(&self.request.data_dir), Err(LockError::InUse { .. }))
    }
}

/// What the stream changes from the export's moment on. A comparison that was cut off goes on from
/// its own, unless more was changed since than is remembered: then it begins again.
fn changes_since(
    request: &VerifyRequest,
    store: &mut ComparisonStore,
    state: State,
    stream: &Recorded,
) -> Result<ChangedRows, VerifyError> {
    let noted = store.noted(Noted::Since)?.and_then(|nanos| nanos.parse().ok());
    if let Some(nanos) = noted {
        let since = Version { nanos, logical: 0 };
        let changes = store.changes();
        let changed = ChangedRows::since(state.clone(), &stream.consumer, since, changes)?;
        if changed.is_complete() || stream.consumer.is_empty() {
            info!("going on with the comparison that was cut off (--fresh begins again)");
            return Ok(changed);
        }
        info!("the comparison that was cut off begins again: too much has changed since");
        store.clear()?;
    }
    let since = match &request.files {
        FilesFrom::Directory(dir) => export::oldest_moment(dir)?,
        // An export that is ordered now; the source's clock may be another.
        FilesFrom::NewJob => Version { nanos: (now_ns() - CLOCKS_APART_MAX_NS) as u64, logical: 0 },
        FilesFrom::Job(_) => Version { nanos: 0, logical: 0 },
    };
    store.note_text(Noted::Since, &since.nanos.to_string())?;
    ChangedRows::since(state, &stream.consumer, since, store.changes())
}

/// The stream that is meant, or the only one. A destination that nothing streamed into has none.
fn stream_of(mut records: Vec<Recorded>, named: Option<&str>) -> Result<Recorded, VerifyError> {
    let names = || records.iter().map(|r| r.consumer.clone()).collect::<Vec<_>>().join(", ");
    let refused = |text: String| Err(VerifyError::Refused(HelpCode::NotThere.tag(&text)));
    match named {
        Some(name) => match records.iter().position(|record| record.consumer == name) {
            Some(at) => Ok(records.swap_remove(at)),
            None => {
                refused(format!("no consumer {name:?} streams into it; there are: {}", names()))
            }
        },
        None => match records.len() {
            0 => {
                info!("nothing has streamed into the destination yet");
                let consumer = String::new();
                Ok(Recorded { consumer, position: None, companies: String::new() })
            }
            1 => Ok(records.swap_remove(0)),
            _ => refused(format!(
                "several consumers stream into the destination: say which with --consumer: {}",
                names()
            )),
        },
    }
}
