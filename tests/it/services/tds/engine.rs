//! Executes the shapes of statements that EDS sends to SQL Server on SQLite, with SQL Server's
//! errors.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::wire::{TdsAnswer, TdsCell, TdsKind};
use super::{Columns, TdsOutcome, TdsRow};

/// An error as SQL Server tells it.
#[derive(Clone, Debug)]
pub struct Refused {
    pub code: u32,
    pub message: String,
}

impl Refused {
    pub fn new(code: u32, message: impl Into<String>) -> Refused {
        Refused { code, message: message.into() }
    }
}

impl From<rusqlite::Error> for Refused {
    fn from(error: rusqlite::Error) -> Refused {
        let message = error.to_string();
        let code = match error.sqlite_error_code() {
            Some(ErrorCode::ConstraintViolation) if message.contains("NOT NULL") => 515,
            Some(ErrorCode::ConstraintViolation) => 2627,
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => 1222,
            _ if message.contains("no such table") => 208,
            _ if message.contains("no such column") => 207,
            _ if message.contains("duplicate column") => 2705,
            _ => 102,
        };
        Refused::new(code, message)
    }
}

pub fn file(dir: &Path, database: &str) -> PathBuf {
    dir.join(format!("{database}.db"))
}

/// How much is said by (MAX).
const MAX: &str = "(2147483647)";

/// One session.
pub struct TdsEngine {
    db: Connection,
    /// The temporary table that a bulk load was announced for.
    loading: Option<String>,
}

impl TdsEngine {
    pub fn open(dir: &Path, database: &str) -> TdsEngine {
        let db = Connection::open_in_memory().unwrap_or_else(|e| panic!("{e}"));
        db.busy_timeout(Duration::from_secs(10)).unwrap_or_else(|e| panic!("{e}"));
        db.execute("ATTACH ? AS dbo", [file(dir, database).display().to_string()])
            .unwrap_or_else(|e| panic!("{e}"));
        db.pragma_update(Some("dbo"), "journal_mode", "WAL").unwrap_or_else(|e| panic!("{e}"));
        TdsEngine { db, loading: None }
    }

    pub fn roll_back(&self) {
        if !self.db.is_autocommit() {
            let _ = self.db.execute_batch("ROLLBACK");
        }
    }

    /// Runs the statements of a batch; the first error undoes the transaction, as XACT_ABORT has
    /// it.
    pub fn run(&mut self, sql: &str, parameters: &[(String, TdsCell)]) -> Vec<TdsOutcome> {
        let mut answers = Vec::new();
        if self.loading.take().is_some() {
            self.roll_back();
            return vec![Err(Refused::new(
                4022,
                "Bulk load data was expected but not sent. The batch will be terminated.",
            ))];
        }
        for statement in sql.split(";\n") {
            let answer = self.statement(statement, parameters);
            let failed = answer.is_err();
            answers.push(answer);
            if failed {
                self.roll_back();
                break;
            }
        }
        answers
    }

    fn statement(&mut self, sql: &str, parameters: &[(String, TdsCell)]) -> TdsOutcome {
        let translated = translated(sql);
        let sql = translated.as_str();
        let done = |db: &Connection, sql: &str| {
            db.execute_batch(sql).map(|()| TdsAnswer::Done(0)).map_err(Refused::from)
        };
        let words: Vec<&str> = sql.split(' ').take(3).collect();
        match words[..] {
            ["SET", ..] => Ok(TdsAnswer::Done(0)),
            ["BEGIN", "TRANSACTION"] => self
                .db
                .execute_batch("BEGIN IMMEDIATE")
                .map(|()| TdsAnswer::Transaction(true))
                .map_err(Refused::from),
            ["COMMIT"] => self
                .db
                .execute_batch("COMMIT")
                .map(|()| TdsAnswer::Transaction(false))
                .map_err(Refused::from),
            ["IF", "@@TRANCOUNT", ..] => {
                self.roll_back();
                Ok(TdsAnswer::Transaction(false))
            }
            ["SELECT", "SCHEMA_NAME(),", ..] => {
                let columns = vec![
                    ("s".into(), TdsKind::Wide(Some(128))),
                    ("l".into(), TdsKind::Integer),
                    ("v".into(), TdsKind::Wide(Some(300))),
                ];
                Ok(TdsAnswer::Rows(
                    columns,
                    vec![vec![
                        TdsCell::Text("dbo".into()),
                        TdsCell::Integer(150),
                        TdsCell::Text("a stand-in for Microsoft SQL Server".into()),
                    ]],
                ))
            }
            ["SELECT", "COUNT(*)", "FROM"] if sql.contains("INFORMATION_SCHEMA.SCHEMATA") => {
                let there = matches!(parameters, [(_, TdsCell::Text(schema))] if schema == "dbo");
                Ok(TdsAnswer::Rows(
                    vec![("n".into(), TdsKind::Integer)],
                    vec![vec![TdsCell::Integer(i64::from(there))]],
                ))
            }
            ["SELECT", "COUNT(*)", "FROM"] if sql.contains("INFORMATION_SCHEMA.TABLES") => {
                let [_, (_, TdsCell::Text(table))] = parameters else { return Err(unknown(sql)) };
                let there: i64 = self.db.query_row(
                    "SELECT COUNT(*) FROM dbo.sqlite_schema WHERE name = ?",
                    [table],
                    |row| row.get(0),
                )?;
                Ok(TdsAnswer::Rows(
                    vec![("n".into(), TdsKind::Integer)],
                    vec![vec![TdsCell::Integer(there)]],
                ))
            }
            ["SELECT", "c.TABLE_NAME,", ..] => self.columns(),
            ["SELECT", "DATA_TYPE,", ..] => self.declared(parameters),
            ["SELECT", "TOP", "0"] => {
                let (_, table) = sql.rsplit_once(" FROM ").ok_or_else(|| unknown(sql))?;
                Ok(TdsAnswer::Rows(self.kinds(table.trim_matches('"'))?, Vec::new()))
            }
            ["IF", ..] => {
                let (_, create) = sql.split_once(" IS NULL ").ok_or_else(|| unknown(sql))?;
                done(&self.db, &create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1))
            }
            ["SELECT", ..] if sql.contains(" INTO \"#") => self.make_stage(sql),
            ["TRUNCATE", "TABLE", stage] => done(&self.db, &format!("DELETE FROM temp.{stage}")),
            ["DROP", "TABLE", "IF"] => done(&self.db, sql),
            ["EXEC", "sp_rename", ..] => self.rename(sql),
            ["DROP", "TABLE", stage] if stage.starts_with("\"#") => {
                done(&self.db, &format!("DROP TABLE temp.{stage}"))
            }
            ["ALTER", ..] if sql.contains(" ALTER COLUMN ") => self.alter_column(sql),
            ["ALTER", ..] => done(&self.db, &sql.replacen(" ADD ", " ADD COLUMN ", 1)),
            ["INSERT", "BULK", stage] => {
                self.loading = Some(stage.trim_matches('"').to_owned());
                Ok(TdsAnswer::Done(0))
            }
            ["INSERT", ..] if sql.contains(" FROM OPENJSON(") => {
                self.fill_from_json(sql, parameters)
            }
            ["UPDATE", "t", "SET"] => {
                let (set, join) =
                    sql.split_once(" AS t INNER JOIN ").ok_or_else(|| unknown(sql))?;
                let (set, table) = set.rsplit_once(" FROM ").ok_or_else(|| unknown(sql))?;
                let (stage, on) = join.split_once(" AS s ON ").ok_or_else(|| unknown(sql))?;
                let schema = if stage.starts_with("\"#") { "temp." } else { "" };
                self.change(
                    &format!(
                        "UPDATE {table} AS t {} FROM {schema}{stage} AS s WHERE {on}",
                        &set["UPDATE t ".len()..]
                    ),
                    parameters,
                )
            }
            ["DELETE", "t", "FROM"] => {
                let (table, join) = sql["DELETE t FROM ".len()..]
                    .split_once(" AS t INNER JOIN ")
                    .ok_or_else(|| unknown(sql))?;
                self.change(
                    &format!(
                        "DELETE FROM {table} WHERE rowid IN (SELECT t.rowid FROM \
                    {table} AS t INNER JOIN temp.{join})"
                    ),
                    parameters,
                )
            }
            ["INSERT" | "UPDATE", ..] | ["DELETE", "FROM", _] => self.change(sql, parameters),
            ["SELECT", "epoch,", ..] => {
                self.query(sql, parameters, &["epoch", "sequence", "time", "format"], false)
            }
            ["SELECT", "lines_done,", ..] => {
                self.query(sql, parameters, &["lines", "rows", "skipped", "done"], false)
            }
            ["SELECT", "consumer,", "companies"] => {
                self.query(sql, parameters, &["consumer", "companies"], true)
            }
            ["SELECT", "consumer,", ..] => {
                self.query(sql, parameters, &["consumer", "table", "cutover"], true)
            }
            ["SELECT", "consumer", "FROM"] => self.query(sql, parameters, &["consumer"], true),
            ["SELECT", "job,", ..] => self.query(sql, parameters, &["job", "file"], true),
            _ => Err(unknown(sql)),
        }
    }

    fn change(&self, sql: &str, parameters: &[(String, TdsCell)]) -> TdsOutcome {
        let values: Vec<(String, Value)> =
            parameters.iter().map(|(name, cell)| (name.clone(), value(cell))).collect();
        let named: Vec<(&str, &dyn rusqlite::ToSql)> = values
            .iter()
            .map(|(name, value)| (name.as_str(), value as &dyn rusqlite::ToSql))
            .collect();
        Ok(TdsAnswer::Done(self.db.execute(sql, &named[..])? as u64))
    }

    /// Rows of texts, or of integers.
    fn query(
        &self,
        sql: &str,
        parameters: &[(String, TdsCell)],
        names: &[&str],
        texts: bool,
    ) -> TdsOutcome {
        let mut statement = self.db.prepare(sql)?;
        let values: Vec<(String, Value)> =
            parameters.iter().map(|(name, cell)| (name.clone(), value(cell))).collect();
        let named: Vec<(&str, &dyn rusqlite::ToSql)> = values
            .iter()
            .map(|(name, value)| (name.as_str(), value as &dyn rusqlite::ToSql))
            .collect();
        let cell = |row: &rusqlite::Row<'_>, i: usize| {
            if texts { row.get(i).map(TdsCell::Text) } else { row.get(i).map(TdsCell::Integer) }
        };
        let read = |row: &rusqlite::Row<'_>| {
            (0..names.len()).map(|i| cell(row, i)).collect::<rusqlite::Result<TdsRow>>()
        };
        let rows =
            statement.query_map(&named[..], read)?.collect::<rusqlite::Result<Vec<TdsRow>>>()?;
        let kind = if texts { TdsKind::Wide(Some(2000)) } else { TdsKind::Integer };
        Ok(TdsAnswer::Rows(names.iter().map(|name| ((*name).to_owned(), kind)).collect(), rows))
    }

    /// EXEC sp_rename N'[dbo].[from]', N'to'
    fn rename(&self, sql: &str) -> TdsOutcome {
        let mut names = sql.split('\'').skip(1).step_by(2);
        let (Some(from), Some(to)) = (names.next(), names.next()) else { return Err(unknown(sql)) };
        let from = from
            .strip_prefix("[dbo].[")
            .and_then(|name| name.strip_suffix(']'))
            .ok_or_else(|| unknown(sql))?;
        self.db.execute_batch(&format!("ALTER TABLE dbo.\"{from}\" RENAME TO \"{to}\""))?;
        Ok(TdsAnswer::Done(0))
    }

    /// Name, declared type, NOT NULL, place in the key, of each column of a table.
    fn described(
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

    fn kinds(&self, stage: &str) -> Result<Columns, Refused> {
        Ok(self
            .described("temp", stage)?
            .into_iter()
            .map(|(name, declared, ..)| (name, kind(&declared)))
            .collect())
    }

    fn columns(&self) -> TdsOutcome {
        let mut rows = Vec::new();
        let mut statement = self.db.prepare(
            "SELECT name, type FROM dbo.sqlite_schema WHERE type \
            IN ('table', 'view') ORDER BY name",
        )?;
        let tables = statement
            .query_map([], |row| Ok((row.get(0)?, row.get(1)?)))?
            .collect::<rusqlite::Result<Vec<(String, String)>>>()?;
        for (table, what) in tables {
            for (name, declared, strict, key) in self.described("dbo", &table)? {
                let text = |text: &str| TdsCell::Text(text.to_owned());
                let (base, _) = split(&declared);
                let what = if what == "view" { "VIEW" } else { "BASE TABLE" };
                rows.push(vec![
                    text(&table),
                    text(&name),
                    text(if strict || key > 0 { "NO" } else { "YES" }),
                    TdsCell::Null,
                    text(&base),
                    TdsCell::Integer(key),
                    text(what),
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
        ];
        Ok(TdsAnswer::Rows(columns, rows))
    }

    fn declared(&self, parameters: &[(String, TdsCell)]) -> TdsOutcome {
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
            TdsCell::Null,
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
    fn make_stage(&self, sql: &str) -> TdsOutcome {
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
                "{alias} {}{}",
                declared.1,
                if declared.2 { " NOT NULL" } else { "" }
            ));
        }
        self.db.execute_batch(&format!("CREATE TABLE temp.{stage} ({})", columns.join(", ")))?;
        Ok(TdsAnswer::Done(0))
    }

    /// ALTER TABLE "dbo"."t" ALTER COLUMN "c" TYPE NULL
    fn alter_column(&self, sql: &str) -> TdsOutcome {
        let (table, column) = sql["ALTER TABLE \"dbo\".".len()..]
            .split_once(" ALTER COLUMN ")
            .ok_or_else(|| unknown(sql))?;
        let loose = column.strip_suffix(" NULL").ok_or_else(|| unknown(sql))?;
        let table = table.trim_matches('"');
        let made: String = self.db.query_row(
            "SELECT sql FROM dbo.sqlite_schema WHERE name = ?",
            [table],
            |row| row.get(0),
        )?;
        let version: i64 =
            self.db.pragma_query_value(Some("dbo"), "schema_version", |row| row.get(0))?;
        self.db.execute_batch("PRAGMA writable_schema = ON")?;
        self.db.execute(
            "UPDATE dbo.sqlite_schema SET sql = ? WHERE name = ?",
            [&made.replace(&format!("{loose} NOT NULL"), loose), table],
        )?;
        self.db.execute_batch(&format!(
            "PRAGMA dbo.schema_version = {}; PRAGMA writable_schema = RESET",
            version + 1
        ))?;
        Ok(TdsAnswer::Done(0))
    }

    /// INSERT INTO "#stage" (c0, …) SELECT c0, … FROM OPENJSON(@P1) WITH (c0 TYPE '$[0]', …)
    fn fill_from_json(&self, sql: &str, parameters: &[(String, TdsCell)]) -> TdsOutcome {
        let stage = sql["INSERT INTO \"".len()..].split('"').next().unwrap_or_default();
        let (_, types) = sql.split_once(" WITH (").ok_or_else(|| unknown(sql))?;
        let types: Vec<TdsKind> = types
            .split(", ")
            .map(|part| kind(part.split(' ').nth(1).unwrap_or_default()))
            .collect();
        let [(_, TdsCell::Text(json))] = parameters else { return Err(unknown(sql)) };
        let rows: Vec<Vec<serde_json::Value>> = serde_json::from_str(json).map_err(|e| {
            Refused::new(13609, format!("JSON text is not properly formatted: {e}"))
        })?;
        let converted = rows.into_iter().map(|row| {
            row.iter().zip(&types).map(|(value, kind)| from_json(value, *kind)).collect()
        });
        self.fill(stage, converted.collect::<Result<Vec<TdsRow>, _>>()?)
    }

    pub fn bulk(&mut self, rows: Vec<TdsRow>) -> TdsOutcome {
        let stage = self
            .loading
            .take()
            .ok_or_else(|| Refused::new(4022, "Bulk load data was expected but not sent."))?;
        let done = self.fill(&stage, rows);
        if done.is_err() {
            self.roll_back();
        }
        done
    }

    fn fill(&self, stage: &str, rows: Vec<TdsRow>) -> TdsOutcome {
        let kinds = self.kinds(stage)?;
        let mut statement = self.db.prepare_cached(&format!(
            "INSERT INTO temp.\"{stage}\" VALUES ({})",
            vec!["?"; kinds.len()].join(", ")
        ))?;
        for row in &rows {
            for (cell, (name, kind)) in row.iter().zip(&kinds) {
                let limit = match kind {
                    TdsKind::Wide(limit) => limit.map(usize::from),
                    TdsKind::Narrow(limit) => Some(usize::from(*limit)),
                    _ => None,
                };
                let TdsCell::Text(text) = cell else { continue };
                if limit.is_some_and(|limit| text.encode_utf16().count() > limit) {
                    return Err(Refused::new(
                        2628,
                        format!(
                            "String or binary data would be truncated in table \
                             'tempdb.dbo.{stage}', column '{name}'. Truncated value: '{text}'."
                        ),
                    ));
                }
            }
            statement.execute(params_from_iter(row.iter().map(value)))?;
        }
        Ok(TdsAnswer::Done(rows.len() as u64))
    }
}

fn unknown(sql: &str) -> Refused {
    Refused::new(
        102,
        format!(
            "Incorrect syntax: the stand-in does not know {}",
            sql.chars().take(60).collect::<String>()
        ),
    )
}

fn value(cell: &TdsCell) -> Value {
    match cell {
        TdsCell::Null => Value::Null,
        TdsCell::Integer(n) => Value::Integer(*n),
        TdsCell::Float(n) => Value::Real(*n),
        TdsCell::Text(text) => Value::Text(text.clone()),
    }
}

fn from_json(value: &serde_json::Value, kind: TdsKind) -> Result<TdsCell, Refused> {
    let wrong = || Refused::new(8114, "Error converting data type nvarchar to another.");
    match (kind, value) {
        (_, serde_json::Value::Null) => Ok(TdsCell::Null),
        (TdsKind::Bit, serde_json::Value::Bool(b)) => Ok(TdsCell::Integer(i64::from(*b))),
        (TdsKind::Integer, serde_json::Value::Number(n)) => {
            n.as_i64().map(TdsCell::Integer).ok_or_else(wrong)
        }
        (TdsKind::Float, serde_json::Value::Number(n)) => {
            n.as_f64().map(TdsCell::Float).ok_or_else(wrong)
        }
        (TdsKind::Wide(_), serde_json::Value::String(text)) => Ok(TdsCell::Text(text.clone())),
        _ => Err(wrong()),
    }
}

/// `nvarchar`, 64; -1 for MAX.
fn split(declared: &str) -> (String, Option<i64>) {
    let (base, rest) = declared.split_once('(').unwrap_or((declared, ""));
    let length = rest
        .trim_end_matches(')')
        .parse::<i64>()
        .ok()
        .map(|n| if n == 2_147_483_647 { -1 } else { n });
    (base.to_lowercase(), length)
}

fn kind(declared: &str) -> TdsKind {
    match split(declared) {
        (base, _) if base == "bigint" => TdsKind::Integer,
        (base, _) if base == "float" => TdsKind::Float,
        (base, _) if base == "bit" => TdsKind::Bit,
        (base, Some(length)) if base == "varchar" => {
            TdsKind::Narrow(u16::try_from(length).unwrap_or(8000))
        }
        (_, length) => TdsKind::Wide(length.and_then(|n| u16::try_from(n).ok())),
    }
}

/// Names in double quotes, as SQLite has no way to write a bracket within brackets; strings without
/// N; types without MAX and collations.
fn translated(sql: &str) -> String {
    let mut out = String::with_capacity(sql.len());
    let mut rest = sql;
    while let Some(c) = rest.chars().next() {
        match c {
            '[' => {
                let mut name = String::new();
                rest = &rest[1..];
                while let Some(end) = rest.find(']') {
                    name += &rest[..end];
                    rest = &rest[end + 1..];
                    if !rest.starts_with(']') {
                        break;
                    }
                    name.push(']');
                    rest = &rest[1..];
                }
                out += &format!("\"{}\"", name.replace('"', "\"\""));
                continue;
            }
            '#' => {
                let end = rest[1..]
                    .find(|c: char| !c.is_alphanumeric() && c != '_')
                    .map_or(rest.len(), |n| n + 1);
                out += &format!("\"{}\"", &rest[..end]);
                rest = &rest[end..];
                continue;
            }
            '\'' => {
                let end = rest[1..].find('\'').map_or(rest.len(), |n| n + 2);
                out += &rest[..end];
                rest = &rest[end..];
                continue;
            }
            _ => {}
        }
        if let Some(after) = rest.strip_prefix("(MAX)") {
            out += MAX;
            rest = after;
        } else if let Some(after) = rest.strip_prefix(" COLLATE ") {
            rest = &after[after.find([' ', ',', ')']).unwrap_or(after.len())..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}
