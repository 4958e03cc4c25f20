//! What the stand-in knows of its tables, and how they are made and altered.

use super::super::wire::{TdsAnswer, TdsCell, TdsKind};
use super::super::{Columns, TdsOutcome};
use super::dialect::{kind, split, unknown};
use super::{Refused, TdsEngine, collation};

impl TdsEngine {
    /// How many tables have this name: none or one.
    pub(super) fn tables_named(&self, table: &str) -> Result<i64, Refused> {
        let sql = "SELECT COUNT(*) FROM dbo.sqlite_schema WHERE name = ?";
        Ok(self.db.query_row(sql, [table], |row| row.get(0))?)
    }

    /// EXEC sp_rename N'[dbo].[from]', N'to'
    pub(super) fn rename(&self, sql: &str) -> TdsOutcome {
        let mut names = sql.split('\'').skip(1).step_by(2);
        let (Some(from), Some(to)) = (names.next(), names.next()) else { return Err(unknown(sql)) };
        let from = from
            .strip_prefix("[dbo].[")
            .and_then(|name| name.strip_suffix(']'))
            .ok_or_else(|| unknown(sql))?;
        self.db.execute_batch(&format!("ALTER TABLE dbo.\"{from}\" RENAME TO \"{to}\""))?;
        Ok(TdsAnswer::Done(0))
    }

    /// Name, table and table that is referred to, of each foreign key.
    pub(super) fn foreign_keys(&self) -> TdsOutcome {
        let mut statement = self.db.prepare(
            "SELECT 'fk_' || m.name, m.name, f.\"table\" FROM dbo.sqlite_schema m, \
             pragma_foreign_key_list(m.name, 'dbo') f WHERE m.type = 'table'",
        )?;
        let cell = |row: &rusqlite::Row<'_>, i: usize| row.get(i).map(TdsCell::Text);
        let rows = statement
            .query_map([], |row| (0..3).map(|i| cell(row, i)).collect())?
            .collect::<rusqlite::Result<Vec<_>>>()?;
        let names = ["name", "table", "refers_to"];
        let columns = names.map(|name| (name.to_owned(), TdsKind::Wide(Some(128)))).to_vec();
        Ok(TdsAnswer::Rows(columns, rows))
    }

    /// Whether the column has a default.
    fn has_default(&self, table: &str, column: &str) -> Result<bool, Refused> {
        let sql = "SELECT dflt_value IS NOT NULL FROM pragma_table_info(?, 'dbo') WHERE name = ?";
        Ok(self.db.query_row(sql, [table, column], |row| row.get(0))?)
    }

    /// Name, declared type, NOT NULL, place in the key, of each column of a table.
    pub(super) fn described(
        &self,
        schema: &str,
        table: &str,
    ) -> Result<Vec<(String, String, bool, i64)>, Refused> {
        let mut statement =
            self.db.prepare("SELECT name, type, \"notnull\", pk FROM pragma_table_info(?, ?)")?;
        let rows = statement.query_map([table, schema], |row| {
            Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
        })?;
        let columns: Vec<_> = rows.collect::<rusqlite::Result<_>>()?;
        if columns.is_empty() {
            Err(Refused::new(208, format!("Invalid object name '{table}'.")))
        } else {
            Ok(columns)
        }
    }

    pub(super) fn kinds(&self, stage: &str) -> Result<Columns, Refused> {
        Ok(self
            .described("temp", stage)?
            .into_iter()
            .map(|(name, declared, ..)| (name, kind(&declared)))
            .collect())
    }

    /// Of all tables of a schema, or of the one that the second parameter names.
    pub(super) fn columns(&self, parameters: &[(String, TdsCell)]) -> TdsOutcome {
        let only = match parameters {
            [_, (_, TdsCell::Text(table))] => Some(table),
            _ => None,
        };
        let mut rows = Vec::new();
        let mut statement = self.db.prepare(
            "SELECT name, type FROM dbo.sqlite_schema WHERE type \
            IN ('table', 'view') ORDER BY name",
        )?;
        let tables = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
        let is_meant = |table: &str| only.is_none_or(|only| only.eq_ignore_ascii_case(table));
        for (table, what) in tables.into_iter().filter(|(table, _)| is_meant(table)) {
            for (name, declared, strict, key) in self.described("dbo", &table)? {
                let text = |text: &str| TdsCell::Text(text.to_owned());
                let (base, _) = split(&declared);
                let what = if what == "view" { "VIEW" } else { "BASE TABLE" };
                rows.push(vec![
                    text(&table),
                    text(&name),
                    text(if strict || key > 0 { "NO" } else { "YES" }),
                    if self.has_default(&table, &name)? { text("((0))") } else { TdsCell::Null },
                    text(&base),
                    TdsCell::Integer(key),
                    text(what),
                    collation::of_type(&declared, &self.collation).map_or(TdsCell::Null, text),
                ]);
            }
        }
        let wide = |name: &str| (name.to_owned(), TdsKind::Wide(Some(128)));
        let columns = vec![
            wide("table"),
            wide("column"),
            wide("nullable"),
            wide("default"),
            wide("type"),
            ("key".into(), TdsKind::Integer),
            wide("what"),
            wide("collation"),
        ];
        Ok(TdsAnswer::Rows(columns, rows))
    }

    pub(super) fn declared(&self, parameters: &[(String, TdsCell)]) -> TdsOutcome {
        let [_, (_, TdsCell::Text(table)), (_, TdsCell::Text(column))] = parameters else {
            return Err(unknown("a question about a column"));
        };
        let columns = self.described("dbo", table)?;
        let found = columns
            .iter()
            .find(|(name, ..)| name == column)
            .ok_or_else(|| Refused::new(207, "Invalid column name."))?;
        let (base, length) = split(&found.1);
        let row = vec![
            TdsCell::Text(base),
            length.map_or(TdsCell::Null, TdsCell::Integer),
            collation::of_type(&found.1, &self.collation)
                .map_or(TdsCell::Null, |name| TdsCell::Text(name.to_owned())),
            TdsCell::Null,
            TdsCell::Null,
        ];
        let wide = |name: &str| (name.to_owned(), TdsKind::Wide(Some(128)));
        let integer = |name: &str| (name.to_owned(), TdsKind::Integer);
        Ok(TdsAnswer::Rows(
            vec![
                wide("type"),
                integer("length"),
                wide("collation"),
                integer("precision"),
                integer("scale"),
            ],
            vec![row],
        ))
    }

    /// SELECT "a" AS c0, … INTO "#stage" FROM "dbo"."t" WHERE 1 = 0
    pub(super) fn make_stage(&self, sql: &str) -> TdsOutcome {
        let (names, rest) =
            sql["SELECT ".len()..].rsplit_once(" INTO ").ok_or_else(|| unknown(sql))?;
        let (stage, table) = rest.split_once(" FROM \"dbo\".").ok_or_else(|| unknown(sql))?;
        let table = table.strip_suffix(" WHERE 1 = 0").ok_or_else(|| unknown(sql))?;
        let described = self.described("dbo", &table[1..table.len() - 1].replace("\"\"", "\""))?;
        let mut columns = Vec::new();
        for (i, part) in names.split(", \"").enumerate() {
            let (name, alias) = part.rsplit_once("\" AS ").ok_or_else(|| unknown(sql))?;
            let name = name.trim_start_matches(|c| i == 0 && c == '"').replace("\"\"", "\"");
            let declared = described
                .iter()
                .find(|(n, ..)| *n == name)
                .ok_or_else(|| Refused::new(207, "Invalid column name."))?;
            columns.push(format!(
                "{alias} {}{}{}",
                declared.1,
                collation::of_type(&declared.1, &self.collation).map_or("", collation::compared),
                if declared.2 { " NOT NULL" } else { "" }
            ));
        }
        self.db.execute_batch(&format!("CREATE TABLE temp.{stage} ({})", columns.join(", ")))?;
        Ok(TdsAnswer::Done(0))
    }

    /// ALTER TABLE "dbo"."t" ALTER COLUMN "c" TYPE NULL
    /// Gives a column another definition; what is in it is converted.
    pub(super) fn alter_column(&self, sql: &str) -> TdsOutcome {
        let (table, definition) = sql["ALTER TABLE \"dbo\".".len()..]
            .split_once(" ALTER COLUMN ")
            .ok_or_else(|| unknown(sql))?;
        let loose = definition.strip_suffix(" NULL").ok_or_else(|| unknown(sql))?;
        let (column, _) = loose.split_once("\" ").ok_or_else(|| unknown(sql))?;
        let table = table.trim_matches('"');
        let made: String = self.db.query_row(
            "SELECT sql FROM dbo.sqlite_schema WHERE name = ?",
            [table],
            |row| row.get(0),
        )?;
        let begin = made.find(&format!("{column}\" ")).ok_or_else(|| unknown(sql))?;
        let altered = format!("{}{loose}{}", &made[..begin], &made[end_of_column(&made, begin)..]);
        let version: i64 =
            self.db.pragma_query_value(Some("dbo"), "schema_version", |row| row.get(0))?;
        self.db.execute_batch("PRAGMA writable_schema = ON")?;
        self.db
            .execute("UPDATE dbo.sqlite_schema SET sql = ? WHERE name = ?", [&altered, table])?;
        self.db.execute_batch(&format!(
            "PRAGMA dbo.schema_version = {}; PRAGMA writable_schema = RESET; \
             UPDATE dbo.\"{table}\" SET {column}\" = {column}\"",
            version + 1
        ))?;
        Ok(TdsAnswer::Done(0))
    }
}

/// Where the definition that begins at `begin` ends: before a comma or the last bracket.
fn end_of_column(made: &str, begin: usize) -> usize {
    let mut depth = 0;
    let end = made[begin..].find(|c| {
        match c {
            '(' => depth += 1,
            ')' => depth -= 1,
            _ => {}
        }
        depth < 0 || (depth == 0 && c == ',')
    });
    end.map_or(made.len(), |at| begin + at)
}
