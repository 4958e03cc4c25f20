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
    Change, Cutover, DeadLetter, Decoder, Event, EventPart, Malformed, Position, TableSchema,
};
use crate::clock::now_ns;
use crate::destination::{Abilities, WriteMode};
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
    /// An event claimed to be from later than it was published, and that was reported.
    reported_future: bool,
    layouts: HashMap<String, Vec<(Arc<TableSchema>, ColumnOrder)>>,
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
            reported_future: false,
            layouts: HashMap::new(),
        }
    }

    /// What the delivery is. Changes are remembered as recent, so each is to be resolved once.
    pub fn resolve(&mut self, delivery: &Delivery, registry: &mut Registry) -> Resolved {
        let seen = self.seen.is_some_and(|p| p.contains(delivery.position));
        let step = self.change(delivery, registry);
        let contains = |event: &Event| self.cutover.contains(event, delivery.position);
        let contained = matches!(&step, Ok(Step::Change { change, .. }) if contains(&change.event));
        match step {
            Ok(Step::Change { left, change }) => {
                // What is contained is not applied, but an older version of its row may follow it.
                // Who keeps every change keeps the older one, too.
                let is_upsert = self.abilities.write_mode == WriteMode::Upsert;
                let left = left.filter(|left| !self.recent.is_stale(left));
                let stale = is_upsert && self.recent.is_stale(&change);
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
            Ok(Step::Imported) => Resolved::Passed(Pass::Imported),
            Ok(Step::Filtered) => Resolved::Passed(Pass::Filtered),
            Ok(Step::Wanted { table, version }) => Resolved::Wanted { table, version },
            Err(letters) => Resolved::DeadLetters(letters),
        }
    }

    /// What the delivery is that a dead letter is made of: it was seen before, and where the stream
    /// came past it before an import it was not applied.
    pub fn resolve_again(&mut self, delivery: &Delivery, registry: &mut Registry) -> Resolved {
        let (seen, applied) = (self.seen.take(), std::mem::take(&mut self.cutover.applied));
        let resolved = self.resolve(delivery, registry);
        (self.seen, self.cutover.applied) = (seen, applied);
        resolved
    }

    fn change(
        &mut self,
        delivery: &Delivery,
        registry: &mut Registry,
    ) -> Result<Step, Vec<DeadLetter>> {
        let place = (&*delivery.subject, delivery.position);
        let malformed = |e: Malformed, payload: Bytes| {
            vec![DeadLetter::of_message(e.to_string(), place, payload)]
        };
        let payload = unpack(delivery).map_err(|e| malformed(e, delivery.payload.clone()))?;
        let mut event = self.decoder.decode(payload.clone()).map_err(|e| malformed(e, payload))?;
        self.date(&mut event, delivery);
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
        let version = event.model_version();
        let Some((schema, order)) = layout(&mut self.layouts, &table, &version, registry) else {
            // Nobody is asked for the schema of what is not applied.
            if self.cutover.contains(&event, delivery.position) {
                return Ok(Step::Imported);
            }
            if version.is_empty() {
                return Err(invalid(&Malformed::Missing("modelVersion"), place, &event));
            }
            if let Some(why) = registry.unknown(&table, &version) {
                let reason = format!(
                    "the schema of table {table:?}, version {version:?}, is unknown: {why}"
                );
                let why = (RejectKind::UnknownSchema, reason);
                let letter = DeadLetter::of_event(why, place, &event);
                return Err(self.told_apart(letter, &event, registry));
            }
            return Ok(Step::Wanted { table: table.into_owned(), version: version.into_owned() });
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
            Box::new(Change { event: change.event.as_delete(), row, key, ..change.clone() })
        });
        Ok(Step::Change { left, change })
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

    /// Lets the event's version count only where it can be true. A journal does not know when its
    /// events were published.
    fn date(&mut self, event: &mut Event, delivery: &Delivery) {
        let published_ns = match delivery.position.time_ns {
            0 => now_ns(),
            known => known,
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

enum Step {
    Change { left: Option<Box<Change>>, change: Change },
    Filtered,
    Imported,
    Wanted { table: String, version: String },
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
