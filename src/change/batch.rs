//! A piece of the stream that a destination applies at once.

use std::sync::Arc;

use super::{Change, Column, HeldChunk, NumberedLetter, Position, Release, TableSchema, value};

/// Rows of one table at one model version: each row once. Indices point into the batch's changes.
#[derive(Clone, Debug)]
pub struct TableGroup {
    /// The schema that all rows of the group have.
    pub schema: Arc<TableSchema>,
    /// Rows to delete before anything is written; also rows that are inserted again within the
    /// batch, so that no value from before their deletion survives.
    pub deletes: Vec<u32>,
    /// Rows to insert or replace, after the deletes.
    pub upserts: Vec<u32>,
}

/// A contiguous piece of the stream, cheap to clone.
#[derive(Clone, Debug)]
pub struct Batch {
    changes: Arc<Vec<Change>>,
    /// For `WriteMode::Upsert`: the last change of each row, table by table. Otherwise empty.
    pub groups: Vec<TableGroup>,
    /// For `WriteMode::Append`: the changes to store, oldest first. Otherwise empty.
    pub order: Vec<u32>,
    /// The checkpoint before this batch: `None` where the destination has never recorded one.
    pub after: Option<Position>,
    /// The checkpoint once it is applied.
    pub through: Position,
    /// How far an earlier try, whose outcome is unknown, may have written; `None` where there was
    /// none.
    pub unconfirmed_through: Option<Position>,
    /// Changes of tables that cannot be written now: the destination keeps them with the
    /// checkpoint (`CheckpointIn::Destination`).
    pub held: Vec<HeldChunk>,
    /// The kept changes that the batch consists of, which the destination then keeps no longer.
    pub release: Option<Release>,
    /// What becomes of dead letters with the batch (`CheckpointIn::Destination`).
    pub letters: LetterChanges,
}

/// What becomes of dead letters in one transaction.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct LetterChanges {
    /// They are kept from now on.
    pub added: Vec<NumberedLetter>,
    /// These are of no more use: a later change of the row, with this sequence, is applied.
    pub superseded: Vec<(u64, u64)>,
    /// The batch consists of what the letter of this number and place says: it is kept no longer.
    pub retried: Option<(u64, Position)>,
}

impl LetterChanges {
    /// Whether nothing changes.
    pub fn is_empty(&self) -> bool {
        self.added.is_empty() && self.superseded.is_empty() && self.retried.is_none()
    }
}

impl Batch {
    /// A batch that is tried for the first time. `groups` and `order` hold indices into `changes`.
    pub fn new(
        changes: Arc<Vec<Change>>,
        groups: Vec<TableGroup>,
        order: Vec<u32>,
        after: Option<Position>,
        through: Position,
    ) -> Batch {
        Batch {
            changes,
            groups,
            order,
            after,
            through,
            unconfirmed_through: None,
            held: Vec::new(),
            release: None,
            letters: LetterChanges::default(),
        }
    }

    /// The same batch whose rows are grouped otherwise.
    pub fn with_groups(self, groups: Vec<TableGroup>) -> Batch {
        Batch { groups, ..self }
    }

    /// The same batch with changes that are not written but kept.
    pub fn holding(self, held: Vec<HeldChunk>) -> Batch {
        Batch { held, ..self }
    }

    /// The same batch, whose changes were kept.
    pub fn releasing(self, release: Option<Release>) -> Batch {
        Batch { release, ..self }
    }

    /// The same batch, with which this becomes of dead letters.
    pub fn with_letters(self, letters: LetterChanges) -> Batch {
        Batch { letters, ..self }
    }

    /// Whether the destination writes nothing but rows and the checkpoint.
    pub fn is_plain(&self) -> bool {
        self.held.is_empty() && self.release.is_none() && self.letters.is_empty()
    }

    /// The same batch after a try whose outcome is unknown.
    pub fn unconfirmed_through(self, unconfirmed_through: Option<Position>) -> Batch {
        Batch { unconfirmed_through, ..self }
    }

    /// Whether it comes from an export, whose rows have no place in the stream.
    pub fn is_import(&self) -> bool {
        self.through == Position::default()
    }

    /// The change, where the batch's piece of the stream has one of that index.
    pub fn get(&self, index: u32) -> Option<&Change> {
        self.changes.get(index as usize)
    }

    /// The change of index `index`, which has to come from this batch.
    pub fn change(&self, index: u32) -> &Change {
        &self.changes[index as usize]
    }

    /// The indices of the changes that are given to the destination.
    pub fn offered(&self) -> impl Iterator<Item = u32> {
        self.groups
            .iter()
            .flat_map(|group| group.deletes.iter().chain(&group.upserts))
            .chain(&self.order)
            .copied()
    }

    /// All changes with a schema whose values do not fit their columns, by index, each with the
    /// reason.
    pub fn type_mismatches(&self) -> Vec<(u32, String)> {
        let mut mismatch = Vec::new();
        let mut look = |indices: &[u32], schema: &TableSchema, columns: &[Column]| {
            for index in indices {
                let wrong = columns.iter().enumerate().find_map(|(i, column)| {
                    value::read(self.change(*index).token(i), column).err()
                });
                mismatch
                    .extend(wrong.map(|why| (*index, format!("table {:?}: {why}", schema.table))));
            }
        };
        for TableGroup { schema, deletes, upserts } in &self.groups {
            look(upserts, schema, &schema.columns);
            look(deletes, schema, schema.key_columns());
        }
        for (index, change) in self.ordered() {
            if let Some(schema) = &change.schema {
                look(
                    &[index],
                    schema,
                    if change.is_delete() { schema.key_columns() } else { &schema.columns },
                );
            }
        }
        mismatch.sort_unstable_by_key(|(index, _)| *index);
        mismatch.dedup_by_key(|(index, _)| *index);
        mismatch
    }

    /// The changes that `order` names, oldest first, with their indices.
    pub fn ordered(&self) -> impl Iterator<Item = (u32, &Change)> {
        self.order.iter().map(|i| (*i, self.change(*i)))
    }
}
