//! Where changes go: the whole contract between the engine and a destination.

pub mod catalog;
pub mod dry_run;
mod failure;
pub mod form;
pub mod import;
pub mod letters;
pub mod memory;
#[cfg(any(feature = "eventhubs", feature = "kafka"))]
pub mod messages;
pub mod objects;
pub mod options;
pub mod read_back;
pub mod settings;
pub mod shape;
pub mod sql;

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::change::held::HeldLabel;
use crate::change::{Batch, Cutover, Position};
use crate::validator::Validator;
pub use failure::{Failure, FailureKind};
pub use import::Loader;
pub use letters::{KeptLetter, LetterBox};
pub use read_back::{RowReader, StoredRow, TableConcern};
pub use settings::Settings;
pub use shape::{ColumnShape, Holds, Migration, TableShape, Tables};

/// An open connection to a system that receives changes.
///
/// One process streams through one such connection at a time. Calls of one connection never
/// overlap: the caller awaits each before it makes the next. A call may be dropped before it ends,
/// which leaves behind what a failure leaves. After [`FailureKind::Unavailable`] the caller drops
/// the connection and opens another.
///
/// A stream calls `records`, `checkpoint`, `cutover` and `tables` in this order at its start; then
/// `migrate` and `apply`, or `launch` and `land`, for each batch; after a reconnect `checkpoint`,
/// `cutover` and `tables` again.
#[async_trait]
pub trait Destination: Send {
    /// Applies `batch`.
    ///
    /// Called once for each batch, and again for parts of it while a rejected change is searched
    /// for. While it runs, the next batch is collected from the feed; no acknowledgement is sent
    /// before it ends. `Ok` promises that the changes survive a power cut, because they are
    /// acknowledged next. After `Err` or a crash they are offered again, perhaps in other batches:
    /// a destination that upserts rows must end up as if each change was applied once; one that
    /// appends changes may store a repeat, under the same name or key.
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure>;

    /// Sends `batch`, which is plain, and does not wait until it is applied. It may follow a batch
    /// that is under way: then it is applied after that one, and only if that one is.
    ///
    /// Called instead of `apply` where nothing but rows is written and no table has to be changed.
    /// A destination that cannot do that declines: it has done nothing, and the batch goes to
    /// `apply` once nothing is under way. After `Err` the batch is not under way.
    async fn launch(&mut self, _batch: &Arc<Batch>) -> Result<Launch, Failure> {
        Ok(Launch::Declined)
    }

    /// Waits for the answer to the oldest batch that is under way; it means what that of `apply`
    /// does. After `Err` no batch is under way any more, and those behind this one are not applied;
    /// after [`FailureKind::Unavailable`] the checkpoint tells how far the destination came.
    ///
    /// Called once for each batch that was launched. No other call but `launch` comes before it.
    /// May be dropped and called again: no answer is lost.
    async fn land(&mut self) -> Result<(), Failure> {
        Err(Failure::unavailable("no batch is under way"))
    }

    /// Says more about why a batch that was launched failed: whose locks it waited for.
    ///
    /// Called once for each that failed, when nothing is under way any more.
    async fn explain(&mut self, failure: Failure, _batch: &Batch) -> Failure {
        failure
    }

    /// Who the destination is, where it can tell: the same for every URL that leads to it, and for
    /// no other (`CheckpointIn::StateFile`).
    ///
    /// Called once at the start of a process and by imports, before anything else; answers at once.
    fn identity(&self) -> Option<String> {
        None
    }

    /// The position that the destination has recorded for this consumer
    /// (`CheckpointIn::Destination`); `None` where nothing was recorded yet.
    ///
    /// Called with `Claim::Acquire` once at the start of a process; with `Claim::Verify` after each
    /// reconnect and before the feed is opened again. Nothing is streamed until it has answered.
    async fn checkpoint(&mut self, _claim: Claim) -> Result<Option<Position>, Failure> {
        Ok(None)
    }

    /// The checkpoints of all consumers (`CheckpointIn::Destination`).
    ///
    /// Called once at the start of a process, before `checkpoint` claims this consumer's own; the
    /// start waits for it.
    async fn records(&mut self) -> Result<Vec<Recorded>, Failure> {
        Ok(Vec::new())
    }

    /// Which events the tables already contain because an import loaded them
    /// (`CheckpointIn::Destination`).
    ///
    /// Called once at the start of a process and after each reconnect, after `checkpoint`; the
    /// feed is opened only when it has answered.
    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        Ok(Cutover::default())
    }

    /// The changes of tables that could not be written, which the destination keeps for this
    /// consumer, by the numbers of their chunks (`CheckpointIn::Destination`).
    ///
    /// Called at the start and after each reconnect, after `checkpoint`; nothing is written before
    /// it has answered.
    async fn kept(&mut self) -> Result<Vec<KeptChunk>, Failure> {
        Ok(Vec::new())
    }

    /// The body of a chunk; `None` where it is not kept any more.
    ///
    /// Called before a table is tried again; batches wait for it.
    async fn kept_body(&mut self, _number: u64) -> Result<Option<String>, Failure> {
        Ok(None)
    }

    /// Where dead letters are kept (`CheckpointIn::Destination`).
    ///
    /// Called at the start, after each reconnect, and when a letter is tried again; answers at
    /// once.
    fn letter_box(&mut self) -> Option<&mut dyn LetterBox> {
        None
    }

    /// Hands what is kept for consumer `of` to this one, dead letters included, which goes on where
    /// that one ended.
    ///
    /// Called once at most, at the start, after `checkpoint`.
    async fn adopt_kept(&mut self, _of: &str) -> Result<(), Failure> {
        Ok(())
    }

    /// The tables that exist now (`SchemaMode::Managed`).
    ///
    /// Called at start, after a reconnect, by imports, and where many tables have changed; the
    /// batch in hand waits for it. A driver may take it as the sign that tables have changed, and
    /// drop what it has prepared for them.
    async fn tables(&mut self) -> Result<Tables, Failure> {
        Ok(Tables::default())
    }

    /// The table that keeps the rows of the source's `table`, as it is now (`SchemaMode::Managed`);
    /// `None` where it does not exist. Of no other table anything is read.
    ///
    /// Called after [`Self::tables`]: after `migrate`, after a [`FailureKind::SchemaMismatch`], and
    /// when a table is tried again; the batch in hand waits for it. A driver may take it as the
    /// sign that this table has changed, and drop what it has prepared for it.
    async fn table(&mut self, table: &str) -> Result<Option<TableShape>, Failure> {
        Ok(self.tables().await?.get(table).cloned())
    }

    /// Makes one schema change (`SchemaMode::Managed`). Repeating a change that was made does
    /// nothing.
    ///
    /// Called between batches, once for each step that a batch's schema needs; that batch waits
    /// for it.
    async fn migrate(&mut self, _step: &Migration) -> Result<(), Failure> {
        Ok(())
    }

    /// The statements that a schema change consists of, for a person who makes it; none where they
    /// are not known.
    ///
    /// Called where the user makes schema changes; answers at once.
    fn statements(&self, _step: &Migration) -> Vec<String> {
        Vec::new()
    }

    /// What loads whole tables, where the destination can be imported into.
    ///
    /// Called by imports before each of their calls; answers at once.
    fn loader(&mut self) -> Option<&mut dyn Loader> {
        None
    }

    /// What reads rows back, where the destination has rows and can be compared with an export.
    ///
    /// Called by commands that look at rows, before each of their calls; answers at once.
    fn row_reader(&mut self) -> Option<&mut dyn RowReader> {
        None
    }

    /// Says goodbye and frees the connection.
    ///
    /// Called once, last; what was applied is durable whether it succeeds or not. A shutdown or a
    /// reconnect waits for it, so a driver bounds the time it takes.
    async fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// What became of a batch that a destination was to send.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Launch {
    /// It was sent, and its answer is to be awaited.
    UnderWay,
    /// Nothing: it has to be given to `apply`.
    Declined,
}

/// A consumer's checkpoint, as the destination has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The name of the durable consumer, or of the journal.
    pub consumer: String,
    /// `None` where nothing was applied yet.
    pub position: Option<Position>,
    /// Ids of companies, separated by commas; `*` for all.
    pub companies: String,
}

/// A chunk of changes that the destination keeps until their table can be written.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct KeptChunk {
    /// Chunks of one table are applied in the order of their numbers.
    pub number: u64,
    /// How many of its changes are applied already.
    pub applied: u64,
    /// What has to be known of it without reading it.
    pub label: HeldLabel,
}

/// How `checkpoint` treats the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// At start: raise the epoch, so that an older process can no longer commit.
    Acquire,
    /// After a reconnect or a lost answer: read what is recorded once nothing of this process is
    /// about to be, and fail with `Fenced` where another process has raised the epoch.
    Verify,
}

/// A destination that is being opened.
pub type OpenFuture<'a> = BoxFuture<'a, Result<Box<dyn Destination>, Failure>>;

/// Reads a driver's URL.
pub type ReadUrl = fn(&str, &Driver) -> Result<Settings, settings::BadUrl>;

/// Builds the URL with this scheme from the answers to a driver's form.
pub type UrlOfForm = fn(&str, &form::Answers) -> Result<String, form::FieldError>;

/// The recipe of a destination: a constant from which help, HQ's form, URL parsing and the engine's
/// plan are read. Everything in which one destination differs from another is here or behind
/// `open`, so that a new one needs nothing but its own file and a line in the catalog.
pub struct Driver {
    /// The scheme of its URLs, and its name on the command line and in HQ.
    pub scheme: &'static str,
    /// Other schemes that mean the same.
    pub aliases: &'static [&'static str],
    /// What people call the system.
    pub title: &'static str,
    /// One sentence: what EDS keeps in it.
    pub description: &'static str,
    /// A URL, as a person would write it.
    pub example: &'static str,
    /// What a user has to know before the first start; may have several lines.
    pub help: &'static str,
    /// What HQ asks for.
    pub fields: &'static [form::FormField],
    /// The URL that the answers to `fields` come to.
    pub url_of_form: UrlOfForm,
    /// Query keys of the URL that it understands, each with what it does.
    pub parameters: &'static [(&'static str, &'static str)],
    /// Query keys that URLs of the Go program may hold and that mean nothing here, each with the
    /// reason.
    pub accepted: &'static [(&'static str, &'static str)],
    /// Those of `parameters` whose values are secret.
    pub secrets: &'static [&'static str],
    /// How its URL is written: [`settings::server_url`], [`settings::path_url`], or its own form,
    /// which has to keep secrets out of `Display`.
    pub read_url: ReadUrl,
    /// What it can do, as the settings have it.
    pub abilities: fn(&Settings) -> Abilities,
    /// Connects; fails where it can be known that the destination cannot be used.
    pub open: for<'a> fn(&'a Target) -> OpenFuture<'a>,
}

/// What stands in a key that an option holds itself, instead of a file's name.
const PRIVATE_KEY: &str = "PRIVATE KEY-----";
/// How long [`Driver::test`] waits for a destination.
pub const TEST_WAIT_MAX: Duration = Duration::from_secs(15);

impl Driver {
    /// Whether URLs of this scheme are its own.
    pub fn has_scheme(&self, scheme: &str) -> bool {
        let mut names = std::iter::once(&self.scheme).chain(self.aliases);
        names.any(|name| name.eq_ignore_ascii_case(scheme))
    }

    /// Whether the option `key` is known, with effect or without, in whatever case.
    pub fn knows(&self, key: &str) -> bool {
        let mut names = self.parameters.iter().chain(self.accepted);
        names.any(|(name, _)| name.eq_ignore_ascii_case(key))
    }

    /// Whether settings of its URL hold a secret. The path of a connection string does.
    pub fn has_secret(&self, settings: &Settings) -> bool {
        settings.password.is_some()
            || self.secrets.iter().any(|name| settings.parameter(name).is_some())
            || settings.path.contains(';')
            || settings.parameters.values().any(|value| value.contains(PRIVATE_KEY))
    }

    /// Whether its URL may have the option `key`.
    pub fn has_parameter(&self, key: &str) -> bool {
        self.parameters.iter().any(|(name, _)| *name == key)
    }

    /// Opens the destination and closes it: whether it can be used.
    pub async fn test(&self, settings: &Settings, access: Access) -> Result<(), Failure> {
        self.identity(settings, access).await.map(drop)
    }

    /// Opens the destination, and closes it once it has said who it is.
    pub async fn identity(
        &self,
        settings: &Settings,
        access: Access,
    ) -> Result<Option<String>, Failure> {
        let target = Target { access, ..Target::unclaimed(settings) };
        let asked = tokio::time::timeout(TEST_WAIT_MAX, async {
            let opened = (self.open)(&target).await?;
            let identity = opened.identity();
            opened.close().await.map(|()| identity)
        })
        .await;
        asked.unwrap_or_else(|_| {
            Err(Failure::unavailable(format!("{settings} gave no answer within {TEST_WAIT_MAX:?}")))
        })
    }
}

/// Which destination is opened, and for which consumer.
#[derive(Clone)]
pub struct Target {
    /// The destination's URL, parsed.
    pub settings: Settings,
    /// The key of the checkpoint: the name of the durable consumer, or of the journal.
    pub consumer: String,
    /// The epoch that this process holds; set once the first `Claim::Acquire` has answered.
    pub epoch: Epoch,
    /// Companies that the feed is limited to, recorded with the checkpoint: ids separated by
    /// commas; `*` for all.
    pub companies: String,
    /// The user's rules; they may choose the path of an object.
    pub rules: Option<Arc<Validator>>,
    /// What may be made of the place itself by opening it.
    pub access: Access,
}

/// What opening a destination may make of a place that has no server: a file of this machine.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Access {
    /// What is missing is made, and what is there is set up for writing.
    #[default]
    Write,
    /// It stays as it is; one that is missing is an error.
    AsItIs,
    /// It stays as it is; one that is missing counts as empty.
    Rehearse,
}

impl Target {
    /// For a caller that streams nothing and so has no checkpoint of its own: an import, a test.
    pub fn unclaimed(settings: &Settings) -> Target {
        Target {
            settings: settings.clone(),
            consumer: "eds-import".into(),
            epoch: Epoch::default(),
            companies: String::new(),
            rules: None,
            access: Access::Write,
        }
    }

    /// The same for a caller that looks at what is there.
    pub fn as_it_is(settings: &Settings) -> Target {
        Target { access: Access::AsItIs, ..Target::unclaimed(settings) }
    }
}

/// The epoch of this process, shared by all its connections to one destination. 0 until one was
/// acquired.
#[derive(Clone, Debug, Default)]
pub struct Epoch(Arc<std::sync::atomic::AtomicI64>);

impl Epoch {
    /// The epoch that was set last.
    pub fn get(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }

    /// Called once the destination has recorded `epoch`.
    pub fn set(&self, epoch: i64) {
        self.0.store(epoch, std::sync::atomic::Ordering::Release);
    }
}

/// What a destination can do, from which the engine's plan follows.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Abilities {
    /// What becomes of several changes of one row.
    pub write_mode: WriteMode,
    /// Where the checkpoint lives.
    pub checkpoint_in: CheckpointIn,
    /// What it wants to know of tables.
    pub schema_mode: SchemaMode,
    /// The most changes in one batch.
    pub batch_changes_max: usize,
    /// The most bytes in one batch.
    pub batch_bytes_max: usize,
    /// Connections that an import may load through at once.
    pub loaders_max: usize,
    /// How long pending changes should wait for more before they are written, where each write
    /// costs money or seconds.
    pub flush_interval_preferred: Duration,
}

impl Abilities {
    /// Whether each change has to come with its table's schema.
    pub fn needs_schemas(self) -> bool {
        self.schema_mode != SchemaMode::Schemaless
    }
}

/// What a destination keeps.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WriteMode {
    /// The latest state of each row: of several changes in a batch only the last is applied.
    Upsert,
    /// Every change, in order.
    Append,
}

/// Where the checkpoint is kept, and so what a failed apply may leave behind.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum CheckpointIn {
    /// In the destination, committed with the rows: a failed apply leaves nothing.
    Destination,
    /// In EDS's data directory: a failed apply may leave any part of the batch.
    StateFile,
}

/// What a destination wants to know of tables and columns.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SchemaMode {
    /// It has tables and columns that follow the source's.
    Managed,
    /// It has none of its own; each change comes with its table's schema.
    Typed,
    /// It has none, and changes come as they are.
    Schemaless,
}
