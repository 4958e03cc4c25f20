//! The connection to the destination, and the tables as they were last seen through it.

use std::sync::Arc;

use crate::change::{Batch, TableSchema};
use crate::destination::{Destination, Failure, SchemaMode, Tables};
use crate::pipeline::checkpoint::CheckpointStore;
use crate::pipeline::migrate;

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
    /// The tables as they were when they were last read; none where the destination has no tables
    /// that follow the source's.
    tables: Tables,
}

impl OpenDestination {
    /// A new connection; its tables are not read yet.
    pub fn new(destination: Box<dyn Destination>, schema_mode: SchemaMode) -> OpenDestination {
        OpenDestination { destination, schema_mode, tables: Tables::default() }
    }

    /// Reads which tables exist, where they follow the source's.
    pub async fn read_tables(&mut self) -> Result<(), Failure> {
        if self.schema_mode == SchemaMode::Managed {
            self.tables = self.destination.tables().await?;
        }
        Ok(())
    }

    /// Creates and alters tables so that rows of `schemas` can be written. Tables that are not in
    /// `ours` are checked first, and added to it.
    pub async fn shape(
        &mut self,
        ours: &mut Vec<String>,
        schemas: impl Iterator<Item = &Arc<TableSchema>>,
    ) -> Result<(), Failure> {
        if self.schema_mode != SchemaMode::Managed {
            return Ok(());
        }
        let mut changed = false;
        let schemas: Vec<&Arc<TableSchema>> = schemas.collect();
        for schema in &schemas {
            if !ours.iter().any(|table| *table == *schema.table) {
                let others =
                    ours.iter().map(String::as_str).chain(schemas.iter().map(|s| &*s.table));
                migrate::check_names(&self.tables, &schema.table, others)?;
                migrate::check_ours(&self.tables, schema)?;
                // Checked once: the customer may add columns of their own later.
                ours.push(schema.table.to_string());
            }
            changed |= migrate::bring_up(&mut *self.destination, &self.tables, schema).await?;
        }
        if changed { self.read_tables().await } else { Ok(()) }
    }

    /// Before the batch is written: its intent, then its tables. That may take as long as the
    /// database needs to change a large table.
    pub async fn prepare(
        &mut self,
        checkpoint: &mut CheckpointStore,
        ours: &mut Vec<String>,
        batch: &Arc<Batch>,
    ) -> Result<(), Failure> {
        checkpoint.before_write(batch.through)?;
        self.shape(ours, batch.groups.iter().map(|group| &group.schema)).await
    }
}
