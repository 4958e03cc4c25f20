//! Executes the shapes of statements that EDS sends to SQL Server on SQLite, with SQL Server's
//! errors.

mod catalog;
pub mod collation;
mod dialect;
mod read_back;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::types::Value;
use rusqlite::{Connection, ErrorCode, params_from_iter};

use super::wire::{TdsAnswer, TdsCell, TdsKind};
use super::{TdsOutcome, TdsRow};
use dialect::{from_json, kind, translated, unknown, value};

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
        // What a trigger of a test's raises: `1222: Lock request time out period exceeded.`
        if let Some((code, told)) = message.split_once(": ")
            && let Ok(code) = code.parse()
        {
            return Refused::new(code, told);
        }
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

/// A statement in SQLite's spelling, by the first words of which its shape is known.
struct TdsStatement<'s> {
    sql: &'s str,
    words: Vec<&'s str>,
    parameters: &'s [(String, TdsCell)],
}

/// `None` where the statement is not of the kind that was tried.
type TdsAttempt = Result<Option<TdsAnswer>, Refused>;

/// What EDS reads of its dead letters.
const LETTER_COLUMNS: [&str; 9] =
    ["letter", "superseded", "row", "key", "payload", "version", "sequence", "time", "bytes"];

/// One session.
pub struct TdsEngine {
    db: Connection,
    /// The database's collation.
    collation: String,
    /// The temporary table that a bulk load was announced for.
    loading: Option<String>,
}

impl TdsEngine {
    pub fn open(dir: &Path, database: &str, collation: String) -> TdsEngine {
        let db = Connection::open_in_memory().unwrap_or_else(|e| panic!("{e}"));
        db.busy_timeout(Duration::from_secs(10)).unwrap_or_else(|e| panic!("{e}"));
        db.execute("ATTACH ? AS dbo", [file(dir, database).display().to_string()])
            .unwrap_or_else(|e| panic!("{e}"));
        db.pragma_update(Some("dbo"), "journal_mode", "WAL").unwrap_or_else(|e| panic!("{e}"));
        TdsEngine { db, collation, loading: None }
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
        let translated = translated(sql, &self.collation);
        let sql = translated.as_str();
        let words = sql.split(' ').take(3).collect();
        let statement = TdsStatement { sql, words, parameters };
        let families: [fn(&mut TdsEngine, &TdsStatement<'_>) -> TdsAttempt; 6] = [
            Self::transaction,
            Self::question,
            Self::definition,
            Self::change,
            Self::record,
            Self::read_back,
        ];
        for family in families {
            if let Some(answer) = family(self, &statement)? {
                return Ok(answer);
            }
        }
        Err(unknown(sql))
    }

    /// Settings of the session, and where a transaction begins and ends.
    fn transaction(&mut self, statement: &TdsStatement<'_>) -> TdsAttempt {
        let transaction = match statement.words[..] {
            ["SET", ..] => return Ok(Some(TdsAnswer::Done(0))),
            ["BEGIN", "TRANSACTION"] => {
                self.db.execute_batch("BEGIN IMMEDIATE")?;
                true
            }
            ["COMMIT"] => {
                self.db.execute_batch("COMMIT")?;
                false
            }
            ["IF", "@@TRANCOUNT", ..] => {
                self.roll_back();
                false
            }
            _ => return Ok(None),
        };
        Ok(Some(TdsAnswer::Transaction(transaction)))
    }

    /// Questions about the server, its schemas, tables and columns.
    fn question(&mut self, statement: &TdsStatement<'_>) -> TdsAttempt {
        let TdsStatement { sql, parameters, .. } = *statement;
        let answer = match statement.words[..] {
            ["SELECT", "SCHEMA_NAME(),", ..] => server(&self.collation),
            ["SELECT", "COUNT(*)", "FROM"] if sql.contains(" INNER JOIN ") => {
                self.resolve_collations(sql)?;
                count(self.db.query_row(sql, [], |row| row.get(0))?)
            }
            ["SELECT", "COUNT(*)", "FROM"] if sql.contains("INFORMATION_SCHEMA.SCHEMATA") => {
                let exists = matches!(parameters, [(_, TdsCell::Text(schema))] if schema == "dbo");
                count(i64::from(exists))
            }
            ["SELECT", "COUNT(*)", "FROM"] if sql.contains("INFORMATION_SCHEMA.TABLES") => {
                let [_, (_, TdsCell::Text(table))] = parameters else { return Err(unknown(sql)) };
                count(self.tables_named(table)?)
            }
            ["SELECT", "c.TABLE_NAME,", ..] => self.columns(parameters)?,
            ["SELECT", "f.name,", ..] => self.foreign_keys()?,
            ["SELECT", "DATA_TYPE,", ..] => self.declared(parameters)?,
            ["SELECT", "TOP", "0"] => {
                let (_, table) = sql.rsplit_once(" FROM ").ok_or_else(|| unknown(sql))?;
                TdsAnswer::Rows(self.kinds(table.trim_matches('"'))?, Vec::new())
            }
            _ => return Ok(None),
        };
        Ok(Some(answer))
    }

    /// What makes, alters, empties and drops tables, and what announces a bulk load.
    fn definition(&mut self, statement: &TdsStatement<'_>) -> TdsAttempt {
        let sql = statement.sql;
        let translated = match statement.words[..] {
            ["IF", ..] => {
                let (_, create) = sql.split_once(" IS NULL ").ok_or_else(|| unknown(sql))?;
                create.replacen("CREATE TABLE", "CREATE TABLE IF NOT EXISTS", 1)
            }
            ["SELECT", ..] if sql.contains(" INTO \"#") => return self.make_stage(sql).map(Some),
            ["TRUNCATE", "TABLE", stage] => format!("DELETE FROM temp.{stage}"),
            ["DROP", "TABLE", "IF"] => sql.to_owned(),
            ["EXEC", "sp_rename", ..] => return self.rename(sql).map(Some),
            ["DROP", "TABLE", stage] if stage.starts_with("\"#") => {
                format!("DROP TABLE temp.{stage}")
            }
            ["ALTER", ..] if sql.contains(" ALTER COLUMN ") => {
                return self.alter_column(sql).map(Some);
            }
            ["ALTER", ..] => sql.replacen(" ADD ", " ADD COLUMN ", 1),
            ["INSERT", "BULK", stage] => {
                self.loading = Some(stage.trim_matches('"').to_owned());
                return Ok(Some(TdsAnswer::Done(0)));
            }
            _ => return Ok(None),
        };
        self.db.execute_batch(&translated)?;
        Ok(Some(TdsAnswer::Done(0)))
    }

    /// What changes rows.
    fn change(&mut self, statement: &TdsStatement<'_>) -> TdsAttempt {
        let TdsStatement { sql, parameters, .. } = *statement;
        if sql.contains(" AS s ") {
            self.resolve_collations(sql)?;
        }
        let translated = match statement.words[..] {
            ["INSERT", ..] if sql.contains(" FROM OPENJSON(") => {
                return self.fill_from_json(sql, parameters).map(Some);
            }
            ["UPDATE", "t", "SET"] => {
                let (set, join) =
                    sql.split_once(" AS t INNER JOIN ").ok_or_else(|| unknown(sql))?;
                let (set, table) = set.rsplit_once(" FROM ").ok_or_else(|| unknown(sql))?;
                let (stage, on) = join.split_once(" AS s ON ").ok_or_else(|| unknown(sql))?;
                let schema = if stage.starts_with("\"#") { "temp." } else { "" };
                let set = &set["UPDATE t ".len()..];
                format!("UPDATE {table} AS t {set} FROM {schema}{stage} AS s WHERE {on}")
            }
            ["DELETE", "t", "FROM"] => {
                let (table, join) = sql["DELETE t FROM ".len()..]
                    .split_once(" AS t INNER JOIN ")
                    .ok_or_else(|| unknown(sql))?;
                format!(
                    "DELETE FROM {table} WHERE rowid IN (SELECT t.rowid FROM {table} AS t INNER \
                     JOIN temp.{join})"
                )
            }
            ["INSERT" | "UPDATE", ..] | ["DELETE", "FROM", _] => sql.to_owned(),
            _ => return Ok(None),
        };
        let values = values(parameters);
        let changed = self.db.execute(&translated, &named(&values)[..])?;
        Ok(Some(TdsAnswer::Done(changed as u64)))
    }

    /// Reads the tables in which EDS keeps its own records: integers, or texts.
    fn record(&mut self, statement: &TdsStatement<'_>) -> TdsAttempt {
        let integers = TdsKind::Integer;
        let texts = TdsKind::Wide(Some(2000));
        let long_texts = TdsKind::Wide(None);
        let (names, kind): (&[&str], TdsKind) = match statement.words[..] {
            ["SELECT", "epoch,", ..] => (&["epoch", "sequence", "time", "format"], integers),
            ["SELECT", "lines_done,", ..] => (&["lines", "rows", "skipped", "done"], integers),
            ["SELECT", "consumer,", "companies"] => (&["consumer", "companies"], texts),
            ["SELECT", "consumer,", "label"] => (&["consumer", "label"], long_texts),
            ["SELECT", "consumer,", ..] => (&["consumer", "table", "cutover"], texts),
            ["SELECT", "consumer", "FROM"] => (&["consumer"], texts),
            ["SELECT", "job,", ..] => (&["job", "file"], texts),
            ["SELECT", "chunk,", ..] => (&["chunk", "applied"], integers),
            ["SELECT", "letter,", ..] => (&LETTER_COLUMNS, integers),
            ["SELECT", "label,", ..] => (&["label", "body"], long_texts),
            ["SELECT", "label", ..] => (&["label"], long_texts),
            ["SELECT", "body", ..] => (&["body"], long_texts),
            _ => return Ok(None),
        };
        let cell = |row: &rusqlite::Row<'_>, i: usize| match kind {
            TdsKind::Integer => row.get(i).map(TdsCell::Integer),
            _ => row.get(i).map(TdsCell::Text),
        };
        let read = |row: &rusqlite::Row<'_>| {
            (0..names.len()).map(|i| cell(row, i)).collect::<rusqlite::Result<TdsRow>>()
        };
        let values = values(statement.parameters);
        let mut prepared = self.db.prepare(statement.sql)?;
        let rows = prepared
            .query_map(&named(&values)[..], read)?
            .collect::<rusqlite::Result<Vec<TdsRow>>>()?;
        let columns = names.iter().map(|name| ((*name).to_owned(), kind)).collect();
        Ok(Some(TdsAnswer::Rows(columns, rows)))
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

fn values(parameters: &[(String, TdsCell)]) -> Vec<(String, Value)> {
    parameters.iter().map(|(name, cell)| (name.clone(), value(cell))).collect()
}

fn named(values: &[(String, Value)]) -> Vec<(&str, &dyn rusqlite::ToSql)> {
    values.iter().map(|(name, value)| (name.as_str(), value as &dyn rusqlite::ToSql)).collect()
}

/// What the server says of itself.
fn server(collation: &str) -> TdsAnswer {
    let columns = vec![
        ("s".into(), TdsKind::Wide(Some(128))),
        ("l".into(), TdsKind::Integer),
        ("v".into(), TdsKind::Wide(Some(300))),
        ("c".into(), TdsKind::Wide(Some(128))),
    ];
    let row = vec![
        TdsCell::Text("dbo".into()),
        TdsCell::Integer(150),
        TdsCell::Text("a stand-in for Microsoft SQL Server".into()),
        TdsCell::Text(collation.into()),
    ];
    TdsAnswer::Rows(columns, vec![row])
}

fn count(number: i64) -> TdsAnswer {
    TdsAnswer::Rows(vec![("n".into(), TdsKind::Integer)], vec![vec![TdsCell::Integer(number)]])
}
