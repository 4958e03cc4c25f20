//! What each database does itself, in four parts: the session, the catalog, writing rows, loading
//! whole tables.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;

use super::render::Renderer;
use crate::change::{Batch, TableSchema};
use crate::destination::import::ForeignKey;
use crate::destination::{Failure, FailureKind, Launch};

/// A parameter of one of EDS's own statements.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// A number; no own statement has null parameters.
    Integer(i64),
    /// A text without NUL.
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

/// A column as the database's catalog lists it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedColumn {
    /// The table, as the source calls it.
    pub table: String,
    /// The column's name.
    pub column: String,
    /// Its type, as the database writes it.
    pub declared: String,
    /// Whether NULL can be written to it. One of which that cannot be changed counts as such.
    pub takes_null: bool,
    /// Whether an insert may leave it out: it has a default, or the database makes its values.
    pub has_default: bool,
    /// Its place in the primary key, from 1; 0 where it is not part of it.
    pub key: i64,
    /// Why rows must not be written to the table, with the cure.
    pub write_blocker: Option<String>,
}

/// By what the sessions that hold one epoch of one checkpoint find each other: only one of them may
/// write.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionTag(pub u64);

impl SessionTag {
    /// `table` is the full name of the table of checkpoints.
    pub fn of(table: &str, consumer: &str, epoch: i64) -> SessionTag {
        SessionTag(xxhash_rust::xxh3::xxh3_64_with_seed(
            format!("{table} {consumer}").as_bytes(),
            epoch as u64,
        ))
    }
}

/// The update of the checkpoint that keeps a replaced process from committing: it changes exactly
/// one row, or the batch must be rolled back.
pub struct Fence {
    /// One UPDATE.
    pub sql: String,
    /// New sequence, new time, consumer, epoch, and the sequence that was written last.
    pub parameters: [Parameter; 5],
}

/// The checkpoint does not have the epoch and the position that the fence asks for. The caller
/// reconnects and reads whose it is now, and its position.
pub fn fence_lost() -> Failure {
    Failure::unavailable("the checkpoint is not as this process left it")
}

/// A session with a database: statements, and what other sessions are told of it.
///
/// `SqlDestination` is the only caller; it awaits each call before the next, so calls of one
/// session never overlap. Other sessions, of this process (loaders) or of others, may run at the
/// same time. A call may be dropped before it ends; the session may then be lost, and later calls
/// fail with [`FailureKind::Unavailable`].
#[async_trait]
pub trait SqlSession: Send {
    /// Runs a statement without parameters or result: BEGIN, COMMIT, ROLLBACK, DDL. ROLLBACK
    /// succeeds where no transaction is open.
    ///
    /// Called several times for each batch; the batch waits for it. DDL may take hours.
    async fn execute(&mut self, sql: &str) -> Result<(), Failure>;

    /// Runs a statement that changes rows, and answers how many it found to change.
    ///
    /// Called once for each batch, for the checkpoint, and by imports for their progress; the
    /// batch waits for it.
    async fn change(&mut self, sql: &str, parameters: &[Parameter]) -> Result<u64, Failure>;

    /// Runs a query all of whose columns are integers, and answers its rows.
    ///
    /// Called at start, after reconnects and by imports, which wait for it; the results are small.
    async fn integers(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<i64>>, Failure>;

    /// Runs a query all of whose columns are texts, and answers its rows; NULL is an empty text.
    ///
    /// Called at start and by imports, which wait for it; the results are small.
    async fn texts(
        &mut self,
        sql: &str,
        parameters: &[Parameter],
    ) -> Result<Vec<Vec<String>>, Failure>;

    /// Ends the other sessions of this user that carry `tag`, so that one which hangs within a
    /// transaction releases its locks. A database without such means does nothing.
    ///
    /// Called before the checkpoint is acquired, with the tag of the recorded epoch, and after a
    /// reconnect with this process's own; the start waits for it.
    async fn terminate_sessions(&mut self, _tag: SessionTag) -> Result<(), Failure> {
        Ok(())
    }

    /// Ends the transactions that an interrupted import left open. A database where a closed
    /// connection ends them does nothing.
    ///
    /// Called once when an import begins, before it reads anything; the import waits for it.
    async fn terminate_loads(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Marks this session with `tag`, so that `terminate_sessions` of another session finds it, and
    /// makes it one that streams: from now on it waits for a lock no longer than
    /// [`STREAM_LOCK_WAIT_MAX`](super::STREAM_LOCK_WAIT_MAX), where the database can do that.
    ///
    /// Called once the checkpoint is acquired, and after each reconnect, before the first batch.
    async fn tag_session(&mut self, _tag: SessionTag) -> Result<(), Failure> {
        Ok(())
    }

    /// The sessions that hold locks on the tables, described for people; empty where the database
    /// does not tell.
    ///
    /// Called after a batch, a schema change or a swap has failed with the dialect's
    /// `lock_wait_code`, outside a transaction; only the error's text waits for it.
    async fn lock_holders(
        &mut self,
        _renderer: &Renderer,
        _tables: &[String],
    ) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }

    /// Ends the session, within a few seconds.
    ///
    /// Called once, last; a shutdown or a reconnect waits for it.
    async fn close(self) -> Result<(), Failure>
    where
        Self: Sized;
}

/// What the database knows of its tables.
///
/// Called outside transactions, by the same caller as [`SqlSession`] and never at the same time.
#[async_trait]
pub trait SqlCatalog: Send {
    /// The columns of all tables of the renderer's namespace, or of that which keeps the rows of
    /// the source's table `only`. In the latter case the catalog reads no other table.
    ///
    /// Called at start, after reconnects and by imports for all; after a
    /// [`FailureKind::SchemaMismatch`] and after schema changes for the tables that it is about.
    /// The batch in hand waits for it. These tables may have changed since the last call, so the
    /// driver forgets the statements and temporary tables that it has prepared for them.
    async fn columns(
        &mut self,
        renderer: &Renderer,
        only: Option<&str>,
    ) -> Result<Vec<ListedColumn>, Failure>;

    /// The definition of a column as it is now, but nullable.
    ///
    /// Called once for each column that has to take NULL, where the dialect has
    /// `NotNull::Restate`; the schema change waits for it.
    async fn nullable_definition(
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
}

/// Writes the rows of batches. The upsert lives here: each driver's `rows.rs`, SQLite's in its
/// `mod.rs`.
///
/// For each batch the caller calls `prepare` for every group; then `launch` and later `land`. Where
/// `launch` declines, it calls `begin_batch`, `write` for every group and [`SqlSession::change`]
/// with the fence, in the dialect's order; then COMMIT. It awaits each call before the next. All of
/// them keep the batch waiting, while the next one is collected from the feed.
#[async_trait]
pub trait RowWriter: SqlSession {
    /// Gets ready to write the group: temporary tables, files on a stage.
    ///
    /// Called once for each group of a batch, in order, before the transaction begins. Most
    /// databases need nothing.
    async fn prepare(
        &mut self,
        _renderer: &Renderer,
        _batch: &Arc<Batch>,
        _group: usize,
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// Sends the whole batch, the fence and COMMIT in one exchange, where the driver can, and does
    /// not wait for the answers. A fence that changes nothing makes the transaction fail, so that a
    /// batch which was sent behind one that fails does, too. A driver that declines has done
    /// nothing.
    ///
    /// Called once for each batch of nothing but rows, after `prepare`; others may be under way.
    async fn launch(
        &mut self,
        _renderer: &Renderer,
        _batch: &Arc<Batch>,
        _fence: &Fence,
    ) -> Result<Launch, Failure> {
        Ok(Launch::Declined)
    }

    /// Waits for the answers to the oldest batch under way; fails with [`fence_lost`] where its
    /// fence changed nothing. After a failure it waits for those behind it, too, whatever they are.
    ///
    /// Called before anything else is asked of the session. May be dropped and called again.
    async fn land(&mut self) -> Result<(), Failure> {
        Err(Failure::unavailable("no batch is under way"))
    }

    /// Begins the transaction of a batch.
    ///
    /// Called once for each batch that `launch` has declined.
    async fn begin_batch(&mut self, renderer: &Renderer, _batch: &Batch) -> Result<(), Failure> {
        self.execute(renderer.dialect.begin).await
    }

    /// Deletes, then upserts the rows of the group, within the transaction.
    ///
    /// Called once for each group of a batch, after `begin_batch`.
    async fn write(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure>;
}

/// Loads whole tables for imports: each driver's `import.rs`.
///
/// Several sessions of one process load at the same time, up to the driver's `loaders_max`; calls
/// of one session never overlap. Each session loads pieces of files (`prepare_load`, BEGIN, `load`,
/// COMMIT), and whoever loads the last piece of a table calls `finish_load` for it. One session
/// swaps all tables in at the end, when no other loads any more.
#[async_trait]
pub trait BulkLoader: RowWriter {
    /// Makes commits of this session fast. They may be lost in a power cut until another session
    /// commits durably after them, as the swap at the end does.
    ///
    /// Called once for each session that loads, before its first piece.
    async fn enter_load_mode(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Gets ready to load the group.
    ///
    /// Called once for each group of a piece, before its transaction begins.
    async fn prepare_load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.prepare(renderer, batch, group).await
    }

    /// Adds the rows of the group to a table that only this import knows, within the transaction.
    ///
    /// Called once for each group of a piece; the file's progress is committed with it. Other
    /// sessions may load into the same table at the same time.
    async fn load(
        &mut self,
        renderer: &Renderer,
        batch: &Arc<Batch>,
        group: usize,
    ) -> Result<(), Failure> {
        self.write(renderer, batch, group).await
    }

    /// Creates `staged`, which is to take the place of the old table, with the columns of that one
    /// as they are: their order, types, collations. Answers false, and creates nothing, where the
    /// database cannot do that.
    ///
    /// Called once for each table that has an old one with the columns that EDS would make, before
    /// anything is loaded, outside a transaction.
    async fn create_like(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
        _staged: &TableSchema,
    ) -> Result<bool, Failure> {
        Ok(false)
    }

    /// Creates the key of `staged` where it is created after the load. Where `staged` is to take
    /// the place of the old table (`exchanges`), gives it the indexes and rights that people have
    /// added to that one. Answers how many rows were removed because another one has their key.
    /// Repeating it does what has become necessary since.
    ///
    /// Called once for each table, when all its rows are loaded, outside a transaction, while other
    /// tables may still be loading; it may take hours, and the swap waits for it. Called again
    /// before each try of the swap, for tables that take the place of an old one.
    async fn finish_load(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
        _staged: &TableSchema,
        _exchanges: bool,
    ) -> Result<u64, Failure> {
        Ok(0)
    }

    /// Why rows of this schema could not be written to the table that is there, as its columns are
    /// of types that values are not turned into.
    ///
    /// Called once for each table that is there, before anything is loaded, outside a transaction.
    async fn row_refusal(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Why the old table cannot be replaced by the loaded one: what depends on it and would be
    /// lost, or where they differ.
    ///
    /// Called once for each table before each try of the swap, outside a transaction; the swap
    /// waits for it. Called before anything is loaded, too, when there is no loaded table yet.
    async fn swap_blocker(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
    ) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// The foreign keys of the tables of the renderer's namespace that are enforced, under the
    /// names that the database has for them; a table of another namespace is named with it.
    ///
    /// Called before anything is loaded and before each try of the swap, outside a transaction.
    async fn foreign_keys(&mut self, _renderer: &Renderer) -> Result<Vec<ForeignKey>, Failure> {
        Ok(Vec::new())
    }

    /// From now on statements of this session wait for a lock no longer than `limit`, as far as the
    /// database can do that.
    ///
    /// Called several times for each swap, within its transaction too.
    async fn limit_lock_wait(&mut self, _limit: Duration) -> Result<(), Failure> {
        Ok(())
    }

    /// Constraints that can be are checked at the end of the transaction.
    ///
    /// Called within the swap's transaction, before the rows of tables that stay are replaced.
    async fn defer_constraints(&mut self) -> Result<(), Failure> {
        Ok(())
    }

    /// Locks these tables until the transaction ends, so that they can be exchanged at once. Takes
    /// no longer than [`STREAM_LOCK_WAIT_MAX`](super::STREAM_LOCK_WAIT_MAX); where that is not
    /// enough it fails with the dialect's `lock_wait_code`, and the transaction goes on without the
    /// locks. A database whose readers do not wait for a table to be exchanged does nothing.
    ///
    /// Called within the swap's transaction, several times where it fails.
    async fn lock_tables(
        &mut self,
        _renderer: &Renderer,
        _tables: &[String],
    ) -> Result<(), Failure> {
        Ok(())
    }

    /// The statements that give `staged` what the old table has, to be run once `staged` has taken
    /// its place.
    ///
    /// Called once for each table that is replaced, within the swap's transaction and before the
    /// old table is dropped.
    async fn copied_ddl(
        &mut self,
        _renderer: &Renderer,
        _schema: &TableSchema,
        _staged: &TableSchema,
    ) -> Result<Vec<String>, Failure> {
        Ok(Vec::new())
    }
}

/// All that a SQL database does itself.
pub trait Connection: SqlSession + SqlCatalog + RowWriter + BulkLoader {}

impl<C: SqlSession + SqlCatalog + RowWriter + BulkLoader> Connection for C {}
