//! Rows on their way into a temporary table: in bulk, or as one JSON parameter. And what is asked
//! of the catalog.

use std::borrow::Cow;

use tiberius::{ColumnData, TokenRow};

use super::Client;
use crate::change::value::{self, TypeMismatch, Value, Wanted};
use crate::change::{Batch, Change, Column, ColumnType, TableSchema, json};
use crate::destination::Failure;
use crate::destination::sql::dialect::SQLSERVER;
use crate::destination::sql::refused;
use crate::destination::sql::render::Renderer;

/// From so many rows on, a bulk load is worth its three exchanges.
const BULK_ROWS_MIN: usize = 50;
/// Longer events go as JSON parameters: bulk loads of very long text are a known weakness of the
/// client.
const BULK_EVENT_BYTES_MAX: usize = 32 << 10;
/// Rows of one JSON parameter.
pub const JSON_ROWS_MAX: usize = 500;

/// Columns: table, column, IS_NULLABLE, default, type, place in the key, type of the table.
/// Parameter: schema.
pub const COLUMNS: &str = "SELECT c.TABLE_NAME, c.COLUMN_NAME, c.IS_NULLABLE, c.COLUMN_DEFAULT, \
                           c.DATA_TYPE, CAST(COALESCE(k.ORDINAL_POSITION, 0) AS BIGINT), \
                           t.TABLE_TYPE \
    FROM INFORMATION_SCHEMA.COLUMNS AS c \
    INNER JOIN INFORMATION_SCHEMA.TABLES AS t ON t.TABLE_SCHEMA = c.TABLE_SCHEMA AND t.TABLE_NAME \
                           = c.TABLE_NAME \
    LEFT JOIN (SELECT u.TABLE_SCHEMA, u.TABLE_NAME, u.COLUMN_NAME, u.ORDINAL_POSITION FROM \
                           INFORMATION_SCHEMA.KEY_COLUMN_USAGE AS u \
    INNER JOIN INFORMATION_SCHEMA.TABLE_CONSTRAINTS AS p ON p.CONSTRAINT_SCHEMA = \
                           u.CONSTRAINT_SCHEMA AND p.CONSTRAINT_NAME = u.CONSTRAINT_NAME \
    WHERE p.CONSTRAINT_TYPE = 'PRIMARY KEY') AS k ON k.TABLE_SCHEMA = c.TABLE_SCHEMA AND \
                           k.TABLE_NAME = c.TABLE_NAME AND k.COLUMN_NAME = c.COLUMN_NAME \
    WHERE c.TABLE_SCHEMA = @P1 ORDER BY c.TABLE_NAME, c.ORDINAL_POSITION";

/// Columns: type, length, collation, precision, scale. Parameters: schema, table, column.
pub const DECLARED: &str = "SELECT DATA_TYPE, CAST(CHARACTER_MAXIMUM_LENGTH AS BIGINT), \
                            COLLATION_NAME, CAST(NUMERIC_PRECISION AS BIGINT), CAST(NUMERIC_SCALE \
                            AS BIGINT) \
    FROM INFORMATION_SCHEMA.COLUMNS WHERE TABLE_SCHEMA = @P1 AND TABLE_NAME = @P2 AND \
                            COLUMN_NAME = @P3";

/// A column as it is, but for NOT NULL.
pub fn declared(
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

/// An empty temporary table with columns c0, c1, … of the types of the table's first `columns`
/// columns.
pub fn make_stage(
    renderer: &Renderer,
    schema: &TableSchema,
    columns: usize,
    stage: &str,
) -> String {
    let named: Vec<String> = schema.columns[..columns]
        .iter()
        .enumerate()
        .map(|(i, c)| format!("{} AS c{i}", renderer.quoted(&c.name)))
        .collect();
    format!(
        "SELECT {} INTO {stage} FROM {} WHERE 1 = 0",
        named.join(", "),
        renderer.table(&schema.table)
    )
}

/// Fills a temporary table from the rows of a JSON parameter, each an array.
pub fn fill(stage: &str, columns: &[Column]) -> String {
    let names: Vec<String> = (0..columns.len()).map(|i| format!("c{i}")).collect();
    let typed: Vec<String> = columns
        .iter()
        .enumerate()
        .map(|(i, c)| format!("c{i} {} '$[{i}]'", travelling(c.kind)))
        .collect();
    let names = names.join(", ");
    format!(
        "INSERT INTO {stage} ({names}) SELECT {names} FROM OPENJSON(@P1) WITH ({})",
        typed.join(", ")
    )
}

/// The text with the column's own name where it names one of a temporary table.
pub fn with_column(text: &str, schema: &TableSchema) -> String {
    let Some((before, rest)) = text.split_once("column \"c") else { return text.to_owned() };
    let column = rest
        .strip_suffix('"')
        .and_then(|n| n.parse::<usize>().ok())
        .and_then(|n| schema.columns.get(n));
    column.map_or_else(|| text.to_owned(), |column| format!("{before}column {:?}", column.name))
}

/// The type in which a value travels: text of any length, whatever the column takes of it.
fn travelling(kind: ColumnType) -> &'static str {
    match SQLSERVER.type_of(kind) {
        "VARCHAR(64)" => "NVARCHAR(MAX)",
        other => other,
    }
}

/// Whether the rows go as a bulk load.
pub fn takes_bulk(batch: &Batch, indices: &[u32]) -> bool {
    indices.len() >= BULK_ROWS_MIN
        && indices
            .iter()
            .all(|index| batch.change(*index).event.payload().len() <= BULK_EVENT_BYTES_MAX)
}

/// Refuses what SQL Server would store as something else: characters that a column's code page
/// lacks, and keys that it does not tell apart.
pub fn check(
    batch: &Batch,
    group: usize,
    indices: &[u32],
    columns: &[Column],
    narrow: &[String],
) -> Result<(), Failure> {
    let schema = &batch.groups[group].schema;
    for index in indices {
        let change = batch.change(*index);
        for (i, column) in columns.iter().enumerate() {
            let is_key = i < schema.keys;
            if !is_key && !narrow.iter().any(|name| *name == *column.name) {
                continue;
            }
            let text = change.token(i).map(json::text).unwrap_or_default();
            let why = if is_key && text.ends_with(' ') {
                "ends in a space, which SQL Server does not tell from a key without"
            } else if !text.is_ascii() && narrow.iter().any(|name| *name == *column.name) {
                "has characters that its VARCHAR column cannot hold; ALTER TABLE … ALTER COLUMN … \
                 NVARCHAR cures it"
            } else {
                continue;
            };
            return Err(Failure::rejected(vec![(
                *index,
                format!("table {:?}: the value of column {:?} {why}", schema.table, column.name),
            )]));
        }
    }
    Ok(())
}

/// The value of a column as SQL Server is to keep it.
fn read<'a>(change: &'a Change, i: usize, column: &Column) -> Result<Value<'a>, TypeMismatch> {
    match value::read(change.token(i), column)? {
        // An instant in UTC stays as it was written, as the predecessor of EDS stored it.
        Value::Time(micros) => {
            let written = change
                .token(i)
                .map(json::text)
                .filter(|text| text.ends_with('Z') && text.as_bytes().get(10) == Some(&b'T'));
            let text =
                written.or_else(|| value::utc(micros).map(|_| Cow::Owned(value::rfc3339(micros))));
            text.map(Value::Text).ok_or_else(|| TypeMismatch::of(column, Wanted::Time))
        }
        Value::Json(token) => Ok(Value::Text(json::well_formed(token))),
        other => Ok(other),
    }
}

/// The value of column `i` of the change at `index`; refused where the column cannot hold it.
fn value_of<'b>(
    batch: &'b Batch,
    index: u32,
    i: usize,
    column: &Column,
) -> Result<Value<'b>, Failure> {
    let change = batch.change(index);
    read(change, i, column).map_err(|why| refused(batch, &change.event.table(), index, &why))
}

/// The rows as one JSON text: an array of arrays.
pub fn json(batch: &Batch, indices: &[u32], columns: &[Column]) -> Result<String, Failure> {
    let mut out = Vec::with_capacity(indices.len() * columns.len() * 12);
    for (n, index) in indices.iter().enumerate() {
        out.extend_from_slice(if n == 0 { b"[[" } else { b",[" });
        for (i, column) in columns.iter().enumerate() {
            if i > 0 {
                out.push(b',');
            }
            write(&value_of(batch, *index, i, column)?, &mut out);
        }
        out.push(b']');
    }
    out.push(b']');
    String::from_utf8(out).map_err(|_| Failure::unavailable("a row is not UTF-8"))
}

fn write(value: &Value<'_>, out: &mut Vec<u8>) {
    // Writing to memory does not fail.
    let _ = match value {
        Value::Null => serde_json::to_writer(out, &()),
        Value::Boolean(b) => serde_json::to_writer(out, b),
        Value::Integer(n) => serde_json::to_writer(out, n),
        Value::Number(n) => serde_json::to_writer(out, n),
        Value::Text(text) => serde_json::to_writer(out, &**text),
        Value::Json(text) => serde_json::to_writer(out, text),
        Value::Time(micros) => serde_json::to_writer(out, &value::rfc3339(*micros)),
    };
}

/// The rows in the client's form; what does not fit is refused before a load is announced to the
/// server.
pub fn tokens(
    batch: &Batch,
    indices: &[u32],
    columns: &[Column],
) -> Result<Vec<TokenRow<'static>>, Failure> {
    let mut rows = Vec::with_capacity(indices.len());
    for index in indices {
        let mut row = TokenRow::with_capacity(columns.len());
        for (i, column) in columns.iter().enumerate() {
            row.push(token(&value_of(batch, *index, i, column)?, column.kind));
        }
        rows.push(row);
    }
    Ok(rows)
}

/// Loads the rows into the stage.
pub async fn bulk(
    client: &mut Client,
    stage: &str,
    rows: Vec<TokenRow<'static>>,
) -> tiberius::Result<()> {
    let mut load = client.bulk_insert(stage).await?;
    let mut sent = Ok(());
    for row in rows {
        sent = load.send(row).await;
        if sent.is_err() {
            break;
        }
    }
    // Once announced, a load has to be ended: the server waits for it, and would take nothing else.
    // What was loaded goes with the transaction.
    let ended = load.finalize().await.map(drop);
    sent.and(ended)
}

fn token(value: &Value<'_>, kind: ColumnType) -> ColumnData<'static> {
    match value {
        Value::Boolean(b) => ColumnData::Bit(Some(*b)),
        Value::Integer(n) => ColumnData::I64(Some(*n)),
        Value::Number(n) => ColumnData::F64(Some(*n)),
        Value::Text(text) => ColumnData::String(Some(Cow::Owned(text.clone().into_owned()))),
        Value::Json(text) => ColumnData::String(Some(Cow::Owned((*text).to_owned()))),
        Value::Time(micros) => ColumnData::String(Some(Cow::Owned(value::rfc3339(*micros)))),
        Value::Null => match kind {
            ColumnType::Integer => ColumnData::I64(None),
            ColumnType::Number => ColumnData::F64(None),
            ColumnType::Boolean => ColumnData::Bit(None),
            _ => ColumnData::String(None),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_declared_as_they_are() {
        assert_eq!(
            declared("nvarchar", Some(-1), Some("Latin1_General_CI_AS"), None, None),
            "NVARCHAR(MAX) COLLATE Latin1_General_CI_AS NULL"
        );
        assert_eq!(declared("varchar", Some(64), None, None, None), "VARCHAR(64) NULL");
        assert_eq!(declared("bigint", None, None, Some(19), Some(0)), "BIGINT NULL");
        assert_eq!(declared("decimal", None, None, Some(18), Some(4)), "DECIMAL(18, 4) NULL");
    }
}
