//! Rows in tables: apply, checkpoint and migrate, written once for every SQL database.

pub mod dialect;
pub mod form;
pub mod import;
#[cfg(feature = "mysql")]
pub mod mysql;
#[cfg(feature = "postgres")]
pub mod postgres;
pub mod render;
#[cfg(feature = "snowflake")]
pub mod snowflake;
#[cfg(feature = "sqlite")]
pub mod sqlite;
#[cfg(feature = "sqlserver")]
pub mod sqlserver;

use std::collections::BTreeMap;
use std::sync::Arc;

use async_trait::async_trait;

use super::{
    Abilities, CheckpointIn, Claim, Destination, Epoch, Failure, FailureKind, Loader, Migration,
    Recorded, SchemaMode, TableShape, Tables, WriteMode,
};
use crate::change::{Batch, Cutover, Position, TableSchema, value};
use dialect::NotNull;
use render::{CHECKPOINT, FORMAT, Renderer};

/// What every SQL destination can do.
pub const ABILITIES: Abilities = Abilities {
    write_mode: WriteMode::Upsert,
    checkpoint_in: CheckpointIn::Destination,
    schema_mode: SchemaMode::Managed,
    batch_changes_max: 5_000,
    batch_bytes_max: 16 << 20,
    loaders_max: 16,
    flush_interval_preferred: std::time::Duration::ZERO,
};

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

/// A column that a database lists: table (as the source calls it), column, whether it takes NULL,
/// place in the primary key (0: none).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedColumn {
    pub table: String,
    pub column: String,
    pub nullable: bool,
    pub key: i64,
    /// Why rows would not be safe in the table, with the cure.
    pub write_blocker: Option<String>,
}

/// What a database has to do itself. Calls never overlap.
#[async_trait]
pub trait Connection: Send {
    /// Runs a statement without values: BEGIN, COMMIT, ROLLBACK, DDL.
    async fn execute(&mut self, sql: &str) -> Result<(), Failure>;
    /// Runs a statement; how many rows it touched.
    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure>;
    /// The integers of each row.
    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure>;
    /// The rows, each column a text; what is null is empty.
    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure>;
    /// The columns of all tables of the renderer's place.
    async fn columns(&mut self, renderer: &Renderer) -> Result<Vec<ListedColumn>, Failure>;
    /// A column as it is, but for NOT NULL. Asked where the dialect restates columns.
    async fn declared(
        &mut self,
        _renderer: &Renderer,
        table: &str,
        column: &str,
    ) -> Result<String, Failure> {
        Err(Failure::new(
            FailureKind::SchemaMismatch,
            format!("the type of column {column:?} of table {table:?} is not known"),
        ))
    }
    /// Ends the sessions that are marked with `mark`, so that one which hangs within a transaction
    /// holds no locks any more. Nothing where the database has no such means.
    async fn terminate_sessions(&mut self, _tag: SessionTag) -> Result<(), Failure> {
        Ok(())
    }
    /// Ends what an import left open that was cut off. Nothing where a connection's end ends that,
    /// too.
    async fn terminate_loads(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    /// Marks this session, so that it can be evicted.
    async fn tag_session(&mut self, _tag: SessionTag) -> Result<(), Failure> {
        Ok(())
    }
    /// Whether COMMIT says nothing where another session has ended the transaction before it. Then
    /// what it should have written is looked for.
    fn commit_may_be_void(&self) -> bool {
        false
    }
    /// Whether a lock that another session holds was waited for in vain.
    fn is_lock_wait(&self, _failure: &Failure) -> bool {
        false
    }
    /// The sessions that hold locks on the tables, for people; none where the database does not
    /// tell.
    async fn lock_holders(
        &mut self,
        _renderer: &Renderer,
        _tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
    /// Whether a failed ADD COLUMN only means that the column is there.
    fn is_already_there(&self, failure: &Failure) -> bool;
    /// Makes ready for the group, before the transaction begins.
    async fn prepare(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure>;
    /// Begins a transaction, writes all groups and advances the checkpoint; how many checkpoints
    /// that touched.
    async fn transact(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        self.transact_in_order(renderer, batch, fence).await
    }
    /// One exchange after the other, the checkpoint last.
    async fn transact_in_order(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        self.execute(renderer.dialect.begin).await?;
        for group in 0..batch.groups.len() {
            self.write(renderer, batch, group).await?;
        }
        self.change(&fence.sql, &fence.parameters).await
    }
    /// The checkpoint first: whoever holds its row is alone with the tables. `begin` begins the
    /// transaction.
    async fn transact_after_fence(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        begin: &str,
        fence: &Fence,
    ) -> Result<u64, Failure> {
        self.execute(begin).await?;
        let advanced = self.change(&fence.sql, &fence.parameters).await?;
        if advanced == 1 {
            for group in 0..batch.groups.len() {
                self.write(renderer, batch, group).await?;
            }
        }
        Ok(advanced)
    }
    /// Deletes, then upserts the rows of the group, within the transaction.
    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure>;
    /// Makes the session ready to load whole tables: what it commits may be lost in a power cut,
    /// until another session commits durably after it.
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        Ok(())
    }
    /// Makes ready to load the group, before the transaction begins.
    async fn prepare_load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.prepare(renderer, batch, group).await
    }
    /// Adds the rows of the group to a table that nobody else knows, within the transaction.
    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.write(renderer, batch, group).await
    }
    /// Makes what is cheaper made after the load, and gives `staged` what people have given to the
    /// old table. How many rows were removed because another one has their key. Repeatable.
    async fn finish_load(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
        _staged: &TableSchema,
    ) -> Result<u64, Failure> {
        Ok(0)
    }
    /// Why the table cannot be exchanged for another one: what hangs on it and would be lost.
    async fn swap_blocker(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        Ok(None)
    }
    /// What has to be done once `staged` has taken the table's place, asked before: so that nothing
    /// of the old is lost.
    async fn copied_ddl(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
        _staged: &TableSchema,
    ) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
    async fn close(self) -> Result<(), Failure>
    where
        Self: Sized;
}

/// By what the sessions of one process that keep one checkpoint are found: whoever holds an epoch
/// is alone with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTag(pub u64);

impl SessionTag {
    /// `table`: the full name of the table of checkpoints.
    pub fn of(table: &str, consumer: &str, epoch: i64) -> SessionTag {
        SessionTag(xxhash_rust::xxh3::xxh3_64_with_seed(
            format!("{table} {consumer}").as_bytes(),
            epoch as u64,
        ))
    }
}

/// How often a checkpoint that moves meanwhile is read before it is not taken.
const TAKES_MAX: u32 = 10;

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
        SqlDestination {
            connection,
            renderer,
            consumer: target.consumer.clone(),
            companies: target.companies.clone(),
            epoch: target.epoch.clone(),
            dirty: false,
        }
    }

    /// Before a transaction: what a call that was dropped half way has left is rolled back.
    async fn roll_back_pending(&mut self) -> Result<(), Failure> {
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
                if failure.kind != FailureKind::Unavailable
                    && self.connection.execute("ROLLBACK").await.is_ok()
                {
                    self.dirty = false;
                }
                Err(failure)
            }
        }
    }

    /// Says who holds the locks that were waited for.
    async fn explained(&mut self, mut failure: Failure, mut tables: Vec<String>) -> Failure {
        if !self.connection.is_lock_wait(&failure)
            || self.connection.execute("ROLLBACK").await.is_err()
        {
            return failure;
        }
        self.dirty = false;
        tables.push(CHECKPOINT.to_owned());
        let holders =
            self.connection.lock_holders(&self.renderer, &tables).await.unwrap_or_default();
        failure.text += &match holders.is_empty() {
            true => "; another session holds a lock on the table for too long".to_owned(),
            false => format!("; locks are held by {}", holders.join(", ")),
        };
        failure
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
            _ => {
                self.connection.execute("ROLLBACK").await?;
                self.dirty = false;
                Err(Failure::unavailable("the checkpoint is not as this process left it"))
            }
        }
    }

    /// Epoch and position, if there is a row.
    async fn read_checkpoint(&mut self) -> Result<Option<(i64, Option<Position>)>, Failure> {
        let consumer = self.consumer.clone();
        self.read_checkpoint_of(&consumer).await
    }

    async fn read_checkpoint_of(
        &mut self,
        consumer: &str,
    ) -> Result<Option<(i64, Option<Position>)>, Failure> {
        let rows =
            self.connection.integers(&self.renderer.read_checkpoint(), &[consumer.into()]).await?;
        let Some([epoch, sequence, time_ns, format]) = rows.first().map(Vec::as_slice) else {
            return Ok(None);
        };
        if *format > FORMAT {
            let text = format!(
                "the tables _eds_* in the destination were written by a newer EDS (format \
                 {format}; this one knows {FORMAT}): install that version again"
            );
            return Err(Failure::misconfigured(text));
        }
        let position =
            (*sequence > 0).then_some(Position { sequence: *sequence as u64, time_ns: *time_ns });
        Ok(Some((*epoch, position)))
    }

    /// Raises the epoch above what is recorded and above what this process held, if the checkpoint
    /// is still as it was read: a predecessor may commit until then.
    async fn take(&mut self) -> Result<Option<Position>, Failure> {
        let mut failure = Failure::unavailable(format!(
            "the checkpoint of {} changes faster than it can be taken",
            self.consumer
        ));
        for _ in 0..TAKES_MAX {
            let found = self.read_checkpoint().await?;
            let (epoch, position) = found.unwrap_or_default();
            let mine = epoch.max(self.epoch.get()) + 1;
            let (consumer, companies) =
                (Parameter::from(self.consumer.as_str()), Parameter::from(self.companies.as_str()));
            self.connection.terminate_sessions(self.session_tag(epoch)).await?;
            let sequence = position.map_or(0, |p| p.sequence as i64);
            let taken = match found {
                None => {
                    self.connection
                        .change(
                            &self.renderer.insert_checkpoint(),
                            &[consumer, mine.into(), companies],
                        )
                        .await
                }
                Some(_) => {
                    self.connection
                        .change(
                            &self.renderer.take_checkpoint(),
                            &[mine.into(), companies, consumer, epoch.into(), sequence.into()],
                        )
                        .await
                }
            };
            match taken {
                Ok(1) => {
                    self.epoch.set(mine);
                    self.connection.tag_session(self.session_tag(mine)).await?;
                    return Ok(position);
                }
                Ok(_) => {}
                // Another process was faster to write the first checkpoint.
                Err(refused) if refused.kind == FailureKind::Rejected => failure = refused,
                Err(other) => return Err(other),
            }
        }
        Err(failure)
    }

    /// After a COMMIT: whether it was one.
    async fn confirm(&mut self, through: Position) -> Result<(), Failure> {
        if !self.connection.commit_may_be_void()
            || self.read_checkpoint().await?.and_then(|(_, position)| position) == Some(through)
        {
            return Ok(());
        }
        Err(void_commit())
    }

    async fn step(&mut self, step: &Migration) -> Result<(), Failure> {
        match step {
            Migration::CreateTable(schema) => {
                self.connection.execute(&self.renderer.create_table(schema)).await
            }
            Migration::AddColumns(schema, columns) => {
                for index in columns {
                    match self.connection.execute(&self.renderer.add_column(schema, *index)).await {
                        Err(failure) if !self.connection.is_already_there(&failure) => {
                            return Err(failure);
                        }
                        _ => {}
                    }
                }
                Ok(())
            }
            Migration::DropNotNull { table, columns } => {
                for column in columns {
                    let declared = match self.renderer.dialect.not_null {
                        NotNull::Never => return Ok(()),
                        NotNull::Drop => String::new(),
                        NotNull::Restate(_) => {
                            self.connection.declared(&self.renderer, table, column).await?
                        }
                    };
                    self.connection
                        .execute(&self.renderer.drop_not_null(table, column, &declared))
                        .await?;
                }
                Ok(())
            }
        }
    }

    fn session_tag(&self, epoch: i64) -> SessionTag {
        SessionTag::of(&self.renderer.table(CHECKPOINT), &self.consumer, epoch)
    }
}

#[async_trait]
impl<C: Connection> Destination for SqlDestination<C> {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        for group in 0..batch.groups.len() {
            self.connection.prepare(&self.renderer, batch, group).await?;
        }
        self.roll_back_pending().await?;
        let written = self.write(batch).await;
        match self.end(written).await {
            Ok(()) => self.confirm(batch.through).await,
            Err(failure) => Err(self
                .explained(
                    failure,
                    batch.groups.iter().map(|g| g.schema.table.to_string()).collect(),
                )
                .await),
        }
    }

    async fn records(&mut self) -> Result<Vec<Recorded>, Failure> {
        self.make_own_tables().await?;
        let mut records = Vec::new();
        for row in self.connection.texts(&self.renderer.read_records(), &[]).await? {
            let [consumer, companies] = row.as_slice() else { continue };
            let position =
                self.read_checkpoint_of(consumer).await?.and_then(|(_, position)| position);
            records.push(Recorded {
                consumer: consumer.clone(),
                position,
                companies: companies.clone(),
            });
        }
        Ok(records)
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        match claim {
            Claim::Acquire => {
                self.make_own_tables().await?;
                self.take().await
            }
            Claim::Verify => match self.read_checkpoint().await? {
                Some((epoch, _)) if epoch == self.epoch.get() => {
                    // What an earlier session of this process left half done is over before it is
                    // looked at.
                    self.connection.terminate_sessions(self.session_tag(epoch)).await?;
                    self.connection.tag_session(self.session_tag(epoch)).await?;
                    Ok(self.read_checkpoint().await?.and_then(|(_, position)| position))
                }
                Some((epoch, _)) if epoch > self.epoch.get() => {
                    let text = format!(
                        "another EDS has taken over {} in this destination, or an import has \
                         renewed its tables (its epoch is {epoch}, ours was {}): this one ends",
                        self.consumer,
                        self.epoch.get()
                    );
                    Err(Failure::new(FailureKind::Fenced, text))
                }
                // Restored to a time before our claim, or made anew: claim it again.
                _ => self.checkpoint(Claim::Acquire).await,
            },
        }
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        Ok(self.cutovers().await?.of(&self.consumer))
    }

    fn loader(&mut self) -> Option<&mut dyn Loader> {
        Some(self)
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        let mut tables: BTreeMap<String, (TableShape, BTreeMap<i64, String>)> = BTreeMap::new();
        for listed in self.connection.columns(&self.renderer).await? {
            let (shape, keys) = tables.entry(listed.table).or_default();
            if listed.key > 0 {
                keys.insert(listed.key, listed.column.clone());
            }
            shape.columns.insert(listed.column, listed.nullable);
            shape.write_blocker = shape.write_blocker.take().or(listed.write_blocker);
        }
        let shaped = |(table, (shape, keys)): (String, (TableShape, BTreeMap<i64, String>))| {
            (table, TableShape { keys: keys.into_values().collect(), ..shape })
        };
        Ok(Tables {
            shapes: tables.into_iter().map(shaped).collect(),
            lower_case: self.renderer.namespace.lower_case,
        })
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        if self.dirty {
            self.connection.execute("ROLLBACK").await?;
            self.dirty = false;
        }
        match self.step(step).await {
            Ok(()) => Ok(()),
            Err(failure) => Err(self.explained(failure, vec![step.table().to_owned()]).await),
        }
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.connection.close().await
    }
}

/// Whoever is told this looks where the destination stands.
fn void_commit() -> Failure {
    Failure::unavailable("another session ended the transaction before it was committed")
}

/// The change at `index` does not fit: all changes of the batch that do not, or it alone where only
/// this database minds.
pub fn refused(batch: &Batch, table: &str, index: u32, why: &value::TypeMismatch) -> Failure {
    let all = batch.type_mismatches();
    let known = all.iter().any(|(culprit, _)| *culprit == index);
    Failure::rejected(if known { all } else { vec![(index, format!("table {table:?}: {why}"))] })
}

/// All changes of the batch that do not fit their columns: asked once one was met.
pub fn type_mismatches(batch: &Batch) -> Failure {
    Failure::rejected(batch.type_mismatches())
}
