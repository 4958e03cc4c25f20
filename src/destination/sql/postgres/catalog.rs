//! What PostgreSQL's catalog knows of tables and columns.

use async_trait::async_trait;

use super::PostgresConnection;
use super::failure::failure;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ListedColumn, SqlCatalog};

/// Columns: table, column, whether it takes NULL or has a default, place in the key, whether the
/// table is of another kind than an ordinary or partitioned one. Parameter: schema.
const COLUMNS: &str = "SELECT c.relname::text, a.attname::text, NOT a.attnotnull OR a.atthasdef OR \
                   a.attidentity <> '', \
                   coalesce(array_position(i.indkey::int2[], a.attnum) + 1, 0)::int8, c.relkind \
                   NOT IN ('r', 'p') \
                   FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = \
                   c.relnamespace \
                   JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT \
                   a.attisdropped \
                   LEFT JOIN pg_catalog.pg_index i ON i.indrelid = c.oid AND i.indisprimary \
                   WHERE n.nspname = $1 AND c.relkind IN ('r', 'p', 'v', 'm', 'f') ORDER BY \
                   1, a.attnum";

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
