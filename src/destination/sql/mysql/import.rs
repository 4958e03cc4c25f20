//! Bulk loads: plain INSERTs, and the indexes of the old table.

use std::sync::Arc;

use async_trait::async_trait;

use super::MySqlConnection;
use super::rows::Action;
use crate::change::{Batch, TableSchema};
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, Parameter};

/// What depends on a table and would be lost if the table were replaced. Parameters: schema and
/// table, as often as it has pairs of question marks.
const SWAP_BLOCKERS: &str = include_str!("swap_blockers.sql");

/// Whether the user would see a trigger of the table. Parameters: schema, schema, table.
const SEES_TRIGGERS: &str = include_str!("sees_triggers.sql");

const TABLE_EXISTS: &str =
    "SELECT COUNT(*) FROM information_schema.tables WHERE table_schema = ? AND table_name = ?";

#[async_trait]
impl BulkLoader for MySqlConnection {
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        self.statements.keep_few();
        Ok(())
    }

    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.act(Action::Insert, renderer, batch, group).await
    }

    async fn finish_load(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<u64, Failure> {
        self.copy_indexes(renderer, schema, staged).await?;
        Ok(0)
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        self.find_swap_blocker(renderer, schema).await
    }
}

impl MySqlConnection {
    async fn find_swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let place = &renderer.namespace;
        let name = place.name_of(&schema.table);
        let database = Parameter::from(place.schema.as_deref().unwrap_or_default());
        if self.one(TABLE_EXISTS, &[database.clone(), name.as_str().into()]).await? == 0 {
            return Ok(None);
        }
        if self.one(SEES_TRIGGERS, &[database.clone(), database, name.as_str().into()]).await? == 0
        {
            return Ok(Some(
                "whether it has triggers cannot be seen by this user; with GRANT \
                            TRIGGER it could be exchanged, which is faster"
                    .to_owned(),
            ));
        }
        let pair: [Parameter; 2] =
            [place.schema.as_deref().unwrap_or_default().into(), name.as_str().into()];
        let parameters: Vec<Parameter> =
            std::iter::repeat_n(pair, SWAP_BLOCKERS.matches('?').count() / 2).flatten().collect();
        Ok(self.texts_of(SWAP_BLOCKERS, &parameters).await?.into_iter().flatten().next())
    }

    /// Creates the indexes of the old table on the new one, in one statement.
    async fn copy_indexes(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<(), Failure> {
        let name = renderer.namespace.name_of(&schema.table);
        let old =
            [renderer.namespace.schema.as_deref().unwrap_or_default().into(), name.as_str().into()];
        if self.one(TABLE_EXISTS, &old).await? == 0 {
            return Ok(());
        }
        let wanted = indexes(&self.table_ddl(renderer, &schema.table).await?);
        let existing = indexes(&self.table_ddl(renderer, &staged.table).await?);
        let missing: Vec<String> = wanted
            .into_iter()
            .filter(|index| !existing.contains(index))
            .map(|index| format!("ADD {index}"))
            .collect();
        if missing.is_empty() {
            return Ok(());
        }
        self.query(&format!("ALTER TABLE {} {}", renderer.table(&staged.table), missing.join(", ")))
            .await
            .map_err(|e| e.of_table(&schema.table))
    }
}

/// The lines of SHOW CREATE TABLE that are indexes beside the primary key.
fn indexes(ddl: &str) -> Vec<String> {
    let words = ["KEY ", "UNIQUE KEY ", "FULLTEXT KEY ", "SPATIAL KEY "];
    let lines = ddl.lines().map(|line| line.trim().trim_end_matches(','));
    lines
        .filter(|line| words.iter().any(|word| line.starts_with(word)))
        .map(str::to_owned)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::indexes;

    #[test]
    fn indexes_are_told_from_columns() {
        let made = "CREATE TABLE `t` (\n  `id` varchar(64) NOT NULL,\n  `KEY ` int,\n  PRIMARY KEY \
                    (`id`),\n  KEY `by,name` (`name`(20)),\n  FULLTEXT KEY `f` (`note`)\n) \
                    ENGINE=InnoDB";
        assert_eq!(indexes(made), ["KEY `by,name` (`name`(20))", "FULLTEXT KEY `f` (`note`)"]);
    }
}
