//! What came from the feed and is not with the destination yet. It follows what is durable without
//! a gap.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::positions::Positions;
use super::retries::{LetterStep, part_of};
use crate::backoff::{Backoff, Waits};
use crate::change::dead_letter::RejectKind;
use crate::change::{EventPart, Position};
use crate::feed::{Delivery, Encoding};
use crate::pipeline::apply::WholeLetter;
use crate::pipeline::batcher::{Batcher, PendingBatch};
use crate::pipeline::progress::Progress;
use crate::pipeline::resolve::{Pass, Resolved, Resolver};
use crate::registry::{Lookup, Registry, SchemaAnswer};

/// The waits between two tries of a batch for whose dead letters there is no room.
const ROOM_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_secs(1), longest: Duration::from_secs(30) };

/// Makes pending changes of deliveries.
pub struct Intake {
    /// Delivered, not yet resolved.
    arrived: VecDeque<Delivery>,
    /// The schema that the first of them needs is being asked for.
    lookup: Option<Lookup>,
    /// The schema of a version that was unknown is being asked for again; nobody waits for it.
    recheck: Option<Lookup>,
    /// Resolved.
    batcher: Batcher,
    /// It came back, as there was no room for its dead letters; when it is tried again.
    put_back: Option<(PendingBatch, Instant)>,
    room_backoff: Backoff,
    /// How deliveries are resolved.
    pub resolver: Resolver,
    registry: Registry,
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
        Intake {
            arrived: VecDeque::new(),
            lookup: None,
            recheck: None,
            batcher,
            put_back: None,
            room_backoff: Backoff::new(ROOM_WAITS),
            resolver,
            registry,
            progress,
        }
    }

    /// Takes deliveries over.
    pub fn receive(&mut self, deliveries: &mut Vec<Delivery>) {
        self.arrived.extend(deliveries.drain(..));
    }

    /// Whether there is room for more deliveries.
    pub fn has_room(&self) -> bool {
        self.arrived.is_empty() && self.lookup.is_none() && !self.batcher.is_full()
    }

    /// Whether nothing waits for the destination.
    pub fn is_empty(&self) -> bool {
        self.batcher.is_empty() && self.arrived.is_empty() && self.put_back.is_none()
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

    /// There may be room for dead letters again.
    pub fn has_letter_room(&mut self) {
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
        self.lookup = None;
        self.put_back = None;
        self.batcher.take();
    }

    /// Nothing more is received. Keeps what can be written; a batch that has to end where it once
    /// ended, and has not come that far, comes again.
    pub fn stop(&mut self) {
        if self.put_back.is_some() {
            return self.clear();
        }
        self.arrived.clear();
        self.lookup = None;
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
        let now = Instant::now();
        while self.lookup.is_none() && !self.batcher.is_full() {
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
                    if self.recheck.is_none() {
                        self.recheck = self.registry.recheck();
                    }
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
                    self.look_up(table, version);
                    self.arrived.push_front(delivery);
                }
            }
        }
    }

    fn count(&self, pass: Pass) {
        self.progress.update(|snapshot| match pass {
            Pass::Seen => {
                (snapshot.seen_before, snapshot.done) =
                    (snapshot.seen_before + 1, snapshot.done + 1);
            }
            Pass::Stale => snapshot.stale += 1,
            Pass::Filtered => snapshot.filtered += 1,
            Pass::Imported => snapshot.imported += 1,
        });
    }

    fn look_up(&mut self, table: String, version: String) {
        self.progress
            .waiting(&format!("asking for the schema of table {table:?}, version {version:?}"));
        self.lookup = Some(self.registry.ask(&table, &version));
    }

    /// What a dead letter is that is tried again. Where nobody knows its schema it is asked for, if
    /// it `may_ask`; nobody waits for the answer.
    pub fn resolve_letter(&mut self, (letter, payload): &WholeLetter, may_ask: bool) -> LetterStep {
        let label = &letter.label;
        if self.resolver.cutover.has_newer_rows(&label.table, label.time_ns) {
            let why = "an import has added rows to its table since, which may be newer";
            return LetterStep::Refused(why.into());
        }
        let delivery = Delivery {
            position: label.position(),
            subject: label.subject.clone(),
            payload: payload.clone(),
            encoding: Encoding::Json,
            pending: None,
        };
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
        let is_asked = self.recheck.is_none();
        if is_asked {
            self.recheck = Some(self.registry.ask_now(table, version));
        }
        LetterStep::Later { is_asked }
    }

    /// Whether the schema is known; asks nobody.
    pub fn knows(&self, table: &str, version: &str) -> bool {
        self.registry.cached(table, version).is_some()
    }

    /// Waits for a schema that is being asked for; for ever where none is. May be dropped while it
    /// waits. Returns whether it is known now and was unknown before.
    pub async fn finish_lookup(&mut self) -> bool {
        let (table, version, found) = tokio::select! {
            biased;
            found = answer(&mut self.lookup) => found,
            found = answer(&mut self.recheck) => found,
        };
        self.registry.store(&table, &version, found)
    }
}

/// Waits for the answer and forgets the question.
async fn answer(lookup: &mut Option<Lookup>) -> (String, String, SchemaAnswer) {
    let found = match lookup {
        Some(asking) => asking.await,
        None => std::future::pending().await,
    };
    *lookup = None;
    found
}
