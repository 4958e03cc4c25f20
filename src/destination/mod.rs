//! Where changes go: the whole contract between the engine and a destination.

pub mod catalog;
pub mod dry_run;
pub mod form;
pub mod import;
pub mod memory;
pub mod messages;
pub mod objects;
pub mod settings;
pub mod sql;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use futures::future::BoxFuture;

use crate::change::{Batch, Cutover, Position, TableSchema};
use crate::validator::Validator;
pub use import::Loader;
pub use settings::Settings;

/// An open connection to a system that receives changes. Calls never overlap; a call may be dropped
/// half way, which leaves what a failure leaves.
#[async_trait]
pub trait Destination: Send {
    /// Applies `batch`. `Ok` promises that the changes survive a power cut: they are acknowledged
    /// next. After `Err` or a crash they are offered again, perhaps cut differently: a keeper of
    /// rows must end up as if each was applied once; a keeper of changes may store a repeat, under
    /// the same name or key.
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure>;

    /// How far it has come by its own record (`CheckpointIn::Destination`); `None` where nothing
    /// was recorded yet.
    async fn checkpoint(&mut self, _claim: Claim) -> Result<Option<Position>, Failure> {
        Ok(None)
    }

    /// What is recorded of all consumers (`CheckpointIn::Destination`); asked before `checkpoint`.
    async fn records(&mut self) -> Result<Vec<Recorded>, Failure> {
        Ok(Vec::new())
    }

    /// What imports left to know about the tables (`CheckpointIn::Destination`); asked after
    /// `checkpoint`.
    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        Ok(Cutover::default())
    }

    /// The tables that exist now. Asked of `SchemaMode::Managed`.
    async fn tables(&mut self) -> Result<Tables, Failure> {
        Ok(Tables::default())
    }

    /// Makes one schema change; repeatable. Asked of `SchemaMode::Managed`.
    async fn migrate(&mut self, _step: &Migration) -> Result<(), Failure> {
        Ok(())
    }

    /// How whole tables are loaded, where there are tables.
    fn loader(&mut self) -> Option<&mut dyn Loader> {
        None
    }

    /// Ends the connection; nothing that `apply` has promised depends on it.
    async fn close(self: Box<Self>) -> Result<(), Failure> {
        Ok(())
    }
}

/// A consumer's checkpoint, as the destination has it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recorded {
    /// The name of the durable consumer, or of the journal.
    pub consumer: String,
    /// `None` where nothing was applied yet.
    pub position: Option<Position>,
    /// A comma list; `*` for all.
    pub companies: String,
}

/// How `checkpoint` treats the fence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Claim {
    /// At start: raise the epoch, so that an older process can commit no more.
    Acquire,
    /// After a reconnect or a doubtful answer: only read, and fail with `Fenced` where the epoch
    /// moved.
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
    /// How its URL is written: [`settings::server_url`], [`settings::path_url`], or its own form,
    /// which has to keep secrets out of `Display`.
    pub read_url: ReadUrl,
    /// What it can do, as the settings have it.
    pub abilities: fn(&Settings) -> Abilities,
    /// Connects; fails where it can be known that the destination cannot be used.
    pub open: for<'a> fn(&'a Target) -> OpenFuture<'a>,
}

/// How long a destination may take to show that it can be used.
pub const TEST_WAIT_MAX: Duration = Duration::from_secs(15);

impl Driver {
    /// Whether its URL may have the option `key`.
    pub fn has_parameter(&self, key: &str) -> bool {
        self.parameters.iter().any(|(name, _)| *name == key)
    }

    /// Opens the destination and closes it: whether it can be used.
    pub async fn test(&self, settings: &Settings) -> Result<(), Failure> {
        let target = Target::unclaimed(settings);
        let tested = tokio::time::timeout(TEST_WAIT_MAX, async {
            (self.open)(&target).await?.close().await
        })
        .await;
        tested.unwrap_or_else(|_| {
            Err(Failure::unavailable(format!("{settings} gave no answer within {TEST_WAIT_MAX:?}")))
        })
    }
}

/// What is opened, and for which consumer.
#[derive(Clone)]
pub struct Target {
    /// What its URL says.
    pub settings: Settings,
    /// Whose checkpoint it is: the name of the durable consumer, or of the journal.
    pub consumer: String,
    /// The epoch that this process holds; set once the first `Claim::Acquire` has answered.
    pub epoch: Epoch,
    /// Companies that the feed is about, for the checkpoint's record.
    pub companies: String,
    /// The user's rules, which may say where objects go.
    pub rules: Option<Arc<Validator>>,
}

impl Target {
    /// For an import or a test, which stream nothing and so have no checkpoint.
    pub fn unclaimed(settings: &Settings) -> Target {
        Target {
            settings: settings.clone(),
            consumer: "eds-import".into(),
            epoch: Epoch::default(),
            companies: String::new(),
            rules: None,
        }
    }
}

/// The epoch of this process, shared by all its connections to one destination. 0: none taken yet.
#[derive(Clone, Debug, Default)]
pub struct Epoch(Arc<std::sync::atomic::AtomicI64>);

impl Epoch {
    /// The epoch that this process holds; 0 if none.
    pub fn get(&self) -> i64 {
        self.0.load(std::sync::atomic::Ordering::Acquire)
    }
    /// Notes the epoch that was claimed.
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

/// What to do about a failure.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum FailureKind {
    /// Wait, connect anew, look how far it came, try again.
    Unavailable,
    /// A change cannot be stored as it is: narrow down, write a dead letter.
    Rejected,
    /// The tables are not as they were: read them again, retry once.
    SchemaMismatch,
    /// A human has to change something.
    Misconfigured,
    /// Another process took over: exit.
    Fenced,
}

/// Why a call failed: what a user reads, without values of rows and without secrets.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
#[error("{text}")]
pub struct Failure {
    pub kind: FailureKind,
    pub text: String,
    /// The changes of the batch that are known to be at fault, each with the reason.
    pub culprits: Vec<(u32, String)>,
}

impl Failure {
    pub fn new(kind: FailureKind, text: impl Into<String>) -> Failure {
        Failure { kind, text: text.into(), culprits: Vec::new() }
    }
    pub fn unavailable(text: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Unavailable, text)
    }
    pub fn misconfigured(text: impl Into<String>) -> Failure {
        Failure::new(FailureKind::Misconfigured, text)
    }
    /// With the name of the table, where it is about what a row holds.
    pub fn of_table(self, table: &str) -> Failure {
        if self.kind != FailureKind::Rejected || !self.culprits.is_empty() {
            return self;
        }
        Failure { text: format!("table {table:?}: {}", self.text), ..self }
    }
    /// The changes `culprits` do not fit their columns.
    pub fn rejected(culprits: Vec<(u32, String)>) -> Failure {
        let text = culprits.first().map(|(_, why)| why.clone()).unwrap_or_default();
        Failure { kind: FailureKind::Rejected, text, culprits }
    }
}

/// The tables of a destination.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tables {
    /// By the name that the source gives them; in lower case where the destination knows no other.
    pub shapes: BTreeMap<String, TableShape>,
    /// Whether names in `shapes` are in lower case, whatever the source calls them.
    pub lower_case: bool,
}

impl Tables {
    /// What they are after `step`.
    pub fn take(&mut self, step: &Migration) {
        let name =
            if self.lower_case { step.table().to_lowercase() } else { step.table().to_owned() };
        let shape = self.shapes.entry(name).or_default();
        match step {
            Migration::CreateTable(schema) => {
                shape.keys = schema.key_columns().iter().map(|c| c.name.to_string()).collect();
                shape
                    .columns
                    .extend(schema.columns.iter().map(|c| (c.name.to_string(), c.nullable)));
            }
            Migration::AddColumns(schema, columns) => shape
                .columns
                .extend(columns.iter().map(|i| (schema.columns[*i].name.to_string(), true))),
            Migration::DropNotNull { columns, .. } => {
                shape.columns.extend(columns.iter().map(|name| (name.clone(), true)));
            }
        }
    }

    /// The table that keeps the rows of the source's `table`.
    pub fn get(&self, table: &str) -> Option<&TableShape> {
        if self.lower_case {
            self.shapes.get(&table.to_lowercase())
        } else {
            self.shapes.get(table)
        }
    }
}

/// A table as it is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableShape {
    /// Column name → whether it takes NULL (or fills it in by itself).
    pub columns: BTreeMap<String, bool>,
    /// The primary key.
    pub keys: Vec<String>,
    /// Why rows would not be safe in it, with the cure.
    pub write_blocker: Option<String>,
}

/// One change of a destination's shape. Repeating it changes nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Migration {
    /// A new table.
    CreateTable(Arc<TableSchema>),
    /// Columns of the schema by index; added as nullable.
    AddColumns(Arc<TableSchema>, Vec<usize>),
    /// Columns that took no NULL take it.
    DropNotNull {
        /// The table's name, as the source gives it.
        table: String,
        /// The columns.
        columns: Vec<String>,
    },
}

impl Migration {
    /// The table's name, as the source gives it.
    pub fn table(&self) -> &str {
        match self {
            Migration::CreateTable(schema) | Migration::AddColumns(schema, _) => &schema.table,
            Migration::DropNotNull { table, .. } => table,
        }
    }
}

impl std::fmt::Display for Migration {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Migration::CreateTable(schema) => {
                write!(f, "create table {:?} with {} columns", schema.table, schema.columns.len())
            }
            Migration::AddColumns(schema, columns) => {
                let names: Vec<&str> = columns.iter().map(|i| &*schema.columns[*i].name).collect();
                write!(f, "add to table {:?}: {}", schema.table, names.join(", "))
            }
            Migration::DropNotNull { table, columns } => {
                write!(f, "let columns of table {table:?} be null: {}", columns.join(", "))
            }
        }
    }
}
