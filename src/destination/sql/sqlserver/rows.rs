//! The upsert: rows into a temporary table, in bulk or as JSON, then one UPDATE and one INSERT for
//! all of them.

use std::sync::Arc;

use async_trait::async_trait;
use tiberius::TokenRow;

use super::catalog::TextColumns;
use super::dialect::{SQLSERVER, exact};
use super::encode::{read, token_rows, travelling};
use super::{Client, SqlServerConnection};
use crate::change::{Batch, Column, ColumnType, TableSchema, json};
use crate::destination::Failure;
use crate::destination::sql::json_rows::{ColumnsOfTable, json_rows};
use crate::destination::sql::render::Renderer;
use crate::destination::sql::{
    ANSWER_WAIT_MAX, Parameter, RowSet, RowWriter, SqlSession, TableVersion,
};

/// From so many rows on, a bulk load is worth its three exchanges.
const BULK_ROWS_MIN: usize = 50;
/// The longest event of a bulk load. Longer ones go as JSON parameters, because bulk loads of very
/// long text are a known weakness of the client.
const BULK_EVENT_BYTES_MAX: usize = 32 << 10;
/// Rows of one JSON parameter.
const JSON_ROWS_MAX: usize = 500;

/// The most characters of a key: an index takes 1,700 bytes.
const KEY_CHARACTERS_MAX: usize = 1_700;

/// What a temporary table is for.
#[derive(Clone, PartialEq, Eq, Hash, Debug)]
pub struct StageKey {
    table: TableVersion,
    rows: RowSet,
}

impl StageKey {
    /// The table whose rows pass through it.
    pub fn table(&self) -> &str {
        &self.table.table
    }
}

impl SqlServerConnection {
    fn texts_of(&self, schema: &TableSchema) -> TextColumns {
        self.texts.get(&*schema.table).cloned().unwrap_or_default()
    }

    /// The temporary table for these rows: its columns have the types of the table's own,
    /// whoever made that.
    async fn stage(
        &mut self,
        renderer: &Renderer,
        schema: &TableSchema,
        rows: RowSet,
    ) -> Result<(), Failure> {
        let key = StageKey { table: TableVersion::of(schema), rows };
        if self.stages.contains_key(&key) {
            return Ok(());
        }
        self.stages_made += 1;
        let stage = format!("#eds_{}", self.stages_made);
        let columns = rows.columns(schema).len();
        self.batch(ANSWER_WAIT_MAX, make_stage(renderer, schema, columns, &stage)).await?;
        self.stages.insert(key, stage);
        Ok(())
    }

    /// Fills the stage for these rows with those of the group, and answers its name; `None` where
    /// the group has none of them.
    async fn fill(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
        rows: RowSet,
    ) -> Result<Option<String>, Failure> {
        let schema = &batch.groups[group].schema;
        let (indices, columns) = (rows.indices(&batch.groups[group]), rows.columns(schema));
        let key = StageKey { table: TableVersion::of(schema), rows };
        let stage = self.stages.get(&key).cloned();
        let stage = stage.ok_or_else(|| Failure::unavailable("a temporary table was not made"))?;
        if indices.is_empty() {
            return Ok(None);
        }
        reject_lossy(batch, group, indices, columns, &self.texts_of(schema).narrow)?;
        let contents = renderer.contents(schema, columns);
        let columns = ColumnsOfTable { columns, contents: &contents };
        self.batch(ANSWER_WAIT_MAX, format!("TRUNCATE TABLE {stage}")).await?;
        if takes_bulk(batch, indices) {
            let (rows, name) = (token_rows(batch, indices, columns)?, stage.clone());
            self.with(ANSWER_WAIT_MAX, move |client| {
                Box::pin(async move { bulk_load(client, &name, rows).await })
            })
            .await?;
        } else {
            for piece in indices.chunks(JSON_ROWS_MAX) {
                let json = json_rows(batch, piece, columns, read)?;
                self.change(&fill(&stage, columns), &[Parameter::Text(json)]).await?;
            }
        }
        Ok(Some(stage))
    }
}

#[async_trait]
impl RowWriter for SqlServerConnection {
    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let group = &batch.groups[group];
        self.stage(renderer, &group.schema, RowSet::Upserts).await?;
        self.stage(renderer, &group.schema, RowSet::Deletes).await
    }

    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        let schema = batch.groups[group].schema.clone();
        let loose = self.texts_of(&schema).loose_keys;
        let named = |mut failure: Failure| {
            failure.text = with_column(&failure.text, &schema);
            failure.of_table(&schema.table)
        };
        if let Some(stage) =
            self.fill(renderer, batch, group, RowSet::Deletes).await.map_err(named)?
        {
            self.batch(ANSWER_WAIT_MAX, delete_from(renderer, &schema, &stage, &loose))
                .await
                .map_err(named)?;
        }
        if let Some(stage) =
            self.fill(renderer, batch, group, RowSet::Upserts).await.map_err(named)?
        {
            let statements = update_from(renderer, &schema, &stage, &loose)
                .into_iter()
                .chain([insert_from(renderer, &schema, &stage, &loose)]);
            self.batch(ANSWER_WAIT_MAX, statements.collect::<Vec<_>>().join(";\n"))
                .await
                .map_err(named)?;
        }
        Ok(())
    }
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
pub fn fill(stage: &str, columns: ColumnsOfTable<'_>) -> String {
    let names: Vec<String> = (0..columns.columns.len()).map(|i| format!("c{i}")).collect();
    let typed: Vec<String> = columns
        .each()
        .map(|column| format!("c{0} {1} '$[{0}]'", column.0, wire_type(travelling(column))))
        .collect();
    let names = names.join(", ");
    format!(
        "INSERT INTO {stage} ({names}) SELECT {names} FROM OPENJSON(@P1) WITH ({})",
        typed.join(", ")
    )
}

/// Where a row `t` of the table has the key of a row `s` of a stage. The columns `loose` of the key
/// have a collation that takes different texts for one: it finds the row by the index, and only
/// the row of that very key counts. A row of another key is then in the way of an INSERT, which
/// makes a dead letter of the change; it is never taken for the row itself.
fn same_row(renderer: &Renderer, schema: &TableSchema, loose: &[String]) -> String {
    let is_loose = |name: &str| loose.iter().any(|loose| loose == name);
    let exactly =
        schema.key_columns().iter().enumerate().filter(|(_, c)| is_loose(&c.name)).map(|(i, c)| {
            format!(
                "t.{} = {}",
                renderer.quoted(&c.name),
                exact(&format!("s.c{i}"), KEY_CHARACTERS_MAX)
            )
        });
    let same = renderer.same_key(schema, |i| format!("c{i}"));
    [same].into_iter().chain(exactly).collect::<Vec<_>>().join(" AND ")
}

/// Deletes the rows whose keys the table `stage` has, whose columns are c0, c1, … in the schema's
/// order.
pub fn delete_from(
    renderer: &Renderer,
    schema: &TableSchema,
    stage: &str,
    loose: &[String],
) -> String {
    format!(
        "DELETE t FROM {} AS t INNER JOIN {stage} AS s ON {}",
        renderer.table(&schema.table),
        same_row(renderer, schema, loose)
    )
}

/// Updates the rows whose keys the table `stage` has; nothing where every column is part of the
/// key.
pub fn update_from(
    renderer: &Renderer,
    schema: &TableSchema,
    stage: &str,
    loose: &[String],
) -> Option<String> {
    let same = same_row(renderer, schema, loose);
    renderer.update_by(schema, stage, &same, |i| format!("c{i}"))
}

/// Inserts the rows of the table `stage` whose keys do not exist yet.
pub fn insert_from(
    renderer: &Renderer,
    schema: &TableSchema,
    stage: &str,
    loose: &[String],
) -> String {
    let same = same_row(renderer, schema, loose);
    renderer.insert_by(schema, stage, &same, |i| format!("c{i}"))
}

/// The text with the column's own name where it names one of a temporary table.
fn with_column(text: &str, schema: &TableSchema) -> String {
    let Some((before, rest)) = text.split_once("column \"c") else { return text.to_owned() };
    let column = rest
        .strip_suffix('"')
        .and_then(|n| n.parse::<usize>().ok())
        .and_then(|n| schema.columns.get(n));
    column.map_or_else(|| text.to_owned(), |column| format!("{before}column {:?}", column.name))
}

/// The type in which a value travels: text of any length, whatever the column takes of it.
fn wire_type(kind: ColumnType) -> &'static str {
    match SQLSERVER.type_of(kind) {
        "VARCHAR(64)" => "NVARCHAR(MAX)",
        other => other,
    }
}

/// Whether the rows go as a bulk load.
fn takes_bulk(batch: &Batch, indices: &[u32]) -> bool {
    indices.len() >= BULK_ROWS_MIN
        && indices
            .iter()
            .all(|index| batch.change(*index).event.payload().len() <= BULK_EVENT_BYTES_MAX)
}

/// Rejects what SQL Server would store as something else: characters that a column's code page
/// lacks, and keys that it does not tell apart.
fn reject_lossy(
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

/// Loads the rows into the stage.
async fn bulk_load(
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
    // An announced load must be ended, because the server accepts nothing else until then. What was
    // loaded is rolled back with the transaction.
    let ended = load.finalize().await.map(drop);
    sent.and(ended)
}
