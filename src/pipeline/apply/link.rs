//! The connection to the destination, and the tables as they were last seen through it.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use crate::change::{Batch, Change, TableSchema};
use crate::destination::{Destination, Failure, FailureKind, SchemaMode, Tables};
use crate::pipeline::EngineOptions;
use crate::pipeline::checkpoint::CheckpointStore;
use crate::pipeline::migrate::{self, SchemaChange};

/// Between two looks for columns whose values are left out as they are missing.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// So many tables are read one by one; of more, all are read at once.
const READ_ONE_BY_ONE_MAX: usize = 8;

/// What a process knows of tables beyond what one connection has read of them.
#[derive(Default)]
pub struct KnownTables {
    /// They may be written to: they were checked, or the user allows it.
    pub ours: HashSet<String>,
    /// The source has them: two whose names fall together at the destination are told apart.
    pub wanted: HashSet<String>,
    /// They were there since the connection was made, or when they were held: one that is missing
    /// now was renamed or dropped by somebody, and is not created anew.
    pub there: HashSet<String>,
}

/// The one connection of an applier.
pub enum DestinationLink {
    /// It worked when it was last used.
    Up(Box<OpenDestination>),
    /// It failed, and is not replaced yet.
    Down,
}

impl DestinationLink {
    /// The open connection: the one place that asks whether there is one.
    pub fn get(&mut self) -> Result<&mut OpenDestination, Failure> {
        match self {
            DestinationLink::Up(open) => Ok(open),
            DestinationLink::Down => Err(Failure::unavailable("not connected")),
        }
    }

    /// Ends the connection, if there is one.
    pub async fn close(&mut self) -> Result<(), Failure> {
        match std::mem::replace(self, DestinationLink::Down) {
            DestinationLink::Up(open) => open.destination.close().await,
            DestinationLink::Down => Ok(()),
        }
    }
}

/// A destination while it is connected.
pub struct OpenDestination {
    /// The connection itself.
    pub destination: Box<dyn Destination>,
    schema_mode: SchemaMode,
    schema_change: SchemaChange,
    /// Columns that tables lack and that were reported, with their tables.
    ignored: HashSet<(String, String)>,
    /// When the tables were read, or those of `ignored`.
    read_at: Instant,
    /// The tables as they were when they were last read; none where the destination has no tables
    /// that follow the source's.
    tables: Tables,
}

impl OpenDestination {
    /// A new connection; its tables are not read yet.
    pub fn new(destination: Box<dyn Destination>, options: &EngineOptions) -> OpenDestination {
        OpenDestination {
            destination,
            schema_mode: options.abilities.schema_mode,
            schema_change: options.schema_change,
            ignored: HashSet::new(),
            read_at: Instant::now(),
            tables: Tables::default(),
        }
    }

    /// Takes the values out of `changes` that have no column, where the user wants that.
    /// Also returns the changes as they were, where some are others now.
    pub fn fit(&mut self, changes: Vec<Change>) -> (Vec<Change>, Option<Vec<Change>>) {
        if self.schema_change != SchemaChange::Ignore {
            return (changes, None);
        }
        let mut schemas: Vec<&Arc<TableSchema>> = Vec::new();
        for schema in changes.iter().filter_map(|change| change.schema.as_ref()) {
            if schemas.iter().all(|known| !Arc::ptr_eq(known, schema)) {
                schemas.push(schema);
            }
        }
        let reduced =
            schemas.into_iter().filter_map(|schema| Some((schema, self.reduced(schema)?)));
        let reduced: Vec<(&Arc<TableSchema>, Arc<TableSchema>)> = reduced.collect();
        if reduced.is_empty() {
            return (changes, None);
        }
        let fit = |change: &Change| {
            let own = change.schema.as_ref();
            let of = reduced.iter().find(|(full, _)| own.is_some_and(|own| Arc::ptr_eq(full, own)));
            match of {
                Some((_, reduced)) => change.clone().with_schema(reduced),
                None => change.clone(),
            }
        };
        let fitted = changes.iter().map(fit).collect();
        (fitted, Some(changes))
    }

    /// Whether values are left out and the tables were read long ago: they may have columns for
    /// them by now.
    pub fn is_due_to_look(&self) -> bool {
        !self.ignored.is_empty() && self.read_at.elapsed() >= LOOK_INTERVAL
    }

    /// The schema without the columns that its table lacks; each of them is reported once.
    fn reduced(&mut self, schema: &TableSchema) -> Option<Arc<TableSchema>> {
        let reduced = migrate::reduced(&self.tables, schema)?;
        for column in schema.columns.iter().filter(|c| reduced.column(&c.name).is_none()) {
            if self.ignored.insert((schema.table.to_string(), column.name.to_string())) {
                warn!(
                    "column {:?} is new in table {:?} and is left out, as --schema-change ignore \
                     says",
                    column.name, schema.table
                );
            }
        }
        Some(Arc::new(reduced))
    }

    /// Reads which tables exist, where they follow the source's.
    pub async fn read_tables(&mut self) -> Result<(), Failure> {
        self.read_at = Instant::now();
        if self.schema_mode == SchemaMode::Managed {
            self.tables = self.destination.tables().await?;
        }
        Ok(())
    }

    /// Reads tables that may have changed since they were read.
    pub async fn read_again(&mut self, tables: &[&str]) -> Result<(), Failure> {
        if self.schema_mode != SchemaMode::Managed {
            return Ok(());
        }
        if tables.len() > READ_ONE_BY_ONE_MAX {
            return self.read_tables().await;
        }
        for table in tables {
            let shape = self.destination.table(table).await?;
            self.tables.put(table, shape);
        }
        Ok(())
    }

    /// Looks whether tables have columns by now whose values are left out.
    pub async fn look_for_columns(&mut self) -> Result<(), Failure> {
        self.read_at = Instant::now();
        let tables: BTreeSet<String> =
            self.ignored.iter().map(|(table, _)| table.clone()).collect();
        self.read_again(&tables.iter().map(String::as_str).collect::<Vec<_>>()).await
    }

    /// Creates and alters tables so that rows of `schemas` can be written. A table that is not
    /// known to be ours is checked first. A failure that is about one table names it.
    pub async fn shape(
        &mut self,
        known: &mut KnownTables,
        schemas: impl Iterator<Item = &Arc<TableSchema>>,
    ) -> Result<(), Failure> {
        if self.schema_mode != SchemaMode::Managed {
            return Ok(());
        }
        let mut changed = Vec::new();
        let schemas: Vec<&Arc<TableSchema>> = schemas.collect();
        for schema in &schemas {
            insert(&mut known.wanted, &schema.table);
        }
        for schema in schemas {
            let shaped = self.shape_one(known, schema).await;
            let is_changed = shaped.map_err(|failure| match failure.table {
                None if failure.kind != FailureKind::Unavailable => {
                    Failure { table: Some((*schema.table).into()), ..failure }
                }
                _ => failure,
            })?;
            if is_changed {
                changed.push(&*schema.table);
            }
        }
        self.read_again(&changed).await
    }

    /// Whether the table of `schema` is as it has to be: `shape` would change nothing.
    pub fn is_shaped(&self, known: &KnownTables, schema: &Arc<TableSchema>) -> bool {
        let is_known = known.ours.contains(&*schema.table) && known.there.contains(&*schema.table);
        let fits = || migrate::plan(&self.tables, schema).is_ok_and(|steps| steps.is_empty());
        self.schema_mode != SchemaMode::Managed || (is_known && fits())
    }

    /// Returns whether something was changed.
    async fn shape_one(
        &mut self,
        known: &mut KnownTables,
        schema: &Arc<TableSchema>,
    ) -> Result<bool, Failure> {
        let table = &*schema.table;
        if self.tables.get(table).is_none() && known.there.contains(table) {
            return Err(gone(table));
        }
        if !known.ours.contains(table) {
            let others = known.ours.iter().chain(&known.wanted).map(String::as_str);
            migrate::check_names(&self.tables, table, others)?;
            migrate::check_ours(&self.tables, schema)?;
            // Checked once: the customer may add columns of their own later.
            known.ours.insert(table.to_owned());
        }
        let reduced = match self.schema_change {
            SchemaChange::Ignore => self.reduced(schema),
            SchemaChange::Widen | SchemaChange::Add | SchemaChange::Hold => None,
        };
        let wanted = reduced.as_ref().unwrap_or(schema);
        let policy = self.schema_change;
        let changed =
            migrate::bring_up(&mut *self.destination, &self.tables, wanted, policy).await?;
        insert(&mut known.there, table);
        Ok(changed)
    }

    /// The same for one schema, whose table may have changed since the tables were read.
    pub async fn shape_again(
        &mut self,
        known: &mut KnownTables,
        schema: &Arc<TableSchema>,
    ) -> Result<(), Failure> {
        self.read_again(&[&schema.table]).await?;
        self.shape(known, std::iter::once(schema)).await
    }

    /// The body of a chunk of changes that the destination keeps. `changed`: their table, where it
    /// may have changed, so that it is read first.
    pub async fn read_kept(
        &mut self,
        number: u64,
        changed: Option<&str>,
    ) -> Result<Option<String>, Failure> {
        self.read_again(changed.as_slice()).await?;
        self.destination.kept_body(number).await
    }

    /// Before the batch is written: its intent, then its tables. That may take as long as the
    /// database needs to change a large table.
    pub async fn prepare(
        &mut self,
        checkpoint: &mut CheckpointStore,
        known: &mut KnownTables,
        batch: &Arc<Batch>,
    ) -> Result<(), Failure> {
        checkpoint.before_write(batch.through)?;
        self.shape(known, batch.groups.iter().map(|group| &group.schema)).await
    }
}

/// Adds the table: most are there already, in each batch.
fn insert(tables: &mut HashSet<String>, table: &str) {
    if !tables.contains(table) {
        tables.insert(table.to_owned());
    }
}

/// The failure of a table that was there and is missing.
fn gone(table: &str) -> Failure {
    let text = format!(
        "table {table:?} is not there any more (was it renamed or dropped?): its changes wait until \
         it is back, or `eds import --only {table}` has loaded it anew"
    );
    Failure { table: Some(table.into()), ..Failure::new(FailureKind::TableUnavailable, text) }
}
