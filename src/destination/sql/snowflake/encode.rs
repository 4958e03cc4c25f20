//! The form in which many rows travel to Snowflake: lines of a packed file for the stage.

use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use crate::change::Batch;
use crate::destination::Failure;
use crate::destination::sql::RowSet;
use crate::destination::sql::json_rows::{ColumnsOfTable, plain, write_row};
use crate::destination::sql::render::Renderer;

/// All rows of the batch as a file packed by gzip, one JSON document a line; and how many rows.
pub fn packed_file(renderer: &Renderer, batch: &Batch) -> Result<(Vec<u8>, u64), Failure> {
    let mut packed = GzEncoder::new(Vec::new(), Compression::fast());
    let (mut line, mut count) = (Vec::new(), 0);
    for (at, group) in batch.groups.iter().enumerate() {
        for rows in [RowSet::Deletes, RowSet::Upserts] {
            let (deletes, columns) = (rows == RowSet::Deletes, rows.columns(&group.schema));
            let contents = renderer.contents(&group.schema, columns);
            let columns = ColumnsOfTable { columns, contents: &contents };
            for index in rows.indices(group) {
                line.clear();
                line.extend_from_slice(format!("{{\"g\":{at},\"d\":{deletes},\"r\":").as_bytes());
                write_row(batch, *index, columns, plain, &mut line)?;
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
