//! One loader: takes file after file, and writes it chunk by chunk; what is refused is narrowed
//! down to its lines.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::time::{Instant, sleep};
use tracing::{debug, warn};

use super::rows::{self, RowChunk};
use super::{
    BAD_ROWS_LISTED_MAX, BadRow, ImportContext, ImportError, OUTAGE_WAIT_MAX, TablePlan, loader,
    locked,
};
use crate::backoff::{Backoff, RETRY_WAITS, Waits};
use crate::change::{Batch, Position, TableGroup};
use crate::destination::import::{FilePiece, FileProgress, JobStatus, another_import, staged};
use crate::destination::{Destination, Failure, FailureKind, WriteMode};
use crate::export::ExportFile;
use crate::pipeline::narrow::Narrowing;

struct FileLoader {
    shared: Arc<ImportContext>,
    destination: Option<Box<dyn Destination>>,
}

/// Loads files until there are no more.
pub async fn run(shared: Arc<ImportContext>) -> Result<(), ImportError> {
    let mut worker = FileLoader { shared: shared.clone(), destination: None };
    loop {
        let file = shared.queue.lock().await.recv().await;
        let Some(file) = file.filter(|_| !shared.is_stopped()) else { break };
        worker.file(&file).await?;
        if shared.is_stopped() {
            break;
        }
    }
    if let Some(destination) = worker.destination {
        // Everything is committed: what its goodbye says does not matter.
        let _ = destination.close().await;
    }
    Ok(())
}

/// Makes the key of a table that is loaded; an outage is waited for.
pub async fn finish_load(
    shared: &Arc<ImportContext>,
    destination: &mut Option<Box<dyn Destination>>,
    table: &TablePlan,
) -> Result<(), ImportError> {
    let name = &table.schema.table;
    if locked(&shared.finished).contains(&**name) {
        return Ok(());
    }
    shared.counts.finishing(name);
    let mut outage = Outage::new(shared);
    let repeats = loop {
        let finished = match open(shared, destination).await {
            Ok(destination) => loader(destination)?.finish_load(&table.schema).await,
            Err(failure) => Err(failure),
        };
        match finished {
            Ok(repeats) => break repeats,
            Err(failure) => outage.wait(failure, destination).await?,
        }
    };
    if repeats > 0 {
        locked(&shared.notices).push(format!(
            "table {name:?}: {repeats} rows came twice in the export; one of each was kept"
        ));
    }
    locked(&shared.finished).insert(name.to_string());
    shared.counts.done(name);
    Ok(())
}

async fn open<'d>(
    shared: &ImportContext,
    destination: &'d mut Option<Box<dyn Destination>>,
) -> Result<&'d mut dyn Destination, Failure> {
    if destination.is_none() {
        let mut opened = (shared.connect)().await?;
        loader(&mut *opened)?.enter_load_mode().await?;
        *destination = Some(opened);
    }
    match destination {
        Some(destination) => Ok(&mut **destination),
        None => Err(Failure::unavailable("not connected")),
    }
}

/// Tries on new connections where the tables are not as they were.
const RESHAPES_MAX: u32 = 3;

/// A destination that is away, and how long already.
pub struct Outage {
    shared: Arc<ImportContext>,
    backoff: Backoff,
    since: Option<Instant>,
}

impl Outage {
    pub fn new(shared: &Arc<ImportContext>) -> Outage {
        Outage::with_waits(shared, RETRY_WAITS)
    }

    pub fn with_waits(shared: &Arc<ImportContext>, waits: Waits) -> Outage {
        Outage { shared: shared.clone(), backoff: Backoff::new(waits), since: None }
    }

    /// Waits before another try, on a new connection; fails where that would not help, or no more.
    pub async fn wait(
        &mut self,
        failure: Failure,
        destination: &mut Option<Box<dyn Destination>>,
    ) -> Result<(), ImportError> {
        if self.shared.is_stopped() {
            return Err(ImportError::Stopped);
        }
        // Rows that others refer to come with no stream here. What a session remembers of tables
        // may be out of date: a new one is worth a try.
        let may_pass = failure.kind == FailureKind::Unavailable
            || (failure.kind == FailureKind::TableUnavailable && !failure.is_of_foreign_key())
            || (failure.kind == FailureKind::SchemaMismatch && self.backoff.tries() < RESHAPES_MAX);
        if !may_pass || self.since.get_or_insert_with(Instant::now).elapsed() > OUTAGE_WAIT_MAX {
            return match is_overtaken(&self.shared, destination).await {
                true => Err(another_import().into()),
                false => Err(failure.into()),
            };
        }
        if let Some(old) = destination.take() {
            let _ = old.close().await;
        }
        if self.backoff.tries().is_multiple_of(10) {
            warn!("the destination failed: {failure}; trying again");
        }
        sleep(self.backoff.next(&self.shared.plan.job)).await;
        Ok(())
    }
}

/// Whether another import has begun: then a rejection or a table that is gone says nothing about
/// our rows, because the names that we load into are the other one's. Where the destination does
/// not answer, the failure at hand says more.
async fn is_overtaken(
    shared: &Arc<ImportContext>,
    destination: &mut Option<Box<dyn Destination>>,
) -> bool {
    let status = async {
        let loader = loader(open(shared, destination).await?)?;
        loader.job_status(&shared.plan.job).await
    };
    matches!(status.await, Ok(None))
}

/// What came of a piece.
enum LoadAttempt {
    Loaded,
    Refused(Failure),
}

impl FileLoader {
    async fn file(&mut self, file: &ExportFile) -> Result<(), ImportError> {
        let shared = self.shared.clone();
        let Some(table) = shared.table(&file.name.table) else { return Ok(()) };
        let begun = shared.begun.get(&file.name.text).cloned();
        let mut progress = begun.unwrap_or_else(|| FileProgress {
            file: file.name.text.clone(),
            ..FileProgress::default()
        });
        shared.counts.begins(&file.name.table);
        debug!("loading {} from line {}", file.name.text, progress.lines + 1);
        let mut chunks = rows::read(file, table, shared.abilities, &shared.plan, progress.lines);
        while let Some(chunk) = chunks.recv().await {
            if shared.is_stopped() {
                return Ok(());
            }
            self.chunk(table, chunk?, &mut progress).await?;
        }
        if !progress.done {
            return Err(ImportError::ExportSource(format!(
                "{} could not be read to its end",
                file.path.display()
            )));
        }
        shared.counts.file_done(&file.name.table);
        let left = {
            let mut open_files = locked(&shared.open_files);
            let left = open_files.entry(file.name.table.clone()).or_default();
            *left = left.saturating_sub(1);
            *left
        };
        if left == 0 {
            finish_load(&shared, &mut self.destination, table).await?;
        }
        Ok(())
    }

    async fn chunk(
        &mut self,
        table: &TablePlan,
        chunk: RowChunk,
        progress: &mut FileProgress,
    ) -> Result<(), ImportError> {
        let mut bad_lines: BTreeSet<u64> = chunk.unwanted.iter().copied().collect();
        for bad in &chunk.bad {
            self.leave_out(bad.clone(), &mut bad_lines)?;
        }
        self.shared.leave_out_columns(&table.schema.table, &chunk.unknown_columns);
        let end = chunk.changes.len();
        let mut narrowing = Narrowing::new(end, Vec::new());
        let mut bytes = chunk.bytes;
        while let Some(part) = narrowing.take() {
            let lines = if part.to == end {
                chunk.through_lines
            } else {
                chunk.changes[part.to - 1].position.sequence
            };
            let batch = self.batch(table, &chunk, narrowing.remaining_in(part));
            let rows =
                batch.groups.iter().map(|g| g.upserts.len()).sum::<usize>().max(batch.order.len())
                    as u64;
            let skipped = bad_lines.range(progress.lines + 1..lines + 1).count() as u64;
            let next = FileProgress {
                file: progress.file.clone(),
                lines,
                rows: progress.rows + rows,
                skipped: progress.skipped + skipped,
                done: chunk.is_last && part.to == end,
            };
            let piece = FilePiece {
                job: self.shared.plan.job.clone(),
                after_lines: progress.lines,
                progress: next,
            };
            match self.load(&batch, &piece, rows).await? {
                LoadAttempt::Loaded => {
                    self.shared.counts.loaded(
                        &table.schema.table,
                        rows,
                        skipped,
                        std::mem::take(&mut bytes),
                    );
                    *progress = piece.progress;
                }
                LoadAttempt::Refused(Failure { culprits, text, .. }) => {
                    for (index, why) in narrowing.reject(part, culprits, &text) {
                        let line = chunk.changes[index].position.sequence;
                        let bad = BadRow { file: progress.file.clone(), line, why };
                        self.leave_out(bad, &mut bad_lines)?;
                        narrowing.exclude(index);
                    }
                }
            }
        }
        Ok(())
    }

    /// The changes of the chunk by index.
    fn batch(
        &self,
        table: &TablePlan,
        chunk: &RowChunk,
        indices: impl Iterator<Item = usize>,
    ) -> Arc<Batch> {
        let indices: Vec<u32> = indices.map(|i| i as u32).collect();
        let (groups, order) = match self.shared.abilities.write_mode {
            _ if indices.is_empty() => (Vec::new(), Vec::new()),
            WriteMode::Upsert => (
                vec![TableGroup {
                    schema: Arc::new(staged(&table.schema)),
                    deletes: Vec::new(),
                    upserts: indices,
                }],
                Vec::new(),
            ),
            WriteMode::Append => (Vec::new(), indices),
        };
        Arc::new(Batch::new(chunk.changes.clone(), groups, order, None, Position::default()))
    }

    /// Loads the piece, whatever it takes, unless its rows are refused.
    async fn load(
        &mut self,
        batch: &Arc<Batch>,
        piece: &FilePiece,
        rows: u64,
    ) -> Result<LoadAttempt, ImportError> {
        let mut outage = Outage::new(&self.shared);
        let mut doubtful = false;
        loop {
            match self.try_load(batch, piece, doubtful).await {
                Ok(()) => return Ok(LoadAttempt::Loaded),
                Err(failure) if failure.kind == FailureKind::Rejected && rows > 0 => {
                    return match is_overtaken(&self.shared, &mut self.destination).await {
                        true => Err(another_import().into()),
                        false => Ok(LoadAttempt::Refused(failure)),
                    };
                }
                Err(failure) => outage.wait(failure, &mut self.destination).await?,
            }
            doubtful = true;
        }
    }

    /// `doubtful`: the answer to an earlier try was lost, and may have been a commit.
    async fn try_load(
        &mut self,
        batch: &Arc<Batch>,
        piece: &FilePiece,
        doubtful: bool,
    ) -> Result<(), Failure> {
        let loader = loader(open(&self.shared, &mut self.destination).await?)?;
        if doubtful {
            match loader.job_status(&piece.job).await? {
                Some(JobStatus::Loading(files)) if files.contains(&piece.progress) => return Ok(()),
                Some(JobStatus::Loading(_)) => {}
                Some(JobStatus::Done) | None => return Err(another_import()),
            }
        }
        loader.load(batch, piece).await.map_err(|failure| self.named(failure, batch))
    }

    /// The failure with the table's own name instead of the one that it is loaded under.
    fn named(&self, failure: Failure, batch: &Batch) -> Failure {
        let Some(group) = batch.groups.first() else { return failure };
        let Some(table) =
            self.shared.plan.tables.iter().find(|t| staged(&t.schema).table == group.schema.table)
        else {
            return failure;
        };
        let own = |text: String| text.replace(&*group.schema.table, &table.schema.table);
        let culprits = failure.culprits.into_iter().map(|(index, why)| (index, own(why))).collect();
        Failure { text: own(failure.text), culprits, ..failure }
    }

    /// Notes a row that cannot be loaded; fails where there are more than the user allows.
    fn leave_out(&self, bad: BadRow, bad_lines: &mut BTreeSet<u64>) -> Result<(), ImportError> {
        if self.shared.bad.fetch_add(1, Ordering::AcqRel) >= self.shared.plan.bad_rows_max {
            return Err(ImportError::BadRow(bad));
        }
        warn!("left out: {bad}");
        bad_lines.insert(bad.line);
        let mut listed = locked(&self.shared.bad_rows);
        if listed.len() < BAD_ROWS_LISTED_MAX {
            listed.push(bad);
        }
        Ok(())
    }
}
