//! What PostgreSQL's catalog knows of tables and columns.

use async_trait::async_trait;

use super::PostgresConnection;
use super::failure::failure;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ListedColumn, SqlCatalog};

/// Columns: table, column, whether it takes NULL (the NOT NULL of an identity column cannot be
/// taken back), whether it has a default, place in the key, whether the table is of another kind
/// than an ordinary or partitioned one, type. Parameter: schema.
const COLUMNS: &str = include_str!("columns.sql");

#[async_trait]
impl SqlCatalog for PostgresConnection {
    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        // Tables may have changed: statements that were prepared before have void plans, and
        // temporary tables may have the wrong types.
        self.statements.clear();
        while let Some((_, stage)) = self.stages.made.pop_lru() {
            let drop = format!("DROP TABLE {stage}");
            self.client.batch_execute(&drop).await.map_err(|e| failure(&e))?;
        }
        let place = &renderer.namespace;
        let schema = place.schema.clone().unwrap_or_default();
        let rows = self.client.query(COLUMNS, &[&schema]).await.map_err(|e| failure(&e))?;
        let listed = rows.iter().filter_map(|row| {
            let table = place.source_of(row.get(0))?;
            let write_blocker = row.get::<_, bool>(5).then(|| {
                "it is a view or a foreign table; \
                choose another schema with ?schema=, or rename it"
                    .to_owned()
            });
            Some(ListedColumn {
                table,
                column: row.get(1),
                declared: row.get(6),
                takes_null: row.get(2),
                has_default: row.get(3),
                key: row.get(4),
                write_blocker,
            })
        });
        Ok(listed.collect())
    }
}
