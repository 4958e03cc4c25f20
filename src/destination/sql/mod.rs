//! Rows in tables: apply, checkpoint and migrate, written once for every SQL database.

pub mod dialect;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod render;
#[cfg(feature = "sqlite")]
pub mod sqlite;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{Claim, Destination, Epoch, Failure, FailureKind, Migration, TableShape, Tables};
use crate::change::{Batch, Position, value};
use render::{FORMAT, Renderer};

/// A parameter of one of EDS's own statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    Integer(i64),
    Text(String),
}

impl From<i64> for Parameter {
    fn from(n: i64) -> Self {
        Parameter::Integer(n)
    }
}

impl From<&str> for Parameter {
    fn from(text: &str) -> Self {
        Parameter::Text(text.to_owned())
    }
}

/// A column that a database lists: table (as the source calls it), column, whether it takes NULL, place in the
/// primary key (0: none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedColumn {
    pub table: String,
    pub column: String,
    pub nullable: bool,
    pub key: i64,
}

/// What a database has to do itself. Calls never overlap.
#[async_trait]
pub trait Connection: Send {
    /// Runs a statement without values: BEGIN, COMMIT, ROLLBACK, DDL.
    async fn execute(&mut self, sql: &str) -> Result<(), Failure>;
    /// Runs a statement; how many rows it touched.
    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure>;
    /// The integers of each row.
    async fn integers(&mut self, sql: &str, parameters: &[Parameter]) -> Result<Vec<Vec<i64>>, Failure>;
    /// The columns of all tables of the renderer's place.
    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure>;
    /// Marks this session as one of `consumer`. `alone`: sessions of it that a predecessor left are ended first, so that
    /// one which hangs within a transaction holds no locks any more. Nothing where the database has no such means.
    async fn enter(&mut self, consumer: &str, alone: bool) -> Result<(), Failure>;
    /// Whether a failed ADD COLUMN only means that the column is there.
    fn is_already_there(&self, failure: &Failure) -> bool;
    /// Makes ready for the group, before the transaction begins.
    async fn prepare(&mut self, renderer: &Renderer, batch: &Arc<Batch>, group: usize) -> Result<(), Failure>;
    /// Begins a transaction, writes all groups, and advances the checkpoint last; how many checkpoints that touched.
    /// A database that can do it in fewer exchanges does.
    async fn transact(&mut self, renderer: &Renderer, batch: &Arc<Batch>, fence: &Fence) -> Result<u64, Failure> {
        self.execute(renderer.dialect.begin).await?;
        for group in 0..batch.groups.len() {
            self.write(renderer, batch, group).await?;
        }
        self.change(&fence.sql, &fence.parameters).await
    }
    /// Deletes, then upserts the rows of the group, within the transaction.
    async fn write(&mut self, renderer: &Renderer, batch: &Arc<Batch>, group: usize) -> Result<(), Failure>;
    async fn close(self) -> Result<(), Failure>
    where
        Self: Sized;
}

/// The update of the checkpoint that keeps a replaced process from committing.
pub struct Fence {
    pub sql: String,
    pub parameters: [Parameter; 5],
}

/// A SQL database as a destination.
pub struct SqlDestination<C> {
    connection: C,
    renderer: Renderer,
    consumer: String,
    companies: String,
    epoch: Epoch,
    /// A transaction was begun and neither committed nor known to be rolled back.
    dirty: bool,
}

impl<C: Connection> SqlDestination<C> {
    pub fn new(connection: C, renderer: Renderer, target: &super::Target) -> SqlDestination<C> {
        SqlDestination { connection, renderer, consumer: target.consumer.clone(), companies: target.companies.clone(), epoch: target.epoch.clone(), dirty: false }
    }

    /// Before a transaction: what a call that was dropped half way has left is rolled back.
    async fn settle(&mut self) -> Result<(), Failure> {
        if self.dirty {
            self.connection.execute("ROLLBACK").await?;
        }
        self.dirty = true;
        Ok(())
    }

    /// Commits what went well, rolls back what did not.
    async fn end<T: Send>(&mut self, done: Result<T, Failure>) -> Result<T, Failure> {
        match done {
            Ok(value) => {
                self.connection.execute("COMMIT").await?;
                self.dirty = false;
                Ok(value)
            }
            Err(failure) => {
                if failure.kind != FailureKind::Unavailable && self.connection.execute("ROLLBACK").await.is_ok() {
                    self.dirty = false;
                }
                Err(failure)
            }
        }
    }

    async fn write(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let parameters = [
            (batch.through.sequence as i64).into(),
            batch.through.time_ns.into(),
            self.consumer.as_str().into(),
            self.epoch.get().into(),
            (batch.after.map_or(0, |p| p.sequence) as i64).into(),
        ];
        let fence = Fence { sql: self.renderer.advance_checkpoint(), parameters };
        match self.connection.transact(&self.renderer, batch, &fence).await? {
            1 => Ok(()),
            // Whose it is now, and where it stands, is asked after connecting anew.
            _ => Err(Failure::unavailable("the checkpoint is not as this process left it")),
        }
    }

    /// Epoch and position, if there is a row.
    async fn read_checkpoint(&mut self) -> Result<Option<(i64, Option<Position>)>, Failure> {
        let rows = self.connection.integers(&self.renderer.read_checkpoint(), &[self.consumer.as_str().into()]).await?;
        let Some([epoch, sequence, time_ns, format]) = rows.first().map(Vec::as_slice) else { return Ok(None) };
        if *format > FORMAT {
            let text = format!("the tables _eds_* in the destination were written by a newer EDS (format {format}; this one knows {FORMAT}): install that version again");
            return Err(Failure::misconfigured(text));
        }
        let position = (*sequence > 0).then_some(Position { sequence: *sequence as u64, time_ns: *time_ns });
        Ok(Some((*epoch, position)))
    }

    async fn take(&mut self) -> Result<Option<Position>, Failure> {
        let parameters = [self.consumer.as_str().into(), self.companies.as_str().into(), self.epoch.get().into()];
        self.connection.execute(self.renderer.dialect.begin).await?;
        self.connection.change(&self.renderer.insert_checkpoint(), &parameters[..2]).await?;
        self.connection.change(&self.renderer.take_checkpoint(), &parameters).await?;
        let (epoch, position) = self.read_checkpoint().await?.ok_or_else(|| Failure::unavailable("the checkpoint just written is not there"))?;
        self.epoch.set(epoch);
        Ok(position)
    }
}

#[async_trait]
impl<C: Connection> Destination for SqlDestination<C> {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        for group in 0..batch.groups.len() {
            self.connection.prepare(&self.renderer, batch, group).await?;
        }
        self.settle().await?;
        let written = self.write(batch).await;
        self.end(written).await
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.connection.enter(&self.consumer, claim == Claim::Take).await?;
        match claim {
            Claim::Take => {
                self.connection.execute(&self.renderer.create_checkpoint()).await?;
                self.settle().await?;
                let taken = self.take().await;
                self.end(taken).await
            }
            Claim::Keep => match self.read_checkpoint().await? {
                Some((epoch, position)) if epoch == self.epoch.get() => Ok(position),
                Some((epoch, _)) if epoch > self.epoch.get() => {
                    let text = format!("another EDS has taken over {} in this destination (its epoch is {epoch}, ours was {}): this one ends", self.consumer, self.epoch.get());
                    Err(Failure::new(FailureKind::Superseded, text))
                }
                // Restored to a time before our claim, or made anew: claim it again.
                _ => self.checkpoint(Claim::Take).await,
            },
        }
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        let mut tables: BTreeMap<String, (TableShape, BTreeMap<i64, String>)> = BTreeMap::new();
        for listed in self.connection.columns(&self.renderer).await? {
            let (shape, keys) = tables.entry(listed.table).or_default();
            if listed.key > 0 {
                keys.insert(listed.key, listed.column.clone());
            }
            shape.columns.insert(listed.column, listed.nullable);
        }
        let shaped = |(table, (shape, keys)): (String, (TableShape, BTreeMap<i64, String>))| (table, TableShape { keys: keys.into_values().collect(), ..shape });
        Ok(Tables(tables.into_iter().map(shaped).collect()))
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        if self.dirty {
            self.connection.execute("ROLLBACK").await?;
            self.dirty = false;
        }
        match step {
            Migration::CreateTable(schema) => self.connection.execute(&self.renderer.create_table(schema)).await,
            Migration::AddColumns(schema, columns) => {
                for index in columns {
                    match self.connection.execute(&self.renderer.add_column(schema, *index)).await {
                        Err(failure) if !self.connection.is_already_there(&failure) => return Err(failure),
                        _ => {}
                    }
                }
                Ok(())
            }
            Migration::DropNotNull { .. } if !self.renderer.dialect.drops_not_null => Ok(()),
            Migration::DropNotNull { table, columns } => {
                for column in columns {
                    self.connection.execute(&self.renderer.drop_not_null(table, column)).await?;
                }
                Ok(())
            }
        }
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.connection.close().await
    }
}

/// All changes of the batch that do not fit their columns: asked once one was met.
pub fn unfit(batch: &Batch) -> Failure {
    let mut culprits = Vec::new();
    for group in &batch.groups {
        for index in &group.upserts {
            let change = batch.change(*index);
            let wrong = group.schema.columns.iter().enumerate().find_map(|(i, column)| value::read(change.token(i), column).err());
            culprits.extend(wrong.map(|unfit| (*index, format!("table {:?}: {unfit}", group.schema.table))));
        }
        for index in &group.deletes {
            let change = batch.change(*index);
            let wrong = group.schema.key_columns().iter().enumerate().find_map(|(i, column)| value::read(change.token(i), column).err());
            culprits.extend(wrong.map(|unfit| (*index, format!("table {:?}: {unfit}", group.schema.table))));
        }
    }
    culprits.sort_unstable_by_key(|(index, _)| *index);
    culprits.dedup_by_key(|(index, _)| *index);
    Failure::refused(culprits)
}
