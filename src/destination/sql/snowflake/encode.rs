//! Values in the forms in which they travel to Snowflake: one bound JSON text, or lines of a packed
//! file for the stage.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::change::value::{self, Value};
use crate::change::{Batch, Column, json};
use crate::destination::Failure;
use crate::destination::sql::reject_mismatch;

/// The rows at `indices` as one JSON text: an array of arrays.
pub fn json_rows(batch: &Batch, indices: &[u32], columns: &[Column]) -> Result<String, Failure> {
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

/// All rows of the batch as a file packed by gzip, one JSON document a line; and how many rows.
pub fn packed_file(batch: &Batch) -> Result<(Vec<u8>, u64), Failure> {
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
            .map_err(|why| reject_mismatch(batch, &change.event.table(), index, &why))?;
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
