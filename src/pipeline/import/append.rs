//! Imports into destinations that append: each row becomes an event, and the state file knows how
//! far each file is.

use std::sync::Arc;

use async_trait::async_trait;

use crate::change::cutover::TableSnapshot;
use crate::change::{Batch, Position, TableSchema};
use crate::destination::import::{FilePiece, JobStatus, LoadedTable, Loader, Placement};
use crate::destination::{Claim, Destination, Failure, Migration, Tables};
use crate::state::{State, StateError};

/// A keeper of changes that can be imported into.
pub struct AppendLoader {
    inner: Box<dyn Destination>,
    state: State,
}

impl AppendLoader {
    /// Loads into `inner`, which keeps every change; the state file keeps how far its files are.
    pub fn new(inner: Box<dyn Destination>, state: State) -> AppendLoader {
        AppendLoader { inner, state }
    }
}

fn lost(e: StateError) -> Failure {
    Failure::unavailable(e.to_string())
}

#[async_trait]
impl Destination for AppendLoader {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        self.inner.apply(batch).await
    }
    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.inner.checkpoint(claim).await
    }
    async fn tables(&mut self) -> Result<Tables, Failure> {
        self.inner.tables().await
    }
    async fn migrate(&mut self, _step: &Migration) -> Result<(), Failure> {
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
impl Loader for AppendLoader {
    async fn begin(
        &mut self,
        job: &str,
        _tables: &[LoadedTable],
        restart: bool,
    ) -> Result<JobStatus, Failure> {
        let known = self.job_status(job).await?;
        match known {
            Some(status) if !restart => Ok(status),
            _ => {
                self.state.forget_import_progress().map_err(lost)?;
                Ok(JobStatus::Loading(Vec::new()))
            }
        }
    }

    async fn job_status(&mut self, job: &str) -> Result<Option<JobStatus>, Failure> {
        let files = self.state.import_progress(job).map_err(lost)?;
        Ok(Some(JobStatus::Loading(files)))
    }

    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// A piece that was written and not recorded is written again, under the same names.
    async fn load(&mut self, batch: &Arc<Batch>, piece: &FilePiece) -> Result<(), Failure> {
        if !batch.order.is_empty() {
            self.inner.apply(batch).await?;
        }
        self.state.save_import_progress(&piece.job, &piece.progress).map_err(lost)
    }

    async fn finish_load(&mut self, _schema: &Arc<TableSchema>) -> Result<u64, Failure> {
        Ok(0)
    }

    async fn swap_blocker(
        &mut self,
        _schema: &Arc<TableSchema>,
    ) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Nothing was replaced, so whoever streams goes on where it was.
    async fn swap_in(&mut self, _job: &str, placements: &[Placement]) -> Result<(), Failure> {
        let snapshots: Vec<TableSnapshot> = placements
            .iter()
            .map(|p| TableSnapshot { whole: true, ..p.snapshot.clone() })
            .collect();
        self.state.finish_import(&snapshots).map_err(lost)
    }

    async fn mark_current(&mut self, snapshots: &[TableSnapshot]) -> Result<(), Failure> {
        let known = self.state.cutovers().map_err(lost)?;
        let new: Vec<TableSnapshot> =
            snapshots.iter().filter(|s| !known.has(&s.table)).cloned().collect();
        match self.state.has_positions().map_err(lost)? {
            true => Ok(()),
            false => self.state.finish_import(&new).map_err(lost),
        }
    }
}
