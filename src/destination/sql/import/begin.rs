//! How an import begins: with empty tables, or where it was cut off.

use tracing::warn;

use super::statements::{PROGRESS, WHOLE_JOB};
use crate::destination::import::{LoadedTable, staged};
use crate::destination::sql::{Connection, SqlDestination};
use crate::destination::{Failure, Tables};

impl<C: Connection> SqlDestination<C> {
    /// Forgets whatever was loaded before, and makes empty tables.
    pub(super) async fn begin_afresh(
        &mut self,
        job: &str,
        tables: &[LoadedTable],
        existing: &Tables,
    ) -> Result<(), Failure> {
        self.connection.change(&self.renderer.clear(PROGRESS), &[]).await?;
        self.remove_leftovers(existing).await?;
        for LoadedTable { schema, .. } in tables {
            let create = self.renderer.create_staged(schema, &staged(schema));
            self.connection.execute(&create).await?;
        }
        self.begin_transaction().await?;
        let recorded = self.record_files(job, tables).await;
        self.end(recorded).await
    }

    /// Begins a table again that is not as its schema has it by now: it has changed since the
    /// import was cut off. Its files are forgotten first, so that this, too, may be cut off.
    pub(super) async fn resume(
        &mut self,
        job: &str,
        table: &LoadedTable,
        existing: &Tables,
    ) -> Result<(), Failure> {
        let (schema, new) = (&table.schema, staged(&table.schema));
        if existing.get(&new.table).is_some_and(|shape| self.renderer.is_staged(schema, shape)) {
            return Ok(());
        }
        warn!("table {:?} is loaded from its start: its schema has changed", schema.table);
        self.begin_transaction().await?;
        let forgotten = self.forget_files(job, &table.files).await;
        self.end(forgotten).await?;
        self.connection.execute(&self.renderer.drop_table(&new.table)).await?;
        self.connection.execute(&self.renderer.create_staged(schema, &new)).await
    }

    async fn forget_files(&mut self, job: &str, files: &[String]) -> Result<(), Failure> {
        let reset = self.renderer.reset_progress();
        for file in files {
            self.connection.change(&reset, &[job.into(), file.as_str().into()]).await?;
        }
        Ok(())
    }

    async fn record_files(&mut self, job: &str, tables: &[LoadedTable]) -> Result<(), Failure> {
        let insert = self.renderer.insert_progress(PROGRESS);
        let files = tables.iter().flat_map(|table| &table.files);
        for file in files.map(String::as_str).chain([WHOLE_JOB]) {
            self.connection.change(&insert, &[job.into(), file.into(), 0.into()]).await?;
        }
        Ok(())
    }
}
