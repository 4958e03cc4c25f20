//! What is applied at once.

use std::sync::Arc;

use super::{Change, Position, TableSchema};

/// Rows of one table at one model version: each row once. Indices point into the batch's changes.
#[derive(Clone, Debug)]
pub struct Group {
    pub schema: Arc<TableSchema>,
    /// Rows to take away, before anything is written: also those that come back within the batch, so that no value of
    /// their earlier life survives.
    pub deletes: Vec<u32>,
    pub upserts: Vec<u32>,
}

/// A contiguous piece of the stream, cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    changes: Arc<Vec<Change>>,
    /// For keepers of rows: the last change of each row, table by table. Empty for keepers of changes.
    pub groups: Vec<Group>,
    /// For keepers of changes: the changes to store, oldest first.
    pub order: Vec<u32>,
    /// The checkpoint before this batch: `None` where the destination has never recorded one.
    pub after: Option<Position>,
    /// The checkpoint once it is applied.
    pub through: Position,
}

impl Batch {
    pub fn new(changes: Arc<Vec<Change>>, groups: Vec<Group>, order: Vec<u32>, after: Option<Position>, through: Position) -> Batch {
        Batch { changes, groups, order, after, through }
    }

    pub fn change(&self, index: u32) -> &Change {
        &self.changes[index as usize]
    }

    /// The changes of a keeper of changes, oldest first, with their indices.
    pub fn ordered(&self) -> impl Iterator<Item = (u32, &Change)> {
        self.order.iter().map(|i| (*i, self.change(*i)))
    }
}
