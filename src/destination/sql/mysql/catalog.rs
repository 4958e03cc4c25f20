//! What the catalog of MySQL and MariaDB knows of tables and columns.

use std::collections::HashSet;

use async_trait::async_trait;
use mysql_async::Row;
use mysql_async::prelude::Queryable;

use super::MySqlConnection;
use super::dialect::MARIADB;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ANSWER_WAIT_MAX, ListedColumn, Parameter, SqlCatalog};

/// Columns: table, column, whether it takes NULL (what the server makes the values of cannot be
/// made to), whether it has a default, place in the key, the table's engine or type, a unique index
/// beside the key, type. Parameters: schema, schema.
const COLUMNS: &str = include_str!("columns.sql");

/// The columns that MariaDB checks to be JSON; it has no other sign of that type. Columns: table,
/// column. Parameter: schema.
const JSON_COLUMNS: &str = "\
    SELECT table_name, constraint_name FROM information_schema.check_constraints \
    WHERE constraint_schema = ? AND level = 'Column' AND check_clause LIKE 'json_valid(%'";

/// The same of one table, whose name follows each schema: its indices are named once more in a
/// table of their own.
const OF_ONE_TABLE: [fn() -> String; 2] = [
    || COLUMNS.replacen("GROUP BY", "AND table_name = ? GROUP BY", 1) + " AND c.table_name = ?",
    || format!("{JSON_COLUMNS} AND table_name = ?"),
];

impl MySqlConnection {
    /// The text of SHOW CREATE TABLE.
    pub(super) async fn table_ddl(
        &mut self,
        renderer: &Renderer,
        table: &str,
    ) -> Result<String, Failure> {
        let sql = format!("SHOW CREATE TABLE {}", renderer.table(table));
        let rows = self.with(ANSWER_WAIT_MAX, |conn| conn.query(sql)).await?;
        Ok(rows.first().and_then(|row: &Row| row.get(1)).unwrap_or_default())
    }
}

#[async_trait]
impl SqlCatalog for MySqlConnection {
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure> {
        // Tables may have changed: statements that were prepared before are void.
        if let Some(conn) = self.conn.held() {
            self.statements.clear(conn, only).await;
        }
        let place = &renderer.namespace;
        let mut within = vec![Parameter::from(place.schema.as_deref().unwrap_or_default())];
        within.extend(only.map(|table| Parameter::Text(renderer.listed_name(table))));
        let [columns, json_columns] = match only {
            Some(_) => OF_ONE_TABLE.map(|of_one| of_one()),
            None => [COLUMNS, JSON_COLUMNS].map(str::to_owned),
        };
        let json: HashSet<Vec<String>> = match renderer.dialect.name == MARIADB.name {
            true => self.texts_of(&json_columns, &within).await?.into_iter().collect(),
            false => HashSet::new(),
        };
        let rows = self.rows(&columns, &[&within[..], &within[..]].concat()).await?;
        let text = |row: &Row, i: usize| row.get::<Option<String>, _>(i).flatten();
        let listed = rows.iter().filter_map(|row| {
            let (name, column) = (text(row, 0)?, text(row, 1)?);
            let table = place.source_of(&name)?;
            let is_json = json.contains(&vec![name, column.clone()]);
            let fact = |i: usize| row.get::<i64, _>(i).map(|n| n != 0);
            Some(ListedColumn {
                table,
                column,
                declared: if is_json { "json".to_owned() } else { text(row, 7)? },
                takes_null: fact(2)?,
                has_default: fact(3)?,
                key: row.get::<i64, _>(4)?,
                write_blocker: write_blocker(&text(row, 5)?, text(row, 6).as_deref()),
            })
        });
        Ok(listed.collect())
    }

    /// The column's line of SHOW CREATE TABLE.
    async fn nullable_definition(
        &mut self,
        renderer: &Renderer,
        table: &str,
        column: &str,
    ) -> Result<String, Failure> {
        let ddl = self.table_ddl(renderer, table).await?;
        let begin = format!("  {} ", renderer.quoted(column));
        let line = ddl
            .lines()
            .find_map(|line| line.strip_prefix(&begin))
            .map(|rest| rest.trim_end_matches(','));
        let line = line.ok_or_else(|| {
            Failure::unavailable(format!(
                "column {column:?} of table {table:?} is not there any more"
            ))
        })?;
        Ok(line.replacen(" NOT NULL", " NULL", 1))
    }
}

/// Why rows must not be written to a table: it has no transactions, or an upsert could overwrite
/// another row than the key's.
fn write_blocker(engine: &str, unique: Option<&str>) -> Option<String> {
    match (engine, unique) {
        ("InnoDB", None) => None,
        ("InnoDB", Some(index)) => Some(format!(
            "its unique index {index:?} beside the primary key could make an upsert overwrite \
             another row; make it an ordinary index, or use ?prefix= for tables of EDS's own"
        )),
        ("VIEW" | "SYSTEM VIEW", _) => {
            Some("it is a view; use ?prefix= for tables of EDS's own, or rename it".to_owned())
        }
        (other, _) => Some(format!(
            "it is a table of {other}, which has no transactions; ALTER TABLE … \
             ENGINE=InnoDB cures it"
        )),
    }
}
