//! What PostgreSQL's catalog knows of tables and columns.

use async_trait::async_trait;

use super::PostgresConnection;
use super::failure::failure;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ListedColumn, SqlCatalog};

/// Columns: table, column, whether it takes NULL (the NOT NULL of an identity column cannot be
/// taken back), whether it has a default, place in the key, whether the table is of another kind
/// than an ordinary or partitioned one, type. Parameter: schema; of one table also its name.
const COLUMNS: &str = include_str!("columns.sql");

impl PostgresConnection {
    /// Tables may have changed, or the table `only`: statements that were prepared before have void
    /// plans, and temporary tables may have the wrong types. EDS's own are few, and go along.
    async fn forget(&mut self, renderer: &Renderer, only: Option<&str>) -> Result<(), Failure> {
        let is_meant = |table: &str| only.is_none_or(|only| only == table);
        let name = only.map(|table| renderer.table(table));
        let statements = self.statements.iter().map(|(key, _)| key);
        let void = statements.filter(|key| {
            let names = |name: &String| key.sql.contains(name) || key.sql.contains("_eds_");
            name.as_ref().is_none_or(names)
        });
        for key in void.cloned().collect::<Vec<_>>() {
            self.statements.pop(&key);
        }
        let stages = self.stages.made.iter().map(|(version, _)| version);
        let void = stages.filter(|version| is_meant(&version.table));
        for version in void.cloned().collect::<Vec<_>>() {
            let Some(stage) = self.stages.made.pop(&version) else { continue };
            let drop = format!("DROP TABLE {stage}");
            self.client.batch_execute(&drop).await.map_err(|e| failure(&e))?;
        }
        Ok(())
    }
}

#[async_trait]
impl SqlCatalog for PostgresConnection {
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure> {
        self.forget(renderer, only).await?;
        let place = &renderer.namespace;
        let schema = place.schema.clone().unwrap_or_default();
        let listed = match only.map(|table| renderer.listed_name(table)) {
            None => self.client.query(COLUMNS, &[&schema]).await,
            Some(name) => {
                let sql = format!("{COLUMNS} AND c.relname = $2");
                self.client.query(&sql, &[&schema, &name]).await
            }
        };
        let rows = listed.map_err(|e| failure(&e))?;
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
