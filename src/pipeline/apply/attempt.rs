//! One set of pending changes on its way into the destination: what of it is still to be written,
//! what is not, and how the last tries went.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::held::HeldTables;
use crate::backoff::Backoff;
use crate::change::{Batch, Change, HeldChunk, Position, Release, compact, held};
use crate::destination::WriteMode;
use crate::pipeline::checkpoint::CheckpointStore;
use crate::pipeline::narrow::{Narrowing, Piece};

/// The state of applying one set of pending changes.
pub struct Attempt {
    changes: Arc<Vec<Change>>,
    /// The checkpoint once all of them are applied.
    end: Position,
    /// What is still to be written, and what cannot be.
    pub narrowing: Narrowing,
    /// Waits between tries of one piece.
    pub backoff: Backoff,
    /// The tables were read again for the piece that is being tried: once is enough.
    pub reshaped: bool,
    /// The changes are of this chunk that the destination keeps, less so many of its first.
    release: Option<(u64, u64)>,
}

/// The part of a piece that can be written at once.
pub struct Writable {
    /// What the destination is given.
    pub batch: Arc<Batch>,
    /// The indices that it covers.
    pub piece: Piece,
}

impl Attempt {
    /// All of `changes` are to be written; afterwards the checkpoint is at `end`.
    pub fn new(changes: Vec<Change>, end: Position) -> Attempt {
        Attempt {
            narrowing: Narrowing::new(changes.len(), joined(&changes)),
            changes: Arc::new(changes),
            end,
            backoff: Backoff::default(),
            reshaped: false,
            release: None,
        }
    }

    /// All of `changes`, those of chunk `number` less the first `applied`, are to be written; the
    /// checkpoint stays at `recorded`.
    pub fn releasing(
        changes: Vec<Change>,
        (number, applied): (u64, u64),
        recorded: Option<Position>,
    ) -> Attempt {
        let end = recorded.unwrap_or_default();
        Attempt { release: Some((number, applied)), ..Attempt::new(changes, end) }
    }

    /// Whether the changes are kept by the destination already.
    pub fn is_release(&self) -> bool {
        self.release.is_some()
    }

    /// What is to be written next; `None` once everything is. What does not fit into one batch
    /// stays to be written. Changes of tables that are held are not written but kept.
    pub fn next(
        &mut self,
        mode: WriteMode,
        checkpoint: &CheckpointStore,
        held: &HeldTables,
    ) -> Option<Writable> {
        let Piece { from, to } = self.narrowing.take()?;
        let waiting = self.waiting_in(Piece { from, to }, held);
        let (groups, order, stop) = match mode {
            WriteMode::Upsert => {
                let mut skipped = [self.narrowing.excluded(), &waiting[..]].concat();
                skipped.sort_unstable();
                let (groups, stop) = compact::compact(&self.changes, from, to, &skipped);
                (groups, Vec::new(), stop)
            }
            WriteMode::Append => {
                let all = self.narrowing.remaining_in(Piece { from, to });
                (Vec::new(), all.map(|i| i as u32).collect(), to)
            }
        };
        if stop < to {
            self.narrowing.put_back(Piece { from: stop, to });
        }
        let recorded = checkpoint.recorded();
        let through = match self.changes.get(stop) {
            Some(_) if !self.is_release() => checkpoint.end_of(end_of(&self.changes[..stop])),
            _ => self.end,
        };
        let kept = waiting.into_iter().filter(|index| *index < stop).collect();
        let batch = Batch::new(self.changes.clone(), groups, order, recorded, through)
            .unconfirmed_through(checkpoint.unconfirmed_through())
            .holding(self.chunks(kept, held))
            .releasing(self.release_of(from, stop));
        Some(Writable { batch: Arc::new(batch), piece: Piece { from, to: stop } })
    }

    /// The changes of the piece whose tables are held. What the destination keeps already is not
    /// kept once more.
    fn waiting_in(&self, piece: Piece, held: &HeldTables) -> Vec<usize> {
        if held.is_empty() || self.is_release() {
            return Vec::new();
        }
        let is_held = |index: &usize| {
            self.changes[*index].schema.as_ref().is_some_and(|schema| held.contains(&schema.table))
        };
        self.narrowing.remaining_in(piece).filter(is_held).collect()
    }

    /// The changes at `indices` as chunks, table by table.
    fn chunks(&self, indices: Vec<usize>, held: &HeldTables) -> Vec<HeldChunk> {
        let mut by_table: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
        for index in indices {
            if let Some(schema) = &self.changes[index].schema {
                by_table.entry(&schema.table).or_default().push(index);
            }
        }
        let mut chunks = Vec::new();
        for (table, indices) in by_table {
            let bodies = held::bodies(&self.changes, &indices);
            chunks.extend(held.chunks_of(table, bodies, chunks.len()));
        }
        chunks
    }

    fn release_of(&self, from: usize, to: usize) -> Option<Release> {
        let (chunk, applied) = self.release?;
        Some(Release {
            chunk,
            from: applied + from as u64,
            to: applied + to as u64,
            is_last: to == self.changes.len(),
        })
    }

    /// The last piece is written: the next one starts afresh.
    pub fn succeeded(&mut self) {
        (self.backoff, self.reshaped) = (Backoff::default(), false);
    }
}

/// How far `changes` go: the last sequence, and the latest time.
fn end_of(changes: &[Change]) -> Position {
    changes.iter().fold(Position::default(), |end, change| end.advanced_to(change.position))
}

/// The indices of changes that belong to the same event as the one before.
fn joined(changes: &[Change]) -> Vec<usize> {
    let pairs = changes.windows(2).enumerate();
    pairs.filter(|(_, pair)| pair[0].is_of_same_event(&pair[1])).map(|(i, _)| i + 1).collect()
}
