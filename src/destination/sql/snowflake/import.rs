//! Bulk loads: rows are added without looking for their keys, and repeated keys are removed at the
//! end.

use std::sync::Arc;

use async_trait::async_trait;

use super::{SnowflakeConnection, rows};
use crate::change::{Batch, TableSchema};
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, RowSet, SqlSession};

/// How many rows have the key of another one.
pub fn count_repeats(renderer: &Renderer, schema: &TableSchema) -> String {
    let table = renderer.table(&schema.table);
    format!(
        "SELECT (SELECT COUNT(*) FROM {table}) - (SELECT COUNT(*) FROM (SELECT DISTINCT {} \
         FROM {table}))",
        renderer.list(schema.key_columns())
    )
}

/// Deletes all but one row of each key, in one statement.
pub fn delete_repeats(renderer: &Renderer, schema: &TableSchema) -> String {
    let (table, key) = (renderer.table(&schema.table), renderer.list(schema.key_columns()));
    format!(
        "CREATE OR REPLACE TABLE {table} AS SELECT * FROM {table} QUALIFY ROW_NUMBER() OVER \
         (PARTITION BY {key} ORDER BY {key}) = 1"
    )
}

#[async_trait]
impl BulkLoader for SnowflakeConnection {
    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.run_over(
            renderer,
            &rows::insert(renderer, &batch.groups[group].schema, self.row_source(group)),
            batch,
            RowSet::Upserts,
            group,
        )
        .await
    }

    /// Keys are not enforced, so repeated ones are searched for.
    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        _schema: &TableSchema,
        staged: &TableSchema,
        _exchanges: bool,
    ) -> Result<u64, Failure> {
        let repeats = self.integers(&count_repeats(renderer, staged), &[]).await?;
        let repeats = repeats.first().and_then(|row| row.first()).copied().unwrap_or(0);
        if repeats > 0 {
            self.execute(&delete_repeats(renderer, staged)).await?;
        }
        Ok(repeats.max(0) as u64)
    }
}
