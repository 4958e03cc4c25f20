//! Rows as JSON arrays: many of them as one parameter, or as lines of a file.

use super::reject_mismatch;
use crate::change::value::{self, TypeMismatch, Value};
use crate::change::{Batch, Change, Column, json};
use crate::destination::{Failure, Holds};

/// Reads the value of the n-th column of a change, as a database is to keep it in a column that
/// holds this.
pub type ReadValue =
    for<'a> fn(&'a Change, usize, &Column, Holds) -> Result<Value<'a>, TypeMismatch>;

/// Columns of a schema, and what each holds in the destination.
#[derive(Clone, Copy, Debug)]
pub struct ColumnsOfTable<'c> {
    /// The columns.
    pub columns: &'c [Column],
    /// What each holds.
    pub contents: &'c [Holds],
}

impl<'c> ColumnsOfTable<'c> {
    /// Each with its place.
    pub fn each(self) -> impl Iterator<Item = (usize, &'c Column, Holds)> {
        self.columns
            .iter()
            .zip(self.contents)
            .enumerate()
            .map(|(i, (c, contents))| (i, c, *contents))
    }
}

/// The value of the n-th column of a change, as the event has it; a number as text for a column of
/// texts.
pub fn plain<'a>(
    change: &'a Change,
    i: usize,
    column: &Column,
    contents: Holds,
) -> Result<Value<'a>, TypeMismatch> {
    let value = value::read(change.token(i), column)?;
    Ok(if contents == Holds::Text { value.as_text() } else { value })
}

/// The value of a column, with its place, of the change at `index`; rejected where the column
/// cannot hold it.
pub fn value_of<'b>(
    batch: &'b Batch,
    index: u32,
    (i, column, contents): (usize, &Column, Holds),
    read: ReadValue,
) -> Result<Value<'b>, Failure> {
    let change = batch.change(index);
    read(change, i, column, contents)
        .map_err(|why| reject_mismatch(batch, &change.event.table(), index, &why))
}

/// The rows of the changes at `indices` as one JSON text: an array of arrays.
pub fn json_rows(
    batch: &Batch,
    indices: &[u32],
    columns: ColumnsOfTable<'_>,
    read: ReadValue,
) -> Result<String, Failure> {
    let mut out = Vec::with_capacity(indices.len() * columns.columns.len() * 12);
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
    columns: ColumnsOfTable<'_>,
    read: ReadValue,
    out: &mut Vec<u8>,
) -> Result<(), Failure> {
    out.push(b'[');
    for column in columns.each() {
        if column.0 > 0 {
            out.push(b',');
        }
        write(&value_of(batch, index, column, read)?, out);
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
