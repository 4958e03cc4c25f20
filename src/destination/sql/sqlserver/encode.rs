//! Values in the forms in which they travel to SQL Server: rows of a bulk load, or one JSON
//! parameter for many rows.

use std::borrow::Cow;

use tiberius::{ColumnData, TokenRow};

use crate::change::value::{self, TypeMismatch, Value, Wanted};
use crate::change::{Batch, Change, Column, ColumnType, json};
use crate::destination::Failure;
use crate::destination::sql::reject_mismatch;

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

/// The value of column `i` of the change at `index`; rejected where the column cannot hold it.
fn value_of<'b>(
    batch: &'b Batch,
    index: u32,
    i: usize,
    column: &Column,
) -> Result<Value<'b>, Failure> {
    let change = batch.change(index);
    read(change, i, column)
        .map_err(|why| reject_mismatch(batch, &change.event.table(), index, &why))
}

/// The rows as one JSON text: an array of arrays.
pub fn json_rows(batch: &Batch, indices: &[u32], columns: &[Column]) -> Result<String, Failure> {
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

/// The rows in the client's form. Values that do not fit are rejected here, before a load is
/// announced to the server.
pub fn token_rows(
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
