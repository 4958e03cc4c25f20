//! Rows as JSON arrays: many of them as one parameter, or as lines of a file.

use super::reject_mismatch;
use crate::change::value::{self, TypeMismatch, Value};
use crate::change::{Batch, Change, Column, json};
use crate::destination::Failure;

/// Reads the value of the n-th column of a change, as a database is to keep it.
pub type ReadValue = for<'a> fn(&'a Change, usize, &Column) -> Result<Value<'a>, TypeMismatch>;

/// The value of the n-th column of a change, as the event has it.
pub fn plain<'a>(change: &'a Change, i: usize, column: &Column) -> Result<Value<'a>, TypeMismatch> {
    value::read(change.token(i), column)
}

/// The value of column `i` of the change at `index`; rejected where the column cannot hold it.
pub fn value_of<'b>(
    batch: &'b Batch,
    index: u32,
    i: usize,
    column: &Column,
    read: ReadValue,
) -> Result<Value<'b>, Failure> {
    let change = batch.change(index);
    read(change, i, column)
        .map_err(|why| reject_mismatch(batch, &change.event.table(), index, &why))
}

/// The rows of the changes at `indices` as one JSON text: an array of arrays.
pub fn json_rows(
    batch: &Batch,
    indices: &[u32],
    columns: &[Column],
    read: ReadValue,
) -> Result<String, Failure> {
    let mut out = Vec::with_capacity(indices.len() * columns.len() * 12);
    out.push(b'[');
    for (n, index) in indices.iter().enumerate() {
        if n > 0 {
            out.push(b',');
        }
        write_row(batch, *index, columns, read, &mut out)?;
    }
    out.push(b']');
    String::from_utf8(out).map_err(|_| Failure::unavailable("a row is not UTF-8"))
}

/// Appends the row of the change at `index` as an array.
pub fn write_row(
    batch: &Batch,
    index: u32,
    columns: &[Column],
    read: ReadValue,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    out.push(b'[');
    for (i, column) in columns.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        write(&value_of(batch, index, i, column, read)?, out);
    }
    out.push(b']');
    Ok(())
}

/// Times travel as microseconds, JSON as its text.
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
