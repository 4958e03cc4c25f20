//! Rows on their way into Snowflake: as one bound JSON text, or as lines of a file for the stage.
//! And the SQL that takes them out of there. Pure; golden files keep every statement.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::change::value::{self, Value};
use crate::change::{Batch, Column, ColumnType, TableSchema, json};
use crate::destination::Failure;
use crate::destination::sql::refused;
use crate::destination::sql::render::Renderer;

/// The stage that a session's files go through. Unqualified, as the table below: both are the
/// session's own.
pub const STAGE: &str = "\"_eds_stage\"";
/// The temporary table that a file is read into: one document a line.
pub const LINES: &str = "\"_eds_batch\"";
/// Snowflake encrypts what is on the stage by itself.
pub const MAKE_STAGE: &str =
    "CREATE TEMPORARY STAGE IF NOT EXISTS \"_eds_stage\" ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')";
/// The table as it is needed, empty.
pub const MAKE_LINES: &str = "CREATE OR REPLACE TEMPORARY TABLE \"_eds_batch\" (\"v\" VARIANT)";

/// Columns: table, column, IS_NULLABLE, default, type of the table. Parameter: schema.
pub const COLUMNS: &str = "SELECT c.table_name, c.column_name, c.is_nullable, c.column_default, \
                           t.table_type FROM information_schema.columns AS c \
    INNER JOIN information_schema.tables AS t ON t.table_schema = c.table_schema AND t.table_name \
                           = c.table_name \
    WHERE c.table_schema = ? ORDER BY c.table_name, c.ordinal_position";

/// The transactions of this user, and of whom they are.
pub const SHOW_TRANSACTIONS: &str = "SHOW TRANSACTIONS";

/// `transaction`: the number by which Snowflake knows it.
pub fn abort(transaction: i64) -> String {
    format!("SELECT SYSTEM$ABORT_TRANSACTION({transaction})")
}

/// Asks where to put the file; the path in front of its name counts for nothing.
pub fn put(file: &str) -> String {
    format!(
        "PUT 'file:///eds/{file}' @{STAGE} AUTO_COMPRESS = FALSE SOURCE_COMPRESSION = GZIP \
         OVERWRITE = TRUE"
    )
}

/// Reads the file; without NULL_IF the text `\N` would become NULL.
pub fn copy(file: &str) -> String {
    format!(
        "COPY INTO {LINES} FROM @{STAGE}/{file} FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP \
         NULL_IF = ()) ON_ERROR = ABORT_STATEMENT PURGE = TRUE"
    )
}

pub fn primary_keys(renderer: &Renderer) -> String {
    format!(
        "SHOW PRIMARY KEYS IN SCHEMA {}",
        renderer.quoted(renderer.namespace.schema.as_deref().unwrap_or_default())
    )
}

/// How the rows of one group reach a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum StagePath {
    /// As the statement's one parameter.
    Bound,
    /// In the temporary table, under the group's number.
    Staged(usize),
}

/// A query that yields the columns c0, c1, …; of deletes, or of whole rows.
pub fn source(way: StagePath, columns: &[Column], deletes: bool) -> String {
    let value = |i: usize| match way {
        StagePath::Bound => format!("value[{i}]"),
        StagePath::Staged(_) => format!("\"v\":r[{i}]"),
    };
    let typed: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(i, column)| format!("{} AS c{i}", typed(&value(i), column.kind)))
        .collect();
    let from = match way {
        StagePath::Bound => "TABLE(FLATTEN(INPUT => PARSE_JSON(?)))".to_owned(),
        StagePath::Staged(group) => format!(
            "{LINES} WHERE \"v\":g::INTEGER = {group} AND \"v\":d::BOOLEAN = {}",
            if deletes { "TRUE" } else { "FALSE" }
        ),
    };
    format!("(SELECT {} FROM {from})", typed.join(", "))
}

/// A value that travelled as JSON, in the type of its column. Arrays travel as text, so that JSON's
/// null and a missing value stay apart, and of a key that is there twice the last counts.
fn typed(value: &str, kind: ColumnType) -> String {
    match kind {
        ColumnType::Text | ColumnType::Enum | ColumnType::Object => format!("{value}::STRING"),
        ColumnType::Time => format!("TO_TIMESTAMP_NTZ({value}::NUMBER(38, 0), 6)"),
        ColumnType::Integer => format!("{value}::NUMBER(38, 0)"),
        ColumnType::Number => format!("{value}::FLOAT"),
        ColumnType::Boolean => format!("{value}::BOOLEAN"),
        ColumnType::Array => format!("PARSE_JSON({value}::STRING, 'd')"),
    }
}

/// Writes whole rows, stream order deciding; with `newer_only` a row stays that has a later
/// `updatedDate`.
pub fn merge(
    renderer: &Renderer,
    schema: &TableSchema,
    way: StagePath,
    newer_only: bool,
) -> String {
    let column = |i: usize| format!("c{i}");
    let newer = schema.column(UPDATED).filter(|at| newer_only && *at >= schema.keys);
    let condition = newer.map(|at| {
        format!("(t.{0} IS NULL OR s.c{at} IS NULL OR s.c{at} >= t.{0})", renderer.quoted(UPDATED))
    });
    renderer.merge(schema, &source(way, &schema.columns, false), column, condition.as_deref())
}

/// By which `update_strategy=after` tells what is newer.
const UPDATED: &str = "updatedDate";

pub fn delete(renderer: &Renderer, schema: &TableSchema, way: StagePath) -> String {
    renderer.delete_using(schema, &source(way, schema.key_columns(), true))
}

/// Adds rows to a table that nobody else knows.
pub fn insert(renderer: &Renderer, schema: &TableSchema, way: StagePath) -> String {
    renderer.insert(schema, &format!("SELECT * FROM {}", source(way, &schema.columns, false)))
}

/// How many rows have the key of another one.
pub fn count_repeats(renderer: &Renderer, schema: &TableSchema) -> String {
    let table = renderer.table(&schema.table);
    format!(
        "SELECT (SELECT COUNT(*) FROM {table}) - (SELECT COUNT(*) FROM (SELECT DISTINCT {} \
         FROM {table}))",
        renderer.list(schema.key_columns())
    )
}

/// Leaves one row of each key, all in one statement.
pub fn delete_repeats(renderer: &Renderer, schema: &TableSchema) -> String {
    let (table, key) = (renderer.table(&schema.table), renderer.list(schema.key_columns()));
    format!(
        "CREATE OR REPLACE TABLE {table} AS SELECT * FROM {table} QUALIFY ROW_NUMBER() OVER \
         (PARTITION BY {key} ORDER BY {key}) = 1"
    )
}

/// The rows at `indices` as one JSON text: an array of arrays.
pub fn bound(batch: &Batch, indices: &[u32], columns: &[Column]) -> Result<String, Failure> {
    let mut out = vec![b'['];
    for (n, index) in indices.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_row(batch, *index, columns, &mut out)?;
    }
    out.push(b']');
    String::from_utf8(out).map_err(|_| Failure::unavailable("a row is not UTF-8"))
}

/// All rows of the batch as a packed file, a line each, and how many they are.
pub fn file(batch: &Batch) -> Result<(Vec<u8>, u64), Failure> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let (mut line, mut count) = (Vec::new(), 0);
    for (at, group) in batch.groups.iter().enumerate() {
        for (deletes, indices, columns) in [
            (true, &group.deletes, group.schema.key_columns()),
            (false, &group.upserts, &group.schema.columns[..]),
        ] {
            for index in indices {
                line.clear();
                line.extend_from_slice(format!("{{\"g\":{at},\"d\":{deletes},\"r\":").as_bytes());
                write_row(batch, *index, columns, &mut line)?;
                line.extend_from_slice(b"}\n");
                packed
                    .write_all(&line)
                    .map_err(|e| Failure::unavailable(format!("rows cannot be packed: {e}")))?;
                count += 1;
            }
        }
    }
    let content =
        packed.finish().map_err(|e| Failure::unavailable(format!("rows cannot be packed: {e}")))?;
    Ok((content, count))
}

fn write_row(
    batch: &Batch,
    index: u32,
    columns: &[Column],
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    let change = batch.change(index);
    out.push(b'[');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        let value = value::read(change.token(i), column)
            .map_err(|why| refused(batch, &change.event.table(), index, &why))?;
        write(&value, out);
    }
    out.push(b']');
    Ok(())
}

fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = match value {
        Value::Null => serde_json::to_writer(out, &()),
        Value::Boolean(b) => serde_json::to_writer(out, b),
        Value::Integer(n) | Value::Time(n) => serde_json::to_writer(out, n),
        Value::Number(n) => serde_json::to_writer(out, n),
        Value::Text(text) => serde_json::to_writer(out, &**text),
        Value::Json(token) => serde_json::to_writer(out, &*json::well_formed(token)),
    };
}
