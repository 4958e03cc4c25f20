//! A destination that tells what would be done, and does nothing.

use std::sync::Arc;

use async_trait::async_trait;

use super::import::{Piece, Placement, Standing};
use super::{Claim, Destination, Failure, Loader, Migration, Tables};
use crate::change::seam::Snapshot;
use crate::change::{Batch, Position, TableSchema};

/// Reads the tables of `inner`, and remembers how they would have changed.
pub struct DryRun {
    inner: Box<dyn Destination>,
    tables: Option<Tables>,
}

impl DryRun {
    pub fn new(inner: Box<dyn Destination>) -> DryRun {
        DryRun { inner, tables: None }
    }
}

#[async_trait]
impl Destination for DryRun {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let unfit = batch.unfit();
        if unfit.is_empty() { Ok(()) } else { Err(Failure::refused(unfit)) }
    }

    /// Whoever only looks takes nothing over.
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
    async fn begin(&mut self, _job: &str, _schemas: &[Arc<TableSchema>], _files: &[String], _anew: bool) -> Result<Standing, Failure> {
        Ok(Standing::Loading(Vec::new()))
    }
    async fn standing(&mut self, _job: &str) -> Result<Option<Standing>, Failure> {
        Ok(Some(Standing::Loading(Vec::new())))
    }
    async fn enter(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    async fn load(&mut self, batch: &Arc<Batch>, _piece: &Piece) -> Result<(), Failure> {
        self.apply(batch).await
    }
    async fn seal(&mut self, _schema: &Arc<TableSchema>) -> Result<u64, Failure> {
        Ok(0)
    }
    async fn obstacle(&mut self, schema: &Arc<TableSchema>) -> Result<Option<String>, Failure> {
        match self.inner.loader() {
            Some(loader) => loader.obstacle(schema).await,
            None => Ok(None),
        }
    }
    async fn place(&mut self, _job: &str, _placements: &[Placement]) -> Result<(), Failure> {
        Ok(())
    }
    async fn stamp(&mut self, _snapshots: &[Snapshot]) -> Result<(), Failure> {
        Ok(())
    }
}
