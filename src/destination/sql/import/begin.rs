//! How an import begins: with empty tables, or where it was cut off.

use std::sync::Arc;

use tracing::warn;

use super::statements::{PROGRESS, WHOLE_JOB};
use crate::change::TableSchema;
use crate::destination::import::{LoadedTable, staged};
use crate::destination::sql::{Connection, SqlDestination};
use crate::destination::{Failure, Migration, Tables};

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
            self.make_staged(schema, existing).await?;
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
        self.make_staged(schema, existing).await
    }

    /// Creates the table that rows are loaded into. Where the old one has the columns that EDS
    /// would make, it is made like that one: with its order of columns, its collations, and NOT
    /// NULL where the source does not mean NULL.
    async fn make_staged(
        &mut self,
        schema: &Arc<TableSchema>,
        existing: &Tables,
    ) -> Result<(), Failure> {
        let new = Arc::new(staged(schema));
        let old = existing
            .get(&schema.table)
            .filter(|shape| self.renderer.difference(schema, shape).is_none());
        let Some(old) = old else { return self.create_staged(schema, &new).await };
        if !self.connection.create_like(&self.renderer, schema, &new).await? {
            return self.create_staged(schema, &new).await;
        }
        let names = self.renderer.dialect.limits.names;
        let there = |i: usize| old.columns.get(&*names.stored(&schema.columns[i].name));
        let (all, keys) = (schema.columns.len(), schema.keys);
        let missing: Vec<usize> = (0..all).filter(|i| there(*i).is_none()).collect();
        let strict = |i: &usize| there(*i).is_some_and(|column| !column.takes_null);
        let columns: Vec<String> = (keys..all)
            .filter(|i| schema.columns[*i].nullable)
            .filter(strict)
            .map(|i| names.stored(&schema.columns[i].name).into_owned())
            .collect();
        self.make_step(&Migration::AddColumns(new.clone(), missing)).await?;
        self.make_step(&Migration::DropNotNull { table: new.table.to_string(), columns }).await
    }

    async fn create_staged(
        &mut self,
        schema: &TableSchema,
        new: &TableSchema,
    ) -> Result<(), Failure> {
        self.check_types(schema)?;
        self.connection.execute(&self.renderer.create_staged(schema, new)).await
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
