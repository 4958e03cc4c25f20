//! One set of pending changes on its way into the destination: what of it is still to be written,
//! what is not, and how the last tries went.

use std::sync::Arc;

use crate::backoff::Backoff;
use crate::change::{Batch, Change, Position, compact};
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
        }
    }

    /// What is to be written next; `None` once everything is. What does not fit into one batch
    /// stays to be written.
    pub fn next(&mut self, mode: WriteMode, checkpoint: &CheckpointStore) -> Option<Writable> {
        let Piece { from, to } = self.narrowing.take()?;
        let (groups, order, stop) = match mode {
            WriteMode::Upsert => {
                let (groups, stop) =
                    compact::compact(&self.changes, from, to, self.narrowing.excluded());
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
            Some(_) => checkpoint.end_of(end_of(&self.changes[..stop])),
            None => self.end,
        };
        let batch = Batch::new(self.changes.clone(), groups, order, recorded, through)
            .unconfirmed_through(checkpoint.unconfirmed_through());
        Some(Writable { batch: Arc::new(batch), piece: Piece { from, to: stop } })
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
