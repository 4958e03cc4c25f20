//! Dead letters on the destination's side: where they are kept, room for them, and trying one
//! again.

use std::sync::Arc;

use bytes::Bytes;
use tracing::{info, warn};

use super::attempt::Attempt;
use super::release::Released;
use super::{Applier, ApplyOutcome, WriteAttempt, answered, flushed};
use crate::backoff::Backoff;
use crate::change::batch::LetterChanges;
use crate::change::dead_letter::RejectKind;
use crate::change::{Batch, Change, DeadLetter, NumberedLetter, Position};
use crate::destination::{CheckpointIn, Destination, Failure, FailureKind, KeptLetter, LetterBox};
use crate::help::HelpCode;
use crate::pipeline::dead_letter::{LetterBook, OnRejected, WhenFull};

/// What came of looking for room for dead letters.
pub(super) enum LetterRoom {
    /// Some were dropped.
    Made,
    /// A person has to retry or drop some.
    Wanting,
    /// The destination is not where it was left.
    Rewound(Option<Position>),
}

/// What came of trying a dead letter again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum LetterOutcome {
    /// It is applied, and kept no longer.
    Applied,
    /// It is refused again; why.
    Refused(String),
    /// Its table is held: it is to be tried when it can be written.
    TableHeld,
    /// It could not be written now, though others can; why.
    NotNow(String),
}

impl Applier {
    /// Whether dead letters are kept.
    pub fn has_letters(&self) -> bool {
        !self.book.is_empty()
    }

    /// Where dead letters are kept; `None` where nothing is written.
    fn letter_box(&mut self) -> Result<Option<&mut dyn LetterBox>, Failure> {
        match self.options.abilities.checkpoint_in {
            CheckpointIn::Destination => Ok(self.link.get()?.destination.letter_box()),
            CheckpointIn::StateFile => Ok(Some(&mut self.state_letters)),
        }
    }

    /// Reads which letters are kept, through a connection that is not the link yet.
    pub(super) async fn read_book(
        &mut self,
        destination: &mut dyn Destination,
    ) -> Result<(), Failure> {
        let consumer = &*self.options.consumer;
        let kept: Option<&mut dyn LetterBox> = match self.options.abilities.checkpoint_in {
            CheckpointIn::Destination => destination.letter_box(),
            CheckpointIn::StateFile => Some(&mut self.state_letters),
        };
        if let Some(kept) = kept {
            self.book = LetterBook::of(kept.entries(consumer).await?);
            self.report_letters();
        }
        Ok(())
    }

    /// The same through the link.
    pub(super) async fn read_book_again(&mut self) -> Result<(), Failure> {
        let consumer = self.options.consumer.clone();
        let Some(kept) = self.letter_box()? else { return Ok(()) };
        let entries = kept.entries(&consumer).await?;
        self.book = LetterBook::of(entries);
        self.report_letters();
        Ok(())
    }

    fn report_letters(&self) {
        self.progress.letters(self.book.waiting() as u64, self.book.bytes());
    }

    /// Where the state file keeps letters: before the batch is written, as what it makes dead
    /// letters of is never offered again. Repeating it does nothing.
    pub(super) fn save_letters(&self, batch: &Batch) -> Result<(), Failure> {
        let changes = LetterChanges { retried: None, ..batch.letters.clone() };
        self.state_letters.change(&self.options, &changes)
    }

    /// Where the state file keeps letters: writes the batch, unless it is a letter that an earlier
    /// try has written and could not forget.
    pub(super) async fn write_with_state(&mut self, batch: &Arc<Batch>) -> Result<(), Failure> {
        let retried = batch.letters.retried;
        if retried.is_none_or(|(number, _)| !self.unforgotten.contains(&number)) {
            let destination = &mut self.link.get()?.destination;
            flushed(&self.progress, destination.apply(batch)).await?;
        }
        let Some((number, _)) = retried else { return Ok(()) };
        self.unforgotten.insert(number);
        let changes = LetterChanges { retried, ..LetterChanges::default() };
        self.state_letters.change(&self.options, &changes)?;
        self.unforgotten.remove(&number);
        Ok(())
    }

    /// What the batch makes of letters is durable.
    pub(super) fn letters_committed(&mut self, changes: &LetterChanges) {
        if changes.is_empty() {
            return;
        }
        self.tell_of(&changes.added);
        self.book.committed(changes);
        self.report_letters();
    }

    /// What the book has of the letters that the batch was to make.
    pub(super) fn letters_found(&mut self, changes: &LetterChanges) {
        let is_there = |made: &&NumberedLetter| {
            let kept = self.book.of_use(made.number);
            kept.is_some_and(|kept| kept.position == made.letter.position)
        };
        let there: Vec<NumberedLetter> = changes.added.iter().filter(is_there).cloned().collect();
        self.tell_of(&there);
    }

    fn tell_of(&self, made: &[NumberedLetter]) {
        for numbered in made {
            let DeadLetter { table, kind, reason, subject, position, .. } = &numbered.letter;
            warn!(
                subject,
                sequence = position.sequence,
                letter = numbered.number,
                "dead letter ({}): {}",
                kind.as_str(),
                kind.help().tag(reason)
            );
            self.progress.dead_letter(table, *kind, reason);
        }
    }

    /// Why the run ends before the letter, where the user wants that.
    pub(super) fn why_stop(&self, letter: &DeadLetter) -> Option<Failure> {
        (self.options.letters.on_rejected == OnRejected::Stop).then(|| {
            Failure::misconfigured(format!(
                "a change cannot be applied, and --on-rejected stop ends the run before it: {} \
                 (subject {}, sequence {}); it is read again at the next start",
                letter.reason, letter.subject, letter.position.sequence
            ))
        })
    }

    /// Drops letters that are of no more use, or as the user has chosen. Fails to where a person
    /// has to make room: the batch waits.
    pub(super) async fn make_letter_room(&mut self) -> Result<LetterRoom, Failure> {
        let numbers = self.book.to_drop(self.options.letters.when_full);
        let before = self.book.len();
        // A person may have dropped some.
        let changed = match numbers.is_empty() {
            true => self.read_book_again().await,
            false => self.drop_letters(&numbers).await,
        };
        match changed {
            Ok(()) if self.book.len() < before => Ok(LetterRoom::Made),
            Ok(()) => {
                self.report_full_letters();
                Ok(LetterRoom::Wanting)
            }
            Err(failure) => {
                self.progress.failed(&failure);
                self.progress.retries(&failure);
                let found = self.reconnect(&mut Backoff::default()).await?;
                Ok(match self.compared(found) {
                    Released::Rewound(position) => LetterRoom::Rewound(position),
                    Released::Tried | Released::Nothing | Released::Events(..) => LetterRoom::Made,
                })
            }
        }
    }

    fn report_full_letters(&mut self) {
        let why = format!(
            "{} dead letters of {} bytes are kept, and no more than {} of {} bytes may be: the \
             stream waits until some are retried or dropped with `eds dlq`",
            self.book.len(),
            self.book.bytes(),
            self.options.letters.limits.letters_max,
            self.options.letters.limits.bytes_max,
        );
        let why = HelpCode::LettersFull.tag(&why);
        if !self.is_full_of_letters {
            warn!("{why}");
        }
        self.is_full_of_letters = true;
        self.progress.blocked(&why);
    }

    async fn drop_letters(&mut self, numbers: &[u64]) -> Result<(), Failure> {
        let consumer = self.options.consumer.clone();
        if let Some(kept) = self.letter_box()? {
            kept.drop_letters(&consumer, numbers).await?;
        }
        let (first, last) = (numbers.first().copied(), numbers.last().copied());
        let which = match self.options.letters.when_full {
            WhenFull::Wait => "which later changes of their rows had superseded",
            WhenFull::DropOldest => "the oldest, as --dead-letters-full drop-oldest says",
        };
        warn!(
            "{} dead letters from {} to {} are dropped to make room, {which}",
            numbers.len(),
            first.unwrap_or_default(),
            last.unwrap_or_default()
        );
        numbers.iter().for_each(|number| self.book.remove(*number));
        self.report_letters();
        Ok(())
    }

    /// Reads a letter that is to be tried again.
    pub async fn read_letter(&mut self, number: u64) -> Result<ApplyOutcome, Failure> {
        let (consumer, progress) = (self.options.consumer.clone(), self.progress.clone());
        let read = match self.letter_box() {
            Ok(Some(kept)) => answered(&progress, kept.letter(&consumer, number)).await,
            Ok(None) => Ok(None),
            Err(failure) => Err(failure),
        };
        match read {
            Ok(letter) => {
                if letter.is_none() {
                    self.book.remove(number);
                }
                Ok(ApplyOutcome::Letter(number, letter.map(Box::new)))
            }
            Err(failure) if failure.kind == FailureKind::Misconfigured => {
                Ok(ApplyOutcome::Retried(number, LetterOutcome::Refused(failure.text)))
            }
            Err(failure) => self.letter_failed(failure).await,
        }
    }

    /// All letters of this consumer whose schema was not known.
    pub async fn list_letters(&mut self) -> Result<ApplyOutcome, Failure> {
        let (consumer, progress) = (self.options.consumer.clone(), self.progress.clone());
        let kind = RejectKind::UnknownSchema;
        let read = match self.letter_box() {
            Ok(Some(kept)) => answered(&progress, kept.of_kind(&consumer, kind)).await,
            Ok(None) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        };
        match read {
            Ok(letters) => Ok(ApplyOutcome::Letters(letters)),
            Err(failure) => self.letter_failed(failure).await,
        }
    }

    async fn letter_failed(&mut self, failure: Failure) -> Result<ApplyOutcome, Failure> {
        warn!("dead letters cannot be read: {failure}; trying again");
        self.progress.failed(&failure);
        self.progress.retries(&failure);
        let found = self.reconnect(&mut Backoff::default()).await?;
        Ok(match self.compared(found) {
            Released::Rewound(position) => ApplyOutcome::DestinationRewound(position),
            Released::Tried | Released::Nothing | Released::Events(..) => ApplyOutcome::Released,
        })
    }

    /// Applies what the letter says, if it is still of use.
    pub async fn retry(&mut self, letter: ReadyLetter) -> Result<ApplyOutcome, Failure> {
        let ReadyLetter { number, position, changes } = letter;
        let tried = |outcome| Ok(ApplyOutcome::Retried(number, outcome));
        let Some(entry) = self.book.of_use(number).filter(|entry| entry.position == position)
        else {
            let why = "superseded: a later change of its row was applied meanwhile";
            return tried(LetterOutcome::Refused(why.to_owned()));
        };
        let entry = *entry;
        let schema = changes.first().and_then(|change| change.schema.clone());
        let table = schema.map(|schema| schema.table.to_string()).unwrap_or_default();
        if self.held.contains(&table) {
            return tried(LetterOutcome::TableHeld);
        }
        let (changes, _) = self.fit(changes).await;
        let mut attempt = Attempt::retrying(changes, &entry, self.checkpoint.recorded());
        let mode = self.options.abilities.write_mode;
        while let Some(next) = attempt.next(mode, &self.checkpoint, &self.held, &self.book) {
            match self.try_once(&mut attempt, &next).await? {
                done @ (WriteAttempt::Done | WriteAttempt::Found) => {
                    attempt.succeeded(&next);
                    self.done(&next.batch, &done);
                }
                WriteAttempt::Again | WriteAttempt::NoRoom => {}
                WriteAttempt::Refused(why) => return tried(LetterOutcome::Refused(why)),
                WriteAttempt::NotNow(why) => return tried(LetterOutcome::NotNow(why)),
                // The connection was replaced: whether it is applied is looked up.
                WriteAttempt::Abandoned => return Ok(ApplyOutcome::Released),
                WriteAttempt::DestinationRewound(position) => {
                    return Ok(ApplyOutcome::DestinationRewound(position));
                }
            }
        }
        info!("dead letter {number} of table {table:?} is applied");
        tried(LetterOutcome::Applied)
    }
}

/// A letter with its payload.
pub type WholeLetter = (KeptLetter, Bytes);

/// A letter that is to be tried again, as it was when it was read.
#[derive(Clone, Debug)]
pub struct ReadyLetter {
    /// Its number.
    pub number: u64,
    /// Where it is in the stream.
    pub position: Position,
    /// What it says.
    pub changes: Vec<Change>,
}
