//! Imports into a SQL database: whole tables are loaded beside the old ones, and swapped in
//! together with the cutovers and every consumer's checkpoint.

mod begin;
mod likeness;
mod place;
pub mod statements;

use std::sync::Arc;

use async_trait::async_trait;

use super::checkpoint::{Takeover, void_commit};
use super::dialect::Rename;
use super::held::HELD;
use super::letters::DEAD_LETTERS;
use super::render::CHECKPOINT;
use super::{Connection, Parameter, STREAM_LOCK_WAIT_MAX, SqlDestination};
use crate::change::cutover::{Cutovers, TableSnapshot};
use crate::change::{Batch, Position, TableSchema};
use crate::destination::import::{
    FilePiece, FileProgress, ForeignKey, JobStatus, LoadedTable, Loader, Placement, STAGED_PREFIX,
    another_import, staged,
};
use crate::destination::{Destination, Failure, FailureKind, Recorded, Tables};
use statements::{CUTOVERS, PROGRESS, REPLACED_PREFIX, WHOLE_JOB};

/// The failure where the table of cutovers exists without its column: EDS before 0.1.0 created it,
/// and that column had another name.
fn former_cutovers(table: &str, failure: &Failure) -> Failure {
    Failure::misconfigured(format!(
        "the table {table} was made by an EDS before 0.1.0 ({failure}): rename its column seam to \
         cutover and start again, or, if nothing has been imported, drop the table"
    ))
}

impl<C: Connection> SqlDestination<C> {
    /// Creates EDS's own tables that every destination has.
    pub(super) async fn make_own_tables(&mut self) -> Result<(), Failure> {
        self.create_own(CHECKPOINT, &self.renderer.create_checkpoint(CHECKPOINT)).await?;
        self.create_own(CUTOVERS, &self.renderer.create_cutovers(CUTOVERS)).await?;
        self.create_own(HELD, &self.renderer.create_held(HELD)).await?;
        let letters = self.renderer.create_dead_letters(DEAD_LETTERS);
        self.create_own(DEAD_LETTERS, &letters).await
    }

    /// Creates one of EDS's own tables. A user who must not create any needs not to where it
    /// exists.
    async fn create_own(&mut self, name: &str, sql: &str) -> Result<(), Failure> {
        match self.connection.execute(sql).await {
            Err(failure) if failure.kind == FailureKind::Misconfigured => {
                match self.tables().await?.get(name) {
                    Some(_) => Ok(()),
                    None => Err(failure),
                }
            }
            created => created,
        }
    }

    pub(super) async fn cutovers(&mut self) -> Result<Cutovers, Failure> {
        let lines = match self.connection.texts(&self.renderer.read_cutovers(), &[]).await {
            Err(failure) if failure.kind == FailureKind::SchemaMismatch => {
                return Err(former_cutovers(&self.renderer.table(CUTOVERS), &failure));
            }
            lines => lines?,
        };
        let lines = lines
            .into_iter()
            .filter_map(|line| <[String; 3]>::try_from(line).ok())
            .map(|[consumer, table, cutover]| (consumer, table, cutover));
        Cutovers::read(lines.collect()).map_err(|_| {
            Failure::misconfigured(
                "the table _eds_import in the destination was \
                written by another version of EDS, which has to be installed again",
            )
        })
    }

    pub(super) async fn write_cutovers(
        &mut self,
        table: &str,
        cutovers: &Cutovers,
    ) -> Result<(), Failure> {
        self.connection.change(&self.renderer.clear(table), &[]).await?;
        for (consumer, table_name, cutover) in cutovers.lines() {
            let parameters = [consumer, table_name, cutover].map(Parameter::Text);
            self.connection.change(&self.renderer.insert_cutover(table), &parameters).await?;
        }
        Ok(())
    }

    /// Resets every checkpoint and raises its epoch, so that the process that held it can no longer
    /// commit. Answers the position that each had.
    pub(super) async fn set_back(&mut self) -> Result<Vec<(String, Option<Position>)>, Failure> {
        let mut stood = Vec::new();
        for Recorded { consumer, .. } in self.read_records().await? {
            if let Some(row) = self.take_over(&consumer, Takeover::SetBack).await? {
                stood.push((consumer, row.position));
            }
        }
        Ok(stood)
    }

    /// Rolls back what is pending, and begins a transaction.
    pub(super) async fn begin_transaction(&mut self) -> Result<(), Failure> {
        self.roll_back_pending().await?;
        self.connection.execute(self.renderer.dialect.begin).await
    }

    /// Drops what an import has left: tables that it loaded, and old tables that it has replaced.
    pub(super) async fn remove_leftovers(&mut self, existing: &Tables) -> Result<(), Failure> {
        for name in existing
            .shapes
            .keys()
            .filter(|name| name.starts_with(STAGED_PREFIX) || name.starts_with(REPLACED_PREFIX))
        {
            self.connection.execute(&self.renderer.drop_table(name)).await?;
        }
        Ok(())
    }

    async fn file_progress(
        &mut self,
        job: &str,
        file: &str,
    ) -> Result<Option<FileProgress>, Failure> {
        let rows = self
            .connection
            .integers(&self.renderer.read_progress(), &[job.into(), file.into()])
            .await?;
        Ok(match rows.first().map(Vec::as_slice) {
            Some([lines, rows, skipped, done]) => Some(FileProgress {
                file: file.to_owned(),
                lines: *lines as u64,
                rows: *rows as u64,
                skipped: *skipped as u64,
                done: *done != 0,
            }),
            _ => None,
        })
    }

    async fn load_within(&mut self, batch: &Arc<Batch>, piece: &FilePiece) -> Result<(), Failure> {
        for group in 0..batch.groups.len() {
            self.connection.load(&self.renderer, batch, group).await?;
        }
        self.advance_progress(&piece.job, piece.after_lines, &piece.progress).await
    }

    /// Records that the job is done, unless another one has begun.
    pub(super) async fn close_job(&mut self, job: &str) -> Result<(), Failure> {
        let whole = FileProgress { file: WHOLE_JOB.into(), done: true, ..FileProgress::default() };
        self.advance_progress(job, 0, &whole).await
    }

    /// Records how far a file is of which `after_lines` lines were done, unless another import has
    /// begun.
    async fn advance_progress(
        &mut self,
        job: &str,
        after_lines: u64,
        progress: &FileProgress,
    ) -> Result<(), Failure> {
        let FileProgress { file, lines, rows, skipped, done } = progress;
        let numbers =
            [*lines, *rows, *skipped, u64::from(*done)].map(|n| Parameter::from(n as i64));
        let whose = [job.into(), file.as_str().into(), (after_lines as i64).into()];
        let parameters = [&numbers[..], &whose[..]].concat();
        match self.connection.change(&self.renderer.advance_progress(), &parameters).await? {
            1 => Ok(()),
            _ => Err(another_import()),
        }
    }
}

#[async_trait]
impl<C: Connection> Loader for SqlDestination<C> {
    async fn begin(
        &mut self,
        job: &str,
        tables: &[LoadedTable],
        restart: bool,
    ) -> Result<JobStatus, Failure> {
        self.connection.terminate_loads().await?;
        self.make_own_tables().await?;
        self.connection.execute(&self.renderer.create_progress(PROGRESS)).await?;
        // A user who must not drop tables gets the error now, and not after hours of loading.
        self.connection
            .execute(&self.renderer.drop_table(&format!("{REPLACED_PREFIX}{PROGRESS}")))
            .await?;
        let existing = self.tables().await?;
        match self.job_status(job).await? {
            Some(JobStatus::Done) if !restart => {
                self.remove_leftovers(&existing).await?;
                Ok(JobStatus::Done)
            }
            Some(_) if !restart => {
                for table in tables {
                    self.resume(job, table, &existing).await?;
                }
                self.job_status(job).await?.ok_or_else(another_import)
            }
            _ => {
                self.begin_afresh(job, tables, &existing).await?;
                self.job_status(job).await?.ok_or_else(void_commit)
            }
        }
    }

    async fn job_status(&mut self, job: &str) -> Result<Option<JobStatus>, Failure> {
        let Some(whole) = self.file_progress(job, WHOLE_JOB).await? else { return Ok(None) };
        if whole.done {
            return Ok(Some(JobStatus::Done));
        }
        let names = self.connection.texts(&self.renderer.read_progress_names(), &[]).await?;
        let mut files = Vec::new();
        for name in names
            .into_iter()
            .filter(|line| line.first().is_some_and(|j| j == job))
            .filter_map(|mut line| line.pop())
            .filter(|name| name != WHOLE_JOB)
        {
            files.extend(self.file_progress(job, &name).await?);
        }
        Ok(Some(JobStatus::Loading(files)))
    }

    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        // What is loaded is encoded as the columns take it.
        self.tables().await?;
        self.connection.enter_load_mode().await
    }

    async fn load(&mut self, batch: &Arc<Batch>, piece: &FilePiece) -> Result<(), Failure> {
        for group in 0..batch.groups.len() {
            self.connection.prepare_load(&self.renderer, batch, group).await?;
        }
        self.begin_transaction().await?;
        let loaded = self.load_within(batch, piece).await;
        self.end(loaded).await?;
        let (job, file) = (&piece.job, &piece.progress.file);
        match self.renderer.dialect.commit_may_be_void
            && self.file_progress(job, file).await?.as_ref() != Some(&piece.progress)
        {
            true => Err(void_commit()),
            false => Ok(()),
        }
    }

    async fn finish_load(&mut self, schema: &Arc<TableSchema>) -> Result<u64, Failure> {
        self.roll_back_pending().await?;
        self.dirty = false;
        let exchanges = self.swap_blocker(schema).await?.is_none();
        self.connection.finish_load(&self.renderer, schema, &staged(schema), exchanges).await
    }

    async fn row_refusal(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        self.connection.row_refusal(&self.renderer, schema).await
    }

    async fn swap_blocker(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        let tables = self.tables().await?;
        let Some(shape) = tables.get(&schema.table) else { return Ok(None) };
        match self.renderer.difference(schema, shape) {
            Some(difference) => Ok(Some(difference)),
            None => self.connection.swap_blocker(&self.renderer, schema).await,
        }
    }

    async fn foreign_keys(
        &mut self,
        schemas: &[Arc<TableSchema>],
    ) -> Result<Vec<ForeignKey>, Failure> {
        let listed = self.connection.foreign_keys(&self.renderer).await?;
        let source_of = |name: &str| {
            let stored = |s: &&Arc<TableSchema>| self.renderer.namespace.name_of(&s.table) == name;
            schemas.iter().find(stored).map(|schema| schema.table.to_string())
        };
        let ours = |key: ForeignKey| {
            let table = source_of(&key.table)?;
            let refers_to = source_of(&key.refers_to).unwrap_or(key.refers_to);
            Some(ForeignKey { table, refers_to, ..key })
        };
        Ok(listed.into_iter().filter_map(ours).collect())
    }

    fn keeps_tables(&mut self) -> bool {
        self.renderer.dialect.rename == Rename::Never
    }

    async fn enter_swap_mode(&mut self) -> Result<(), Failure> {
        self.connection.limit_lock_wait(STREAM_LOCK_WAIT_MAX).await
    }

    async fn swap_in(&mut self, job: &str, placements: &[Placement]) -> Result<(), Failure> {
        let existing = self.tables().await?;
        let placed = match self.renderer.dialect.rename {
            Rename::ManyAtOnce => self.swap_in_by_renames(job, placements, &existing).await,
            Rename::AlterTable | Rename::Procedure | Rename::Never => {
                self.swap_in_transaction(job, placements, &existing).await
            }
        };
        if let Err(failure) = placed {
            let tables = placements.iter().map(|p| p.schema.table.to_string()).collect();
            return Err(self.with_lock_holders(failure, tables).await);
        }
        if self.renderer.dialect.commit_may_be_void
            && self.job_status(job).await? != Some(JobStatus::Done)
        {
            return Err(void_commit());
        }
        // Leftovers cost only space; the next import removes them if this fails.
        let existing = self.tables().await?;
        self.remove_leftovers(&existing).await
    }

    async fn mark_current(&mut self, snapshots: &[TableSnapshot]) -> Result<(), Failure> {
        self.make_own_tables().await?;
        let streamed = self.positions().await?.iter().any(|(_, position)| position.is_some());
        let mut cutovers = self.cutovers().await?;
        let new: Vec<TableSnapshot> =
            snapshots.iter().filter(|s| !cutovers.has(&s.table)).cloned().collect();
        if streamed || new.is_empty() {
            return Ok(());
        }
        cutovers.import(&new, &[]);
        self.begin_transaction().await?;
        let written = self.write_cutovers(CUTOVERS, &cutovers).await;
        self.end(written).await
    }
}
