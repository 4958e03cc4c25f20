//! The upsert: one MERGE and one DELETE a table, from a bound JSON text or a file on the stage.
//! Golden files keep every statement.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use uuid::Uuid;

use super::SnowflakeConnection;
use super::encode::packed_file;
use crate::change::{Batch, ColumnType, TableSchema};
use crate::destination::sql::json_rows::{ColumnsOfTable, json_rows, plain};
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{Parameter, RowSet, RowWriter, SqlSession};
use crate::destination::{Failure, Holds};

/// Up to so many bytes of events a batch is a parameter of its statements: a file costs three
/// requests more.
const BOUND_BYTES_MAX: usize = 128 << 10;
/// The stage that a session's files go through. Unqualified, as the table below: both are the
/// session's own.
pub const STAGE: &str = "\"_eds_stage\"";
/// The temporary table that a file is read into: one document a line.
pub const BATCH_TABLE: &str = "\"_eds_batch\"";
/// Snowflake encrypts what is on the stage by itself.
pub const CREATE_STAGE: &str =
    "CREATE TEMPORARY STAGE IF NOT EXISTS \"_eds_stage\" ENCRYPTION = (TYPE = 'SNOWFLAKE_SSE')";
/// The table as it is needed, empty.
pub const CREATE_BATCH_TABLE: &str =
    "CREATE OR REPLACE TEMPORARY TABLE \"_eds_batch\" (\"v\" VARIANT)";

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
        "COPY INTO {BATCH_TABLE} FROM @{STAGE}/{file} FILE_FORMAT = (TYPE = JSON COMPRESSION = GZIP \
         NULL_IF = ()) ON_ERROR = ABORT_STATEMENT PURGE = TRUE"
    )
}

/// How the rows of one group reach a statement.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RowSource {
    /// As the statement's one parameter.
    Bound,
    /// In the temporary table, under the group's number.
    Staged(usize),
}

/// A query that yields the columns c0, c1, … of these rows.
pub fn source(renderer: &Renderer, from: RowSource, schema: &TableSchema, rows: RowSet) -> String {
    let value = |i: usize| match from {
        RowSource::Bound => format!("value[{i}]"),
        RowSource::Staged(_) => format!("\"v\":r[{i}]"),
    };
    let typed: Vec<String> = rows
        .columns(schema)
        .iter()
        .zip(renderer.contents(schema, rows.columns(schema)))
        .enumerate()
        .map(|(i, (column, contents))| {
            format!("{} AS c{i}", typed(&value(i), column.kind, contents))
        })
        .collect();
    let place = match from {
        RowSource::Bound => "TABLE(FLATTEN(INPUT => PARSE_JSON(?)))".to_owned(),
        RowSource::Staged(group) => format!(
            "{BATCH_TABLE} WHERE \"v\":g::INTEGER = {group} AND \"v\":d::BOOLEAN = {}",
            if rows == RowSet::Deletes { "TRUE" } else { "FALSE" }
        ),
    };
    format!("(SELECT {} FROM {place})", typed.join(", "))
}

/// A value that travelled as JSON, in the type of its column. Arrays travel as text, so that JSON's
/// null and a missing value stay apart, and the last of two equal keys counts.
fn typed(value: &str, kind: ColumnType, contents: Holds) -> String {
    match kind {
        ColumnType::Integer | ColumnType::Number | ColumnType::Boolean
            if contents == Holds::Text =>
        {
            format!("{value}::STRING")
        }
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
    from: RowSource,
    newer_only: bool,
) -> String {
    let column = |i: usize| format!("c{i}");
    let newer = schema.column(UPDATED).filter(|at| newer_only && *at >= schema.keys);
    let condition = newer.map(|at| {
        format!("(t.{0} IS NULL OR s.c{at} IS NULL OR s.c{at} >= t.{0})", renderer.quoted(UPDATED))
    });
    renderer.merge(
        schema,
        &source(renderer, from, schema, RowSet::Upserts),
        column,
        condition.as_deref(),
    )
}

/// The column that tells which row is newer, with `update-strategy=after`.
const UPDATED: &str = "updatedDate";

/// Deletes the rows of a group's keys.
pub fn delete(renderer: &Renderer, schema: &TableSchema, from: RowSource) -> String {
    format!(
        "DELETE FROM {} AS t USING {} AS s WHERE {}",
        renderer.table(&schema.table),
        source(renderer, from, schema, RowSet::Deletes),
        renderer.same_key(schema, |i| format!("c{i}"))
    )
}

/// Adds rows to a table that only this import knows.
pub fn insert(renderer: &Renderer, schema: &TableSchema, from: RowSource) -> String {
    renderer.insert(
        schema,
        &format!("SELECT * FROM {}", source(renderer, from, schema, RowSet::Upserts)),
    )
}

impl SnowflakeConnection {
    /// Before a batch: logs in again where the session has expired, and ends an open transaction,
    /// which a CREATE would commit.
    async fn roll_back_pending(&mut self) -> Result<(), Failure> {
        if self.session.is_over() {
            // It was not used for hours, so no transaction is open in it.
            self.session.log_in().await?;
            (self.in_transaction, self.has_stage) = (false, false);
        }
        if self.in_transaction {
            self.execute("ROLLBACK").await?;
        }
        Ok(())
    }

    /// Puts the batch on the stage and reads it into the temporary table.
    async fn stage(&mut self, renderer: &Renderer, batch: &Arc<Batch>) -> Result<(), Failure> {
        if !self.has_stage {
            self.run(CREATE_STAGE, &[]).await?;
            self.has_stage = true;
        }
        let (whole, renderer) = (batch.clone(), renderer.clone());
        let packed = tokio::task::spawn_blocking(move || packed_file(&renderer, &whole)).await;
        let (content, count) = packed
            .map_err(|e| Failure::unavailable(format!("rows could not be packed: {e}")))??;
        let file = format!("{}.json.gz", Uuid::new_v4());
        self.run(CREATE_BATCH_TABLE, &[]).await?;
        let place = self.run(&put(&file), &[]).await?.stage;
        let place = place
            .ok_or_else(|| Failure::unavailable("Snowflake did not say where to put a file"))?;
        place.put(&file, Bytes::from(content)).await?;
        let copied = self.run(&copy(&file), &[]).await?;
        let loaded: u64 = copied.column("rows_loaded").filter_map(|n| n.parse::<u64>().ok()).sum();
        if loaded != count {
            return Err(Failure::unavailable(format!(
                "Snowflake read {loaded} of {count} rows into {BATCH_TABLE}"
            )));
        }
        self.is_staged = true;
        Ok(())
    }

    /// How the rows of the group reach a statement.
    pub(super) fn row_source(&self, group: usize) -> RowSource {
        if self.is_staged { RowSource::Staged(group) } else { RowSource::Bound }
    }

    /// Runs a statement over the rows of a group.
    pub(super) async fn run_over(
        &mut self,
        renderer: &Renderer,
        sql: &str,
        batch: &Batch,
        rows: RowSet,
        group: usize,
    ) -> Result<(), Failure> {
        let found = &batch.groups[group];
        let parameters = match self.row_source(group) {
            RowSource::Staged(_) => Vec::new(),
            RowSource::Bound => {
                let (indices, columns) = (rows.indices(found), rows.columns(&found.schema));
                let contents = renderer.contents(&found.schema, columns);
                let columns = ColumnsOfTable { columns, contents: &contents };
                vec![Parameter::Text(json_rows(batch, indices, columns, plain)?)]
            }
        };
        self.run(sql, &parameters).await.map(drop).map_err(|e| e.of_table(&found.schema.table))
    }
}

#[async_trait]
impl RowWriter for SnowflakeConnection {
    /// Prepares all groups with the first one.
    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        if group > 0 {
            return Ok(());
        }
        self.roll_back_pending().await?;
        self.is_staged = false;
        let tag = serde_json::json!({
            "application": "eds",
            "consumer": self.consumer,
            "epoch": self.epoch.get(),
            "through": batch.through.sequence,
        });
        self.query_tag = tag.to_string();
        let size: usize = batch
            .groups
            .iter()
            .flat_map(|g| g.deletes.iter().chain(&g.upserts))
            .map(|index| batch.change(*index).size())
            .sum();
        if size > BOUND_BYTES_MAX { self.stage(renderer, batch).await } else { Ok(()) }
    }

    async fn begin_batch(&mut self, renderer: &Renderer, batch: &Batch) -> Result<(), Failure> {
        if batch.groups.is_empty() {
            // Only the checkpoint moves, so `prepare` was not called.
            self.roll_back_pending().await?;
        }
        let begin = renderer.dialect.begin;
        let begin = self.tag.map_or_else(
            || begin.to_owned(),
            |tag| format!("{begin} NAME {}", self.transaction_name(tag)),
        );
        self.execute(&begin).await
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let (found, from) = (&batch.groups[group], self.row_source(group));
        if !found.deletes.is_empty() {
            self.run_over(
                renderer,
                &delete(renderer, &found.schema, from),
                batch,
                RowSet::Deletes,
                group,
            )
            .await?;
        }
        if !found.upserts.is_empty() {
            self.run_over(
                renderer,
                &merge(renderer, &found.schema, from, self.newer_only),
                batch,
                RowSet::Upserts,
                group,
            )
            .await?;
        }
        Ok(())
    }
}
