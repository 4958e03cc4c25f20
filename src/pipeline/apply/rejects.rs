//! Changes that become dead letters, and how many of a table in a row may.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use tokio::time::sleep;
use tracing::warn;

use crate::backoff::{Backoff, RETRY_WAITS};
use crate::change::{Change, Position};
use crate::destination::{Failure, FailureKind};
use crate::pipeline::dead_letter::{DeadLetter, DeadLetters};
use crate::pipeline::progress::Progress;

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
    DeadLetter,
    /// Nothing: too many of its table were rejected in a row. The failure names the table.
    TooMany(Failure),
}

/// Writes dead letters, and counts them by table.
pub struct Rejects {
    dead_letters: DeadLetters,
    consumer: String,
    progress: Arc<Progress>,
    runs: HashMap<String, RejectedRun>,
}

impl Rejects {
    /// Dead letters of `consumer` go to `dead_letters`.
    pub fn new(dead_letters: DeadLetters, consumer: &str, progress: Arc<Progress>) -> Rejects {
        Rejects { dead_letters, consumer: consumer.to_owned(), progress, runs: HashMap::new() }
    }

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
    pub async fn reject(&mut self, change: &Change, reason: String) -> Rejected {
        let table = change.event.table().into_owned();
        let run = self.runs.entry(table.clone()).or_default();
        // Of a table that is held the same changes are tried again and again.
        if run.letters.contains(&change.position) {
            return Rejected::DeadLetter;
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
        let dead_letter = DeadLetter {
            position: change.position,
            subject: change.subject.to_string(),
            reason,
            payload: bytes::Bytes::copy_from_slice(change.event.payload().as_bytes()),
        };
        self.write(&[dead_letter], &table).await;
        Rejected::DeadLetter
    }

    /// Writes dead letters of `table` (empty where it is not known); a full disk is waited for.
    pub async fn write(&mut self, dead_letters: &[DeadLetter], table: &str) {
        let mut backoff = Backoff::default();
        while let Err(e) = self.dead_letters.write(dead_letters) {
            let why =
                format!("dead letters cannot be written to {}: {e}", self.dead_letters.place());
            self.progress.waiting(&why);
            warn!("{why}");
            sleep(backoff.next(&self.consumer).max(RETRY_WAITS.first)).await;
        }
        for dead_letter in dead_letters {
            warn!(
                subject = dead_letter.subject,
                sequence = dead_letter.position.sequence,
                "dead letter in {}: {}",
                self.dead_letters.place(),
                dead_letter.reason
            );
            self.progress.dead_letters(table, &dead_letter.reason);
        }
    }
}
