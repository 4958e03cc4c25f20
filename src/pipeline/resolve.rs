//! Makes changes of deliveries: unpack, decode, find the schema, weigh the age.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;
use tracing::warn;

use super::recent::Recent;
use crate::change::dead_letter::{RejectKind, RowMark};
use crate::change::decode::{ColumnOrder, RowLeft};
use crate::change::filter::TableFilter;
use crate::change::json::Slot;
use crate::change::{
    Change, ColumnRules, Cutover, DeadLetter, Decoder, Event, EventPart, Malformed, MessageOrigin,
    Position, TableSchema,
};
use crate::clock::now_ns;
use crate::destination::{Abilities, CheckpointIn, WriteMode};
use crate::feed::{Delivery, Encoding};
use crate::registry::Registry;
use crate::validator::Validator;

/// The largest event that is unpacked.
const UNPACKED_BYTES_MAX: u64 = 64 << 20;

/// What a delivery is.
pub enum Resolved {
    /// It is to be applied.
    Change(Change),
    /// An update that changes the primary key: the row that it leaves is to be deleted, then the
    /// other is to be applied.
    Moved(Box<Moved>),
    /// Nothing is to be done.
    Passed(Pass),
    /// It cannot be applied; an update of a primary key is two letters, where that can be known.
    DeadLetters(Vec<DeadLetter>),
    /// The schema has to be asked for first; the delivery comes back.
    Wanted {
        /// The table's name.
        table: String,
        /// The schema's version.
        version: String,
    },
}

/// The two changes that an update of a primary key is.
pub struct Moved {
    /// The deletion of the row that is left.
    pub left: Change,
    /// The update.
    pub change: Change,
}

/// Why nothing is to be done about a delivery.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Pass {
    /// The destination already has it.
    Seen,
    /// Its row has a newer version already.
    Stale,
    /// The user left its table out, or has rules that do not want it.
    Filtered,
    /// The import of its table contains it.
    Imported,
}

/// Makes changes of deliveries, one after the other in stream order.
pub struct Resolver {
    decoder: Decoder,
    filter: TableFilter,
    rules: Option<Arc<Validator>>,
    abilities: Abilities,
    /// Deliveries that this contains were applied before.
    pub seen: Option<Position>,
    /// What imports contain.
    pub cutover: Cutover,
    /// The rows that were changed lately.
    pub recent: Recent,
    /// The tables whose changes are kept as they come, with the sequence of the last of them: the
    /// schema of one is not known, or was not, and the others may not overtake it.
    pub unresolved: HashMap<String, u64>,
    /// What the memory of rows has to say about what is resolved.
    memory: RecentUse,
    /// The delivery is seen again, and changes of its table are kept as they came.
    is_again: bool,
    /// By how much the clock of the feed's source is known to be behind, nanoseconds: its messages
    /// were published by so much later than they say.
    pub source_behind_ns: i64,
    /// An event claimed to be from later than it was published, and that was reported.
    reported_future: bool,
    layouts: HashMap<String, Vec<(Arc<TableSchema>, ColumnOrder)>>,
    /// The table of the last event that was decoded.
    table: String,
    /// Where what is resolved comes from.
    origin: MessageOrigin,
}

impl Resolver {
    /// Deliveries that `seen` contains were applied before. Imports and recent rows are not known
    /// yet.
    pub fn new(
        filter: TableFilter,
        rules: Option<Arc<Validator>>,
        abilities: Abilities,
        seen: Option<Position>,
    ) -> Resolver {
        Resolver {
            decoder: Decoder::default(),
            filter,
            rules,
            abilities,
            seen,
            cutover: Cutover::default(),
            recent: Recent::default(),
            unresolved: HashMap::new(),
            memory: RecentUse::All,
            is_again: false,
            source_behind_ns: 0,
            reported_future: false,
            layouts: HashMap::new(),
            table: String::new(),
            origin: MessageOrigin::Source,
        }
    }

    /// The table of what was resolved last; empty where that was no event.
    pub fn table(&self) -> &str {
        &self.table
    }

    /// Whether the destination can keep changes of tables as they come.
    pub fn may_keep_events(&self) -> bool {
        self.abilities.needs_schemas() && self.abilities.checkpoint_in == CheckpointIn::Destination
    }

    /// What the delivery is. Changes are remembered as recent, so each is to be resolved once.
    pub fn resolve(&mut self, delivery: &Delivery, registry: &mut Registry) -> Resolved {
        self.table.clear();
        let seen = self.seen.is_some_and(|p| p.contains(delivery.position));
        let step = self.change(delivery, registry, seen);
        self.is_again = seen && self.unresolved.contains_key(&self.table);
        let contains = |event: &Event| self.cutover.contains(event, delivery.position);
        let contained = matches!(&step, Ok(Step::Change { change, .. }) if contains(&change.event));
        match step {
            Ok(Step::Change { left, change }) => {
                // What is contained is not applied, but an older version of its row may follow it.
                // Who keeps every change keeps the older one, too.
                let is_upsert = self.abilities.write_mode == WriteMode::Upsert;
                let left = left.filter(|left| !self.is_stale(left));
                let stale = is_upsert && self.is_stale(&change);
                if seen {
                    Resolved::Passed(Pass::Seen)
                } else if contained {
                    Resolved::Passed(Pass::Imported)
                } else {
                    match (left, stale) {
                        (None, true) => Resolved::Passed(Pass::Stale),
                        (None, false) => Resolved::Change(change),
                        (Some(left), true) => Resolved::Change(*left),
                        (Some(left), false) => {
                            Resolved::Moved(Box::new(Moved { left: *left, change }))
                        }
                    }
                }
            }
            // It was applied or became a dead letter before: only the memory of rows asks for it.
            _ if seen => Resolved::Passed(Pass::Seen),
            Ok(Step::Unresolved(change)) => Resolved::Change(change),
            Ok(Step::Imported) => Resolved::Passed(Pass::Imported),
            Ok(Step::Filtered) => Resolved::Passed(Pass::Filtered),
            Ok(Step::Wanted { table, version }) => Resolved::Wanted { table, version },
            Err(letters) => Resolved::DeadLetters(letters),
        }
    }

    /// What the delivery is that was kept, as a dead letter or as it came: it was seen before, and
    /// where the stream came past it before an import it was not applied.
    pub fn resolve_again(&mut self, delivery: &Delivery, registry: &mut Registry) -> Resolved {
        let (seen, applied) = (self.seen.take(), std::mem::take(&mut self.cutover.applied));
        let unresolved = std::mem::take(&mut self.unresolved);
        self.origin = MessageOrigin::Kept;
        let resolved = self.resolve(delivery, registry);
        self.origin = MessageOrigin::Source;
        (self.seen, self.cutover.applied, self.unresolved) = (seen, applied, unresolved);
        resolved
    }

    /// The same of what was kept of `table` as it came: what followed it follows it still. The
    /// destination is at `durable`: what lies beyond comes again after an import that has set the
    /// table back, and only then tells what is newer. Not so what was applied before an import of
    /// other tables, nor what is of an earlier stream.
    pub fn resolve_kept(
        &mut self,
        (table, delivery): (&str, &Delivery),
        durable: Option<Position>,
        registry: &mut Registry,
    ) -> Resolved {
        let (at, reached) = (delivery.position, durable.unwrap_or_default());
        let is_later = at.time_ns == 0 || at.time_ns > reached.time_ns;
        let comes_again =
            at.sequence > reached.sequence && is_later && !self.cutover.had_applied(table, at);
        self.memory = if comes_again { RecentUse::Nothing } else { RecentUse::Earlier };
        let resolved = self.resolve_again(delivery, registry);
        self.memory = RecentUse::All;
        resolved
    }

    fn is_stale(&mut self, change: &Change) -> bool {
        match self.memory {
            RecentUse::All if self.is_again => self.recent.is_stale_again(change),
            RecentUse::All => self.recent.is_stale(change),
            RecentUse::Earlier => self.recent.is_stale_in_order(change),
            RecentUse::Nothing => false,
        }
    }

    /// The event, less what the rules take away. What cannot be read is a dead letter.
    fn decoded(
        &mut self,
        delivery: &Delivery,
        columns: &ColumnRules,
    ) -> Result<Event, Vec<DeadLetter>> {
        let place = (&*delivery.subject, delivery.position);
        let malformed = |e: Malformed, payload: Bytes| {
            vec![DeadLetter::of_message(e.to_string(), place, columns.unreadable(payload))]
        };
        let payload = unpack(delivery).map_err(|e| malformed(e, delivery.payload.clone()))?;
        let event = columns.decode(&mut self.decoder, payload.clone(), self.origin);
        event.map_err(|e| malformed(e, payload))
    }

    fn change(
        &mut self,
        delivery: &Delivery,
        registry: &mut Registry,
        is_seen: bool,
    ) -> Result<Step, Vec<DeadLetter>> {
        let place = (&*delivery.subject, delivery.position);
        let mut event = self.decoded(delivery, &registry.columns())?;
        self.note(&mut event, delivery);
        let wanted = |rules: &Arc<Validator>| rules.wants(&event.table(), event.payload());
        if !self.filter.takes(&event.table()) || !self.rules.as_ref().is_none_or(wanted) {
            return Ok(Step::Filtered);
        }
        if !self.abilities.needs_schemas() {
            let key = event.record_key().map_err(|e| invalid(&e, place, &event))?;
            let key = Bytes::from(key);
            let change = change_of(delivery, event, None, Box::default(), key);
            return Ok(Step::Change { left: None, change });
        }
        let table = event.table();
        // What is contained is no change, but the memory of rows takes note of it.
        if !is_seen
            && self.unresolved.contains_key(&*table)
            && !self.cutover.contains(&event, delivery.position)
            && let Some(last) = self.unresolved.get_mut(&*table)
        {
            *last = delivery.position.sequence;
            let change = change_of(delivery, event, None, Box::default(), Bytes::new());
            return Ok(Step::Unresolved(change));
        }
        let version = event.model_version();
        let Some((schema, order)) = layout(&mut self.layouts, &table, &version, registry) else {
            // Nobody is asked for the schema of what is not applied.
            if self.cutover.contains(&event, delivery.position) {
                return Ok(Step::Imported);
            }
            return self.without_schema(&event, place, registry);
        };
        let (row, key) = match self.decoder.row(&event, schema, order) {
            Err(_) if self.cutover.contains(&event, delivery.position) => {
                return Ok(Step::Imported);
            }
            row => row.map_err(|e| invalid(&e, place, &event))?,
        };
        // Who keeps every change keeps it as it is.
        let left = match self.abilities.write_mode {
            WriteMode::Upsert => self.decoder.row_left(&event, schema, order, &key),
            WriteMode::Append => Ok(None),
        };
        let left = left.map_err(|e| invalid(&e, place, &event))?;
        let change = change_of(delivery, event, Some(schema.clone()), row, key);
        let left = left.map(|RowLeft { row, key }| {
            let left = Change { event: change.event.as_delete(), row, key, ..change.clone() };
            Box::new(left.as_told())
        });
        Ok(Step::Change { left, change: change.as_told() })
    }

    /// What an event is whose schema is not at hand.
    fn without_schema(
        &self,
        event: &Event,
        place: (&str, Position),
        registry: &mut Registry,
    ) -> Result<Step, Vec<DeadLetter>> {
        let (table, version) = (event.table(), event.model_version());
        if version.is_empty() {
            return Err(invalid(&Malformed::Missing("modelVersion"), place, event));
        }
        if let Some(why) = registry.unknown(&table, &version) {
            let reason =
                format!("the schema of table {table:?}, version {version:?}, is unknown: {why}");
            let why = (RejectKind::UnknownSchema, reason);
            let letter = DeadLetter::of_event(why, place, event);
            return Err(self.told_apart(letter, event, registry));
        }
        Ok(Step::Wanted { table: table.into_owned(), version: version.into_owned() })
    }

    /// The letter of an event whose schema is not known, with the row that it is about, where a
    /// version of the schema is known: their keys are mostly the same. An update of a primary key
    /// is two letters, as each of its rows may change later.
    fn told_apart(
        &self,
        letter: DeadLetter,
        event: &Event,
        registry: &Registry,
    ) -> Vec<DeadLetter> {
        let Some(schema) = registry.latest(&letter.table) else { return vec![letter] };
        let mut order = ColumnOrder::default();
        let Ok((_, key)) = self.decoder.row(event, &schema, &mut order) else {
            return vec![letter];
        };
        let left = self.decoder.row_left(event, &schema, &order, &key).ok().flatten();
        let row = RowMark::of_key(&letter.table, &key).row;
        let own = DeadLetter { mark: RowMark { row, ..letter.mark }, ..letter };
        match left {
            Some(left) => {
                let mark = RowMark::of_key(&own.table, &left.key);
                let left = DeadLetter { mark, part: EventPart::Left, ..own.clone() };
                vec![left, DeadLetter { part: EventPart::Own, ..own }]
            }
            None => vec![own],
        }
    }

    /// Takes note of the event's table, and lets its version count only where it can be true. A
    /// journal does not know when its events were published.
    fn note(&mut self, event: &mut Event, delivery: &Delivery) {
        self.table.push_str(&event.table());
        let published_ns = match delivery.position.time_ns {
            0 => now_ns(),
            known => known.saturating_add(self.source_behind_ns),
        };
        if event.published_at(published_ns) && !self.reported_future {
            self.reported_future = true;
            warn!(
                subject = delivery.subject,
                sequence = delivery.position.sequence,
                "an event of table {:?} has an mvccTimestamp of much later than it was published: \
                 such timestamps do not count, and its row follows the order of the stream",
                event.table()
            );
        }
    }
}

fn invalid(e: &Malformed, place: (&str, Position), event: &Event) -> Vec<DeadLetter> {
    let why = (RejectKind::InvalidRow, e.to_string());
    vec![DeadLetter::of_event(why, place, event)]
}

fn change_of(
    delivery: &Delivery,
    event: Event,
    schema: Option<Arc<TableSchema>>,
    row: Box<[Slot]>,
    key: Bytes,
) -> Change {
    let (subject, position) = (delivery.subject.as_str().into(), delivery.position);
    Change { event, subject, position, schema, row, key }
}

/// What the memory of rows has to say about what is resolved.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum RecentUse {
    /// Whether the row is known to be newer.
    All,
    /// The same, by what came before it in the stream.
    Earlier,
    /// Nothing, nor does it take note.
    Nothing,
}

enum Step {
    Change {
        left: Option<Box<Change>>,
        change: Change,
    },
    /// Its table's changes are kept as they come.
    Unresolved(Change),
    Filtered,
    Imported,
    Wanted {
        table: String,
        version: String,
    },
}

/// The schema with the order in which its columns arrive; from the registry where it is used for
/// the first time.
fn layout<'a>(
    layouts: &'a mut HashMap<String, Vec<(Arc<TableSchema>, ColumnOrder)>>,
    table: &str,
    version: &str,
    registry: &Registry,
) -> Option<(&'a Arc<TableSchema>, &'a mut ColumnOrder)> {
    let known = layouts
        .get(table)
        .and_then(|versions| versions.iter().position(|(schema, _)| *schema.version == *version));
    let at = match known {
        Some(at) => at,
        None => {
            let schema = registry.cached(table, version)?;
            let versions = layouts.entry(table.to_owned()).or_default();
            versions.push((schema, ColumnOrder::default()));
            versions.len() - 1
        }
    };
    layouts
        .get_mut(table)
        .and_then(|versions| versions.get_mut(at))
        .map(|(schema, order)| (&*schema, order))
}

fn unpack(delivery: &Delivery) -> Result<Bytes, Malformed> {
    match &delivery.encoding {
        Encoding::Json => Ok(delivery.payload.clone()),
        Encoding::GzipJson => {
            let mut out = Vec::new();
            let read = flate2::read::MultiGzDecoder::new(&delivery.payload[..])
                .take(UNPACKED_BYTES_MAX)
                .read_to_end(&mut out);
            read.map(|_| Bytes::from(out)).map_err(|_| Malformed::NotGzip)
        }
        Encoding::Unknown(name) => Err(Malformed::UnknownEncoding(name.clone())),
    }
}
