//! SQLite: a file on this machine.

mod failure;
mod import;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use rusqlite::types::ToSqlOutput;
use rusqlite::{OpenFlags, params_from_iter};

use failure::{DUPLICATE_COLUMN, failure, failure_of_row};

use super::as_of::AsOf;
use super::dialect::{Create, Dialect, FenceOrder, Keys, Merge, NotNull, Rename, Widen};
use super::lent::Lent;
use super::read_back::ReadBack;
use super::render::{Namespace, Renderer};
use super::{
    ABILITIES, LOCK_WAIT_MAX, ListedColumn, Parameter, RowWriter, SqlCatalog, SqlDestination,
    SqlSession, reject_mismatches, types,
};
use crate::change::value::{self, Value};
use crate::change::{Batch, Change, Column};
use crate::destination::form::{FormField, encoded_path};
use crate::destination::settings::path_url;
use crate::destination::shape::{NameLimit, TableLimits};
use crate::destination::{
    Abilities, Access, Destination, Driver, Failure, FailureKind, Holds, Target,
};

/// `sqlite://…`: a file on this machine.
pub const DRIVER: Driver = Driver {
    scheme: "sqlite",
    aliases: &[],
    title: "SQLite",
    description: "Keeps the rows of each table in an SQLite file on this machine.",
    example: "sqlite:///var/eds/shop.db",
    help: "The file is created if it is missing; its directory has to exist. A path without a \
           leading slash (sqlite://shop.db) is\nrelative to the working directory. Times are text \
           in UTC (2024-01-02T03:04:05.000006Z), objects and arrays JSON text,\nbooleans 0 and 1. \
           Other programs may read the file at any time (it is in WAL mode); a program that writes \
           to it for\nlonger than 10 seconds is waited for.",
    fields: &[
        FormField::text("File", "The file of the database; its directory has to exist").required()
    ],
    url_of_form: |scheme, answers| Ok(format!("{scheme}://{}", encoded_path(answers.get("File")))),
    parameters: &[("prefix", "prefix of each table's name")],
    accepted: &[],
    secrets: &[],
    read_url: path_url,
    // SQLite has one writer at a time.
    abilities: |_| Abilities { loaders_max: 1, ..ABILITIES },
    open: |target| Box::pin(open(target)),
};

/// How SQLite writes SQL.
pub const SQLITE: Dialect = Dialect {
    name: "SQLite",
    quotes: ('"', '"'),
    types: ["TEXT", "TEXT", "INTEGER", "REAL", "INTEGER", "TEXT", "TEXT", "TEXT"],
    integer: "INTEGER",
    text_key: "TEXT",
    key_note: None,
    exact_text: None,
    key_bytes_max: None,
    holds: types::sqlite_holds,
    limits: TableLimits {
        database: "SQLite",
        names: NameLimit { folds_tables: true, folds_columns: true, ..NameLimit::NONE },
        columns_max: Some(2_000),
        drops_not_null: false,
        misfits: types::SQLITE_MISFITS,
    },
    widen: Widen::Replace,
    table_bytes: None,
    consumer: "TEXT",
    begin: "BEGIN IMMEDIATE",
    parameter: |n| format!("?{n}"),
    create: Create::IfNotExists,
    table_options: "",
    add_column: "ADD COLUMN",
    not_null: NotNull::Never,
    merge: Merge::OnConflict,
    keys: Keys::BeforeLoad,
    rename: Rename::AlterTable,
    has_schemas: false,
    fence: FenceOrder::CheckpointLast,
    commit_may_be_void: false,
    pipelines: false,
    lock_wait_code: None,
    unindexable_code: None,
    duplicate_column_code: DUPLICATE_COLUMN,
    as_of: Some(AsOf {
        time: |ns| format!("strftime('%Y-%m-%dT%H:%M:%fZ', ({ns}) / 1000000000.0, 'unixepoch')"),
        field: |column, field| format!("json_extract({column}, '$.{field}')"),
        number: |text| format!("CAST({text} AS INTEGER)"),
    }),
    read_back: ReadBack {
        // In WAL mode whoever reads stands in nobody's way.
        begin: &["BEGIN"],
        // As text a double has fifteen digits only.
        text: |column, _| {
            format!(
                "CASE typeof({column}) WHEN 'real' THEN printf('%!.17g', {column}) ELSE \
                 CAST({column} AS TEXT) END"
            )
        },
        join: |text| format!("COALESCE('=' || {text}, '')"),
        limit: |rows| format!("LIMIT {rows}"),
        float_digits: None,
        concerns: Some(
            "SELECT tbl_name, '', 'it has triggers, which run for each row and may refuse \
                   it: ' || group_concat(name, ', '), 'keep them cheap, or DROP TRIGGER' \
                   FROM sqlite_master WHERE type = 'trigger' AND ?1 IS NOT NULL \
                   GROUP BY tbl_name ORDER BY 1",
        ),
    },
};

/// Prepared statements that are kept.
const STATEMENTS_MAX: usize = 128;

async fn open(target: &Target) -> Result<Box<dyn Destination>, Failure> {
    let (path, access) = (target.settings.path.clone(), target.access);
    let connection = blocking(move || connect(Path::new(&path), access)).await?;
    let renderer = Renderer::new(&SQLITE, Namespace::new(&target.settings, None));
    Ok(Box::new(SqlDestination::new(
        SqliteConnection { connection: Lent::new(connection, "SQLite") },
        renderer,
        target,
    )))
}

fn connect(path: &Path, access: Access) -> Result<rusqlite::Connection, Failure> {
    let shown = path.display();
    let parent = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(Failure::misconfigured(format!(
            "the directory {} for the SQLite file does not exist: make it, or choose another path",
            parent.display()
        )));
    }
    let failed = |e: rusqlite::Error| match failure(&e) {
        Failure { kind: FailureKind::Unavailable, text, known_help, .. } => {
            Failure::unavailable(format!("{shown}: {text}")).with_help(known_help)
        }
        other => {
            Failure::misconfigured(format!("{shown} cannot be used as an SQLite file: {other}"))
        }
    };
    let connection = match (access, path.exists()) {
        (Access::Write, _) => rusqlite::Connection::open(path),
        (Access::AsItIs, false) => {
            return Err(Failure::misconfigured(format!("there is no SQLite file {shown}")));
        }
        (Access::Rehearse, false) => rusqlite::Connection::open_in_memory(),
        (Access::AsItIs | Access::Rehearse, true) => {
            let as_it_is = OpenFlags::default() & !OpenFlags::SQLITE_OPEN_CREATE;
            rusqlite::Connection::open_with_flags(path, as_it_is)
        }
    };
    let connection = connection.map_err(failed)?;
    connection.busy_timeout(LOCK_WAIT_MAX).map_err(failed)?;
    connection.set_prepared_statement_cache_capacity(STATEMENTS_MAX);
    if access == Access::Write {
        connection.pragma_update(None, "journal_mode", "WAL").map_err(failed)?;
    }
    connection.pragma_update(None, "synchronous", "FULL").map_err(failed)?;
    // A table that is dropped would delete the rows that refer to it; the source sends deletions.
    connection.pragma_update(None, "foreign_keys", false).map_err(failed)?;
    // Views name tables: they go on with whatever table has the name.
    connection.pragma_update(None, "legacy_alter_table", true).map_err(failed)?;
    Ok(connection)
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Failure> + Send + 'static,
) -> Result<T, Failure> {
    tokio::task::spawn_blocking(work)
        .await
        .unwrap_or_else(|e| Err(Failure::unavailable(format!("the SQLite thread ended: {e}"))))
}

/// A connection that a thread takes for each call.
struct SqliteConnection {
    connection: Lent<rusqlite::Connection>,
}

impl SqliteConnection {
    async fn with<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Failure> + Send + 'static,
    ) -> Result<T, Failure> {
        let connection = self.connection.take()?;
        let (connection, done) = blocking(move || {
            let done = work(&connection);
            Ok((connection, done))
        })
        .await?;
        self.connection.give_back(connection);
        done
    }
}

#[async_trait]
impl SqlSession for SqliteConnection {
    async fn execute(&mut self, sql: &str) -> Result<(), Failure> {
        let sql = sql.to_owned();
        self.with(move |db| match sql.as_str() {
            // SQLite rolls back by itself after some errors, and then has nothing to roll back.
            "ROLLBACK" if db.is_autocommit() => Ok(()),
            _ => db.execute_batch(&sql).map_err(|e| failure(&e)),
        })
        .await
    }

    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure> {
        let (sql, parameters) = (sql.to_owned(), parameters.to_vec());
        self.with(move |db| {
            let mut statement = db.prepare_cached(&sql).map_err(|e| failure(&e))?;
            statement
                .execute(params_from_iter(parameters))
                .map(|n| n as u64)
                .map_err(|e| failure(&e))
        })
        .await
    }

    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure> {
        let (sql, parameters) = (sql.to_owned(), parameters.to_vec());
        self.with(move |db| {
            let mut statement = db.prepare_cached(&sql).map_err(|e| failure(&e))?;
            let width = statement.column_count();
            let rows = statement
                .query_map(params_from_iter(parameters), |row| {
                    (0..width).map(|i| row.get(i)).collect()
                })
                .map_err(|e| failure(&e))?;
            rows.collect::<Result<_, _>>().map_err(|e| failure(&e))
        })
        .await
    }

    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure> {
        let (sql, parameters) = (sql.to_owned(), parameters.to_vec());
        self.with(move |db| {
            let mut statement = db.prepare_cached(&sql).map_err(|e| failure(&e))?;
            let width = statement.column_count();
            let text = |row: &rusqlite::Row<'_>, i: usize| {
                row.get::<_, Option<String>>(i).map(Option::unwrap_or_default)
            };
            let rows = statement
                .query_map(params_from_iter(parameters), |row| {
                    (0..width).map(|i| text(row, i)).collect()
                })
                .map_err(|e| failure(&e))?;
            rows.collect::<Result<_, _>>().map_err(|e| failure(&e))
        })
        .await
    }

    async fn close(self) -> Result<(), Failure> {
        let Some(connection) = self.connection.into_held() else { return Ok(()) };
        blocking(move || connection.close().map_err(|(_, e)| failure(&e))).await
    }
}

/// Views and virtual tables are named without their columns: those of a view whose table is gone,
/// and of a table whose module is not there, cannot be read, and the statement would fail for all.
const COLUMNS: &str = "\
    SELECT m.name, c.name, c.\"notnull\" = 0, c.pk, NULL, \
    c.dflt_value IS NOT NULL OR c.hidden <> 0, c.type \
    FROM sqlite_schema m, pragma_table_xinfo(m.name) c \
    WHERE m.type = 'table' AND m.rootpage > 0 AND c.hidden <> 1 \
    AND m.name = coalesce(?1, m.name) \
    UNION ALL \
    SELECT m.name, '', 1, 0, CASE m.type WHEN 'view' THEN 'view' ELSE 'virtual table' END, 1, '' \
    FROM sqlite_schema m \
    WHERE m.type IN ('table', 'view') AND m.rootpage = 0 AND m.name = coalesce(?1, m.name)";

#[async_trait]
impl SqlCatalog for SqliteConnection {
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure> {
        let place = renderer.namespace.clone();
        let only = only.map(|table| renderer.listed_name(table));
        self.with(move |db| {
            let mut statement = db.prepare_cached(COLUMNS).map_err(|e| failure(&e))?;
            let read = |row: &rusqlite::Row<'_>| {
                let write_blocker = row.get::<_, Option<String>>(4)?.map(|what| {
                    format!("it is a {what}; use ?prefix= for tables of EDS's own, or rename it")
                });
                let listed = |table| -> rusqlite::Result<ListedColumn> {
                    Ok(ListedColumn {
                        table,
                        column: row.get(1)?,
                        declared: row.get(6)?,
                        takes_null: row.get(2)?,
                        has_default: row.get(5)?,
                        key: row.get(3)?,
                        write_blocker,
                    })
                };
                place.source_of(&row.get::<_, String>(0)?).map(listed).transpose()
            };
            let rows = statement.query_map([only], read).map_err(|e| failure(&e))?;
            rows.filter_map(Result::transpose).collect::<Result<_, _>>().map_err(|e| failure(&e))
        })
        .await
    }
}

#[async_trait]
impl RowWriter for SqliteConnection {
    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let (renderer, batch) = (renderer.clone(), batch.clone());
        self.with(move |db| {
            let group = &batch.groups[group];
            let schema = &group.schema;
            for (sql, indices, width) in [
                (renderer.delete_one(schema), &group.deletes, schema.keys),
                (renderer.upsert_one(schema), &group.upserts, schema.columns.len()),
            ] {
                if indices.is_empty() {
                    continue;
                }
                let columns = &schema.columns[..width];
                let contents = renderer.contents(schema, columns);
                let mut statement = db.prepare_cached(&sql).map_err(|e| failure(&e))?;
                for index in indices {
                    bind(&mut statement, batch.change(*index), columns, &contents, &batch)?;
                    statement.raw_execute().map_err(|e| failure_of_row(&e, *index))?;
                }
            }
            Ok(())
        })
        .await
    }
}

fn bind(
    statement: &mut rusqlite::CachedStatement<'_>,
    change: &Change,
    columns: &[Column],
    contents: &[Holds],
    batch: &Batch,
) -> Result<(), Failure> {
    for (i, column) in columns.iter().enumerate() {
        let value = value::read(change.token(i), column).map_err(|_| reject_mismatches(batch))?;
        // Where it becomes text, SQLite cuts a number off after fifteen digits.
        let value = if contents[i] == Holds::Text { value.as_text() } else { value };
        statement.raw_bind_parameter(i + 1, Bound(value)).map_err(|e| failure(&e))?;
    }
    Ok(())
}

/// A value as SQLite keeps it.
struct Bound<'a>(Value<'a>);

impl rusqlite::ToSql for Bound<'_> {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match &self.0 {
            Value::Null => ToSqlOutput::from(rusqlite::types::Null),
            Value::Boolean(b) => ToSqlOutput::from(*b),
            Value::Integer(n) => ToSqlOutput::from(*n),
            Value::Number(n) => ToSqlOutput::from(*n),
            Value::Text(text) => ToSqlOutput::from(&**text),
            Value::Time(micros) => ToSqlOutput::from(value::rfc3339(*micros)),
            Value::Json(token) => ToSqlOutput::from(*token),
        })
    }
}

impl rusqlite::ToSql for Parameter {
    fn to_sql(&self) -> rusqlite::Result<ToSqlOutput<'_>> {
        Ok(match self {
            Parameter::Integer(n) => ToSqlOutput::from(*n),
            Parameter::Text(text) => ToSqlOutput::from(text.as_str()),
        })
    }
}
