//! A destination that writes nothing, for `--dry-run`.

use std::collections::HashMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::import::{FilePiece, ForeignKey, JobStatus, LoadedTable, Placement};
use super::{Claim, Destination, Failure, Loader, Migration, Tables};
use crate::change::cutover::TableSnapshot;
use crate::change::{Batch, Position, TableSchema};

/// Reads the tables of `inner`, and remembers how migrations would have changed them.
pub struct DryRun {
    inner: Box<dyn Destination>,
    tables: Option<Tables>,
    /// What would be kept of tables that are held, by the number of the chunk.
    kept: HashMap<u64, String>,
}

impl DryRun {
    /// A dry run of what `inner` would do.
    pub fn new(inner: Box<dyn Destination>) -> DryRun {
        DryRun { inner, tables: None, kept: HashMap::new() }
    }
}

#[async_trait]
impl Destination for DryRun {
    fn identity(&self) -> Option<String> {
        self.inner.identity()
    }

    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let mismatches = batch.type_mismatches();
        if !mismatches.is_empty() {
            return Err(Failure::rejected(mismatches));
        }
        if let Some(release) = batch.release.filter(|release| release.is_last) {
            self.kept.remove(&release.chunk);
        }
        self.kept.extend(batch.held.iter().map(|chunk| (chunk.number, chunk.body.clone())));
        Ok(())
    }

    async fn kept_body(&mut self, number: u64) -> Result<Option<String>, Failure> {
        Ok(self.kept.get(&number).cloned())
    }

    /// Claims nothing, so that the process that writes is not fenced.
    async fn checkpoint(&mut self, _claim: Claim) -> Result<Option<Position>, Failure> {
        Ok(None)
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        match &self.tables {
            Some(tables) => Ok(tables.clone()),
            None => {
                let tables = self.inner.tables().await?;
                self.tables = Some(tables.clone());
                Ok(tables)
            }
        }
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        self.tables.get_or_insert_default().take(step);
        Ok(())
    }

    fn loader(&mut self) -> Option<&mut dyn Loader> {
        Some(self)
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.inner.close().await
    }
}

#[async_trait]
impl Loader for DryRun {
    async fn begin(
        &mut self,
        _job: &str,
        _tables: &[LoadedTable],
        _restart: bool,
    ) -> Result<JobStatus, Failure> {
        Ok(JobStatus::Loading(Vec::new()))
    }
    async fn job_status(&mut self, _job: &str) -> Result<Option<JobStatus>, Failure> {
        Ok(Some(JobStatus::Loading(Vec::new())))
    }
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    async fn load(&mut self, batch: &Arc<Batch>, _piece: &FilePiece) -> Result<(), Failure> {
        self.apply(batch).await
    }
    async fn finish_load(&mut self, _schema: &Arc<TableSchema>) -> Result<u64, Failure> {
        Ok(0)
    }
    async fn row_refusal(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        match self.inner.loader() {
            Some(loader) => loader.row_refusal(schema).await,
            None => Ok(None),
        }
    }
    async fn swap_blocker(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        match self.inner.loader() {
            Some(loader) => loader.swap_blocker(schema).await,
            None => Ok(None),
        }
    }
    async fn foreign_keys(
        &mut self,
        schemas: &[Arc<TableSchema>],
    ) -> Result<Vec<ForeignKey>, Failure> {
        match self.inner.loader() {
            Some(loader) => loader.foreign_keys(schemas).await,
            None => Ok(Vec::new()),
        }
    }
    fn keeps_tables(&mut self) -> bool {
        self.inner.loader().is_some_and(Loader::keeps_tables)
    }
    async fn swap_in(&mut self, _job: &str, _placements: &[Placement]) -> Result<(), Failure> {
        Ok(())
    }
    async fn mark_current(&mut self, _snapshots: &[TableSnapshot]) -> Result<(), Failure> {
        Ok(())
    }
}
