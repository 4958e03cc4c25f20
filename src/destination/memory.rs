//! Rows in memory: the reference for destinations that keep rows, and what the simulation writes
//! to.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use bytes::Bytes;

use super::{
    Abilities, Claim, Destination, Epoch, Failure, FailureKind, KeptChunk, KeptLetter, Launch,
    LetterBox, Migration, Tables,
};
use crate::change::cutover::{Cutovers, TableSnapshot};
use crate::change::dead_letter::{LetterEntry, LetterLabel, RejectKind};
use crate::change::{Batch, Cutover, HeldChunk, NumberedLetter, Position, TableGroup, value};

/// What every SQL destination can do, with one loader.
pub const ABILITIES: Abilities = Abilities { loaders_max: 1, ..super::sql::ABILITIES };

/// A row: column name → JSON token.
pub type MemoryRow = BTreeMap<String, String>;

/// What the destination holds. It outlives its connections, as a database does.
#[derive(Clone, Debug, Default)]
pub struct Store {
    /// The tables' shapes.
    pub tables: Tables,
    /// Table → key → row.
    pub rows: BTreeMap<String, BTreeMap<Vec<u8>, MemoryRow>>,
    /// The epoch of the process that may write.
    pub epoch: i64,
    /// The checkpoint.
    pub position: Option<Position>,
    /// Which events the tables contain because an import loaded them.
    pub cutovers: Cutovers,
    /// The kept changes of tables that could not be written, with their bodies.
    pub kept: BTreeMap<u64, (KeptChunk, String)>,
    /// The dead letters, by number.
    pub letters: BTreeMap<u64, NumberedLetter>,
}

/// The one consumer that a store has a checkpoint of.
const CONSUMER: &str = "memory";

/// A store that several connections share.
#[derive(Clone, Debug, Default)]
pub struct SharedStore(Arc<Mutex<Store>>);

impl SharedStore {
    /// The store, while nobody else uses it.
    pub fn lock(&self) -> MutexGuard<'_, Store> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection.
pub struct MemoryDestination {
    store: SharedStore,
    epoch: Epoch,
    under_way: VecDeque<Arc<Batch>>,
}

impl MemoryDestination {
    /// A connection of the process that holds `epoch`.
    pub fn open(store: SharedStore, epoch: Epoch) -> MemoryDestination {
        MemoryDestination { store, epoch, under_way: VecDeque::new() }
    }
}

fn fenced() -> Failure {
    Failure::new(FailureKind::Fenced, "another process has taken over this destination")
}

impl Store {
    /// Writes the rows of one group.
    pub fn write(&mut self, batch: &Batch, group: &TableGroup) -> Result<(), Failure> {
        let schema = &group.schema;
        let gone = || {
            Failure::new(
                FailureKind::SchemaMismatch,
                format!("table {:?} is not there", schema.table),
            )
        };
        let shape = self.tables.get(&schema.table).ok_or_else(gone)?;
        let rows = self.rows.entry(schema.table.to_string()).or_default();
        if schema.columns.iter().any(|c| !shape.columns.contains_key(&*c.name)) {
            return Err(Failure::new(
                FailureKind::SchemaMismatch,
                format!("table {:?} lacks a column", schema.table),
            ));
        }
        for index in &group.deletes {
            rows.remove(&batch.change(*index).key[..]);
        }
        for index in &group.upserts {
            let change = batch.change(*index);
            let row = rows.entry(change.key.to_vec()).or_default();
            for (i, column) in schema.columns.iter().enumerate() {
                value::read(change.token(i), column)
                    .map_err(|mismatch| Failure::rejected(vec![(*index, mismatch.to_string())]))?;
                row.insert(column.name.to_string(), change.token(i).unwrap_or("null").to_owned());
            }
        }
        Ok(())
    }

    /// Keeps the changes that the batch holds, and takes note of those that it releases.
    pub fn keep(&mut self, batch: &Batch) -> Result<(), Failure> {
        let other = || Failure::unavailable("the kept changes are not as they were left");
        if let Some(release) = batch.release {
            let (chunk, _) = self.kept.get_mut(&release.chunk).ok_or_else(other)?;
            if chunk.applied != release.from {
                return Err(other());
            }
            chunk.applied = release.to;
            if release.is_last {
                self.kept.remove(&release.chunk);
            }
        }
        for HeldChunk { number, label, body } in &batch.held {
            let chunk = KeptChunk { number: *number, applied: 0, label: label.clone() };
            self.kept.insert(*number, (chunk, body.clone()));
        }
        self.keep_letters(batch)
    }

    fn keep_letters(&mut self, batch: &Batch) -> Result<(), Failure> {
        let gone = || Failure::unavailable("the dead letter is not kept any more");
        for numbered in &batch.letters.added {
            if self.letters.insert(numbered.number, numbered.clone()).is_some() {
                return Err(Failure::unavailable("the dead letters are not as they were left"));
            }
        }
        for (number, sequence) in &batch.letters.superseded {
            if let Some(numbered) = self.letters.get_mut(number) {
                numbered.superseded_by = Some(*sequence);
            }
        }
        match batch.letters.retried {
            Some((number, position))
                if self.letters.get(&number).is_none_or(|n| n.letter.position != position) =>
            {
                Err(gone())
            }
            Some((number, _)) => self.letters.remove(&number).map(drop).ok_or_else(gone),
            None => Ok(()),
        }
    }

    /// Swaps imported rows in. A consumer that streams is fenced, and its position is reset.
    pub fn import(
        &mut self,
        mut rows: BTreeMap<String, BTreeMap<Vec<u8>, MemoryRow>>,
        snapshots: &[TableSnapshot],
    ) {
        for snapshot in snapshots {
            let new = rows.remove(&snapshot.table).unwrap_or_default();
            let kept = self.rows.entry(snapshot.table.clone()).or_default();
            if snapshot.whole {
                kept.clear();
            }
            kept.extend(new);
        }
        self.cutovers.import(snapshots, &[(CONSUMER.to_owned(), self.position)]);
        self.epoch += 1;
        self.position = None;
    }

    /// Moves the checkpoint, if the caller's epoch is the current one and the checkpoint is where
    /// it left it.
    pub fn advance(&mut self, epoch: i64, batch: &Batch) -> Result<(), Failure> {
        if self.epoch > epoch {
            return Err(fenced());
        }
        if self.epoch != epoch || self.position != batch.after {
            return Err(Failure::unavailable("the checkpoint is not where it was left"));
        }
        self.position = (batch.through != Position::default()).then_some(batch.through);
        Ok(())
    }
}

#[async_trait]
impl Destination for MemoryDestination {
    async fn apply(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let mut store = self.store.lock();
        let mut next = store.clone();
        for group in &batch.groups {
            let written = next.write(batch, group);
            written.map_err(|failure| failure.of_table(&group.schema.table))?;
        }
        next.keep(batch)?;
        next.advance(self.epoch.get(), batch)?;
        *store = next;
        Ok(())
    }

    async fn launch(&mut self, batch: &Arc<Batch>) -> Result<Launch, Failure> {
        self.under_way.push_back(batch.clone());
        Ok(Launch::UnderWay)
    }

    async fn land(&mut self) -> Result<(), Failure> {
        let batch = self.under_way.pop_front();
        let batch = batch.ok_or_else(|| Failure::unavailable("no batch is under way"))?;
        let applied = self.apply(&batch).await;
        if applied.is_err() {
            self.under_way.clear();
        }
        applied
    }

    async fn checkpoint(&mut self, claim: Claim) -> Result<Option<Position>, Failure> {
        let mut store = self.store.lock();
        match claim {
            Claim::Verify if store.epoch == self.epoch.get() => {}
            Claim::Verify if store.epoch > self.epoch.get() => return Err(fenced()),
            // At start; or the store was restored to a time before the claim.
            _ => {
                store.epoch = store.epoch.max(self.epoch.get()) + 1;
                self.epoch.set(store.epoch);
            }
        }
        Ok(store.position)
    }

    async fn cutover(&mut self) -> Result<Cutover, Failure> {
        Ok(self.store.lock().cutovers.of(CONSUMER))
    }

    async fn kept(&mut self) -> Result<Vec<KeptChunk>, Failure> {
        Ok(self.store.lock().kept.values().map(|(chunk, _)| chunk.clone()).collect())
    }

    async fn kept_body(&mut self, number: u64) -> Result<Option<String>, Failure> {
        Ok(self.store.lock().kept.get(&number).map(|(_, body)| body.clone()))
    }

    fn letter_box(&mut self) -> Option<&mut dyn LetterBox> {
        Some(self)
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

fn kept(numbered: &NumberedLetter) -> KeptLetter {
    KeptLetter {
        consumer: CONSUMER.to_owned(),
        superseded_by: numbered.superseded_by,
        label: LetterLabel::of(numbered),
    }
}

/// The letters of the one consumer, whatever its name.
#[async_trait]
impl LetterBox for MemoryDestination {
    async fn entries(&mut self, _consumer: &str) -> Result<Vec<LetterEntry>, Failure> {
        Ok(self.store.lock().letters.values().map(LetterEntry::of).collect())
    }

    async fn letters(&mut self) -> Result<Vec<KeptLetter>, Failure> {
        Ok(self.store.lock().letters.values().map(kept).collect())
    }

    async fn of_kind(
        &mut self,
        _consumer: &str,
        kind: RejectKind,
    ) -> Result<Vec<LetterLabel>, Failure> {
        let store = self.store.lock();
        let waiting = store.letters.values().filter(|n| n.superseded_by.is_none());
        Ok(waiting.filter(|n| n.letter.kind == kind).map(LetterLabel::of).collect())
    }

    async fn letter(
        &mut self,
        _consumer: &str,
        number: u64,
    ) -> Result<Option<(KeptLetter, Bytes)>, Failure> {
        let store = self.store.lock();
        let found = store.letters.get(&number);
        Ok(found.map(|numbered| (kept(numbered), numbered.letter.payload.clone())))
    }

    async fn drop_letters(&mut self, _consumer: &str, numbers: &[u64]) -> Result<(), Failure> {
        let mut store = self.store.lock();
        numbers.iter().for_each(|number| drop(store.letters.remove(number)));
        Ok(())
    }
}
