//! A SQL database as a destination: a batch is one transaction, a schema change one statement.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;

use async_trait::async_trait;
use tracing::{info, warn};

use super::codes::of_schema_step;
use super::connection::{Connection, Fence, ListedColumn, fence_lost};
use super::dialect::{FenceOrder, NotNull};
use super::reject_rounded;
use super::render::{CHECKPOINT, Renderer};
use super::widen::Widened;
use crate::change::{Batch, Cutover, Position, TableGroup, TableSchema};
use crate::destination::{
    Claim, ColumnShape, Destination, Epoch, Failure, FailureKind, Holds, KeptChunk, Launch,
    LetterBox, Loader, Migration, Recorded, RowReader, TableShape, Tables, Target,
};

/// A SQL database as a destination.
pub struct SqlDestination<C> {
    pub(super) connection: C,
    pub(super) renderer: Renderer,
    pub(super) consumer: String,
    pub(super) companies: String,
    pub(super) epoch: Epoch,
    /// Columns of short texts, with their tables, that could not be widened.
    pub(super) words: BTreeSet<(String, String)>,
    /// Columns that stay NOT NULL, with their tables, as EDS may not alter them.
    strict: BTreeSet<(String, String)>,
    /// A transaction was begun and neither committed nor known to be rolled back.
    pub(super) dirty: bool,
    /// The batches under way, the oldest first.
    under_way: VecDeque<Arc<Batch>>,
    /// Why the oldest of them failed, until everything about that is done.
    failed: Option<Failure>,
}

impl<C: Connection> SqlDestination<C> {
    /// A destination that keeps the checkpoint of the target's consumer.
    pub fn new(connection: C, renderer: Renderer, target: &Target) -> SqlDestination<C> {
        SqlDestination {
            connection,
            renderer,
            consumer: target.consumer.clone(),
            companies: target.companies.clone(),
            epoch: target.epoch.clone(),
            words: BTreeSet::new(),
            strict: BTreeSet::new(),
            dirty: false,
            under_way: VecDeque::new(),
            failed: None,
        }
    }

    /// Before a transaction: rolls back what a dropped call has left open.
    pub(super) async fn roll_back_pending(&mut self) -> Result<(), Failure> {
        if self.dirty {
            self.connection.execute("ROLLBACK").await?;
        }
        self.dirty = true;
        Ok(())
    }

    /// Commits after a success, rolls back after a failure. Where the connection may be broken
    /// nothing is rolled back: the session ends with it, and its transaction with the session.
    pub(super) async fn end<T: Send>(&mut self, done: Result<T, Failure>) -> Result<T, Failure> {
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

    /// Adds to a failure about locks which sessions hold them.
    pub(super) async fn with_lock_holders(
        &mut self,
        mut failure: Failure,
        mut tables: Vec<String>,
    ) -> Failure {
        let is_lock_wait =
            self.renderer.dialect.lock_wait_code.is_some_and(|code| failure.has_code(code));
        if !is_lock_wait || self.connection.execute("ROLLBACK").await.is_err() {
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

    /// The tables that these columns are of.
    fn shaped(&self, listed: Vec<ListedColumn>) -> Tables {
        let mut tables: BTreeMap<String, (TableShape, BTreeMap<i64, String>)> = BTreeMap::new();
        for listed in listed {
            let named = (listed.table.clone(), listed.column.clone());
            let (stays, is_left) = (self.words.contains(&named), self.strict.contains(&named));
            let (shape, keys) = tables.entry(listed.table).or_default();
            if listed.key > 0 {
                keys.insert(listed.key, listed.column.clone());
            }
            let column = ColumnShape {
                holds: match stays {
                    true => Holds::Text,
                    false => (self.renderer.dialect.holds)(&listed.declared),
                },
                declared: listed.declared,
                takes_null: listed.takes_null || is_left,
                has_default: listed.has_default,
            };
            shape.columns.insert(listed.column, column);
            shape.write_blocker = shape.write_blocker.take().or(listed.write_blocker);
        }
        let shaped = |(table, (shape, keys)): (String, (TableShape, BTreeMap<i64, String>))| {
            (table, TableShape { keys: keys.into_values().collect(), ..shape })
        };
        Tables {
            shapes: tables.into_iter().map(shaped).collect(),
            prefix: self.renderer.namespace.prefix.clone(),
            limits: &self.renderer.dialect.limits,
            lower_case: self.renderer.namespace.lower_case,
        }
    }

    /// The same batch, by which rows lose the mark of those that are deleted, where their table has
    /// it and the batch says nothing of it.
    fn clearing_marks(&self, batch: &Arc<Batch>) -> Arc<Batch> {
        let unmarked = |group: &TableGroup| {
            let schema = self.renderer.known.clearing_mark(&group.schema)?;
            Some(TableGroup { schema: Arc::new(schema), ..group.clone() })
        };
        let groups: Vec<Option<TableGroup>> = batch.groups.iter().map(unmarked).collect();
        if groups.iter().all(Option::is_none) {
            return batch.clone();
        }
        let groups = groups.into_iter().zip(&batch.groups);
        let groups = groups.map(|(new, own)| new.unwrap_or_else(|| own.clone())).collect();
        Arc::new(Batch::clone(batch).with_groups(groups))
    }

    /// Whether the batch can be sent as a whole.
    fn pipelines(&self, batch: &Batch) -> bool {
        self.renderer.dialect.pipelines && batch.is_plain()
    }

    /// What is done before the transaction of the batch.
    async fn prepare(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        reject_rounded(&self.renderer, batch)?;
        for (group, TableGroup { schema, .. }) in batch.groups.iter().enumerate() {
            let prepared = self.connection.prepare(&self.renderer, batch, group).await;
            prepared.map_err(|failure| failure.of_table(&schema.table))?;
        }
        Ok(())
    }

    /// What a failure to write the batch means, once who holds locks is known.
    async fn explained(&mut self, failure: Failure, batch: &Batch) -> Failure {
        let tables = batch.groups.iter().map(|g| g.schema.table.to_string()).collect();
        self.with_lock_holders(failure, tables).await
    }

    /// Writes the batch and the checkpoint, and commits them.
    async fn write(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let fence = self.fence(batch);
        let written = match self.transact(batch, &fence).await {
            Ok(1) => Ok(()),
            Ok(_) => {
                self.connection.execute("ROLLBACK").await?;
                self.dirty = false;
                return Err(fence_lost());
            }
            Err(failure) => Err(failure),
        };
        self.end(written).await
    }

    /// Answers how many checkpoints the fence has changed: 1 where this process may commit.
    async fn transact(&mut self, batch: &Arc<Batch>, fence: &Fence) -> Result<u64, Failure> {
        self.connection.begin_batch(&self.renderer, batch).await?;
        match self.renderer.dialect.fence {
            FenceOrder::CheckpointLast => {
                self.write_groups(batch).await?;
                self.write_kept(batch).await?;
                self.connection.change(&fence.sql, &fence.parameters).await
            }
            FenceOrder::CheckpointFirst => {
                let advanced = self.connection.change(&fence.sql, &fence.parameters).await?;
                if advanced == 1 {
                    self.write_groups(batch).await?;
                    self.write_kept(batch).await?;
                }
                Ok(advanced)
            }
            FenceOrder::CheckpointLocked => {
                let held = self.fence_to(batch.after.unwrap_or_default(), batch.after);
                let locked = self.connection.change(&held.sql, &held.parameters).await?;
                if locked != 1 {
                    return Ok(locked);
                }
                self.write_groups(batch).await?;
                self.write_kept(batch).await?;
                self.connection.change(&fence.sql, &fence.parameters).await
            }
        }
    }

    /// What is kept beside the rows.
    async fn write_kept(&mut self, batch: &Batch) -> Result<(), Failure> {
        self.write_held(batch).await?;
        self.write_letters(&batch.letters).await
    }

    async fn write_groups(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        for (group, TableGroup { schema, .. }) in batch.groups.iter().enumerate() {
            let written = self.connection.write(&self.renderer, batch, group).await;
            written.map_err(|failure| failure.of_table(&schema.table))?;
        }
        Ok(())
    }

    pub(super) async fn make_step(&mut self, step: &Migration) -> Result<(), Failure> {
        match step {
            Migration::CreateTable(schema) => {
                self.check_types(schema)?;
                self.connection.execute(&self.renderer.create_table(schema)).await?;
                if let Some(note) = self.renderer.key_note(schema) {
                    info!("the key of table {:?}: {note}", schema.table);
                }
                Ok(())
            }
            Migration::AddColumns(schema, columns) => self.add_columns(schema, columns).await,
            Migration::DropNotNull { table, columns } => self.drop_not_null(table, columns).await,
            Migration::WidenColumn { .. } => self.widen(step).await,
        }
    }

    /// Types that the user wants are checked before they are made.
    pub(super) fn check_types(&self, schema: &TableSchema) -> Result<(), Failure> {
        let mut all = 0..schema.columns.len();
        let unfit = all.find_map(|index| self.renderer.unfit_type(schema, index));
        unfit.map_or(Ok(()), |why| Err(Failure::misconfigured(why)))
    }

    async fn add_columns(
        &mut self,
        schema: &TableSchema,
        columns: &[usize],
    ) -> Result<(), Failure> {
        self.check_types(schema)?;
        for index in columns {
            match self.connection.execute(&self.renderer.add_column(schema, *index)).await {
                Err(failure) if !failure.has_code(self.renderer.dialect.duplicate_column_code) => {
                    return Err(failure);
                }
                _ => {}
            }
        }
        Ok(())
    }

    async fn drop_not_null(&mut self, table: &str, columns: &[String]) -> Result<(), Failure> {
        for column in columns {
            let definition = match self.renderer.dialect.not_null {
                NotNull::Never => return Ok(()),
                NotNull::Drop => String::new(),
                NotNull::Restate(_) => {
                    self.connection.nullable_definition(&self.renderer, table, column).await?
                }
            };
            let sql = self.renderer.drop_not_null(table, column, &definition);
            match self.connection.execute(&sql).await {
                // Rows with values there can be written all the same; one without is refused.
                Err(failure) if failure.kind == FailureKind::Misconfigured => {
                    let cure = "until that is made by somebody who may, rows without a value wait";
                    warn!("table {table:?}: column {column:?} stays NOT NULL: {failure}; {cure}");
                    self.strict.insert((table.to_owned(), column.clone()));
                }
                done => done?,
            }
        }
        Ok(())
    }
}

#[async_trait]
impl<C: Connection> Destination for SqlDestination<C> {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let batch = &self.clearing_marks(batch);
        let written = match self.launch(batch).await {
            Ok(Launch::UnderWay) => self.land().await,
            Ok(Launch::Declined) => {
                self.prepare(batch).await?;
                self.roll_back_pending().await?;
                self.write(batch).await
            }
            Err(failure) => Err(failure),
        };
        match written {
            Ok(()) => self.confirm(batch).await,
            Err(failure) => Err(self.explained(failure, batch).await),
        }
    }

    async fn launch(&mut self, batch: &Arc<Batch>) -> Result<Launch, Failure> {
        if !self.pipelines(batch) {
            return Ok(Launch::Declined);
        }
        let batch = &self.clearing_marks(batch);
        self.prepare(batch).await?;
        if self.under_way.is_empty() {
            self.roll_back_pending().await?;
        }
        let fence = self.fence(batch);
        let launched = self.connection.launch(&self.renderer, batch, &fence).await?;
        if launched == Launch::UnderWay {
            self.under_way.push_back(batch.clone());
        }
        Ok(launched)
    }

    async fn land(&mut self) -> Result<(), Failure> {
        let failure = match self.failed.clone() {
            Some(failure) => failure,
            None => {
                let Err(failure) = self.connection.land().await else {
                    self.under_way.pop_front();
                    self.dirty = !self.under_way.is_empty();
                    return Ok(());
                };
                self.failed.insert(failure).clone()
            }
        };
        // Those behind it found the checkpoint where the failed one should have moved it from, and
        // are rolled back.
        while self.under_way.len() > 1 {
            let _ = self.connection.land().await;
            self.under_way.pop_back();
        }
        // What was sent ended with COMMIT or ROLLBACK.
        self.dirty = failure.kind == FailureKind::Unavailable;
        self.under_way.clear();
        self.failed = None;
        Err(failure)
    }

    async fn explain(&mut self, failure: Failure, batch: &Batch) -> Failure {
        self.explained(failure, batch).await
    }

    async fn records(&mut self) -> Result<Vec<Recorded>, Failure> {
        self.make_own_tables().await?;
        self.make_as_of().await;
        self.read_records().await
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        self.claim(claim).await
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        Ok(self.cutovers().await?.of(&self.consumer))
    }

    async fn kept(&mut self) -> Result<Vec<KeptChunk>, Failure> {
        self.kept_chunks().await
    }

    async fn kept_body(&mut self, number: u64) -> Result<Option<String>, Failure> {
        self.kept_chunk_body(number).await
    }

    async fn adopt_kept(&mut self, of: &str) -> Result<(), Failure> {
        let parameters = [self.consumer.as_str().into(), of.into()];
        self.connection.change(&self.renderer.adopt_held(), &parameters).await?;
        let letters = self.renderer.adopt_dead_letters();
        self.connection.change(&letters, &parameters).await.map(drop)
    }

    fn letter_box(&mut self) -> Option<&mut dyn LetterBox> {
        Some(self)
    }

    fn loader(&mut self) -> Option<&mut dyn Loader> {
        Some(self)
    }

    fn row_reader(&mut self) -> Option<&mut dyn RowReader> {
        Some(self)
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        let listed = self.connection.columns(&self.renderer, None).await?;
        let tables = self.shaped(listed);
        self.renderer.known = Arc::new(tables.clone());
        Ok(tables)
    }

    async fn table(&mut self, table: &str) -> Result<Option<TableShape>, Failure> {
        let listed = self.connection.columns(&self.renderer, Some(table)).await?;
        let shape = self.shaped(listed).get(table).cloned();
        Arc::make_mut(&mut self.renderer.known).put(table, shape.clone());
        Ok(shape)
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        if self.dirty {
            self.connection.execute("ROLLBACK").await?;
            self.dirty = false;
        }
        match self.make_step(step).await {
            Ok(()) => Ok(()),
            Err(failure) => {
                let failure = of_schema_step(failure).of_table(step.table());
                Err(self.with_lock_holders(failure, vec![step.table().to_owned()]).await)
            }
        }
    }

    fn statements(&self, step: &Migration) -> Vec<String> {
        let renderer = &self.renderer;
        match step {
            Migration::CreateTable(schema) => vec![renderer.create_table(schema)],
            Migration::AddColumns(schema, columns) => {
                columns.iter().map(|index| renderer.add_column(schema, *index)).collect()
            }
            Migration::DropNotNull { .. } => Vec::new(),
            Migration::WidenColumn { table, column, from, to, .. } => {
                renderer.widen(&Widened { table, column, from, to, rest: "" })
            }
        }
    }

    async fn close(self: Box<Self>) -> Result<(), Failure> {
        self.connection.close().await
    }
}
