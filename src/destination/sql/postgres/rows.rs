//! The upsert: a few rows by pipelined statements, more by array parameters, many by COPY into a
//! temporary table and one statement.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::{BufMut, Bytes, BytesMut};
use futures::future::join_all;
use futures::{SinkExt, pin_mut};
use tokio_postgres::Statement;
use tokio_postgres::types::{ToSql, Type};

use super::PostgresConnection;
use super::encode::{
    BoundArray, BoundValue, COPY_HEADER, COPY_TRAILER, put_field, stage_type, wire_array_type,
    wire_type,
};
use super::failure::failure;
use crate::change::{Batch, Column, TableGroup, TableSchema, value};
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{
    Fence, Parameter, RowWriter, SqlSession, TableVersion, reject_mismatches,
};
use crate::destination::{Failure, Holds};

/// From so many rows of one table on, one statement over array parameters is faster than single
/// ones (docs/decisions/0003-postgres-bulk-path.md).
const ARRAYS_ROWS_MIN: usize = 4;
/// From so many rows of one table on, COPY into a temporary table is faster than that.
const COPY_ROWS_MIN: usize = 400;
/// Bytes that are encoded before they are sent.
const CHUNK_BYTES: usize = 128 << 10;

impl PostgresConnection {
    /// One statement for all keys: as many array parameters as the key has columns.
    async fn delete(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let keys = group.schema.key_columns();
        let contents = renderer.contents(&group.schema, keys);
        let columns = arrays(batch, &group.deletes, keys, &contents)?;
        let types = array_types(keys, &contents);
        let statement = self.prepared(delete_many(renderer, &group.schema), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
        self.client.execute(&statement, &parameters).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn write_group(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        if !group.deletes.is_empty() {
            self.delete(renderer, batch, group).await?;
        }
        let stage = self.stages.get(&TableVersion::of(&group.schema)).cloned();
        match stage {
            _ if group.upserts.is_empty() => Ok(()),
            Some(stage) if group.upserts.len() >= COPY_ROWS_MIN => {
                self.upsert_by_copy(renderer, batch, group, &stage).await
            }
            _ if group.upserts.len() >= ARRAYS_ROWS_MIN => {
                self.upsert_by_arrays(renderer, batch, group).await
            }
            _ => self.upsert_each(renderer, batch, group).await,
        }
    }

    /// The statement for one row, and the parameters of each.
    async fn single_upserts<'b>(
        &mut self,
        renderer: &Renderer,
        batch: &'b Batch,
        group: &'b TableGroup,
    ) -> Result<(Statement, Vec<Vec<BoundValue<'b>>>), Failure> {
        let schema = &group.schema;
        let contents = renderer.contents(schema, &schema.columns);
        let types: Vec<Type> = schema
            .columns
            .iter()
            .zip(&contents)
            .map(|(c, contents)| wire_type(c.kind, *contents))
            .collect();
        let statement = self.prepared(renderer.upsert_one(schema), &types).await?;
        let mut rows = Vec::with_capacity(group.upserts.len());
        for index in &group.upserts {
            let change = batch.change(*index);
            let row: Result<Vec<BoundValue<'_>>, _> = schema
                .columns
                .iter()
                .enumerate()
                .map(|(i, c)| value::read(change.token(i), c).map(|v| BoundValue(v, contents[i])))
                .collect();
            rows.push(row.map_err(|_| reject_mismatches(batch))?);
        }
        Ok((statement, rows))
    }

    /// Single upserts, pipelined: sent without waiting for the answers in between.
    async fn upsert_each(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let (statement, rows) = self.single_upserts(renderer, batch, group).await?;
        let client = &self.client;
        let sent = rows.iter().map(|row| {
            client.execute_raw(&statement, row.iter().map(|f| f as &(dyn ToSql + Sync)))
        });
        for done in join_all(sent).await {
            done.map_err(|e| failure(&e))?;
        }
        Ok(())
    }

    /// One statement for all rows: an array parameter per column.
    async fn upsert_by_arrays(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
    ) -> Result<(), Failure> {
        let schema = &group.schema;
        let contents = renderer.contents(schema, &schema.columns);
        let columns = arrays(batch, &group.upserts, &schema.columns, &contents)?;
        let types = array_types(&schema.columns, &contents);
        let source = format!("SELECT * FROM unnest({})", numbered(types.len()));
        let statement = self.prepared(renderer.upsert(schema, &source), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
        self.client.execute(&statement, &parameters).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    async fn upsert_by_copy(
        &mut self,
        renderer: &Renderer,
        batch: &Batch,
        group: &TableGroup,
        stage: &str,
    ) -> Result<(), Failure> {
        self.copy_into(renderer, stage, batch, group).await?;
        let upsert = self.prepared(upsert_from(renderer, &group.schema, stage), &[]).await?;
        self.client.execute(&upsert, &[]).await.map_err(|e| failure(&e))?;
        Ok(())
    }

    /// Makes the temporary table for rows of this schema, unless it is there.
    pub(super) async fn make_stage(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
    ) -> Result<(), Failure> {
        let table = TableVersion::of(schema);
        if self.stages.contains_key(&table) {
            return Ok(());
        }
        let stage = format!("pg_temp._eds_stage_{}", self.stages.len() + 1);
        let sql = format!(
            "CREATE TEMP TABLE {} ({}) ON COMMIT DELETE ROWS",
            stage.trim_start_matches("pg_temp."),
            stage_columns(renderer, schema)
        );
        self.execute(&sql).await?;
        self.stages.insert(table, stage);
        Ok(())
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
        let stage = self.stages.get(&TableVersion::of(schema)).cloned();
        let stage = stage.ok_or_else(|| Failure::unavailable("a temporary table was not made"))?;
        self.copy_into(renderer, &stage, batch, group).await?;
        let rows = format!("SELECT {} FROM {stage}", renderer.list(&schema.columns));
        let insert = self.prepared(renderer.insert(schema, &rows), &[]).await?;
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
        let schema = &group.schema;
        let contents = renderer.contents(schema, &schema.columns);
        let columns = renderer.list(&schema.columns);
        let sql = format!("COPY {table} ({columns}) FROM STDIN (FORMAT binary)");
        let copy = self.prepared(sql, &[]).await?;
        let sink = self.client.copy_in::<_, Bytes>(&copy).await.map_err(|e| failure(&e))?;
        pin_mut!(sink);
        let mut buffer = BytesMut::with_capacity(CHUNK_BYTES + (CHUNK_BYTES >> 2));
        buffer.put_slice(COPY_HEADER);
        for index in &group.upserts {
            let change = batch.change(*index);
            buffer.put_i16(schema.columns.len() as i16);
            for (i, column) in schema.columns.iter().enumerate() {
                let value =
                    value::read(change.token(i), column).map_err(|_| reject_mismatches(batch))?;
                put_field(&value, contents[i], &mut buffer);
            }
            if buffer.len() >= CHUNK_BYTES {
                sink.send(buffer.split().freeze()).await.map_err(|e| failure(&e))?;
                buffer.reserve(CHUNK_BYTES + (CHUNK_BYTES >> 2));
            }
        }
        buffer.put_i16(COPY_TRAILER);
        sink.send(buffer.freeze()).await.map_err(|e| failure(&e))?;
        sink.finish().await.map_err(|e| failure(&e))?;
        Ok(())
    }
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
        match group.upserts.len() >= COPY_ROWS_MIN {
            true => self.make_stage(renderer, &group.schema).await,
            false => Ok(()),
        }
    }

    /// A few upserts of one table: everything but the commit is sent at once, and the answers are
    /// awaited together.
    async fn write_at_once(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<Option<u64>, Failure> {
        let [group] = &batch.groups[..] else { return Ok(None) };
        if !group.deletes.is_empty() || group.upserts.len() >= ARRAYS_ROWS_MIN {
            return Ok(None);
        }
        let types: Vec<Type> = fence.parameters.iter().map(Parameter::wire_type).collect();
        let advance = self.prepared(fence.sql.clone(), &types).await?;
        let parameters: Vec<&(dyn ToSql + Sync)> =
            fence.parameters.iter().map(Parameter::to_wire).collect();
        let of_table = |failure: Failure| failure.of_table(&group.schema.table);
        let (upsert, rows) = self.single_upserts(renderer, batch, group).await.map_err(of_table)?;
        let client = &self.client;
        let sent =
            join_all(rows.iter().map(|row| {
                client.execute_raw(&upsert, row.iter().map(|f| f as &(dyn ToSql + Sync)))
            }));
        let (begun, sent, advanced) = futures::join!(
            client.batch_execute(renderer.dialect.begin),
            sent,
            client.execute(&advance, &parameters)
        );
        // What follows the statement that failed fails, too, and says nothing. Only the rows are
        // the table's: a lock on the checkpoint is none of its own.
        begun.map_err(|e| failure(&e))?;
        for done in sent {
            done.map_err(|e| of_table(failure(&e)))?;
        }
        advanced.map(Some).map_err(|e| failure(&e))
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        self.write_group(renderer, batch, group).await.map_err(|e| e.of_table(&group.schema.table))
    }
}
