//! Bulk loads: into a table with the definition of the old one, and the indexes and triggers that
//! people have given to that.

use async_trait::async_trait;

use super::SqliteConnection;
use crate::change::TableSchema;
use crate::destination::import::staged;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{BulkLoader, SqlSession};
use crate::destination::{Failure, FailureKind};

/// Memory for pages while whole tables are loaded: keys come in any order.
const LOAD_CACHE_KIB: u32 = 32 << 10;

/// The text of CREATE TABLE. Parameter: table.
const DEFINITION: &str = "SELECT sql FROM sqlite_schema WHERE type = 'table' AND name = ?1";

#[async_trait]
impl BulkLoader for SqliteConnection {
    /// In WAL mode a power cut cannot tear the file by that, and the swap at the end syncs
    /// everything before it.
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        self.execute(&format!("PRAGMA synchronous = NORMAL; PRAGMA cache_size = -{LOAD_CACHE_KIB}"))
            .await
    }

    /// By the text of the old one: with its checks, defaults, collations and references.
    async fn create_like(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        staged: &TableSchema,
    ) -> Result<bool, Failure> {
        let Some(definition) = self.definition(&renderer.namespace.name_of(&schema.table)).await?
        else {
            return Ok(false);
        };
        let create = format!("CREATE TABLE {}{definition}", renderer.table(&staged.table));
        match self.execute(&create).await {
            Err(failure) if failure.kind == FailureKind::Unavailable => Err(failure),
            // A definition that names the table itself.
            made => Ok(made.is_ok()),
        }
    }

    async fn swap_blocker(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        let old = self.definition(&renderer.namespace.name_of(&schema.table)).await?;
        let Some(old) = old else { return Ok(Some("it is no ordinary table".to_owned())) };
        let new = self.definition(&renderer.namespace.name_of(&staged(schema).table)).await?;
        Ok(new
            .is_some_and(|new| !extends(&new, &old))
            .then(|| "its definition is not as EDS makes it".to_owned()))
    }

    /// The indexes and triggers of the old table, as they were written.
    async fn copied_ddl(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        _staged: &TableSchema,
    ) -> Result<Vec<String>, Failure> {
        let sql = "\
            SELECT sql FROM sqlite_schema \
            WHERE tbl_name = ?1 AND type IN ('index', 'trigger') AND sql IS NOT NULL \
            ORDER BY type, name";
        let rows =
            self.texts(sql, &[renderer.namespace.name_of(&schema.table).as_str().into()]).await?;
        Ok(rows.into_iter().flatten().collect())
    }
}

impl SqliteConnection {
    /// What follows the name in CREATE TABLE; `None` where there is no such table.
    async fn definition(&mut self, name: &str) -> Result<Option<String>, Failure> {
        let rows = self.texts(DEFINITION, &[name.into()]).await?;
        let sql = rows.into_iter().flatten().next().unwrap_or_default();
        Ok(after_name(&sql).map(str::to_owned))
    }
}

/// What follows the name in a CREATE TABLE that SQLite keeps.
fn after_name(sql: &str) -> Option<&str> {
    let rest = sql.strip_prefix("CREATE TABLE ")?;
    let close = match rest.chars().next()? {
        '[' => ']',
        quote @ ('"' | '`' | '\'') => quote,
        _ => return rest.find(|c: char| c == '(' || c.is_whitespace()).map(|end| &rest[end..]),
    };
    let mut inside = rest.char_indices().skip(1).peekable();
    while let Some((at, c)) = inside.next() {
        if c != close {
            continue;
        }
        // Within quotes they are doubled; a bracket is not.
        match inside.peek() {
            Some((_, next)) if *next == close && close != ']' => drop(inside.next()),
            _ => return Some(&rest[at + c.len_utf8()..]),
        }
    }
    None
}

/// Whether `new` is `old`, or becomes it by leaving out one part: the columns that were added.
fn extends(new: &str, old: &str) -> bool {
    let (new, old) = (new.as_bytes(), old.as_bytes());
    let same = new.iter().zip(old).take_while(|(a, b)| a == b).count();
    let same_end = new.iter().rev().zip(old.iter().rev()).take_while(|(a, b)| a == b).count();
    new.len() >= old.len() && same + same_end >= old.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_end_where_their_quotes_do() {
        for name in ["\"a\"\"b\"", "[a b]", "`a``b`", "'it''s'", "plain"] {
            assert_eq!(after_name(&format!("CREATE TABLE {name} (id)")), Some(" (id)"), "{name}");
        }
        assert_eq!(after_name("CREATE TABLE t(id)"), Some("(id)"));
        assert_eq!(after_name("CREATE VIRTUAL TABLE t USING fts5(a)"), None);
    }

    #[test]
    fn a_table_with_more_columns_extends_the_other() {
        assert!(extends("(id TEXT, n INT, m INT) STRICT", "(id TEXT, n INT) STRICT"));
        assert!(extends("(id)", "(id)"));
        assert!(!extends("(id TEXT, n INT)", "(id TEXT, n INT DEFAULT 1)"));
        assert!(!extends("(id TEXT, n TEXT)", "(id TEXT, n INT)"));
    }
}
