//! Dead letters that are tried again: those that a person has ordered, and those whose schema has
//! become known.

use std::collections::{HashMap, HashSet, VecDeque};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::change::dead_letter::RejectKind;
use crate::change::{Change, EventPart};
use crate::destination::KeptLetter;
use crate::pipeline::apply::{LetterOutcome, WholeLetter};
use crate::state::State;

/// Between two looks for orders.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// Between two tries of a letter whose table cannot be written now.
const HELD_INTERVAL: Duration = Duration::from_secs(2);

/// What is to be done about letters next.
#[derive(Debug)]
pub enum RetryStep {
    /// All of them are listed, to find those whose schema is known.
    List,
    /// This one is read.
    Read(u64),
    /// What this one says is applied.
    Apply(u64, Vec<Change>),
}

/// What a letter is that is tried again.
pub enum LetterStep {
    /// It is to be applied.
    Apply(Vec<Change>),
    /// It cannot be, or need not be; why.
    Refused(String),
    /// Its schema is being asked for.
    Later,
}

/// The letters that are to be tried again, in the order of their numbers.
pub struct Retries {
    state: State,
    consumer: String,
    queue: VecDeque<u64>,
    ready: Option<(u64, Vec<Change>)>,
    /// Letters whose schema was asked for since they were ordered.
    asked: HashSet<u64>,
    /// Letters whose table cannot be written, and when they are tried again.
    postponed: HashMap<u64, Instant>,
    /// A schema has become known.
    list: bool,
    look_at: Instant,
    /// The last thing that was done was a retry: a batch is next, if there is one.
    was_turn: bool,
}

impl Retries {
    /// Nothing is to be tried yet. `has_letters`: some are kept from before, whose schema may be
    /// known now.
    pub fn new(state: State, consumer: &str, has_letters: bool) -> Retries {
        Retries {
            state,
            consumer: consumer.to_owned(),
            queue: VecDeque::new(),
            ready: None,
            asked: HashSet::new(),
            postponed: HashMap::new(),
            list: has_letters,
            look_at: Instant::now(),
            was_turn: false,
        }
    }

    /// Whether anything is to be tried.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.ready.is_none() && !self.list
    }

    /// When to look for orders, where letters are kept.
    pub fn due(&self, has_letters: bool) -> Option<Instant> {
        has_letters.then_some(self.look_at)
    }

    /// Looks for orders, if it is time.
    pub fn look(&mut self, has_letters: bool) {
        if !has_letters || self.look_at > Instant::now() {
            return;
        }
        self.look_at = Instant::now() + LOOK_INTERVAL;
        let orders = match self.state.letter_orders() {
            Ok(orders) => orders,
            Err(e) => {
                warn!("orders to retry dead letters cannot be read: {e}");
                return;
            }
        };
        let ours = orders.iter().filter(|o| o.consumer == self.consumer && o.outcome.is_none());
        let now = Instant::now();
        self.postponed.retain(|_, until| *until > now);
        for order in ours {
            let is_postponed = self.postponed.contains_key(&order.letter);
            if !is_postponed && !self.queue.contains(&order.letter) {
                self.queue.push_back(order.letter);
            }
        }
    }

    /// A schema has become known: its letters are looked for.
    pub fn schema_known(&mut self) {
        self.list = true;
    }

    /// What is to be done next. `is_busy`: changes of the stream wait, too, so both take turns.
    pub fn next(&mut self, is_busy: bool) -> Option<RetryStep> {
        if self.is_empty() || (is_busy && self.was_turn) {
            self.was_turn = false;
            return None;
        }
        self.was_turn = true;
        if let Some((number, changes)) = self.ready.take() {
            return Some(RetryStep::Apply(number, changes));
        }
        if std::mem::take(&mut self.list) {
            return Some(RetryStep::List);
        }
        self.queue.pop_front().map(RetryStep::Read)
    }

    /// All letters that are kept; those whose schema `is_known` are tried.
    pub fn listed(&mut self, letters: &[KeptLetter], is_known: impl Fn(&str, &str) -> bool) {
        let ready = letters.iter().filter(|letter| {
            letter.label.kind == RejectKind::UnknownSchema
                && letter.superseded_by.is_none()
                && is_known(&letter.label.table, &letter.label.model_version)
        });
        let before = self.queue.len();
        self.queue.extend(ready.map(|letter| letter.label.letter));
        if self.queue.len() > before {
            info!(
                "the schemas of {} dead letters are known now: they are tried again",
                self.queue.len() - before
            );
        }
    }

    /// The letter was read; `None` where it is not kept any more. `resolve` says what it is, and
    /// may ask for its schema once.
    pub fn read(
        &mut self,
        number: u64,
        letter: Option<Box<WholeLetter>>,
        resolve: impl FnOnce(&WholeLetter, bool) -> LetterStep,
    ) {
        let Some(letter) = letter else {
            return self.finish(number, "it is not kept any more: it was applied or dropped");
        };
        if let Some(sequence) = letter.0.superseded_by {
            let why = format!(
                "superseded: the change at sequence {sequence} of the same row was applied"
            );
            return self.finish(number, &why);
        }
        if letter.0.label.kind == RejectKind::Malformed {
            let why = "the message does not say which row it is about, so nobody can know whether \
                       that row has changed since";
            return self.finish(number, why);
        }
        let may_ask = self.asked.insert(number);
        match resolve(&letter, may_ask) {
            LetterStep::Apply(changes) => self.ready = Some((number, changes)),
            LetterStep::Refused(why) => self.finish(number, &why),
            // It is ordered on, and read again with the next look.
            LetterStep::Later => {}
        }
    }

    /// The letter was tried.
    pub fn tried(&mut self, number: u64, outcome: &LetterOutcome) {
        match outcome {
            LetterOutcome::Applied => self.finish(number, "applied"),
            LetterOutcome::Refused(why) => self.finish(number, why),
            LetterOutcome::TableHeld => {
                self.postponed.insert(number, Instant::now() + HELD_INTERVAL);
            }
        }
    }

    fn finish(&mut self, number: u64, outcome: &str) {
        self.asked.remove(&number);
        if outcome != "applied" {
            warn!("dead letter {number} was not applied: {outcome}");
        }
        if let Err(e) = self.state.finish_letter_order(&self.consumer, number, outcome) {
            warn!("what came of dead letter {number} cannot be saved: {e}");
        }
    }
}

/// The part of an event's changes that the letter is about.
pub fn part_of(changes: Vec<Change>, part: EventPart) -> Vec<Change> {
    let is_part = |change: &Change| part == EventPart::Both || EventPart::of(change) == part;
    changes.into_iter().filter(is_part).collect()
}
