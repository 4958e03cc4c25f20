//! Tries to write the tables that are held: what the destination keeps of them is applied in order.

use tokio::time::{Instant, sleep};
use tracing::{info, warn};

use super::attempt::{Attempt, EventsOfChunk};
use super::held::{HeldWork, HoldReason};
use super::letters::LetterRoom;
use super::{Applier, WriteAttempt, answered};
use crate::backoff::Backoff;
use crate::change::held::HeldEvent;
use crate::change::value::rfc3339;
use crate::change::{Change, DeadLetter, Position, held};
use crate::destination::{CheckpointIn, Failure, FailureKind, KeptChunk};
use crate::help::HelpCode;
use crate::pipeline::progress::HeldCounts;

/// What came of trying a table that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Released {
    /// Some of its changes are applied, or it waits on.
    Tried,
    /// No table was to be tried.
    Nothing,
    /// The events of this chunk are to be resolved.
    Events(KeptChunk, Vec<HeldEvent>),
    /// The destination is not where it was left.
    Rewound(Option<Position>),
}

/// The events of a chunk, or the first of them that are left, resolved.
#[derive(Debug)]
pub struct ReadyEvents {
    /// The chunk, as it was when it was read.
    pub chunk: KeptChunk,
    /// What is to be written of them.
    pub changes: Vec<Change>,
    /// What cannot be.
    pub letters: Vec<DeadLetter>,
    /// Which of them each change is of.
    pub events: EventsOfChunk,
}

impl Applier {
    /// Whether the destination can keep changes of tables that cannot be written.
    pub(super) fn may_hold(&self) -> bool {
        self.options.abilities.checkpoint_in == CheckpointIn::Destination
    }

    /// When a table that is held is to be tried; `None` while none is.
    pub fn release_due(&self, with_events: bool) -> Option<Instant> {
        self.held.due(with_events)
    }

    /// Whether a table that is held is to be tried now. `is_end`: nothing else is left to do.
    pub fn has_release(&self, is_end: bool) -> bool {
        self.held.next(Instant::now(), is_end, false).is_some()
    }

    /// Whether events that are kept are to be resolved and tried now.
    pub fn has_events(&self, is_end: bool) -> bool {
        let next = self.held.next(Instant::now(), is_end, true);
        matches!(next, Some((_, HeldWork::Events(_))))
    }

    /// The tables of which events are kept whose schema was not known.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        self.held.unresolved()
    }

    /// What waits for a schema is tried now.
    pub fn schema_answered(&mut self) {
        self.held.schema_answered(Instant::now());
    }

    /// The schema of the table's events is not known yet: it is tried later.
    pub fn postpone(&mut self, table: &str) {
        self.held.postpone(table, Instant::now());
    }

    /// Holds the tables of changes without a schema, where such changes cannot be written.
    pub(super) fn hold_unresolved(&mut self, tables: &[(String, String)]) {
        for (table, version) in tables {
            if self.held.contains(table) {
                continue;
            }
            let text = format!("the schema of its version {version:?} is not known yet");
            let failure = Failure::new(FailureKind::TableUnavailable, text);
            self.hold(&failure.of_table(table));
        }
    }

    /// Holds the table that the failure names.
    pub(super) fn hold(&mut self, failure: &Failure) {
        let Some(table) = failure.table.as_deref() else { return };
        let was_there = self.known.there.contains(table);
        let waits_for_rows = failure.is_of_foreign_key();
        let reason = HoldReason { text: failure.to_string(), was_there, waits_for_rows };
        if !self.held.contains(table) {
            warn!(
                "table {table:?} is held: its changes are kept and applied later, others go on: \
                 {failure}"
            );
        }
        self.held.hold(table, reason, (Instant::now(), crate::clock::now_s()));
        self.report_held();
    }

    /// Takes what the destination keeps as known.
    pub(super) fn take_stock(&mut self, kept: Vec<KeptChunk>) {
        self.held.take_stock(kept, &self.options.filter, Instant::now());
        self.report_held();
    }

    /// What waits when a run begins, for people.
    pub(super) fn warn_of_waiting(&self) {
        for (name, table) in self.held.iter() {
            let since = rfc3339(i64::try_from(table.since_unix).unwrap_or(0) * 1_000_000);
            warn!(
                "table {name:?} is held since {since}: {} of its changes wait at the destination \
                 and are tried now; {}",
                table.changes(),
                table.reason.text
            );
        }
    }

    /// What waits at the end of a run, for people.
    pub fn warn_of_held(&self) {
        for (name, table) in self.held.iter() {
            warn!(
                "table {name:?} could not be written, and {} of its changes wait at the destination \
                 for the next run: {}",
                table.changes(),
                table.reason.text
            );
        }
    }

    /// Tells what is held to whoever wants to know.
    pub(super) fn report_held(&self) {
        let counts = self.held.iter().map(|(name, table)| {
            let counts = HeldCounts {
                reason: table.reason.text.clone(),
                since_unix: table.since_unix,
                changes: table.changes(),
                bytes: table.bytes(),
            };
            (name.to_owned(), counts)
        });
        self.progress.held(counts.collect());
    }

    /// Tries the table that waits longest, if one is due: a chunk of its changes is applied, or
    /// read, if it is one of events and `with_events`.
    pub async fn release(&mut self, is_end: bool, with_events: bool) -> Result<Released, Failure> {
        let Some((table, work)) = self.held.next(Instant::now(), is_end, with_events) else {
            return Ok(Released::Nothing);
        };
        match work {
            HeldWork::Nothing => self.free(&table),
            HeldWork::Shape(schema) => {
                let shaped = match self.link.get() {
                    Ok(open) => open.shape_again(&mut self.known, &schema).await,
                    Err(failure) => Err(failure),
                };
                match shaped {
                    Ok(()) => self.free(&table),
                    Err(failure) => return self.not_released(&table, &failure).await,
                }
            }
            HeldWork::Chunk(chunk) | HeldWork::Events(chunk) => {
                return self.release_chunk(&table, chunk).await;
            }
        }
        Ok(Released::Tried)
    }

    async fn release_chunk(&mut self, table: &str, chunk: KeptChunk) -> Result<Released, Failure> {
        // It failed before, or another program has changed the table since.
        let changed = self.held.is_waiting(table).then_some(table);
        let read = match self.link.get() {
            Ok(open) => answered(&self.progress, open.read_kept(chunk.number, changed)).await,
            Err(failure) => Err(failure),
        };
        let body = match read {
            Ok(Some(body)) => body,
            Ok(None) => return self.look_again(table).await,
            Err(failure) => return self.not_released(table, &failure).await,
        };
        let read = match chunk.label.is_unresolved {
            true => held::read_events(&body).map(Err),
            false => held::read(&body, &self.options.columns).map(Ok),
        };
        let changes = match read {
            Ok(Ok(changes)) => changes,
            Ok(Err(events)) => return Ok(Released::Events(chunk, events)),
            Err(why) => {
                let text = format!("the changes that wait cannot be read: {why}");
                let failure = Failure::misconfigured(text).of_table(table);
                return self.not_released(table, &failure).await;
            }
        };
        let (changes, _) = self.fit(changes).await;
        let attempt = self.attempt_of(table, &chunk, changes);
        self.write_released(table, attempt).await
    }

    /// Applies the events of a chunk, which are resolved now. Does nothing where the chunk is not
    /// the first of its table any more, or not as it was.
    pub async fn release_events(&mut self, ready: ReadyEvents) -> Result<Released, Failure> {
        let ReadyEvents { chunk, changes, letters, events } = ready;
        let table = chunk.label.table.clone();
        if !self.held.is_first(&chunk) {
            return Ok(Released::Tried);
        }
        if let Some(why) = letters.first().and_then(|letter| self.why_stop(letter)) {
            return Err(why);
        }
        let (changes, _) = self.fit(changes).await;
        let (place, recorded) = ((chunk.number, chunk.applied), self.checkpoint.recorded());
        let mut attempt = Attempt::releasing_events((changes, letters), events, place, recorded);
        attempt.narrowing.begin_with(self.held.tried_max(&table));
        self.write_released(&table, attempt).await
    }

    /// What is still to be applied of the changes of the chunk: what an import of the table
    /// contains is not.
    fn attempt_of(&self, table: &str, chunk: &KeptChunk, changes: Vec<Change>) -> Attempt {
        let cutover = self.cutover(false).unwrap_or_default();
        let applied = usize::try_from(chunk.applied).unwrap_or(usize::MAX);
        let rest: Vec<Change> = changes.into_iter().skip(applied).collect();
        let is_in_snapshot = |index: &usize| cutover.is_in_snapshot(&rest[*index].event);
        let imported: Vec<usize> = (0..rest.len()).filter(is_in_snapshot).collect();
        let place = (chunk.number, chunk.applied);
        let mut attempt = Attempt::releasing(rest, place, self.checkpoint.recorded());
        attempt.narrowing.begin_with(self.held.tried_max(table));
        imported.into_iter().for_each(|index| attempt.narrowing.exclude(index));
        attempt
    }

    async fn write_released(
        &mut self,
        table: &str,
        mut attempt: Attempt,
    ) -> Result<Released, Failure> {
        let mode = self.options.abilities.write_mode;
        while let Some(next) = attempt.next(mode, &self.checkpoint, &self.held, &self.book) {
            // Letters for which there is no room wait where they are.
            if !self.book.has_room(&next.batch.letters.added, self.options.letters.limits) {
                return self.wait_for_letter_room(table).await;
            }
            match self.try_once(&mut attempt, &next).await? {
                done @ (WriteAttempt::Done | WriteAttempt::Found) => {
                    attempt.succeeded(&next);
                    self.done(&next.batch, &done);
                    if let Some(release) = next.batch.release {
                        self.held.released(table, release, Instant::now());
                    }
                    self.report_held();
                }
                WriteAttempt::Again
                | WriteAttempt::Refused(_)
                | WriteAttempt::NotNow(_)
                | WriteAttempt::NoRoom => {}
                WriteAttempt::Abandoned => return Ok(Released::Tried),
                WriteAttempt::DestinationRewound(position) => {
                    return Ok(Released::Rewound(position));
                }
            }
        }
        if self.held.is_empty_of(table) {
            self.free(table);
        }
        Ok(Released::Tried)
    }

    async fn wait_for_letter_room(&mut self, table: &str) -> Result<Released, Failure> {
        self.held.postpone(table, Instant::now());
        Ok(match self.make_letter_room().await? {
            LetterRoom::Made | LetterRoom::Wanting => Released::Tried,
            LetterRoom::Rewound(position) => Released::Rewound(position),
        })
    }

    /// The table is written again.
    fn free(&mut self, table: &str) {
        if let Some(held) = self.held.free(table) {
            info!(
                "table {table:?} is written again, after {} s",
                crate::clock::now_s().saturating_sub(held.since_unix)
            );
        }
        self.report_held();
    }

    /// The table could not be tried: it waits on, and a connection that may be broken is replaced.
    async fn not_released(&mut self, table: &str, failure: &Failure) -> Result<Released, Failure> {
        if super::remedy::is_of_one_table(failure) {
            self.hold(failure);
            return Ok(Released::Tried);
        }
        self.held.postpone(table, Instant::now());
        warn!("the destination failed: {failure}; trying again");
        self.progress.failed(failure);
        self.progress.retries(failure);
        let found = self.reconnect(&mut Backoff::default()).await?;
        Ok(self.compared(found))
    }

    /// Looks again what the destination keeps: it is not what was known.
    async fn look_again(&mut self, table: &str) -> Result<Released, Failure> {
        let kept = match self.link.get() {
            Ok(open) => answered(&self.progress, open.destination.kept()).await,
            Err(failure) => Err(failure),
        };
        match kept {
            Ok(kept) => self.take_stock(kept),
            Err(failure) => return self.not_released(table, &failure).await,
        }
        Ok(Released::Tried)
    }

    /// Whether the destination is where it was left.
    pub(super) fn compared(&mut self, found: Option<Position>) -> Released {
        match self.checkpoint.reset(found) {
            true => Released::Rewound(found),
            false => Released::Tried,
        }
    }

    /// As much is kept as may be.
    pub(super) fn report_full(&mut self) {
        let why = format!(
            "the changes of tables that cannot be written take {} bytes at the destination, and no \
             more than {} may: the stream waits until one of them can be written",
            self.held.bytes(),
            self.options.held_bytes_max
        );
        let why = HelpCode::HeldFull.tag(&why);
        if !self.is_full {
            warn!("{why}");
        }
        self.is_full = true;
        self.progress.blocked(&why);
    }

    /// Waits until the destination keeps little enough that more changes can be kept. Until then
    /// nothing is written at all.
    pub(super) async fn make_room(&mut self) -> Result<Released, Failure> {
        self.report_full();
        let wait = self.held.due(false).map(|due| due.saturating_duration_since(Instant::now()));
        sleep(wait.unwrap_or(super::ROOM_WAIT)).await;
        self.release(false, false).await
    }
}
