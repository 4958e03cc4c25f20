//! Bulk loads: as batches are written, into tables beside the old ones, whose rows then replace the
//! old rows.

use std::time::Duration;

use async_trait::async_trait;

use super::{SqlServerConnection, lock_wait};
use crate::change::TableSchema;
use crate::destination::Failure;
use crate::destination::import::ForeignKey;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ANSWER_WAIT_MAX, BulkLoader, SqlSession};

const TABLE_EXISTS: &str = "\
    SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES \
    WHERE TABLE_SCHEMA = @P1 AND TABLE_NAME = @P2";

/// Columns: name, table, table that is referred to. Keys within one table are no trouble, as a
/// statement is checked as a whole. Parameter: schema.
const FOREIGN_KEYS: &str = "\
    SELECT f.name, OBJECT_NAME(f.parent_object_id), \
    CASE WHEN OBJECT_SCHEMA_NAME(f.referenced_object_id) = @P1 \
    THEN OBJECT_NAME(f.referenced_object_id) \
    ELSE CONCAT(OBJECT_SCHEMA_NAME(f.referenced_object_id), N'.', \
    OBJECT_NAME(f.referenced_object_id)) END \
    FROM sys.foreign_keys AS f \
    WHERE f.is_disabled = 0 AND f.parent_object_id <> f.referenced_object_id \
    AND OBJECT_SCHEMA_NAME(f.parent_object_id) = @P1";

#[async_trait]
impl BulkLoader for SqlServerConnection {
    /// An old table always stays: its indexes, its rights and what refers to it are not looked up
    /// here.
    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let name = renderer.namespace.name_of(&schema.table);
        let schema_name = renderer.namespace.schema.as_deref().unwrap_or_default();
        let found =
            self.integers(TABLE_EXISTS, &[schema_name.into(), name.as_str().into()]).await?;
        Ok((found != [[0]]).then(|| "in SQL Server a table that is there always stays".to_owned()))
    }

    async fn foreign_keys(&mut self, renderer: &Renderer) -> Result<Vec<ForeignKey>, Failure> {
        let schema_name = renderer.namespace.schema.as_deref().unwrap_or_default();
        let rows = self.texts(FOREIGN_KEYS, &[schema_name.into()]).await?;
        Ok(rows.into_iter().filter_map(ForeignKey::immediate).collect())
    }

    async fn limit_lock_wait(&mut self, limit: Duration) -> Result<(), Failure> {
        self.batch(ANSWER_WAIT_MAX, lock_wait(limit)).await
    }
}
