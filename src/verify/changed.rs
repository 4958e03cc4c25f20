//! Which rows the stream has changed since the export, and how far it is: read from the state file
//! that the running EDS keeps.

use tokio::time::{Duration, Instant};

use super::VerifyError;
use super::store::{ChangeStore, KnownChanges};
use crate::change::{Position, Version};
use crate::pipeline::recent::{self, SAVED_BYTES_MAX};
use crate::state::State;

/// Between two looks while rows are compared: the file remembers only so many rows.
const LOOK_INTERVAL: Duration = Duration::from_secs(2);
/// The clocks of the broker and of the source's database differ, and an event takes time from one
/// to the other: the stream has passed a moment when it is so far behind it.
pub const PASSED_AFTER_NS: i64 = 10_000_000_000;

/// What is known of rows that were changed since the export.
pub struct ChangedRows {
    state: State,
    consumer: String,
    since_ns: u64,
    /// The newest version by the hash of the row.
    versions: ChangeStore,
    /// How far they are known, and whether all changes of rows since the export are.
    known: Option<KnownChanges>,
    /// The newest version of all.
    newest: u64,
    looked_at: Option<Instant>,
}

/// Why a row differs, as far as the stream explains it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Explained {
    /// It was changed after the export.
    Newer,
    /// The stream did not change it since.
    Unchanged,
    /// Not all changes since the export are known.
    Unknown,
}

impl ChangedRows {
    /// What `consumer` has changed since the oldest moment of an export, with what `versions` has
    /// of it already.
    pub fn since(
        state: State,
        consumer: &str,
        since: Version,
        versions: ChangeStore,
    ) -> Result<Self, VerifyError> {
        let known = versions.known()?;
        let (consumer, since_ns) = (consumer.to_owned(), since.nanos);
        let (newest, looked_at) = (0, None);
        let mut changed =
            ChangedRows { state, consumer, since_ns, versions, known, newest, looked_at };
        changed.look()?;
        Ok(changed)
    }

    /// Whether all changes since that moment are known.
    pub fn is_complete(&self) -> bool {
        self.known.is_some_and(|known| known.is_complete)
    }

    /// Looks again, if it is time.
    pub fn look_if_due(&mut self) -> Result<(), VerifyError> {
        match self.looked_at.is_some_and(|at| at.elapsed() < LOOK_INTERVAL) {
            true => Ok(()),
            false => self.look(),
        }
    }

    /// Takes note of what is saved now. The saved chunks are a log: what is known of it is not read
    /// again.
    pub fn look(&mut self) -> Result<(), VerifyError> {
        let chunks = self.state.recent(&self.consumer)?;
        let bytes: usize = chunks.iter().map(|chunk| chunk.entries.len()).sum();
        let last = chunks.last().map(|chunk| chunk.through);
        let known = self.known.map(|known| known.through);
        // A stream that was recreated counts from the start.
        let known = known.filter(|known| last.is_none_or(|l| l.sequence >= known.sequence));
        let is_new = |through: Position| known.is_none_or(|k| through.sequence > k.sequence);
        let ages = || chunks.iter().flat_map(recent::versions).map(|(_, nanos)| nanos);
        let oldest = ages().find(|nanos| *nanos > 0);
        self.newest = self.newest.max(ages().max().unwrap_or(0));
        let is_whole = bytes < SAVED_BYTES_MAX / 2;
        let is_complete = !chunks.is_empty()
            && match self.known {
                None => is_whole || oldest.is_some_and(|nanos| nanos <= self.since_ns),
                // What was forgotten since the last look may never have been looked at.
                Some(known) => {
                    let first = chunks.first().map(|chunk| chunk.through.sequence);
                    let joins = first.is_some_and(|first| first <= known.through.sequence);
                    known.is_complete && (is_whole || joins)
                }
            };
        // Of an event without a version nobody knows how old it is.
        let age = |(hash, nanos)| (hash, if nanos == 0 { u64::MAX } else { nanos });
        let new = chunks.iter().filter(|chunk| is_new(chunk.through));
        let new = new.flat_map(recent::versions).map(age);
        let since_ns = self.since_ns;
        self.known = last.map(|through| KnownChanges { through, is_complete });
        self.versions.add(new.filter(|(_, nanos)| *nanos > since_ns), self.known)?;
        self.looked_at = Some(Instant::now());
        Ok(())
    }

    /// Whether everything up to `checkpoint` is known.
    pub fn reaches(&self, checkpoint: Option<Position>) -> bool {
        let Some(checkpoint) = checkpoint else { return true };
        self.known.is_some_and(|known| known.through.sequence >= checkpoint.sequence)
    }

    /// Whether the stream is behind `moment`: it applied something that was published later, or
    /// nothing was pending later.
    pub fn has_passed(
        &self,
        moment: Version,
        checkpoint: Option<Position>,
    ) -> Result<bool, VerifyError> {
        let idle = self.state.idle(&self.consumer)?;
        let latest = [checkpoint, idle].into_iter().flatten().map(|p| p.time_ns).max();
        let moment = i64::try_from(moment.nanos).unwrap_or(i64::MAX);
        Ok(latest.is_some_and(|ns| ns > moment.saturating_add(PASSED_AFTER_NS)))
    }

    /// Whether what is known to be applied is behind `moment`, too: a change was made then or
    /// later, or nothing was pending later. Where the source publishes late, what was published
    /// later was made before.
    pub fn is_beyond(&self, moment: Version) -> Result<bool, VerifyError> {
        Ok(self.newest >= moment.nanos || self.has_passed(moment, None)?)
    }

    /// What the stream says of a row that differs from an export of `moment`. `checkpoint` is from
    /// before the row was read.
    pub fn explain(
        &self,
        row_hash: u64,
        moment: Version,
        checkpoint: Option<Position>,
    ) -> Result<Explained, VerifyError> {
        if self.versions.version(row_hash)?.is_some_and(|nanos| nanos > moment.nanos) {
            return Ok(Explained::Newer);
        }
        let is_remembered = moment.nanos >= self.since_ns && self.is_complete();
        let moment = i64::try_from(moment.nanos).unwrap_or(i64::MAX);
        // Where the stream did not come to the export's moment, nothing can be newer.
        let is_before = checkpoint
            .is_none_or(|position| position.time_ns.saturating_add(PASSED_AFTER_NS) < moment);
        Ok(match is_before || (is_remembered && self.reaches(checkpoint)) {
            true => Explained::Unchanged,
            false => Explained::Unknown,
        })
    }
}
