//! The upsert: a few rows by pipelined statements, more by array parameters, many by COPY into a
//! temporary table and one statement.

use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::{SinkExt, pin_mut};
use tokio_postgres::types::Type;

use super::encode::{
    BoundArray, BoundValue, COPY_HEADER, COPY_TRAILER, put_field, stage_type, wire_array_type,
    wire_type,
};
use super::failure::failure;
use super::flight::UnpreparedStep;
use super::{PostgresConnection, StatementKey};
use crate::change::{Batch, Column, TableGroup, TableSchema, value};
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{
    Fence, RowSet, RowWriter, SqlSession, TableVersion, reject_mismatches,
};
use crate::destination::{Failure, Holds, Launch};

/// From so many rows of one table on, one statement over array parameters is faster than single
/// ones (docs/decisions/0003-postgres-bulk-path.md).
const ARRAYS_ROWS_MIN: usize = 4;
/// From so many rows of one table on, COPY into a temporary table is faster than that.
pub const COPY_ROWS_MIN: usize = 400;
/// From this round trip on, waiting for the answers of COPY costs more than COPY saves.
const FAR: Duration = Duration::from_millis(1);
/// Rows of one statement over array parameters: more of them, and it becomes slower for each row.
const ARRAY_ROWS_MAX: usize = 1_000;
/// Bytes that are encoded before they are sent.
const CHUNK_BYTES: usize = 128 << 10;

impl PostgresConnection {
    /// What is sent for the rows of a group: deletions first.
    pub(super) fn steps_of(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: usize,
    ) -> Vec<UnpreparedStep> {
        let rows = &batch.groups[group];
        let mut steps = deletes_of(renderer, rows, group);
        let stage = match self.copies(rows) {
            true => self.stages.made.get(&TableVersion::of(&rows.schema)),
            false => None,
        };
        match stage {
            Some(stage) => steps.push(UnpreparedStep::Copy(CopiedRows {
                group,
                copy: copy_to(renderer, &rows.schema, stage),
                upsert: StatementKey::own(upsert_from(renderer, &rows.schema, stage), &[]),
            })),
            None => steps.extend(upserts_of(renderer, rows, group)),
        }
        steps
    }

    /// Whether the upserts of the group go by COPY, whose answer has to be awaited in between.
    fn copies(&self, group: &TableGroup) -> bool {
        group.upserts.len() >= COPY_ROWS_MIN && self.round_trip < FAR
    }

    /// Makes the temporary table for rows of this schema, unless it is there.
    pub(super) async fn make_stage(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<(), Failure> {
        let table = TableVersion::of(schema);
        if self.stages.made.get(&table).is_some() {
            return Ok(());
        }
        self.stages.number += 1;
        let stage = format!("_eds_stage_{}", self.stages.number);
        let columns = stage_columns(renderer, schema);
        self.execute(&format!("CREATE TEMP TABLE {stage} ({columns}) ON COMMIT DELETE ROWS"))
            .await?;
        match self.stages.made.push(table, format!("pg_temp.{stage}")) {
            Some((_, unused)) => self.execute(&format!("DROP TABLE {unused}")).await,
            None => Ok(()),
        }
    }

    /// Adds the rows of the group to a table by way of the temporary one, so that PostgreSQL
    /// converts them to what the columns take.
    pub(super) async fn insert_by_stage(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let schema = &group.schema;
        let stage = self.stages.made.get(&TableVersion::of(schema)).cloned();
        let stage = stage.ok_or_else(|| Failure::unavailable("a temporary table was not made"))?;
        self.copy_into(renderer, &stage, batch, group).await?;
        let rows = format!("SELECT {} FROM {stage}", renderer.list(&schema.columns));
        let insert = self.prepared(StatementKey::own(renderer.insert(schema, &rows), &[])).await?;
        self.client.execute(&insert, &[]).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    /// The rows to write, into a table that has the schema's columns.
    pub(super) async fn copy_into(
        &mut self,
        renderer: &Renderer,
        table: &str,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let copy = self.prepared(copy_to(renderer, &group.schema, table)).await?;
        let sink = self.client.copy_in::<_, Bytes>(&copy).await.map_err(|e| failure(&e))?;
        pin_mut!(sink);
        for chunk in CopyChunks::new(renderer, batch, group) {
            sink.send(chunk?).await.map_err(|e| failure(&e))?;
        }
        sink.finish().await.map_err(|e| failure(&e))?;
        Ok(())
    }
}

/// COPY of rows of the schema into a table that has its columns.
fn copy_to(renderer: &Renderer, schema: &TableSchema, table: &str) -> StatementKey {
    let columns = renderer.list(&schema.columns);
    let sql = format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)");
    StatementKey::own(sql, &[])
}

/// The upserts of a group as COPY takes them, in chunks.
struct CopyChunks<'b> {
    batch: &'b Batch,
    group: &'b TableGroup,
    contents: Vec<Holds>,
    /// The next row; past the last one once the end is written.
    next: usize,
    buffer: BytesMut,
}

impl<'b> CopyChunks<'b> {
    fn new(renderer: &Renderer, batch: &'b Batch, group: &'b TableGroup) -> CopyChunks<'b> {
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 2));
        buffer.put_slice(COPY_HEADER);
        let contents = renderer.contents(&group.schema, &group.schema.columns);
        CopyChunks { batch, group, contents, next: 0, buffer }
    }

    fn put_row(&mut self, index: u32) -> Result<(), Failure> {
        let columns = &self.group.schema.columns;
        let change = self.batch.change(index);
        self.buffer.put_i16(columns.len() as i16);
        for (i, (column, contents)) in columns.iter().zip(&self.contents).enumerate() {
            let value = value::read(change.token(i), column);
            let value = value.map_err(|_| reject_mismatches(self.batch))?;
            put_field(&value, *contents, &mut self.buffer);
        }
        Ok(())
    }
}

impl Iterator for CopyChunks<'_> {
    type Item = Result<Bytes, Failure>;

    fn next(&mut self) -> Option<Result<Bytes, Failure>> {
        while let Some(index) = self.group.upserts.get(self.next) {
            self.next += 1;
            if let Err(failure) = self.put_row(*index) {
                return Some(Err(failure));
            }
            if self.buffer.len() >= CHUNK_BYTES {
                let chunk = self.buffer.split().freeze();
                self.buffer.reserve(CHUNK_BYTES + (CHUNK_BYTES >> 2));
                return Some(Ok(chunk));
            }
        }
        let is_end = self.next == self.group.upserts.len();
        is_end.then(|| {
            self.next += 1;
            self.buffer.put_i16(COPY_TRAILER);
            Ok(self.buffer.split().freeze())
        })
    }
}

/// Rows of a group that go by COPY into a temporary table, and by one upsert from there.
pub(super) struct CopiedRows {
    /// The group's place in the batch.
    pub(super) group: usize,
    pub(super) copy: StatementKey,
    pub(super) upsert: StatementKey,
}

impl CopiedRows {
    /// The rows as they are sent.
    pub(super) fn encoded(
        &self,
        renderer: &Renderer,
        batch: &Batch,
    ) -> Result<Vec<Bytes>, Failure> {
        CopyChunks::new(renderer, batch, &batch.groups[self.group]).collect()
    }
}

/// A statement that writes rows of one group.
pub(super) struct RowStatement {
    /// The group's place in the batch.
    pub(super) group: usize,
    pub(super) key: StatementKey,
    set: RowSet,
    /// Which rows of the set.
    rows: Range<usize>,
    /// It is sent for each row, and not once with an array for each column.
    is_single: bool,
}

/// The parameters of a statement.
pub(super) enum RowParameters<'b> {
    /// It is sent for each row.
    Each(Vec<Vec<BoundValue<'b>>>),
    /// It is sent once, for many rows.
    Arrays(Vec<BoundArray<'b>>),
}

impl RowStatement {
    /// What it is sent with.
    pub(super) fn parameters<'b>(
        &self,
        renderer: &Renderer,
        batch: &'b Batch,
    ) -> Result<RowParameters<'b>, Failure> {
        let group = &batch.groups[self.group];
        let indices = &self.set.indices(group)[self.rows.clone()];
        let columns = self.set.columns(&group.schema);
        let contents = renderer.contents(&group.schema, columns);
        match self.is_single {
            true => each(batch, indices, columns, &contents).map(RowParameters::Each),
            false => arrays(batch, indices, columns, &contents).map(RowParameters::Arrays),
        }
    }
}

/// The statements that delete rows of the group: for all keys as many array parameters as the key
/// has columns.
fn deletes_of(renderer: &Renderer, rows: &TableGroup, group: usize) -> Vec<UnpreparedStep> {
    by_arrays(renderer, rows, (group, RowSet::Deletes), || delete_many(renderer, &rows.schema))
}

/// The statements that upsert rows of the group: one for each of a few rows, else an array
/// parameter for each column.
fn upserts_of(renderer: &Renderer, rows: &TableGroup, group: usize) -> Vec<UnpreparedStep> {
    let (schema, count, set) = (&rows.schema, rows.upserts.len(), RowSet::Upserts);
    if count >= ARRAYS_ROWS_MIN {
        let source = format!("SELECT * FROM unnest({})", numbered(schema.columns.len()));
        return by_arrays(renderer, rows, (group, set), || renderer.upsert(schema, &source));
    }
    if count == 0 {
        return Vec::new();
    }
    let contents = renderer.contents(schema, &schema.columns);
    let types = schema.columns.iter().zip(&contents).map(|(c, held)| wire_type(c.kind, *held));
    let key = StatementKey { sql: renderer.upsert_one(schema), types: types.collect() };
    let single = RowStatement { group, key, set, rows: 0..count, is_single: true };
    vec![UnpreparedStep::Rows(single)]
}

/// A statement over array parameters for each slice of the rows.
fn by_arrays(
    renderer: &Renderer,
    rows: &TableGroup,
    (group, set): (usize, RowSet),
    sql: impl Fn() -> String,
) -> Vec<UnpreparedStep> {
    let (count, columns) = (set.indices(rows).len(), set.columns(&rows.schema));
    let contents = renderer.contents(&rows.schema, columns);
    let of_slice = |from: usize| {
        let key = StatementKey { sql: sql(), types: array_types(columns, &contents) };
        let rows = from..count.min(from + ARRAY_ROWS_MAX);
        UnpreparedStep::Rows(RowStatement { group, key, set, rows, is_single: false })
    };
    (0..count).step_by(ARRAY_ROWS_MAX).map(of_slice).collect()
}

/// The values of `columns`, which hold `contents`, of each of the changes at `indices`.
fn each<'b>(
    batch: &'b Batch,
    indices: &[u32],
    columns: &[Column],
    contents: &[Holds],
) -> Result<Vec<Vec<BoundValue<'b>>>, Failure> {
    let row = |index: &u32| -> Result<Vec<BoundValue<'b>>, Failure> {
        let change = batch.change(*index);
        let value =
            |(i, column)| value::read(change.token(i), column).map(|v| BoundValue(v, contents[i]));
        let row: Result<Vec<BoundValue<'_>>, _> = columns.iter().enumerate().map(value).collect();
        row.map_err(|_| reject_mismatches(batch))
    };
    indices.iter().map(row).collect()
}

/// The values of `columns`, which hold `contents`, an array for each, of the changes at `indices`.
fn arrays<'b>(
    batch: &'b Batch,
    indices: &[u32],
    columns: &[Column],
    contents: &[Holds],
) -> Result<Vec<BoundArray<'b>>, Failure> {
    let array = |(i, column): (usize, &Column)| {
        let values = indices.iter().map(|index| value::read(batch.change(*index).token(i), column));
        values.collect::<Result<Vec<_>, _>>().map(|values| BoundArray(values, contents[i]))
    };
    columns
        .iter()
        .enumerate()
        .map(|numbered| array(numbered).map_err(|_| reject_mismatches(batch)))
        .collect()
}

fn array_types(columns: &[Column], contents: &[Holds]) -> Vec<Type> {
    columns.iter().zip(contents).map(|(c, contents)| wire_array_type(c.kind, *contents)).collect()
}

/// `$1, $2, …`
fn numbered(count: usize) -> String {
    (1..=count).map(|n| format!("${n}")).collect::<Vec<_>>().join(", ")
}

/// The columns of a temporary table, in the schema's order, all nullable.
pub fn stage_columns(renderer: &Renderer, schema: &TableSchema) -> String {
    let columns: Vec<String> = schema
        .columns
        .iter()
        .zip(renderer.contents(schema, &schema.columns))
        .map(|(c, contents)| {
            format!("{} {}", renderer.quoted(&c.name), stage_type(c.kind, contents))
        })
        .collect();
    columns.join(", ")
}

/// An upsert of the rows of the table `stage`, whose columns have the schema's names.
pub fn upsert_from(renderer: &Renderer, schema: &TableSchema, stage: &str) -> String {
    renderer.upsert(schema, &format!("SELECT {} FROM {stage}", renderer.list(&schema.columns)))
}

/// Deletes the rows whose keys are in array parameters.
fn delete_many(renderer: &Renderer, schema: &TableSchema) -> String {
    let keys = schema.key_columns();
    let names: Vec<String> = (1..=keys.len()).map(|n| format!("k{n}")).collect();
    // A column that has become text since holds them as PostgreSQL writes them.
    let contents = renderer.contents(schema, keys);
    let value = |k: &String, contents: &Holds| match contents {
        Holds::Text | Holds::Word => format!("CAST(d.{k} AS TEXT)"),
        _ => format!("d.{k}"),
    };
    let equal: Vec<String> = keys
        .iter()
        .zip(&names)
        .zip(&contents)
        .map(|((c, k), contents)| {
            format!("t.{} = {}", renderer.quoted(&c.name), value(k, contents))
        })
        .collect();
    format!(
        "DELETE FROM {} AS t USING unnest({}) AS d({}) WHERE {}",
        renderer.table(&schema.table),
        numbered(keys.len()),
        names.join(", "),
        equal.join(" AND ")
    )
}

#[async_trait]
impl RowWriter for PostgresConnection {
    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        match self.copies(group) {
            true => self.make_stage(renderer, &group.schema).await,
            false => Ok(()),
        }
    }

    async fn launch(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<Launch, Failure> {
        self.launch_batch(renderer, batch, fence).await.map(|()| Launch::UnderWay)
    }

    async fn land(&mut self) -> Result<(), Failure> {
        self.flights.land().await
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let table = &batch.groups[group].schema.table;
        self.write_group(renderer, batch, group).await.map_err(|e| e.of_table(table))
    }
}
