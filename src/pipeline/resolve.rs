//! Makes changes of deliveries: unpack, decode, find the schema, weigh the age.

use std::collections::HashMap;
use std::io::Read;
use std::sync::Arc;

use bytes::Bytes;

use super::dead_letter::DeadLetter;
use super::recent::Recent;
use crate::change::decode::ColumnOrder;
use crate::change::filter::TableFilter;
use crate::change::{Change, Cutover, Decoder, Event, Malformed, Position, TableSchema};
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
    /// Nothing is to be done.
    Passed(Pass),
    /// It cannot be applied.
    DeadLetter(DeadLetter),
    /// The schema has to be asked for first; the delivery comes back.
    Wanted {
        /// The table's name.
        table: String,
        /// The schema's version.
        version: String,
    },
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
            layouts: HashMap::new(),
        }
    }

    /// What the delivery is. Changes are remembered as recent, so each is to be resolved once.
    pub fn resolve(&mut self, delivery: &Delivery, registry: &Registry) -> Resolved {
        let seen = self.seen.is_some_and(|p| p.contains(delivery.position));
        let step = self.change(delivery, registry);
        let contains = |event: &Event| self.cutover.contains(event, delivery.position);
        let contained = matches!(&step, Ok(Step::Change(change)) if contains(&change.event));
        match step {
            Ok(Step::Change(change)) => {
                // What is contained is not applied, but an older version of its row may follow it.
                // Who keeps every change keeps the older one, too.
                let stale =
                    self.abilities.write_mode == WriteMode::Upsert && self.recent.is_stale(&change);
                if seen {
                    Resolved::Passed(Pass::Seen)
                } else if contained {
                    Resolved::Passed(Pass::Imported)
                } else if stale {
                    Resolved::Passed(Pass::Stale)
                } else {
                    Resolved::Change(change)
                }
            }
            // It was applied or became a dead letter before: only the memory of rows asks for it.
            _ if seen => Resolved::Passed(Pass::Seen),
            Ok(Step::Imported) => Resolved::Passed(Pass::Imported),
            Ok(Step::Filtered) => Resolved::Passed(Pass::Filtered),
            Ok(Step::Wanted { table, version }) => Resolved::Wanted { table, version },
            Err(reason) => Resolved::DeadLetter(DeadLetter {
                position: delivery.position,
                subject: delivery.subject.clone(),
                reason,
                payload: delivery.payload.clone(),
            }),
        }
    }

    fn change(&mut self, delivery: &Delivery, registry: &Registry) -> Result<Step, String> {
        let payload = unpack(delivery).map_err(|e| e.to_string())?;
        let event = self.decoder.decode(payload).map_err(|e| e.to_string())?;
        let wanted = |rules: &Arc<Validator>| rules.wants(&event.table(), event.payload());
        if !self.filter.takes(&event.table()) || !self.rules.as_ref().is_none_or(wanted) {
            return Ok(Step::Filtered);
        }
        if !self.abilities.needs_schemas() {
            let key = Bytes::from(event.record_key().map_err(|e| e.to_string())?);
            return Ok(Step::Change(Change {
                event,
                subject: delivery.subject.as_str().into(),
                position: delivery.position,
                schema: None,
                row: Box::default(),
                key,
            }));
        }
        let table = event.table();
        let version = event.model_version();
        let Some((schema, order)) = layout(&mut self.layouts, &table, &version, registry) else {
            // Nobody is asked for the schema of what is not applied.
            if self.cutover.contains(&event, delivery.position) {
                return Ok(Step::Imported);
            }
            if registry.is_unknown(&table, &version) {
                return Err(format!(
                    "the schema of table {table:?}, version {version:?}, is unknown"
                ));
            }
            return Ok(Step::Wanted { table: table.into_owned(), version: version.into_owned() });
        };
        let (row, key) = match self.decoder.row(&event, schema, order) {
            Err(_) if self.cutover.contains(&event, delivery.position) => {
                return Ok(Step::Imported);
            }
            row => row.map_err(|e| e.to_string())?,
        };
        let schema = Some(schema.clone());
        Ok(Step::Change(Change {
            event,
            subject: delivery.subject.as_str().into(),
            position: delivery.position,
            schema,
            row,
            key,
        }))
    }
}

enum Step {
    Change(Change),
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
