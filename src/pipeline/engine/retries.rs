//! Dead letters that are tried again: those that a person has ordered, and those whose schema has
//! become known.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use tokio::time::Instant;
use tracing::{info, warn};

use crate::change::dead_letter::LetterLabel;
use crate::change::{Change, EventPart};
use crate::pipeline::apply::{LetterOutcome, ReadyLetter, WholeLetter};
use crate::state::State;

/// Between two looks for orders.
const LOOK_INTERVAL: Duration = Duration::from_secs(1);
/// After this a letter that could not be tried is tried again; then after twice as long each time,
/// up to [`TRY_INTERVAL_MAX`].
const TRY_INTERVAL_MIN: Duration = Duration::from_secs(2);
const TRY_INTERVAL_MAX: Duration = Duration::from_secs(60);
/// A letter that could not even be tried so often is given up: the connection breaks each time.
const TRIES_MAX: u32 = 10;

/// What came of a letter that is applied.
const APPLIED: &str = "applied";

/// What is to be done about letters next.
#[derive(Debug)]
pub enum RetryStep {
    /// Those whose schema was not known are listed.
    List,
    /// This one is read.
    Read(u64),
    /// What this one says is applied.
    Apply(ReadyLetter),
}

/// What a letter is that is tried again.
pub enum LetterStep {
    /// It is to be applied.
    Apply(Vec<Change>),
    /// It cannot be, or need not be; why.
    Refused(String),
    /// Its schema is asked for; `is_asked`: about this one, else about another before.
    Later {
        /// Whether its own schema is asked for.
        is_asked: bool,
    },
}

/// The letters that are to be tried again, in the order of their numbers.
pub struct Retries {
    state: State,
    consumer: String,
    /// To be read next.
    queue: BTreeSet<u64>,
    /// Read, and to be applied next.
    ready: Option<ReadyLetter>,
    /// Given to the applier.
    in_flight: Option<u64>,
    /// By number: the sequence that whoever ordered it saw.
    ordered: BTreeMap<u64, u64>,
    /// Those whose schema has become known, until they are done.
    known_again: BTreeSet<u64>,
    /// Tables and versions that were asked for since letters were ordered last.
    asked: BTreeSet<(String, String)>,
    /// What came of letters that could not be saved yet.
    unsaved: BTreeMap<u64, String>,
    /// Letters that may be applied, as the answer was lost.
    maybe_applied: BTreeSet<u64>,
    /// The letter that was given to the applier is to be applied, not only read.
    is_applying: bool,
    /// They are being listed.
    is_listing: bool,
    /// Those that could not be tried: how often, and when they are tried again.
    postponed: HashMap<u64, (u32, Instant)>,
    /// A schema has become known.
    list: bool,
    look_at: Instant,
    /// The last thing that was done was a retry: something else is next, if there is any.
    was_turn: bool,
    /// Those that could not be tried were tried once more, as nothing else is left to do.
    is_at_end: bool,
}

impl Retries {
    /// Nothing is to be tried yet. `has_letters`: some are kept from before, whose schema may be
    /// known now.
    pub fn new(state: State, consumer: &str, has_letters: bool) -> Retries {
        Retries {
            state,
            consumer: consumer.to_owned(),
            queue: BTreeSet::new(),
            ready: None,
            in_flight: None,
            ordered: BTreeMap::new(),
            known_again: BTreeSet::new(),
            asked: BTreeSet::new(),
            unsaved: BTreeMap::new(),
            maybe_applied: BTreeSet::new(),
            is_applying: false,
            is_listing: false,
            postponed: HashMap::new(),
            list: has_letters,
            look_at: Instant::now(),
            was_turn: false,
            is_at_end: false,
        }
    }

    /// Whether anything is to be tried.
    pub fn is_empty(&self) -> bool {
        self.queue.is_empty() && self.ready.is_none() && (!self.list || self.is_listing)
    }

    /// When to look for orders: where letters are kept, or some were ordered.
    pub fn due(&self, has_letters: bool) -> Option<Instant> {
        (has_letters || !self.ordered.is_empty()).then_some(self.look_at)
    }

    /// Looks for orders, if it is time.
    pub fn look(&mut self) {
        let now = Instant::now();
        if self.look_at > now {
            return;
        }
        self.look_at = now + LOOK_INTERVAL;
        self.save_outcomes();
        match self.state.letter_orders() {
            Ok(orders) => {
                if self.ordered.is_empty() {
                    self.asked.clear();
                }
                let ours =
                    orders.iter().filter(|o| o.consumer == self.consumer && o.outcome.is_none());
                self.ordered = ours.map(|order| (order.letter, order.sequence)).collect();
            }
            Err(e) => warn!("orders to retry dead letters cannot be read: {e}"),
        }
        let busy = self.ready.as_ref().map(|ready| ready.number).or(self.in_flight);
        let is_due = |number: &&u64| {
            busy != Some(**number)
                && !self.unsaved.contains_key(number)
                && self.postponed.get(number).is_none_or(|(_, until)| *until <= now)
        };
        let wanted = self.ordered.keys().chain(&self.known_again);
        let due: Vec<u64> = wanted.filter(is_due).copied().collect();
        self.queue.extend(due);
    }

    /// A schema has become known: its letters are looked for.
    pub fn schema_known(&mut self) {
        self.list = true;
    }

    /// The destination is not where it was left: its letters may be others.
    pub fn forget(&mut self) {
        (self.ready, self.in_flight, self.is_listing) = (None, None, false);
        self.maybe_applied.clear();
        self.queue.clear();
        self.known_again.clear();
        self.list = true;
    }

    /// What is to be done next. `is_busy`: something else is to be done, too, so both take turns.
    pub fn next(&mut self, is_busy: bool) -> Option<RetryStep> {
        self.in_flight = None;
        if self.is_empty() || (is_busy && self.was_turn) {
            self.was_turn = false;
            return None;
        }
        self.was_turn = true;
        self.is_applying = self.ready.is_some();
        if let Some(ready) = self.ready.take() {
            self.in_flight = Some(ready.number);
            return Some(RetryStep::Apply(ready));
        }
        if self.list && !self.is_listing {
            self.is_listing = true;
            return Some(RetryStep::List);
        }
        self.in_flight = self.queue.pop_first();
        self.in_flight.map(RetryStep::Read)
    }

    /// Nothing else is left to do: what could not be tried is tried once more, whatever its time.
    pub fn at_end(&mut self) -> Option<RetryStep> {
        if !std::mem::replace(&mut self.is_at_end, true) {
            let wanted = |number: &&u64| {
                self.ordered.contains_key(number) || self.known_again.contains(number)
            };
            self.queue.extend(self.postponed.keys().filter(wanted));
        }
        self.next(false)
    }

    /// The letters whose schema was not known; those of which it `is_known` now are tried.
    pub fn listed(&mut self, letters: &[LetterLabel], is_known: impl Fn(&str, &str) -> bool) {
        (self.list, self.is_listing) = (false, false);
        let is_ready = |label: &&LetterLabel| is_known(&label.table, &label.model_version);
        let ready: Vec<u64> = letters.iter().filter(is_ready).map(|l| l.letter).collect();
        if !ready.is_empty() {
            info!(
                "the schemas of {} dead letters are known now: they are tried again",
                ready.len()
            );
        }
        self.queue.extend(&ready);
        self.known_again.extend(ready);
    }

    /// The letter was read; `None` where it is not kept any more. `resolve` says what it is, and
    /// may ask for its schema once.
    pub fn read(
        &mut self,
        number: u64,
        letter: Option<Box<WholeLetter>>,
        resolve: impl FnOnce(&WholeLetter, bool) -> LetterStep,
    ) {
        self.in_flight = None;
        let ordered = self.ordered.get(&number).copied();
        let is_same = |letter: &WholeLetter| {
            ordered.is_none_or(|sequence| sequence == letter.0.label.sequence)
        };
        let Some(letter) = letter.filter(|letter| is_same(letter)) else {
            let outcome = match self.maybe_applied.contains(&number) {
                true => APPLIED,
                false => "it is not kept any more: it was applied or dropped",
            };
            return self.finish(number, outcome);
        };
        if let Some(sequence) = letter.0.superseded_by {
            let why = format!(
                "superseded: the change at sequence {sequence} of the same row was applied"
            );
            return self.finish(number, &why);
        }
        if !letter.0.label.may_be_tried() {
            let why = "the message does not say which row it is about, so nobody can know whether \
                       that row has changed since";
            return self.finish(number, why);
        }
        let LetterLabel { table, model_version, .. } = &letter.0.label;
        let schema = (table.clone(), model_version.clone());
        match resolve(&letter, !self.asked.contains(&schema)) {
            LetterStep::Apply(changes) => {
                let position = letter.0.label.position();
                self.ready = Some(ReadyLetter { number, position, changes });
            }
            LetterStep::Refused(why) => self.finish(number, &why),
            LetterStep::Later { is_asked } => {
                if is_asked {
                    self.asked.insert(schema);
                }
                self.postpone(number);
            }
        }
    }

    /// The letter was tried.
    pub fn tried(&mut self, number: u64, outcome: &LetterOutcome) {
        self.in_flight = None;
        match outcome {
            LetterOutcome::Applied => self.finish(number, APPLIED),
            LetterOutcome::Refused(why) => self.finish(number, why),
            LetterOutcome::TableHeld => self.postpone(number),
            LetterOutcome::NotNow(why) => self.postpone_or(number, why),
        }
    }

    /// What was given to the applier could not be tried.
    pub fn not_tried(&mut self) {
        self.is_listing = false;
        let Some(number) = self.in_flight.take() else { return };
        if self.is_applying {
            self.maybe_applied.insert(number);
        }
        self.postpone_or(number, "the connection to the destination breaks at each try");
    }

    /// Gives the letter up where it was tried too often.
    fn postpone_or(&mut self, number: u64, why: &str) {
        match self.postponed.get(&number).is_some_and(|(tries, _)| *tries >= TRIES_MAX) {
            true => self.finish(number, why),
            false => self.postpone(number),
        }
    }

    fn postpone(&mut self, number: u64) {
        let tries = self.postponed.get(&number).map_or(0, |(tries, _)| *tries) + 1;
        let wait = TRY_INTERVAL_MIN * 2_u32.pow(tries.min(6) - 1);
        self.postponed.insert(number, (tries, Instant::now() + wait.min(TRY_INTERVAL_MAX)));
        self.known_again.insert(number);
    }

    fn finish(&mut self, number: u64, outcome: &str) {
        self.maybe_applied.remove(&number);
        self.known_again.remove(&number);
        self.postponed.remove(&number);
        self.ordered.remove(&number);
        if outcome != APPLIED {
            warn!("dead letter {number} was not applied: {outcome}");
        }
        self.unsaved.insert(number, outcome.to_owned());
        self.save_outcomes();
    }

    /// Saves what came of letters, for whoever ordered them.
    fn save_outcomes(&mut self) {
        while let Some((number, outcome)) = self.unsaved.first_key_value() {
            let saved = self.state.finish_letter_order(&self.consumer, *number, outcome);
            if let Err(e) = saved {
                warn!("what came of dead letters cannot be saved: {e}");
                return;
            }
            self.unsaved.pop_first();
        }
    }
}

/// The part of an event's changes that the letter is about.
pub fn part_of(changes: Vec<Change>, part: EventPart) -> Vec<Change> {
    let is_part = |change: &Change| part == EventPart::Both || EventPart::of(change) == part;
    changes.into_iter().filter(is_part).collect()
}
