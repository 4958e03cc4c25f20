//! What SQL Server's catalog knows of tables and columns.

use async_trait::async_trait;

use super::SqlServerConnection;
use super::rows::StageKey;
use crate::destination::Failure;
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{ANSWER_WAIT_MAX, ListedColumn, Parameter, SqlCatalog};

/// Columns: table, column, IS_NULLABLE, default, type, place in the key, type of the table,
/// collation. Parameter: schema.
pub const COLUMNS: &str = include_str!("columns.sql");

/// The same of one table. Parameters: schema, table.
pub fn columns_of_one() -> String {
    format!("{COLUMNS} AND c.TABLE_NAME = @P2")
}

/// Columns: type, length, collation, precision, scale. Parameters: schema, table, column.
pub const DECLARED: &str = "\
    SELECT DATA_TYPE, CAST(CHARACTER_MAXIMUM_LENGTH AS BIGINT), COLLATION_NAME, \
    CAST(NUMERIC_PRECISION AS BIGINT), CAST(NUMERIC_SCALE AS BIGINT) \
    FROM INFORMATION_SCHEMA.COLUMNS \
    WHERE TABLE_SCHEMA = @P1 AND TABLE_NAME = @P2 AND COLUMN_NAME = @P3";

/// What else the catalog tells of a table's columns of texts.
#[derive(Clone, Debug, Default)]
pub struct TextColumns {
    /// Those that hold characters of one code page only.
    pub narrow: Vec<String>,
    /// Those of the key that a collation compares which takes different texts for one.
    pub loose_keys: Vec<String>,
}

/// Whether the collation of this name tells apart any two texts, but for spaces at their end.
pub fn is_exact(collation: &str) -> bool {
    let name = collation.to_lowercase();
    let name = name.strip_suffix("_utf8").unwrap_or(&name);
    name.ends_with("_bin") || name.ends_with("_bin2")
}

/// Whether the collation of this name tells apart texts that differ in case or accents.
pub fn tells_keys_apart(collation: &str) -> bool {
    let name = collation.to_lowercase();
    let has = |part: &str| name.split('_').any(|it| it == part);
    is_exact(&name) || (has("cs") && has("as"))
}

/// The definition of a column as it is now, but nullable.
pub fn nullable_definition(
    kind: &str,
    length: Option<i64>,
    collation: Option<&str>,
    precision: Option<i64>,
    scale: Option<i64>,
) -> String {
    let size = match (kind, length, precision, scale) {
        (_, Some(-1), ..) => "(MAX)".to_owned(),
        (_, Some(length), ..) => format!("({length})"),
        ("decimal" | "numeric", _, Some(precision), Some(scale)) => {
            format!("({precision}, {scale})")
        }
        _ => String::new(),
    };
    let collation = collation.map(|name| format!(" COLLATE {name}")).unwrap_or_default();
    format!("{}{size}{collation} NULL", kind.to_uppercase())
}

#[async_trait]
impl SqlCatalog for SqlServerConnection {
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure> {
        // Tables may have changed: temporary tables may have the wrong columns.
        let is_meant = |table: &str| only.is_none_or(|only| only == table);
        let void: Vec<StageKey> =
            self.stages.keys().filter(|key| is_meant(key.table())).cloned().collect();
        for key in void {
            let Some(stage) = self.stages.remove(&key) else { continue };
            self.batch(ANSWER_WAIT_MAX, format!("DROP TABLE {stage}")).await?;
        }
        self.texts.retain(|table, _| !is_meant(table));
        let place = &renderer.namespace;
        let schema = place.schema.as_deref().unwrap_or_default().into();
        let rows = match only {
            None => self.rows(COLUMNS, &[schema]).await?,
            Some(table) => {
                let name = Parameter::Text(renderer.listed_name(table));
                self.rows(&columns_of_one(), &[schema, name]).await?
            }
        };
        let mut listed = Vec::with_capacity(rows.len());
        for row in &rows {
            let text = |i: usize| row.get::<&str, _>(i).unwrap_or_default();
            let Some(table) = place.source_of(text(0)) else { continue };
            let place_in_key = row.get::<i64, _>(5).unwrap_or(0);
            let texts = self.texts.entry(table.clone()).or_default();
            if matches!(text(4), "varchar" | "char" | "text") {
                texts.narrow.push(text(1).to_owned());
            }
            if place_in_key > 0 && row.get::<&str, _>(7).is_some_and(|name| !is_exact(name)) {
                texts.loose_keys.push(text(1).to_owned());
            }
            let write_blocker = (text(6) == "VIEW").then(|| {
                "it is a view; choose another schema with ?schema=, or rename it".to_owned()
            });
            listed.push(ListedColumn {
                table,
                column: text(1).to_owned(),
                declared: text(4).to_owned(),
                takes_null: text(2) == "YES",
                has_default: row.get::<&str, _>(3).is_some(),
                key: place_in_key,
                write_blocker,
            });
        }
        Ok(listed)
    }

    async fn nullable_definition(
        &mut self,
        renderer: &Renderer,
        table: &str,
        column: &str,
    ) -> Result<String, Failure> {
        let place = &renderer.namespace;
        let parameters = [
            place.schema.as_deref().unwrap_or_default().into(),
            place.name_of(table).as_str().into(),
            column.into(),
        ];
        let rows = self.rows(DECLARED, &parameters).await?;
        let row = rows.first().ok_or_else(|| {
            Failure::unavailable(format!(
                "column {column:?} of table {table:?} is not there any more"
            ))
        })?;
        Ok(nullable_definition(
            row.get(0).unwrap_or_default(),
            row.get(1),
            row.get(2),
            row.get(3),
            row.get(4),
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn collations_are_known_by_their_names() {
        for (name, exact, apart) in [
            ("SQL_Latin1_General_CP1_CI_AS", false, false),
            ("Latin1_General_100_CS_AI", false, false),
            ("Latin1_General_CS_AS", false, true),
            ("SQL_Latin1_General_CP1_CS_AS", false, true),
            ("Japanese_XJIS_140_CS_AS_KS_WS_VSS", false, true),
            ("Latin1_General_100_CS_AS_SC_UTF8", false, true),
            ("Latin1_General_BIN", true, true),
            ("Latin1_General_100_BIN2", true, true),
            ("Latin1_General_100_BIN2_UTF8", true, true),
            ("bbf_unicode_cp1_ci_as", false, false),
            ("", false, false),
        ] {
            assert_eq!((is_exact(name), tells_keys_apart(name)), (exact, apart), "{name}");
        }
    }

    #[test]
    fn columns_are_declared_as_they_are() {
        assert_eq!(
            nullable_definition("nvarchar", Some(-1), Some("Latin1_General_CI_AS"), None, None),
            "NVARCHAR(MAX) COLLATE Latin1_General_CI_AS NULL"
        );
        assert_eq!(nullable_definition("varchar", Some(64), None, None, None), "VARCHAR(64) NULL");
        assert_eq!(nullable_definition("bigint", None, None, Some(19), Some(0)), "BIGINT NULL");
        assert_eq!(
            nullable_definition("decimal", None, None, Some(18), Some(4)),
            "DECIMAL(18, 4) NULL"
        );
    }
}
