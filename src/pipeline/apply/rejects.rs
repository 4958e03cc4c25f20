//! Which changes become dead letters, and how many of a table in a row may.

use std::collections::{HashMap, HashSet};

use crate::change::{Change, DeadLetter, Position};
use crate::destination::{Failure, FailureKind};

/// Changes of one table rejected one after the other, with none stored in between, after which it
/// is no longer taken for bad data but for an outage: no more of them become dead letters.
pub const REFUSED_RUN_MAX: u32 = 1_000;

/// Changes of one table that were rejected one after the other.
#[derive(Default)]
struct RejectedRun {
    count: u32,
    /// Where the last of them is.
    last: Position,
    /// Where all of them are.
    letters: HashSet<Position>,
}

/// What became of a rejected change.
pub enum Rejected {
    /// It is a dead letter.
    DeadLetter(DeadLetter),
    /// Nothing: too many of its table were rejected in a row. The failure names the table.
    TooMany(Failure),
}

/// Counts rejected changes by table.
#[derive(Default)]
pub struct Rejects {
    runs: HashMap<String, RejectedRun>,
}

impl Rejects {
    /// A change of `table` was stored.
    pub fn stored(&mut self, table: &str) {
        self.runs.remove(table);
    }

    /// The change was offered together with a rejected one, and not rejected: it will be stored,
    /// unless what was rejected came after it.
    pub fn not_rejected(&mut self, change: &Change) {
        let table = &*change.event.table();
        if self.runs.get(table).is_some_and(|run| !run.last.contains(change.position)) {
            self.runs.remove(table);
        }
    }

    /// Makes a dead letter of the change, unless too many of its table were rejected in a row: then
    /// it has to be tried again later.
    pub fn reject(&mut self, change: &Change, reason: String) -> Rejected {
        let table = change.event.table().into_owned();
        let run = self.runs.entry(table.clone()).or_default();
        // Of a table that is held the same changes are tried again and again.
        if run.letters.contains(&change.position) {
            return Rejected::DeadLetter(DeadLetter::of_change(reason, change));
        }
        if run.count >= REFUSED_RUN_MAX {
            let why = format!(
                "{REFUSED_RUN_MAX} changes of table {table:?} in a row were refused, the last \
                 because {reason}; no more become dead letters until one is accepted"
            );
            return Rejected::TooMany(Failure {
                table: Some(table.into()),
                ..Failure::new(FailureKind::TableUnavailable, why)
            });
        }
        (run.count, run.last) = (run.count + 1, change.position);
        run.letters.insert(change.position);
        Rejected::DeadLetter(DeadLetter::of_change(reason, change))
    }
}
