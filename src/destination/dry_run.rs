//! A destination that tells what would be done, and does nothing.

use std::sync::Arc;

use async_trait::async_trait;

use super::{Claim, Destination, Failure, Migration, Tables};
use crate::change::{Batch, Position};

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

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.inner.close().await
    }
}
