//! Import: the files of a full export into a destination, in parallel and resumable, and into their
//! places at once.

pub mod append;
pub mod check;
pub mod counts;
mod file_loader;
mod order;
mod rows;
mod swap;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::path::PathBuf;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep};
use tracing::warn;

use super::{migrate, stopped};
use crate::backoff::Backoff;
use crate::change::cutover::TableSnapshot;
use crate::change::{ColumnRules, TableSchema, Version};
use crate::destination::import::{FileProgress, JobStatus, LoadedTable};
use crate::destination::{Abilities, Destination, Failure, FailureKind, Loader, Migration, Tables};
use crate::export::ExportFile;
use crate::validator::Validator;
pub use check::{TableCheck, TableFate};
pub use counts::{Counts, TableCount};

/// How long an import waits for a destination that is away, or for a table that somebody has locked
/// or that refuses its rows, in all of one outage, before it gives up: what it has done by then is
/// kept.
pub const OUTAGE_WAIT_MAX: Duration = Duration::from_secs(300);
/// How long a single change of a table that somebody has locked is tried.
const STEP_WAIT_MAX: Duration = Duration::from_secs(30);
/// Files that are at hand and wait for a loader.
const FILES_WAITING_MAX: usize = 64;
/// Rows left out that are listed at the end.
pub const BAD_ROWS_LISTED_MAX: usize = 1_000;

/// Connects to the destination.
pub type Connect =
    Arc<dyn Fn() -> BoxFuture<'static, Result<Box<dyn Destination>, Failure>> + Send + Sync>;
/// Brings files, those of these names left out, until there are no more.
pub type ExportSource = Box<
    dyn FnOnce(
            HashSet<String>,
            mpsc::Sender<ExportFile>,
        ) -> BoxFuture<'static, Result<(), ImportError>>
        + Send
        + Sync,
>;

/// What becomes of a table's rows that the export lacks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Mode {
    /// They go: the table becomes what the export says.
    Replace,
    /// They stay.
    Keep,
}

/// One table of an import.
#[derive(Clone, Debug)]
pub struct TablePlan {
    /// The table, in the version that its rows are written in.
    pub schema: Arc<TableSchema>,
    /// Names of its files.
    pub files: Vec<String>,
    /// When its rows were read; of several files the oldest.
    pub at: Version,
}

/// What is to be imported, and how.
#[derive(Clone)]
pub struct ImportPlan {
    /// The export job's id: what was loaded under it before is not loaded again.
    pub job: String,
    /// The tables, in any order.
    pub tables: Vec<TablePlan>,
    /// What becomes of rows that the export lacks, in all tables.
    pub mode: Mode,
    /// Begin again, whatever was loaded before.
    pub restart: bool,
    /// Rows that may be left out because they cannot be loaded.
    pub bad_rows_max: u64,
    /// Columns of the export that are left out, where the schema lacks them.
    pub ignored_columns: BTreeSet<String>,
    /// Rows that they do not want are left out.
    pub rules: Option<Arc<Validator>>,
    /// Which columns are left out or hashed.
    pub columns: Arc<ColumnRules>,
    /// Existing tables that may be replaced though EDS did not make them.
    pub adopt: Vec<String>,
    /// Files that are loaded at once.
    pub loaders: usize,
}

/// What an import is made of.
pub struct ImportDeps {
    /// What is to be imported.
    pub plan: ImportPlan,
    /// Opens a connection to the destination; called for each loader and after each failure.
    pub connect: Connect,
    /// What the destination can do.
    pub abilities: Abilities,
    /// Brings the files that are not loaded yet, as they are downloaded.
    pub source: ExportSource,
    /// Counts for progress bars and the report.
    pub counts: Arc<Counts>,
    /// Becomes true when the import is to end; what is done by then is kept.
    pub stop: watch::Receiver<bool>,
}

/// A row that could not be loaded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BadRow {
    /// The name of the file.
    pub file: String,
    /// From 1.
    pub line: u64,
    /// What is wrong with it, without its values.
    pub why: String,
}

impl std::fmt::Display for BadRow {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}, line {}: {}", self.file, self.line, self.why)
    }
}

/// Why an import did not come to its end. The old tables are as they were, and what was loaded is
/// kept.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum ImportError {
    /// The destination failed, and waiting does not cure it.
    #[error("{0}")]
    Destination(#[from] Failure),
    /// A row cannot be loaded, and no more may be left out.
    #[error("{0}")]
    BadRow(BadRow),
    /// A file cannot be read to its end.
    #[error("{} is damaged after line {after_line}: {why}", path.display())]
    Damaged {
        /// Where the file is.
        path: PathBuf,
        /// The last line that could be read.
        after_line: u64,
        /// What the reader said.
        why: String,
    },
    /// A file could not be had.
    #[error("{0}")]
    ExportSource(String),
    /// A person or the supervisor ended it.
    #[error("stopped")]
    Stopped,
}

/// What an import came to.
#[derive(Clone, Debug, Default)]
pub struct Report {
    /// What the user should know about tables: why one was not exchanged, rows of one key.
    pub notices: Vec<String>,
    /// Rows that were left out, at most [`BAD_ROWS_LISTED_MAX`] of them.
    pub bad_rows: Vec<BadRow>,
    /// Its tables were in their places already, by a run that was cut off at the very end.
    pub was_done: bool,
}

/// What the loaders share.
struct ImportContext {
    plan: ImportPlan,
    connect: Connect,
    abilities: Abilities,
    counts: Arc<Counts>,
    stop: watch::Receiver<bool>,
    begun: HashMap<String, FileProgress>,
    queue: tokio::sync::Mutex<mpsc::Receiver<ExportFile>>,
    /// Files of each table that are not loaded yet.
    open_files: Mutex<HashMap<String, usize>>,
    finished: Mutex<HashSet<String>>,
    bad: AtomicU64,
    bad_rows: Mutex<Vec<BadRow>>,
    notices: Mutex<Vec<String>>,
    /// Columns of the export by table that are left out, because the schemas lack them.
    unknown_columns: Mutex<BTreeMap<String, BTreeSet<String>>>,
}

fn locked<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl ImportContext {
    fn table(&self, name: &str) -> Option<&TablePlan> {
        self.plan.tables.iter().find(|t| *t.schema.table == *name)
    }

    fn leave_out_columns(&self, table: &str, columns: &BTreeSet<String>) {
        if !columns.is_empty() {
            let mut all = locked(&self.unknown_columns);
            all.entry(table.to_owned()).or_default().extend(columns.iter().cloned());
        }
    }

    /// One notice for each table with columns that are left out.
    fn notices(&self) -> Vec<String> {
        let left_out = locked(&self.unknown_columns);
        let notice = |(table, columns): (&String, &BTreeSet<String>)| {
            let columns: Vec<&str> = columns.iter().map(String::as_str).collect();
            format!(
                "table {table:?}: columns of the export are left out that its schema lacks: {}",
                columns.join(", ")
            )
        };
        locked(&self.notices).iter().cloned().chain(left_out.iter().map(notice)).collect()
    }

    fn is_stopped(&self) -> bool {
        *self.stop.borrow()
    }
}

/// The loader of a destination that has one.
fn loader(destination: &mut dyn Destination) -> Result<&mut dyn Loader, Failure> {
    destination
        .loader()
        .ok_or_else(|| Failure::misconfigured("this destination cannot be imported into"))
}

/// The snapshots as the cutover notes them.
fn snapshots(plan: &ImportPlan) -> Vec<TableSnapshot> {
    plan.tables
        .iter()
        .map(|t| TableSnapshot {
            table: t.schema.table.to_string(),
            at: t.at,
            whole: plan.mode == Mode::Replace,
        })
        .collect()
}

/// Refuses tables that are not EDS's to replace.
pub async fn check_ours(
    destination: &mut dyn Destination,
    plan: &ImportPlan,
) -> Result<(), Failure> {
    let tables = destination.tables().await?;
    for TablePlan { schema, .. } in &plan.tables {
        let others = plan.tables.iter().map(|t| &*t.schema.table);
        migrate::check_names(&tables, &schema.table, others)?;
        migrate::check_limits(&tables, schema)?;
    }
    for table in
        plan.tables.iter().filter(|t| !plan.adopt.iter().any(|name| *name == *t.schema.table))
    {
        migrate::check_ours(&tables, &table.schema)?;
    }
    for TablePlan { schema, .. } in &plan.tables {
        if let Some(why) = row_refusal(destination, &tables, schema).await? {
            return Err(Failure::misconfigured(why).of_table(&schema.table));
        }
    }
    Ok(())
}

/// Why rows could not be written to the table that is there, which hours of loading would end with
/// otherwise. A table that changes first is not looked at.
async fn row_refusal(
    destination: &mut dyn Destination,
    tables: &Tables,
    schema: &Arc<TableSchema>,
) -> Result<Option<String>, Failure> {
    let is_as_it_stays = tables.get(&schema.table).is_some()
        && migrate::plan(tables, schema).is_ok_and(|steps| steps.is_empty());
    match destination.loader() {
        Some(loader) if is_as_it_stays => loader.row_refusal(schema).await,
        _ => Ok(None),
    }
}

/// The plan by which rows lose the mark of those that are deleted, where their tables have it.
async fn clearing_marks(
    destination: &mut dyn Destination,
    plan: ImportPlan,
) -> Result<ImportPlan, Failure> {
    let there = destination.tables().await?;
    let unmarked = |table: TablePlan| match there.clearing_mark(&table.schema) {
        Some(schema) => TablePlan { schema: Arc::new(schema), ..table },
        None => table,
    };
    let tables = plan.tables.into_iter().map(unmarked).collect();
    Ok(ImportPlan { tables, ..plan })
}

/// Refuses tables whose rows could not be replaced in any order, and warns of foreign keys that
/// need rows of tables that are not imported.
async fn check_references(
    destination: &mut dyn Destination,
    plan: &ImportPlan,
) -> Result<(), Failure> {
    let references = order::references(destination, plan).await?;
    references.outside.iter().map(order::described).for_each(|key| {
        warn!("{}", check::outside_warning(&key));
    });
    references.refuse_circle()
}

/// Creates those of the tables that are not there; what is there stays as it is.
pub async fn create_missing(
    destination: &mut dyn Destination,
    schemas: &[Arc<TableSchema>],
) -> Result<(), Failure> {
    let tables = destination.tables().await?;
    for schema in schemas.iter().filter(|s| tables.get(&s.table).is_none()) {
        migrate::bring_up(destination, &tables, schema, migrate::SchemaChange::Widen).await?;
    }
    Ok(())
}

/// Creates and extends tables, and loads nothing.
pub async fn shape(
    destination: &mut dyn Destination,
    plan: &ImportPlan,
) -> Result<Vec<String>, Failure> {
    check_ours(destination, plan).await?;
    loader(destination)?.enter_swap_mode().await?;
    let tables = destination.tables().await?;
    let mut done = Vec::new();
    for table in &plan.tables {
        for step in migrate::plan(&tables, &table.schema)? {
            make_step(destination, &step).await?;
            done.push(step.to_string());
        }
    }
    loader(destination)?.mark_current(&snapshots(plan)).await?;
    Ok(done)
}

/// Changes a table, and tries again after a pause while somebody has locked it.
async fn make_step(destination: &mut dyn Destination, step: &Migration) -> Result<(), Failure> {
    let (began, mut waits) = (Instant::now(), Backoff::new(swap::SWAP_WAITS));
    loop {
        match destination.migrate(step).await {
            Err(failure)
                if failure.kind == FailureKind::TableUnavailable
                    && began.elapsed() < STEP_WAIT_MAX =>
            {
                warn!("{failure}; trying again");
                sleep(waits.next_exact()).await;
            }
            made => return made,
        }
    }
}

/// Runs an import to its end.
pub async fn run(parts: ImportDeps) -> Result<Report, ImportError> {
    let ImportDeps { plan, connect, abilities, source, counts, stop } = parts;
    let mut main = connect().await?;
    check_ours(&mut *main, &plan).await?;
    let plan = clearing_marks(&mut *main, plan).await?;
    check_references(&mut *main, &plan).await?;
    let tables: Vec<LoadedTable> = plan
        .tables
        .iter()
        .map(|t| LoadedTable { schema: t.schema.clone(), files: t.files.clone() })
        .collect();
    let begun = match loader(&mut *main)?.begin(&plan.job, &tables, plan.restart).await? {
        JobStatus::Done => return Ok(Report { was_done: true, ..Report::default() }),
        JobStatus::Loading(files) => files,
    };
    let done: HashSet<String> = begun.iter().filter(|f| f.done).map(|f| f.file.clone()).collect();
    let open_files = plan
        .tables
        .iter()
        .map(|t| {
            (t.schema.table.to_string(), t.files.iter().filter(|f| !done.contains(*f)).count())
        })
        .collect();
    counts.resume(&plan, &begun);
    let (sender, queue) = mpsc::channel(FILES_WAITING_MAX);
    // Rows that rules do not want are no bad ones, and were counted with them.
    let skipped = if plan.rules.is_some() { 0 } else { begun.iter().map(|f| f.skipped).sum() };
    let shared = Arc::new(ImportContext {
        plan,
        connect,
        abilities,
        counts,
        stop,
        begun: begun.into_iter().map(|f| (f.file.clone(), f)).collect(),
        queue: tokio::sync::Mutex::new(queue),
        open_files: Mutex::new(open_files),
        finished: Mutex::default(),
        bad: AtomicU64::new(skipped),
        bad_rows: Mutex::default(),
        notices: Mutex::default(),
        unknown_columns: Mutex::default(),
    });
    load_all(&shared, source(done, sender)).await?;
    swap::finish(&shared, main).await?;
    let report = Report {
        notices: shared.notices(),
        bad_rows: locked(&shared.bad_rows).clone(),
        was_done: false,
    };
    Ok(report)
}

/// Loads while the source brings files; the first failure ends all.
async fn load_all(
    shared: &Arc<ImportContext>,
    source: BoxFuture<'static, Result<(), ImportError>>,
) -> Result<(), ImportError> {
    let mut tasks = JoinSet::new();
    for _ in 0..shared.plan.loaders.min(shared.abilities.loaders_max).max(1) {
        tasks.spawn(file_loader::run(shared.clone()));
    }
    let mut stop = shared.stop.clone();
    tasks.spawn(async move {
        tokio::select! {
            brought = source => brought,
            // The loaders end once nothing more comes.
            _ = stopped(&mut stop) => Ok(()),
        }
    });
    while let Some(ended) = tasks.join_next().await {
        ended.map_err(|e| ImportError::ExportSource(format!("a loader ended: {e}")))??;
    }
    if shared.is_stopped() { Err(ImportError::Stopped) } else { Ok(()) }
}
