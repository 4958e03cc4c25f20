//! What PostgreSQL's catalog knows of tables and columns.

use async_trait::async_trait;

use super::PostgresConnection;
use super::failure::failure;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ListedColumn, SqlCatalog};

/// Columns: table, column, whether it takes NULL or has a default, place in the key, whether the
/// table is of another kind than an ordinary or partitioned one. Parameter: schema.
const COLUMNS: &str = include_str!("columns.sql");

#[async_trait]
impl SqlCatalog for PostgresConnection {
    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure> {
        // Tables may have changed: statements that were prepared before have void plans.
        self.statements.clear();
        let place = &renderer.namespace;
        let schema = place.schema.clone().unwrap_or_default();
        let rows = self.client.query(COLUMNS, &[&schema]).await.map_err(|e| failure(&e))?;
        let listed = rows.iter().filter_map(|row| {
            let table = place.source_of(row.get(0))?;
            let write_blocker = row.get::<_, bool>(4).then(|| {
                "it is a view or a foreign table; \
                choose another schema with ?schema=, or rename it"
                    .to_owned()
            });
            Some(ListedColumn {
                table,
                column: row.get(1),
                nullable: row.get(2),
                key: row.get(3),
                write_blocker,
            })
        });
        Ok(listed.collect())
    }
}
