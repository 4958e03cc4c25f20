//! What came from the feed and is not with the destination yet. It follows what is durable without
//! a gap.

use std::collections::{HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use super::positions::Positions;
use super::questions::Questions;
use super::retries::{LetterStep, part_of};
use crate::backoff::{Backoff, Waits};
use crate::change::dead_letter::RejectKind;
use crate::change::held::HeldEvent;
use crate::change::{EventPart, Position};
use crate::destination::KeptChunk;
use crate::feed::Delivery;
use crate::pipeline::apply::{EventsOfChunk, ReadyEvents, WholeLetter};
use crate::pipeline::batcher::{Batcher, PendingBatch};
use crate::pipeline::progress::{PassedEvents, Progress};
use crate::pipeline::resolve::{Pass, Resolved, Resolver};
use crate::registry::Registry;

/// The waits between two tries of a batch for whose dead letters there is no room.
const ROOM_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// Makes pending changes of deliveries.
pub struct Intake {
    /// Delivered, not yet resolved.
    arrived: VecDeque<Delivery>,
    questions: Questions,
    /// Resolved.
    batcher: Batcher,
    /// It came back, as there was no room for its dead letters; when it is tried again.
    put_back: Option<(PendingBatch, Instant)>,
    room_backoff: Backoff,
    /// How deliveries are resolved.
    pub resolver: Resolver,
    registry: Registry,
    /// The destination can keep changes as they come.
    may_keep_events: bool,
    /// Events for which nothing was to be done, not told yet.
    passed: PassedEvents,
    progress: Arc<Progress>,
}

impl Intake {
    /// Nothing has come yet.
    pub fn new(
        resolver: Resolver,
        batcher: Batcher,
        registry: Registry,
        progress: Arc<Progress>,
    ) -> Intake {
        let may_keep_events = resolver.may_keep_events();
        Intake {
            arrived: VecDeque::new(),
            questions: Questions::default(),
            batcher,
            put_back: None,
            room_backoff: Backoff::new(ROOM_WAITS),
            resolver,
            registry,
            may_keep_events,
            passed: PassedEvents::default(),
            progress,
        }
    }

    /// Takes deliveries over.
    pub fn receive(&mut self, deliveries: &mut Vec<Delivery>) {
        self.arrived.extend(deliveries.drain(..));
    }

    /// Whether there is room for more deliveries.
    pub fn has_room(&self) -> bool {
        self.arrived.is_empty() && !self.questions.is_waited() && !self.batcher.is_full()
    }

    /// Whether nothing waits for the destination.
    pub fn is_empty(&self) -> bool {
        self.batcher.is_empty() && self.arrived.is_empty() && self.put_back.is_none()
    }

    /// Whether as much is pending as one batch may have, and nothing else waits before it.
    pub fn is_full(&self) -> bool {
        self.batcher.is_full() && self.put_back.is_none() && self.resolver.unresolved.is_empty()
    }

    /// When the free destination may take what is pending.
    pub fn due(&self) -> Option<Instant> {
        match &self.put_back {
            Some((_, due)) => Some(*due),
            None => self.batcher.due(),
        }
    }

    /// There was no room for its dead letters: it is tried again a little later.
    pub fn put_back(&mut self, pending: PendingBatch) {
        self.put_back = Some((pending, Instant::now() + self.room_backoff.next("letters")));
    }

    /// There may be room again for what a batch leaves: dead letters, and changes that wait.
    pub fn room_was_made(&mut self) {
        self.room_backoff = Backoff::new(ROOM_WAITS);
        if let Some((_, due)) = &mut self.put_back {
            *due = Instant::now();
        }
    }

    /// What is pending, if it is due; `is_last`: whenever it is. A batch that has to end where it
    /// once ended, and has not come that far, is never due.
    pub fn take(&mut self, is_last: bool) -> Option<PendingBatch> {
        if let Some((_, due)) = &self.put_back {
            let is_due = *due <= Instant::now();
            return self.put_back.take_if(|_| is_due).map(|(pending, _)| pending);
        }
        match self.batcher.due() {
            Some(due) if is_last || due <= Instant::now() => self.batcher.take(),
            _ => None,
        }
    }

    /// Forgets everything: it comes again.
    pub fn clear(&mut self) {
        self.arrived.clear();
        self.questions.forget_waited();
        self.put_back = None;
        self.batcher.take();
        self.resolver.unresolved.values_mut().for_each(|last| *last = 0);
    }

    /// Nothing more is received. Keeps what can be written; a batch that has to end where it once
    /// ended, and has not come that far, comes again.
    pub fn stop(&mut self) {
        if self.put_back.is_some() {
            return self.clear();
        }
        self.arrived.clear();
        self.questions.forget_waited();
        if self.batcher.due().is_none() {
            self.batcher.take();
        }
    }

    /// The next batch has to end at `boundary`.
    pub fn replay_to(&mut self, boundary: Option<Position>) {
        self.batcher.replay_to(boundary);
    }

    /// Resolves what has arrived, as long as there is room and every schema is at hand.
    /// `is_caught_up`: nothing more is expected.
    pub fn absorb(&mut self, is_caught_up: bool, positions: &mut Positions) {
        self.resolve_arrived(is_caught_up, positions);
        self.tell_passed();
    }

    fn resolve_arrived(&mut self, is_caught_up: bool, positions: &mut Positions) {
        let now = Instant::now();
        while !self.questions.is_waited() && !self.batcher.is_full() {
            let Some(delivery) = self.arrived.pop_front() else {
                if is_caught_up {
                    self.batcher.end_here();
                }
                return;
            };
            if self.batcher.ends_before(delivery.position) {
                self.arrived.push_front(delivery);
                return;
            }
            let resolved = self.resolver.resolve(&delivery, &mut self.registry);
            if !matches!(resolved, Resolved::Wanted { .. }) {
                positions.recent_reached(Some(delivery.position));
            }
            match resolved {
                Resolved::Change(change) => self.batcher.change(change, now),
                Resolved::Moved(moved) => self.batcher.moved(*moved, now),
                Resolved::DeadLetters(dead_letters) => {
                    self.batcher.dead_letters(dead_letters, now);
                    self.questions.recheck(&mut self.registry);
                }
                Resolved::Passed(pass) => {
                    match pass {
                        Pass::Seen => positions.saw(delivery.position),
                        Pass::Stale | Pass::Filtered | Pass::Imported => {
                            self.batcher.passed(delivery.position, now);
                        }
                    }
                    self.count(pass);
                }
                Resolved::Wanted { table, version } => {
                    self.arrived.push_front(delivery);
                    self.want(table, version);
                }
            }
        }
    }

    /// Counts the event that was resolved last; told once for all that were.
    fn count(&mut self, pass: Pass) {
        let table = self.resolver.table();
        match pass {
            Pass::Seen => self.passed.seen += 1,
            Pass::Stale => self.passed.count(table, |of| of.stale += 1),
            Pass::Filtered => self.passed.count(table, |of| of.filtered += 1),
            Pass::Imported => self.passed.count(table, |of| of.imported += 1),
        }
    }

    fn tell_passed(&mut self) {
        if !self.passed.is_empty() {
            self.progress.passed(&mut self.passed);
        }
    }

    /// The first of what has arrived needs this schema. It waits for it; not, where its table's
    /// changes can be kept as they come, and others wait for an answer already.
    fn want(&mut self, table: String, version: String) {
        if self.may_keep_events && self.questions.has_unwaited() {
            self.resolver.unresolved.insert(table.clone(), 0);
            return self.questions.ask((table, version), &self.registry);
        }
        self.progress
            .asks(&format!("asking for the schema of table {table:?}, version {version:?}"));
        self.questions.wait_for((table, version), &self.registry);
    }

    /// When what has arrived has waited long enough for a schema: the changes of its table are then
    /// kept as they come.
    pub fn keep_events_at(&self) -> Option<Instant> {
        self.questions.waited_until().filter(|_| self.may_keep_events)
    }

    /// What has arrived waits for no schema any more.
    pub fn keep_events(&mut self) {
        if let Some(table) = self.questions.stop_waiting() {
            self.resolver.unresolved.insert(table, 0);
        }
    }

    /// Whether the schema of kept events is being asked for.
    pub fn is_asking(&self) -> bool {
        self.questions.has_unwaited()
    }

    /// What the events of a chunk are, as far as their schemas are known, for a destination at
    /// `durable`; `None` where that of the first is not, which is asked for. `stops`: the run ends
    /// before the first dead letter.
    pub fn resolve_events(
        &mut self,
        (chunk, events): (KeptChunk, Vec<HeldEvent>),
        durable: Option<Position>,
        stops: bool,
    ) -> Option<ReadyEvents> {
        let (mut changes, mut letters) = (Vec::new(), Vec::new());
        let mut numbers = EventsOfChunk { is_rest: true, ..EventsOfChunk::default() };
        let applied = usize::try_from(chunk.applied).unwrap_or(usize::MAX);
        let table = &*chunk.label.table;
        for event in events.into_iter().skip(applied) {
            let HeldEvent { subject, position, payload } = event;
            let delivery = Delivery::of_event(position, subject, payload);
            match self.resolver.resolve_kept((table, &delivery), durable, &mut self.registry) {
                Resolved::Change(change) => changes.push(change),
                Resolved::Moved(moved) => changes.extend([moved.left, moved.change]),
                Resolved::DeadLetters(_) if stops && numbers.count > 0 => {
                    numbers.is_rest = false;
                    break;
                }
                Resolved::DeadLetters(more) => {
                    letters.extend(more);
                    self.questions.recheck(&mut self.registry);
                }
                Resolved::Passed(pass) => self.count(pass),
                Resolved::Wanted { table, version } => {
                    self.questions.ask((table, version), &self.registry);
                    numbers.is_rest = false;
                    break;
                }
            }
            numbers.of_changes.resize(changes.len(), numbers.count);
            numbers.count += 1;
        }
        self.tell_passed();
        let is_of_use = numbers.count > 0 || numbers.is_rest;
        is_of_use.then_some(ReadyEvents { chunk, changes, letters, events: numbers })
    }

    /// Nothing is on its way to the destination, which is at `durable` and keeps events of the
    /// tables `kept`. The changes of another table that are pending as they came are resolved, so
    /// that what follows need not wait for them.
    pub fn settle<'a>(&mut self, kept: impl Iterator<Item = &'a str>, durable: Option<Position>) {
        let kept: HashSet<&str> = kept.collect();
        let reached = durable.map_or(0, |position| position.sequence);
        let mut tables = std::mem::take(&mut self.resolver.unresolved);
        tables.retain(|table, last| {
            kept.contains(&**table) || (*last > reached && !self.resolve_pending(table))
        });
        for table in kept {
            tables.entry(table.to_owned()).or_insert(0);
        }
        if tables.is_empty() {
            self.resolver.recent.forget_replaced();
        }
        self.resolver.unresolved = tables;
    }

    /// Resolves the pending changes of the table. Returns whether all are.
    fn resolve_pending(&mut self, table: &str) -> bool {
        let Intake { batcher, put_back, resolver, registry, questions, .. } = self;
        let put_back = put_back.iter_mut().map(|(pending, _)| pending.contents());
        for (changes, letters) in put_back.chain(std::iter::once(batcher.contents())) {
            let mut wanted = None;
            for change in std::mem::take(changes) {
                let is_of_it = change.schema.is_none() && *change.event.table() == *table;
                if !is_of_it || wanted.is_some() {
                    changes.push(change);
                    continue;
                }
                let payload = Bytes::copy_from_slice(change.event.payload().as_bytes());
                let subject = change.subject.to_string();
                let delivery = Delivery::of_event(change.position, subject, payload);
                match resolver.resolve_again(&delivery, registry) {
                    Resolved::Change(resolved) => changes.push(resolved),
                    Resolved::Moved(moved) => changes.extend([moved.left, moved.change]),
                    Resolved::DeadLetters(more) => letters.extend(more),
                    Resolved::Passed(_) => {}
                    Resolved::Wanted { table, version } => {
                        wanted = Some((table, version));
                        changes.push(change);
                    }
                }
            }
            letters.sort_by_key(|letter| letter.position.sequence);
            if let Some(name) = wanted {
                questions.ask(name, registry);
                return false;
            }
        }
        true
    }

    /// What a dead letter is that is tried again. Where nobody knows its schema it is asked for, if
    /// it `may_ask`; nobody waits for the answer.
    pub fn resolve_letter(&mut self, (letter, payload): &WholeLetter, may_ask: bool) -> LetterStep {
        let label = &letter.label;
        if self.resolver.cutover.has_newer_rows(&label.table, label.time_ns) {
            let why = "an import has added rows to its table since, which may be newer";
            return LetterStep::Refused(why.into());
        }
        let (position, subject) = (label.position(), label.subject.clone());
        let delivery = Delivery::of_event(position, subject, payload.clone());
        let changes = match self.resolver.resolve_again(&delivery, &mut self.registry) {
            Resolved::Change(change) => vec![change],
            Resolved::Moved(_) if label.part == EventPart::Both => {
                let why = "it changes the primary key, and when it became a letter nobody knew which \
                           rows it is about, so nobody can know whether they have changed since";
                return LetterStep::Refused(why.into());
            }
            Resolved::Moved(moved) => vec![moved.left, moved.change],
            Resolved::Passed(Pass::Filtered) => {
                return LetterStep::Refused("its table is left out, or the rules refuse it".into());
            }
            Resolved::Passed(Pass::Imported) => {
                return LetterStep::Refused("superseded: an import contains it".into());
            }
            Resolved::Passed(Pass::Stale | Pass::Seen) => Vec::new(),
            Resolved::Wanted { table, version } => return self.ask_for(&table, &version),
            Resolved::DeadLetters(again) => {
                let again = again.into_iter().next();
                return match again {
                    Some(again) if again.kind != RejectKind::UnknownSchema || !may_ask => {
                        LetterStep::Refused(again.reason)
                    }
                    _ => self.ask_for(&label.table, &label.model_version),
                };
            }
        };
        match part_of(changes, label.part) {
            changes if changes.is_empty() => {
                LetterStep::Refused("superseded: its row has a newer version already".into())
            }
            changes => LetterStep::Apply(changes),
        }
    }

    fn ask_for(&mut self, table: &str, version: &str) -> LetterStep {
        let is_asked = self.questions.ask_once(table, version, &self.registry);
        LetterStep::Later { is_asked }
    }

    /// Why nothing more may be resolved: a schema does not go with the user's rules about columns.
    pub fn conflict(&self) -> Option<String> {
        self.registry.conflict()
    }

    /// Whether the schema is known; asks nobody.
    pub fn knows(&self, table: &str, version: &str) -> bool {
        self.registry.cached(table, version).is_some()
    }

    /// Waits for a schema that is being asked for; for ever where none is. May be dropped while it
    /// waits. Returns whether it is known now and was unknown before, and whether it is known now.
    pub async fn finish_lookup(&mut self) -> (bool, bool) {
        let (table, version, found) = self.questions.answer().await;
        let is_new = self.registry.store(&table, &version, found);
        (is_new, self.knows(&table, &version))
    }
}
