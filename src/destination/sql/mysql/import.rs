//! Bulk loads: plain INSERTs, and the indexes of the old table.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::rows::Action;
use super::{MySqlConnection, lock_wait};
use crate::change::{Batch, TableSchema};
use crate::destination::Failure;
use crate::destination::import::{ForeignKey, staged};
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, Parameter};

/// What depends on a table and would be lost if the table were replaced. Parameters: schema and
/// table, as often as it has pairs of question marks.
const SWAP_BLOCKERS: &str = include_str!("swap_blockers.sql");

/// Whether the user would see a trigger of the table. Parameters: schema, schema, table.
const SEES_TRIGGERS: &str = include_str!("sees_triggers.sql");

/// Columns: name, table, table that is referred to. InnoDB checks row by row, so that keys within
/// one table are trouble, too. Parameter: schema.
const FOREIGN_KEYS: &str = "\
    SELECT constraint_name, table_name, \
    IF(unique_constraint_schema = constraint_schema, referenced_table_name, \
    CONCAT(unique_constraint_schema, '.', referenced_table_name)) \
    FROM information_schema.referential_constraints WHERE constraint_schema = ?";

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
        exchanges: bool,
    ) -> Result<u64, Failure> {
        if exchanges {
            self.copy_indexes(renderer, schema, staged).await?;
        }
        Ok(0)
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        self.find_swap_blocker(renderer, schema).await
    }

    async fn foreign_keys(&mut self, renderer: &Renderer) -> Result<Vec<ForeignKey>, Failure> {
        let schema = renderer.namespace.schema.as_deref().unwrap_or_default();
        let rows = self.texts_of(FOREIGN_KEYS, &[schema.into()]).await?;
        Ok(rows.into_iter().filter_map(ForeignKey::immediate).collect())
    }

    /// Its indexes are created again once all rows are loaded, which is faster.
    async fn create_like(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<bool, Failure> {
        let ddl = self.table_ddl(renderer, &schema.table).await?;
        if columns(&ddl).any(|line| line.contains(" AUTO_INCREMENT")) {
            return Ok(false);
        }
        let (old, new) = (renderer.table(&schema.table), renderer.table(&staged.table));
        self.query(&format!("CREATE TABLE IF NOT EXISTS {new} LIKE {old}")).await?;
        let drops: Vec<String> = indexes(&ddl)
            .iter()
            .filter_map(|line| index_name(line))
            .map(|name| format!("DROP INDEX {name}"))
            .collect();
        if !drops.is_empty() {
            self.query(&format!("ALTER TABLE {new} {}", drops.join(", "))).await?;
        }
        Ok(true)
    }

    async fn limit_lock_wait(&mut self, limit: Duration) -> Result<(), Failure> {
        self.query(&lock_wait(limit)).await
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
        let found = self.texts_of(SWAP_BLOCKERS, &parameters).await?.into_iter().flatten().next();
        if found.is_some() {
            return Ok(found);
        }
        let old = self.table_ddl(renderer, &schema.table).await?;
        if let Some(constraint) = body(&old).find(|line| line.starts_with("CONSTRAINT ")) {
            return Ok(Some(format!("it has the {constraint}")));
        }
        let staged = staged(schema);
        let new = [
            place.schema.as_deref().unwrap_or_default().into(),
            place.name_of(&staged.table).as_str().into(),
        ];
        if self.one(TABLE_EXISTS, &new).await? == 0 {
            return Ok(None);
        }
        Ok(altered(&old, &self.table_ddl(renderer, &staged.table).await?, schema, renderer))
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

/// What SHOW CREATE TABLE has between its brackets, line by line.
fn body(ddl: &str) -> impl Iterator<Item = &str> {
    ddl.lines()
        .skip(1)
        .take_while(|line| !line.starts_with(')'))
        .map(|line| line.trim().trim_end_matches(','))
}

/// The lines that are columns.
fn columns(ddl: &str) -> impl Iterator<Item = &str> {
    body(ddl).filter(|line| line.starts_with('`'))
}

/// The lines that are indexes beside the primary key.
fn indexes(ddl: &str) -> Vec<String> {
    let words = ["KEY ", "UNIQUE KEY ", "FULLTEXT KEY ", "SPATIAL KEY "];
    body(ddl)
        .filter(|line| words.iter().any(|word| line.starts_with(word)))
        .map(str::to_owned)
        .collect()
}

/// The name of an index, in its quotes, from its line.
fn index_name(line: &str) -> Option<&str> {
    let quoted = &line[line.find('`')?..];
    quoted.split_once("` (").map(|(name, _)| &quoted[..=name.len()])
}

/// What SHOW CREATE TABLE has after its brackets, apart from the counter of rows.
fn options(ddl: &str) -> String {
    let rest: Vec<&str> = ddl.lines().skip_while(|line| !line.starts_with(')')).collect();
    let words = rest.join("\n");
    words
        .split(' ')
        .filter(|word| !word.starts_with("AUTO_INCREMENT="))
        .collect::<Vec<_>>()
        .join(" ")
}

/// Where the new table is not as the old one, apart from columns that the source has added, and
/// those of its columns that take NULL by now.
fn altered(old: &str, new: &str, schema: &TableSchema, renderer: &Renderer) -> Option<String> {
    let nullable: Vec<String> = schema
        .columns
        .iter()
        .filter(|c| c.nullable)
        .map(|c| format!("{} ", renderer.quoted(&c.name).to_lowercase()))
        .collect();
    let plain = |line: &str| {
        let begin = line.to_lowercase();
        match nullable.iter().any(|name| begin.starts_with(name.as_str())) {
            true => line.replacen(" NOT NULL", "", 1).replacen(" DEFAULT NULL", "", 1),
            false => line.to_owned(),
        }
    };
    let mut others = columns(new).map(plain);
    let differs = columns(old).find(|line| others.next() != Some(plain(line)));
    match differs {
        Some(line) => Some(format!(
            "its column {} has been altered, or its columns are in another order",
            line.split_inclusive("` ").next().unwrap_or(line).trim()
        )),
        None => (options(old) != options(new))
            .then(|| "its options are not those of a new table".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::{index_name, indexes, options};

    #[test]
    fn indexes_are_told_from_columns() {
        let made = "CREATE TABLE `t` (\n  `id` varchar(64) NOT NULL,\n  `KEY ` int,\n  PRIMARY KEY \
                    (`id`),\n  KEY `by,name` (`name`(20)),\n  FULLTEXT KEY `f` (`note`)\n) \
                    ENGINE=InnoDB";
        let found = indexes(made);
        let names: Vec<Option<&str>> = found.iter().map(|line| index_name(line)).collect();
        assert_eq!(names, [Some("`by,name`"), Some("`f`")]);
        assert_eq!(
            options(") ENGINE=InnoDB AUTO_INCREMENT=7 COMMENT='a b'"),
            ") ENGINE=InnoDB COMMENT='a b'"
        );
        assert_eq!(found, ["KEY `by,name` (`name`(20))", "FULLTEXT KEY `f` (`note`)"]);
    }
}
