//! Rows in memory: the reference of what a keeper of rows must do, and what the simulation writes to.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;

use super::{Abilities, Claim, Destination, Epoch, Failure, FailureKind, Migration, Tables};
use crate::change::seam::{Seams, Snapshot};
use crate::change::{Batch, Group, Position, Seam, value};

pub const ABILITIES: Abilities = Abilities { loaders_max: 1, ..super::sql::ABILITIES };

/// A row: column name → JSON token.
pub type Row = BTreeMap<String, String>;

/// What the destination holds. It outlives connections, as a database does.
#[derive(Clone, Debug, Default)]
pub struct Store {
    pub tables: Tables,
    /// Table → key → row.
    pub rows: BTreeMap<String, BTreeMap<Vec<u8>, Row>>,
    pub epoch: i64,
    pub position: Option<Position>,
    /// What imports left to know.
    pub seams: Seams,
}

/// The one consumer that a store has a checkpoint of.
const CONSUMER: &str = "memory";

/// A store that several connections share.
#[derive(Clone, Debug, Default)]
pub struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
pub struct Memory {
    store: SharedStore,
    epoch: Epoch,
}

impl Memory {
    pub fn open(store: SharedStore, epoch: Epoch) -> Memory {
        Memory { store, epoch }
    }
}

fn superseded() -> Failure {
    Failure::new(FailureKind::Superseded, "another process has taken over this destination")
}

impl Store {
    /// Writes the rows of one group.
    pub fn write(&mut self, batch: &Batch, group: &Group) -> Result<(), Failure> {
        let schema = &group.schema;
        let gone = || Failure::new(FailureKind::OutOfShape, format!("table {:?} is not there", schema.table));
        let shape = self.tables.get(&schema.table).ok_or_else(gone)?;
        let rows = self.rows.entry(schema.table.to_string()).or_default();
        if schema.columns.iter().any(|c| !shape.columns.contains_key(&*c.name)) {
            return Err(Failure::new(FailureKind::OutOfShape, format!("table {:?} lacks a column", schema.table)));
        }
        for index in &group.deletes {
            rows.remove(&batch.change(*index).key[..]);
        }
        for index in &group.upserts {
            let change = batch.change(*index);
            let row = rows.entry(change.key.to_vec()).or_default();
            for (i, column) in schema.columns.iter().enumerate() {
                value::read(change.token(i), column).map_err(|unfit| Failure::refused(vec![(*index, unfit.to_string())]))?;
                row.insert(column.name.to_string(), change.token(i).unwrap_or("null").to_owned());
            }
        }
        Ok(())
    }

    /// Puts imported rows in their place: whoever streams can commit no more, and is set back.
    pub fn import(&mut self, mut rows: BTreeMap<String, BTreeMap<Vec<u8>, Row>>, snapshots: &[Snapshot]) {
        for snapshot in snapshots {
            let new = rows.remove(&snapshot.table).unwrap_or_default();
            let there = self.rows.entry(snapshot.table.clone()).or_default();
            if snapshot.whole {
                there.clear();
            }
            there.extend(new);
        }
        self.seams.import(snapshots, &[(CONSUMER.to_owned(), self.position)]);
        self.epoch += 1;
        self.position = None;
    }

    /// The fence: mine is the epoch, and the checkpoint is what I last wrote.
    pub fn advance(&mut self, epoch: i64, batch: &Batch) -> Result<(), Failure> {
        if self.epoch > epoch {
            return Err(superseded());
        }
        if self.epoch != epoch || self.position != batch.after {
            return Err(Failure::unavailable("the checkpoint is not where it was left"));
        }
        self.position = Some(batch.through);
        Ok(())
    }
}

#[async_trait]
impl Destination for Memory {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let mut store = self.store.lock();
        let mut next = store.clone();
        batch.groups.iter().try_for_each(|group| next.write(batch, group))?;
        next.advance(self.epoch.get(), batch)?;
        *store = next;
        Ok(())
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        let mut store = self.store.lock();
        match claim {
            Claim::Keep if store.epoch == self.epoch.get() => {}
            Claim::Keep if store.epoch > self.epoch.get() => return Err(superseded()),
            // At start; or it was restored to a time before our claim.
            _ => {
                store.epoch = store.epoch.max(self.epoch.get()) + 1;
                self.epoch.set(store.epoch);
            }
        }
        Ok(store.position)
    }

    async fn seam(&mut self) -> Result<Seam, Failure> {
        Ok(self.store.lock().seams.of(CONSUMER))
    }

    async fn tables(&mut self) -> Result<Tables, Failure> {
        Ok(self.store.lock().tables.clone())
    }

    async fn migrate(&mut self, step: &Migration) -> Result<(), Failure> {
        let mut store = self.store.lock();
        store.tables.take(step);
        Ok(())
    }
}
