//! One set of pending changes on its way into the destination: what of it is still to be written,
//! what is not, and how the last tries went.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use super::held::HeldTables;
use crate::backoff::Backoff;
use crate::change::batch::LetterChanges;
use crate::change::dead_letter::LetterEntry;
use crate::change::{Batch, Change, DeadLetter, HeldChunk, Position, Release, compact, held};
use crate::destination::{Failure, WriteMode};
use crate::pipeline::checkpoint::CheckpointStore;
use crate::pipeline::dead_letter::{LetterBook, Supersedes};
use crate::pipeline::narrow::{Narrowing, Piece};

/// The state of applying one set of pending changes.
pub struct Attempt {
    changes: Arc<Vec<Change>>,
    /// The same as they came, where values were left out of them: so they are kept.
    originals: Option<Vec<Change>>,
    /// The checkpoint once all of them are applied.
    end: Position,
    /// What is still to be written, and what cannot be.
    pub narrowing: Narrowing,
    /// Waits between tries of one piece.
    pub backoff: Backoff,
    /// The tables were read again for the piece that is being tried: once is enough.
    pub reshaped: bool,
    source: ChangeSource,
    /// The changes that cannot be written, by index, and are not committed as dead letters yet.
    letters: BTreeMap<usize, DeadLetter>,
    /// Messages between the changes that never became changes, in their order.
    messages: Vec<DeadLetter>,
    /// Why the run ends once all that is to be written is.
    why_stopped: Option<Failure>,
    /// The messages from where it ends on.
    cut: Vec<DeadLetter>,
    /// Where a chunk of events is released: which of them each change is of.
    events: Option<EventsOfChunk>,
}

/// Which events the changes of a part of a chunk are of: an event may be no change, or two.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct EventsOfChunk {
    /// For each change the number of its event, from 0.
    pub of_changes: Vec<u64>,
    /// How many events there are.
    pub count: u64,
    /// No event of the chunk comes after them.
    pub is_rest: bool,
}

/// Where the changes come from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum ChangeSource {
    /// The stream: the checkpoint moves past them.
    Stream,
    /// A chunk of this number that the destination keeps, less so many of its first.
    Held(u64, u64),
    /// The dead letter of this number, from this place in the stream.
    Letter(u64, Position),
}

/// The part of a piece that can be written at once.
pub struct Writable {
    /// What the destination is given.
    pub batch: Arc<Batch>,
    /// The indices that it covers.
    pub piece: Piece,
    /// How many of the messages that never became changes are committed with it.
    messages: usize,
}

impl Attempt {
    /// All of `changes` are to be written, and `messages` between them are dead letters; afterwards
    /// the checkpoint is at `end`.
    pub fn new(changes: Vec<Change>, messages: Vec<DeadLetter>, end: Position) -> Attempt {
        Attempt {
            narrowing: Narrowing::new(changes.len(), joined(&changes)),
            changes: Arc::new(changes),
            originals: None,
            end,
            backoff: Backoff::default(),
            reshaped: false,
            source: ChangeSource::Stream,
            letters: BTreeMap::new(),
            messages,
            why_stopped: None,
            cut: Vec::new(),
            events: None,
        }
    }

    /// The same, whose changes came as `originals`.
    pub fn of(self, originals: Option<Vec<Change>>) -> Attempt {
        Attempt { originals, ..self }
    }

    /// All of `changes`, those of chunk `number` less the first `applied`, are to be written; the
    /// checkpoint stays at `recorded`.
    pub fn releasing(
        changes: Vec<Change>,
        (number, applied): (u64, u64),
        recorded: Option<Position>,
    ) -> Attempt {
        let end = recorded.unwrap_or_default();
        let source = ChangeSource::Held(number, applied);
        Attempt { source, ..Attempt::new(changes, Vec::new(), end) }
    }

    /// The same of a chunk of events, which are `changes` and `letters`.
    pub fn releasing_events(
        (changes, letters): (Vec<Change>, Vec<DeadLetter>),
        events: EventsOfChunk,
        place: (u64, u64),
        recorded: Option<Position>,
    ) -> Attempt {
        let attempt = Attempt::releasing(changes, place, recorded);
        Attempt { messages: letters, events: Some(events), ..attempt }
    }

    /// `changes`, which the dead letter says, are to be written; the checkpoint stays at
    /// `recorded`.
    pub fn retrying(
        changes: Vec<Change>,
        letter: &LetterEntry,
        recorded: Option<Position>,
    ) -> Attempt {
        let end = recorded.unwrap_or_default();
        let source = ChangeSource::Letter(letter.number, letter.position);
        Attempt { source, ..Attempt::new(changes, Vec::new(), end) }
    }

    /// Whether the changes are kept already, so that the checkpoint does not move.
    pub fn is_of_kept(&self) -> bool {
        self.source != ChangeSource::Stream
    }

    /// Whether the changes are those of a dead letter.
    pub fn is_of_letter(&self) -> bool {
        matches!(self.source, ChangeSource::Letter(..))
    }

    /// The change is not to be written but to be kept as a dead letter.
    pub fn dead_letter(&mut self, index: usize, letter: DeadLetter) {
        self.narrowing.exclude(index);
        self.letters.insert(index, letter);
    }

    /// Only what comes before the change is to be written; then the run ends.
    pub fn end_before(&mut self, index: usize, why: Failure, checkpoint: &CheckpointStore) {
        let index = self.narrowing.end_before(index);
        let is_before = |letter: &DeadLetter| match self.changes.get(index) {
            Some(change) => letter.position.sequence < change.position.sequence,
            None => true,
        };
        let (before, cut) = self.messages.drain(..).partition(is_before);
        (self.messages, self.cut) = (before, cut);
        self.end = checkpoint.end_of(end_of(&self.changes[..index]));
        self.why_stopped = Some(why);
    }

    /// The same for the first of the messages that never became changes.
    pub fn end_before_message(&mut self, why: Failure, checkpoint: &CheckpointStore) {
        let Some(first) = self.messages.first().map(|letter| letter.position.sequence) else {
            return;
        };
        let index = self.changes.partition_point(|change| change.position.sequence < first);
        self.end_before(index, why, checkpoint);
        let cut = std::mem::take(&mut self.messages);
        self.cut.splice(..0, cut);
    }

    /// Whether the run ends once all that is to be written is.
    pub fn is_to_stop(&self) -> bool {
        self.why_stopped.is_some()
    }

    /// Why the run ends now.
    pub fn why_stopped(&mut self) -> Option<Failure> {
        self.why_stopped.take()
    }

    /// When each event of the changes was published, Unix nanoseconds, where that is known.
    pub fn published(&self) -> impl Iterator<Item = i64> {
        let mut last = 0;
        let mut is_first = move |position: &Position| {
            std::mem::replace(&mut last, position.sequence) != position.sequence
        };
        let positions = self.changes.iter().map(|change| change.position);
        positions.filter(move |at| is_first(at) && at.time_ns > 0).map(|at| at.time_ns)
    }

    /// What is not written yet.
    pub fn into_rest(mut self) -> (Vec<Change>, Vec<DeadLetter>) {
        let from = self.narrowing.take().map_or(self.changes.len(), |piece| piece.from);
        let all = self.originals.as_ref().unwrap_or(&self.changes);
        self.messages.append(&mut self.cut);
        (all[from..].to_vec(), self.messages)
    }

    /// What is to be written next; `None` once everything is. What does not fit into one batch
    /// stays to be written. Changes of tables that are held are not written but kept.
    pub fn next(
        &mut self,
        mode: WriteMode,
        checkpoint: &CheckpointStore,
        held: &HeldTables,
        book: &LetterBook,
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
        let recorded = checkpoint.predecessor();
        let through = match self.changes.get(stop) {
            Some(_) if !self.is_of_kept() => checkpoint.end_of(end_of(&self.changes[..stop])),
            _ => self.end,
        };
        let kept = waiting.into_iter().filter(|index| *index < stop).collect();
        let unconfirmed = checkpoint.unconfirmed_through().filter(|_| !self.is_of_letter());
        let batch = Batch::new(self.changes.clone(), groups, order, recorded, through)
            .unconfirmed_through(unconfirmed)
            .holding(self.chunks(kept, held))
            .releasing(self.release_of(from, stop));
        let supersedes = match (mode, self.source) {
            (WriteMode::Append, _) => Supersedes::Nothing,
            (WriteMode::Upsert, ChangeSource::Stream) => Supersedes::All,
            (WriteMode::Upsert, ChangeSource::Held(..) | ChangeSource::Letter(..)) => {
                Supersedes::Earlier
            }
        };
        let (messages, letters) = self.letters_with(&batch, (from, stop), (book, supersedes));
        let (batch, piece) = (Arc::new(batch.with_letters(letters)), Piece { from, to: stop });
        Some(Writable { batch, piece, messages })
    }

    /// What becomes of dead letters with the batch, which is the piece up to `stop`; also how many
    /// of the messages are among them.
    fn letters_with(
        &self,
        batch: &Batch,
        (from, stop): (usize, usize),
        (book, supersedes): (&LetterBook, Supersedes),
    ) -> (usize, LetterChanges) {
        let messages = match self.changes.get(stop) {
            Some(next) => {
                let is_before =
                    |letter: &DeadLetter| letter.position.sequence < next.position.sequence;
                self.messages.iter().take_while(|letter| is_before(letter)).count()
            }
            None => self.messages.len(),
        };
        let mut letters: Vec<(Option<usize>, DeadLetter)> =
            self.letters.range(from..stop).map(|(i, l)| (Some(*i), l.clone())).collect();
        letters.extend(self.messages[..messages].iter().map(|letter| (None, letter.clone())));
        letters.sort_by_key(|(_, letter)| letter.position.sequence);
        let offered =
            batch.offered().filter_map(|i| batch.get(i).map(|change| (i as usize, change)));
        let mut changes = book.changes(letters, offered, supersedes);
        if let ChangeSource::Letter(number, position) = self.source {
            changes.superseded.retain(|(superseded, _)| *superseded != number);
            changes.retried = Some((number, position));
        }
        (messages, changes)
    }

    /// The changes of the piece whose tables are held; those without a schema are of such tables.
    /// What the destination keeps already is not kept once more.
    fn waiting_in(&self, piece: Piece, held: &HeldTables) -> Vec<usize> {
        if held.is_empty() || self.is_of_kept() {
            return Vec::new();
        }
        let is_held = |index: &usize| match &self.changes[*index].schema {
            Some(schema) => held.contains(&schema.table),
            None => held.contains(&self.changes[*index].event.table()),
        };
        self.narrowing.remaining_in(piece).filter(is_held).collect()
    }

    /// The changes at `indices` as chunks, table by table.
    fn chunks(&self, indices: Vec<usize>, held: &HeldTables) -> Vec<HeldChunk> {
        let mut by_table: BTreeMap<Cow<str>, Vec<usize>> = BTreeMap::new();
        for index in indices {
            by_table.entry(self.changes[index].event.table()).or_default().push(index);
        }
        let mut chunks = Vec::new();
        for (table, indices) in by_table {
            let all = self.originals.as_ref().unwrap_or(&self.changes);
            let bodies = held::bodies(all, &indices);
            chunks.extend(held.chunks_of(&table, bodies, chunks.len()));
        }
        chunks
    }

    fn release_of(&self, from: usize, to: usize) -> Option<Release> {
        let ChangeSource::Held(chunk, applied) = self.source else { return None };
        let is_end = to == self.changes.len();
        let (from, to, is_last) = match &self.events {
            None => (from as u64, to as u64, is_end),
            // Events that are no change go with those before them.
            Some(events) => {
                let of = |index: usize| match index {
                    0 => 0,
                    _ => events.of_changes.get(index).copied().unwrap_or(events.count),
                };
                (of(from), if is_end { events.count } else { of(to) }, is_end && events.is_rest)
            }
        };
        Some(Release { chunk, from: applied + from, to: applied + to, is_last })
    }

    /// Whether `next` is all that was left to be written.
    pub fn is_last(&self, next: &Writable) -> bool {
        next.piece.to == self.changes.len() && self.messages.is_empty()
    }

    /// The piece is written: the next one starts afresh.
    pub fn succeeded(&mut self, written: &Writable) {
        self.letters = self.letters.split_off(&written.piece.to);
        self.messages.drain(..written.messages);
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
