//! The destination's side of the engine: tables first, then rows; what fails is retried, narrowed
//! down or becomes a dead letter.

mod attempt;
mod held;
mod letters;
mod link;
mod reconnect;
mod rejects;
mod release;
mod remedy;
mod under_way;
mod write;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, timeout_at};
use tracing::warn;

use super::EngineOptions;
use super::batcher::PendingBatch;
use super::checkpoint::CheckpointStore;
use super::dead_letter::LetterBook;
use super::progress::Progress;
use super::state_letters::StateLetters;
use crate::change::dead_letter::LetterLabel;
use crate::change::held::HeldEvent;
use crate::change::stamps;
use crate::change::{Batch, Change, Cutover, Position, TableSchema};
use crate::destination::{Failure, FailureKind, KeptChunk, OpenFuture, Recorded};
use crate::state::{State, StateError};
pub use attempt::EventsOfChunk;
use attempt::{Attempt, Writable};
use held::HeldTables;
pub use letters::{LetterOutcome, ReadyLetter, WholeLetter};
use link::{DestinationLink, KnownTables, OpenDestination};
pub use rejects::REFUSED_RUN_MAX;
use rejects::Rejects;
pub use release::ReadyEvents;
use release::Released;
use remedy::is_of_one_table;
use under_way::{Behind, Job, UnderWay};

/// A destination that has given no answer for so long counts as away.
const SILENCE_MAX: Duration = Duration::from_secs(60);
/// A call that has given no answer for so long has failed. Long enough for a warehouse that is
/// resumed and for statements that wait for a lock.
const ANSWER_WAIT_MAX: Duration = Duration::from_secs(15 * 60);

/// Between two looks for room for changes of tables that are held, where none is to be tried.
const ROOM_WAIT: Duration = Duration::from_secs(1);

/// Connects to the destination; called again after each failure.
pub type Open = Box<dyn Fn() -> OpenFuture<'static> + Send>;

/// What came of a set of pending changes.
#[derive(Debug)]
pub enum ApplyOutcome {
    /// It is durable up to here.
    Applied(Position),
    /// Nothing yet: it was sent, and the answer is still to come.
    UnderWay,
    /// Nothing of the stream: a table that is held was tried.
    Released,
    /// Nothing: these events of a table that is held are to be resolved.
    Events(KeptChunk, Vec<HeldEvent>),
    /// Nothing: the dead letter of this number is this; `None` where it is not kept any more.
    Letter(u64, Option<Box<WholeLetter>>),
    /// Nothing: the schemas of these dead letters were not known.
    Letters(Vec<LetterLabel>),
    /// A part of it, up to here, or nothing: for the dead letters of the rest there is no room.
    NoRoom(PendingBatch, Option<Position>),
    /// Nothing of the stream: the dead letter of this number was tried again.
    Retried(u64, LetterOutcome),
    /// The destination is not where it was left (restored, failed over) but here: open the feed
    /// there. Of the pending changes nothing more may be applied, as they do not follow it.
    DestinationRewound(Option<Position>),
}

/// Whether the destination is where it was left.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Confirmed {
    /// It is.
    AsLeft,
    /// It is here instead (restored, failed over).
    Rewound(Option<Position>),
}

/// Applies pending changes to the destination, one set after the other.
pub struct Applier {
    open: Open,
    options: EngineOptions,
    link: DestinationLink,
    checkpoint: CheckpointStore,
    known: KnownTables,
    /// The tables that cannot be written now.
    held: HeldTables,
    /// As much of their changes is kept as may be.
    is_full: bool,
    /// The dead letters that are kept.
    book: LetterBook,
    /// As many are kept as may be, and that was reported.
    is_full_of_letters: bool,
    /// Letters that are applied, where the state file could not forget them.
    unforgotten: BTreeSet<u64>,
    state_letters: StateLetters,
    rejects: Rejects,
    under_way: Option<UnderWay>,
    behind: Behind,
    progress: Arc<Progress>,
}

/// What one try to write a piece came to.
enum WriteAttempt {
    Done,
    /// A new connection found it done. It may be an earlier try that was committed late, of which
    /// other changes had become dead letters or were kept: that is read already.
    Found,
    /// Try what is to be written next again.
    Again,
    /// What was tried are changes that are kept, and are kept on.
    Abandoned,
    /// What was tried is a dead letter, and refused again; why.
    Refused(String),
    /// What was tried is a dead letter, and its table cannot be written now; why.
    NotNow(String),
    /// There is no room for the dead letters of what was to be written.
    NoRoom,
    DestinationRewound(Option<Position>),
}

impl Applier {
    /// Connects, acquires the fence, creates the tables of `schemas`. Also returns what was
    /// recorded of all consumers before. Fails at once where something is missing or wrong: whoever
    /// starts a program wants to know.
    pub async fn start(
        open: Open,
        options: EngineOptions,
        state: &State,
        progress: Arc<Progress>,
        schemas: &[Arc<TableSchema>],
    ) -> Result<(Applier, Vec<Recorded>), Failure> {
        let mut destination = open().await?;
        let records = destination.records().await?;
        let checkpoint = CheckpointStore::acquire(&options, state, &mut *destination).await?;
        let opened = OpenDestination::new(destination, &options);
        let ours = options.adopt.iter().cloned().collect();
        let wanted: Vec<_> =
            schemas.iter().filter(|s| options.filter.takes(&s.table)).cloned().collect();
        // Each connects when it is waited for.
        let mut looks: Vec<_> = (0..TAKEN_OVER_LOOKS).map(|_| open()).collect();
        let mut applier = Applier {
            open,
            link: DestinationLink::Up(Box::new(opened)),
            checkpoint,
            known: KnownTables { ours, ..KnownTables::default() },
            held: HeldTables::default(),
            is_full: false,
            book: LetterBook::default(),
            is_full_of_letters: false,
            unforgotten: BTreeSet::new(),
            state_letters: StateLetters::new(state.clone()),
            rejects: Rejects::default(),
            under_way: None,
            behind: Behind::default(),
            options,
            progress,
        };
        if let Err(failure) = applier.bring_up(&wanted).await {
            if failure.kind != FailureKind::Unavailable {
                looks.truncate(1);
            }
            return Err(taken_over(looks, &applier.checkpoint).await.unwrap_or(failure));
        }
        Ok((applier, records))
    }

    /// Reads what the destination knows, and creates the tables of `schemas`. A table that cannot
    /// be brought up is held; where that goes for all of them, and nothing was streamed before,
    /// the start fails.
    async fn bring_up(&mut self, schemas: &[Arc<TableSchema>]) -> Result<(), Failure> {
        let open = self.link.get()?;
        self.checkpoint.read_cutover(&mut *open.destination).await?;
        let kept = open.destination.kept().await?;
        open.read_tables().await?;
        self.take_stock(kept);
        self.read_book_again().await?;
        self.known.there = self.held.were_there();
        self.warn_of_waiting();
        self.known.wanted = schemas.iter().map(|schema| schema.table.to_string()).collect();
        let mut refused = Vec::new();
        for schema in schemas {
            let shaped = self.link.get()?.shape(&mut self.known, std::iter::once(schema)).await;
            match shaped {
                Ok(()) => {}
                Err(failure) if self.may_hold() && is_of_one_table(&failure) => {
                    refused.push((schema, failure));
                }
                Err(failure) => return Err(failure),
            }
        }
        if refused.len() == schemas.len()
            && self.checkpoint.recorded().is_none()
            && !refused.is_empty()
        {
            return Err(refused.swap_remove(0).1);
        }
        for (schema, failure) in refused {
            self.hold(&failure);
            self.held.wants(schema);
        }
        Ok(())
    }

    /// Takes over what the destination keeps for another consumer, which this one follows.
    pub async fn adopt_kept(&mut self, of: &str) -> Result<(), Failure> {
        let open = self.link.get()?;
        open.destination.adopt_kept(of).await?;
        let kept = open.destination.kept().await?;
        self.take_stock(kept);
        self.read_book_again().await?;
        self.known.there = self.held.were_there();
        Ok(())
    }

    /// What imports contain. `from_start`: the stream is read from its start, so what was applied
    /// before an import is applied again.
    pub fn cutover(&self, from_start: bool) -> Result<Cutover, StateError> {
        self.checkpoint.cutover(from_start)
    }

    /// The checkpoint as the destination has it.
    pub fn recorded(&self) -> Option<Position> {
        self.checkpoint.recorded()
    }

    /// Where the next batch has to end, because parts of it may have been written already.
    pub fn unconfirmed_through(&self) -> Option<Position> {
        self.checkpoint.unconfirmed_through()
    }

    /// What comes next is of another stream than the checkpoint.
    pub fn begin_other_stream(&mut self) {
        self.checkpoint.begin_other_stream();
    }

    /// Applies all of `pending`, whatever it takes, unless the destination is rewound or lost to
    /// another process. Where the destination can take more than one batch at a time, it is sent,
    /// and what was sent before is applied.
    pub async fn apply(&mut self, mut pending: PendingBatch) -> Result<ApplyOutcome, Failure> {
        let end = self.checkpoint.end_of(pending.through);
        let originals = std::mem::take(&mut pending.changes);
        let unresolved = self.unresolved_tables(&originals);
        let (changes, originals) = self.fit(originals).await;
        let stop = pending.dead_letters.first().and_then(|letter| self.why_stop(letter));
        let messages = std::mem::take(&mut pending.dead_letters);
        let mut attempt = Attempt::new(changes, messages, end).of(originals);
        if let Some(why) = stop {
            attempt.end_before_message(why, &self.checkpoint);
        }
        self.apply_behind(Job::new(attempt, unresolved, &pending, end)).await
    }

    /// Applies what is left of the job, of which `tried` was tried already. A stream that never
    /// pauses must not keep a held table waiting: more is released than is kept.
    async fn finish(
        &mut self,
        job: Job,
        tried: Option<(Writable, WriteAttempt)>,
    ) -> Result<ApplyOutcome, Failure> {
        let (end, mut kept) = (job.end, 0);
        if let Some(other) = self.work_off(job, tried, &mut kept).await? {
            return Ok(other);
        }
        for _ in 0..=2 * kept {
            match self.release(false, false).await? {
                Released::Rewound(position) => {
                    return Ok(ApplyOutcome::DestinationRewound(position));
                }
                Released::Tried => {}
                Released::Nothing | Released::Events(..) => break,
            }
        }
        Ok(ApplyOutcome::Applied(end))
    }

    /// The same, but releases nothing: counts the chunks that are kept. Answers what else came of
    /// it, if anything did.
    async fn work_off(
        &mut self,
        mut job: Job,
        mut tried: Option<(Writable, WriteAttempt)>,
        kept: &mut usize,
    ) -> Result<Option<ApplyOutcome>, Failure> {
        loop {
            let (next, tried) = match tried.take() {
                Some(tried) => tried,
                None => {
                    self.hold_unresolved(&job.unresolved);
                    let mode = self.options.abilities.write_mode;
                    let attempt = &mut job.attempt;
                    let next = attempt.next(mode, &self.checkpoint, &self.held, &self.book);
                    let Some(next) = next else { break };
                    let tried = self.try_where_room_is(attempt, &next).await?;
                    (next, tried)
                }
            };
            match tried {
                done @ (WriteAttempt::Done | WriteAttempt::Found) => {
                    job.attempt.succeeded(&next);
                    self.done(&next.batch, &done);
                    *kept += next.batch.held.len();
                }
                WriteAttempt::Again
                | WriteAttempt::Abandoned
                | WriteAttempt::Refused(_)
                | WriteAttempt::NotNow(_) => {}
                WriteAttempt::NoRoom => {
                    let durable = self.checkpoint.written_through();
                    return Ok(Some(ApplyOutcome::NoRoom(job.into_rest(), durable)));
                }
                WriteAttempt::DestinationRewound(position) => {
                    return Ok(Some(ApplyOutcome::DestinationRewound(position)));
                }
            }
        }
        if let Some(why) = job.attempt.why_stopped() {
            return Err(why);
        }
        self.is_full_of_letters = false;
        job.report(&self.progress);
        Ok(None)
    }

    /// The tables of changes that lack the schema with which they could be written, each with the
    /// version of the first of them.
    fn unresolved_tables(&self, changes: &[Change]) -> Vec<(String, String)> {
        let mut tables: Vec<(String, String)> = Vec::new();
        if !self.options.abilities.needs_schemas() {
            return tables;
        }
        for change in changes.iter().filter(|change| change.schema.is_none()) {
            let table = change.event.table();
            if tables.iter().all(|(known, _)| **known != *table) {
                tables.push((table.into_owned(), change.event.model_version().into_owned()));
            }
        }
        tables
    }

    /// Tries a table that is held, if it is time. `is_end`: nothing else is left to do.
    /// `with_events`: also one whose events are to be resolved first.
    pub async fn try_held(
        &mut self,
        is_end: bool,
        with_events: bool,
    ) -> Result<ApplyOutcome, Failure> {
        Ok(self.release(is_end, with_events).await?.into())
    }

    /// Applies the events of a table that is held, which are resolved now.
    pub async fn try_events(&mut self, ready: ReadyEvents) -> Result<ApplyOutcome, Failure> {
        Ok(self.release_events(ready).await?.into())
    }

    /// The changes without values that have no column, where the user wants that; beside them what
    /// they were, where they are others now. A column that a person has added is found after a
    /// while.
    async fn fit(&mut self, mut changes: Vec<Change>) -> (Vec<Change>, Option<Vec<Change>>) {
        if self.options.columns.stamps().applied_at {
            // What is written later is never taken up earlier, however long it waited before.
            let now = stamps::now();
            changes.iter_mut().for_each(|change| change.event.taken_up(&now));
        }
        let Ok(open) = self.link.get() else { return (changes, None) };
        if self.under_way.is_none()
            && open.is_due_to_look()
            && let Err(failure) = answered(&self.progress, open.look_for_columns()).await
        {
            warn!("the tables cannot be read: {failure}");
        }
        match self.link.get() {
            Ok(open) => open.fit(changes),
            Err(_) => (changes, None),
        }
    }

    /// Whether values are left out, and it is time to look whether there is a column for them.
    pub fn is_due_to_look(&mut self) -> bool {
        self.link.get().is_ok_and(|open| open.is_due_to_look())
    }

    /// Whether the destination may keep what the batch holds.
    fn has_room(&mut self, batch: &Batch) -> bool {
        if batch.held.is_empty() {
            self.is_full = false;
            return true;
        }
        let more: u64 = batch.held.iter().map(|chunk| chunk.label.bytes).sum();
        let kept = self.held.bytes();
        let has_room = kept == 0 || kept + more <= self.options.held_bytes_max;
        self.is_full &= !has_room;
        has_room
    }

    /// Ends the connection.
    pub async fn close(&mut self) -> Result<(), Failure> {
        self.link.close().await
    }
}

impl From<Released> for ApplyOutcome {
    fn from(released: Released) -> ApplyOutcome {
        match released {
            Released::Rewound(position) => ApplyOutcome::DestinationRewound(position),
            Released::Tried | Released::Nothing => ApplyOutcome::Released,
            Released::Events(chunk, events) => ApplyOutcome::Events(chunk, events),
        }
    }
}

/// Waits for a call of the destination: after [`SILENCE_MAX`] health says so, after
/// [`ANSWER_WAIT_MAX`] the call is dropped as failed. A server that accepts everything and answers
/// nothing would be waited for without end.
async fn answered<T>(
    progress: &Progress,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    answered_since(progress, Instant::now(), call).await
}

/// The same of a call that was made at `since`.
async fn answered_since<T>(
    progress: &Progress,
    since: Instant,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    tokio::pin!(call);
    if let Ok(answer) = timeout_at(since + SILENCE_MAX, &mut call).await {
        return answer;
    }
    progress.blocked(&format!("the destination has given no answer for {SILENCE_MAX:?}"));
    timeout_at(since + ANSWER_WAIT_MAX, call).await.unwrap_or_else(|_| {
        let text = format!("the destination gave no answer within {ANSWER_WAIT_MAX:?}");
        Err(Failure::unavailable(text))
    })
}

/// The same of a flush, whose time is watched.
async fn flushed<T>(
    progress: &Progress,
    call: impl Future<Output = Result<T, Failure>>,
) -> Result<T, Failure> {
    let _under_way = progress.flush();
    answered(progress, call).await
}

/// How often a start whose session was ended looks whether another process has taken over: that one
/// ends the session first, and raises the epoch then.
const TAKEN_OVER_LOOKS: u32 = 5;
/// Before each look but the first.
const TAKEN_OVER_WAIT: Duration = Duration::from_millis(500);

/// Whether a start failed because another process, which started at the same time, has ended this
/// one's session; that failure.
async fn taken_over(
    looks: Vec<OpenFuture<'static>>,
    checkpoint: &CheckpointStore,
) -> Option<Failure> {
    if !checkpoint.has_fence() {
        return None;
    }
    for (number, connecting) in looks.into_iter().enumerate() {
        if number > 0 {
            sleep(TAKEN_OVER_WAIT).await;
        }
        let found = match connecting.await {
            Ok(mut destination) => checkpoint.verify(&mut *destination).await.map(drop),
            Err(failure) => Err(failure),
        };
        match found {
            Err(failure) if failure.kind == FailureKind::Fenced => return Some(failure),
            Ok(()) | Err(_) => {}
        }
    }
    None
}
