//! What Snowflake's catalog knows of tables and columns.

use std::collections::HashMap;

use async_trait::async_trait;

use super::SnowflakeConnection;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ListedColumn, Parameter, SqlCatalog};

/// Columns: table, column, IS_NULLABLE, default, type of the table, type, scale. Parameter: schema.
pub const COLUMNS: &str = include_str!("columns.sql");

/// The same of one table. Parameters: schema, table.
fn columns_of_one() -> String {
    format!("{COLUMNS} AND c.table_name = ?")
}

/// Lists the columns of all primary keys of the schema, or of that of the table `only`, which has
/// to exist.
pub fn primary_keys(renderer: &Renderer, only: Option<&str>) -> String {
    let schema = renderer.namespace.schema.as_deref().unwrap_or_default();
    let place = match only {
        Some(table) => format!("TABLE {}", renderer.table(table)),
        None => format!("SCHEMA {}", renderer.quoted(schema)),
    };
    format!("SHOW PRIMARY KEYS IN {place}")
}

impl SnowflakeConnection {
    /// Place in the primary key by table and column.
    async fn keys(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<HashMap<(String, String), i64>, Failure> {
        let listed = self.run(&primary_keys(renderer, only), &[]).await?;
        let (tables, columns, places) = (
            listed.column("table_name"),
            listed.column("column_name"),
            listed.column("key_sequence"),
        );
        Ok(tables
            .zip(columns)
            .zip(places)
            .map(|((table, column), place)| {
                ((table.to_owned(), column.to_owned()), place.parse().unwrap_or(0))
            })
            .collect())
    }
}

/// A NUMBER with its scale, by which it holds whole numbers or others.
fn declared_type(kind: String, scale: Option<&str>) -> String {
    match scale.filter(|_| kind == "NUMBER") {
        Some(scale) => format!("{kind}({scale})"),
        None => kind,
    }
}

#[async_trait]
impl SqlCatalog for SnowflakeConnection {
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure> {
        let place = &renderer.namespace;
        let schema = place.schema.as_deref().unwrap_or_default().into();
        let rows = match only {
            None => self.run(COLUMNS, &[schema]).await?.rows,
            Some(table) => {
                let name = Parameter::Text(renderer.listed_name(table));
                self.run(&columns_of_one(), &[schema, name]).await?.rows
            }
        };
        // A table that does not exist cannot be asked for its key.
        let keys = match rows.is_empty() {
            true => HashMap::new(),
            false => self.keys(renderer, only).await?,
        };
        let mut listed = Vec::with_capacity(rows.len());
        for row in rows {
            let [Some(name), Some(column), nullable, default, kind, declared, scale] =
                <[Option<String>; 7]>::try_from(row).unwrap_or_default()
            else {
                continue;
            };
            let Some(table) = place.source_of(&name) else { continue };
            let write_blocker =
                kind.is_some_and(|k| k.contains("VIEW") || k.contains("EXTERNAL")).then(|| {
                    "it is no table of its own; choose another schema with ?schema=, or rename it"
                        .to_owned()
                });
            let key = keys.get(&(name, column.clone())).copied().unwrap_or(0);
            listed.push(ListedColumn {
                table,
                column,
                declared: declared_type(declared.unwrap_or_default(), scale.as_deref()),
                takes_null: nullable.as_deref() == Some("YES"),
                has_default: default.is_some(),
                key,
                write_blocker,
            });
        }
        Ok(listed)
    }
}
