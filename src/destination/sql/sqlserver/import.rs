//! Bulk loads: as batches are written, into tables beside the old ones, whose rows then replace the
//! old rows.

use async_trait::async_trait;

use super::SqlServerConnection;
use crate::change::TableSchema;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, SqlSession};

const TABLE_EXISTS: &str = "\
    SELECT COUNT(*) FROM INFORMATION_SCHEMA.TABLES \
    WHERE TABLE_SCHEMA = @P1 AND TABLE_NAME = @P2";

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
}
