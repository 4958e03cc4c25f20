//! The row of an event in the order of its table's schema, and its key in canonical form.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Decoder, Event, Malformed};
use crate::change::json::{self, Slot};
use crate::change::stamps::Stamp;
use crate::change::value::{self, Value};
use crate::change::{ColumnType, Operation, TableSchema};

/// A row that an update has left.
pub struct RowLeft {
    /// Its key columns; all of them that `before` tells, where the row stays.
    pub row: Box<[Slot]>,
    /// Their canonical form.
    pub key: Bytes,
}

impl Decoder {
    /// The columns of the last event's row that `schema` lacks and that are not null.
    pub fn unknown_columns<'e>(
        &self,
        event: &'e Event,
        schema: &TableSchema,
        order: &mut ColumnOrder,
    ) -> Vec<Cow<'e, str>> {
        let mut unknown = Vec::new();
        for (place, (key, value)) in self.members.iter().enumerate() {
            let token = key.of(event.payload()).unwrap_or_default();
            if order.column(schema, place, token).is_none()
                && value.present(event.payload()).is_some()
            {
                unknown.push(json::text(token));
            }
        }
        unknown
    }

    /// The columns of the last event's row in the order of `schema`, and the canonical form of its
    /// key. `order` remembers which column came at which place, for the next event.
    pub fn row(
        &self,
        event: &Event,
        schema: &TableSchema,
        order: &mut ColumnOrder,
    ) -> Result<(Box<[Slot]>, Bytes), Malformed> {
        let mut row = match event.operation {
            Operation::Delete if schema.keeps_deleted() => {
                columns_of(&self.before, event, schema, order)
            }
            Operation::Delete => vec![Slot::MISSING; schema.keys],
            Operation::Insert | Operation::Update => {
                columns_of(&self.members, event, schema, order)
            }
        };
        self.fill_key(event, schema, &mut row)?;
        let key = canonical_key(event, schema, &row)?;
        Ok((row.into(), key))
    }

    /// The row that the last event, an update, has left because it changed the primary key. `None`
    /// where the key stayed what it is (`key`), or `before` does not tell.
    pub fn row_left(
        &self,
        event: &Event,
        schema: &TableSchema,
        order: &ColumnOrder,
        key: &[u8],
    ) -> Result<Option<RowLeft>, Malformed> {
        if event.operation != Operation::Update || self.before.is_empty() {
            return Ok(None);
        }
        let mut row = Vec::with_capacity(schema.keys);
        for column in 0..schema.keys {
            let Some(slot) = self.before_slot(event, schema, order, column) else {
                return Ok(None);
            };
            row.push(slot);
        }
        let left = canonical_key(event, schema, &row)?;
        if left == *key {
            return Ok(None);
        }
        if schema.keeps_deleted() {
            row = columns_of(&self.before, event, schema, &mut ColumnOrder::default());
        }
        Ok(Some(RowLeft { row: row.into(), key: left }))
    }

    /// The value of a column in `before`, where it has one. `before` lists its columns as `after`
    /// does nearly always.
    fn before_slot(
        &self,
        event: &Event,
        schema: &TableSchema,
        order: &ColumnOrder,
        column: usize,
    ) -> Option<Slot> {
        let name = &*schema.columns[column].name;
        let payload = event.payload();
        let is_named = |(key, _): &&(Slot, Slot)| {
            key.of(payload).is_some_and(|token| match token.get(1..token.len() - 1) {
                Some(plain) if plain == name => true,
                Some(plain) => plain.contains('\\') && json::text(token) == name,
                None => false,
            })
        };
        let guess = order.place(column).and_then(|place| self.before.get(place)).filter(is_named);
        // Of a member that comes twice the last one counts.
        let (_, value) = guess.or_else(|| self.before.iter().rfind(is_named))?;
        value.present(payload).map(|_| *value)
    }

    /// Takes what is missing of the primary key from a delete's `before`, by name; failing that
    /// from the event's `key`, matched from the right end: keys of a multi-region source carry a
    /// leading region.
    fn fill_key(
        &self,
        event: &Event,
        schema: &TableSchema,
        row: &mut [Slot],
    ) -> Result<(), Malformed> {
        let present = |slot: &Slot| slot.present(event.payload()).is_some();
        if row[..schema.keys].iter().all(present) {
            return Ok(());
        }
        let tokens = event.key_tokens();
        let skipped = tokens.len().checked_sub(schema.keys);
        for (i, slot) in row.iter_mut().enumerate().take(schema.keys) {
            if present(slot) {
                continue;
            }
            let from_before = self.before_slot(event, schema, &ColumnOrder::default(), i);
            let from_key = || skipped.map(|skipped| tokens[skipped + i]).filter(present);
            *slot = from_before.or_else(from_key).ok_or(Malformed::NoKey)?;
        }
        Ok(())
    }
}

/// The members of a row in the order of the schema, and what EDS adds. Members that the schema does
/// not list are dropped.
fn columns_of(
    members: &[(Slot, Slot)],
    event: &Event,
    schema: &TableSchema,
    order: &mut ColumnOrder,
) -> Vec<Slot> {
    let mut row = vec![Slot::MISSING; schema.columns.len()];
    for (place, (key, value)) in members.iter().enumerate() {
        let token = key.of(event.payload()).unwrap_or_default();
        if let Some(column) = order.column(schema, place, token) {
            row[column] = *value;
        }
    }
    // They come last.
    let added = schema.columns.iter().enumerate().rev();
    let stamps = added.map_while(|(i, column)| Some((i, Stamp::named(&column.name)?)));
    stamps.for_each(|(i, stamp)| row[i] = Slot::of_stamp(stamp));
    row
}

/// A row that stays after its deletion keeps the values that the event does not tell: the schema
/// and the row without them. `None` where it tells all, or the row does not stay.
pub fn told_of_deleted(
    event: &Event,
    schema: &TableSchema,
    row: &[Slot],
) -> Option<(TableSchema, Box<[Slot]>)> {
    if event.operation != Operation::Delete || !schema.keeps_deleted() {
        return None;
    }
    let untold: Vec<usize> =
        (schema.keys..row.len()).filter(|i| row[*i] == Slot::MISSING).collect();
    let told = row.iter().enumerate().filter(|(i, _)| !untold.contains(i)).map(|(_, slot)| *slot);
    (!untold.is_empty()).then(|| (schema.without(&untold), told.collect()))
}

/// Equal keys have equal bytes: each part in one spelling of what its column would hold, length
/// first where there are several.
fn canonical_key(event: &Event, schema: &TableSchema, row: &[Slot]) -> Result<Bytes, Malformed> {
    let part = |i: usize| -> Result<Cow<'_, str>, Malformed> {
        let token = row[i].present(event.payload()).ok_or(Malformed::NoKey)?;
        let column = &schema.columns[i];
        if matches!(column.kind, ColumnType::Text | ColumnType::Enum) {
            return Ok(json::text(token));
        }
        let value = value::read(Some(token), column).map_err(Malformed::KeyTypeMismatch)?;
        Ok(match value {
            Value::Integer(n) | Value::Time(n) => Cow::Owned(n.to_string()),
            // Adding zero makes one zero of both.
            Value::Number(n) => Cow::Owned((n + 0.0).to_string()),
            Value::Boolean(b) => Cow::Borrowed(if b { "true" } else { "false" }),
            Value::Text(text) => text,
            Value::Json(json) => Cow::Borrowed(json),
            Value::Null => return Err(Malformed::NoKey),
        })
    };
    if schema.keys > 1 {
        let mut key = Vec::with_capacity(64);
        for i in 0..schema.keys {
            let part = part(i)?;
            key.extend_from_slice(&(part.len() as u32).to_le_bytes());
            key.extend_from_slice(part.as_bytes());
        }
        return Ok(key.into());
    }
    let is_shared = !matches!(schema.columns[0].kind, ColumnType::Boolean);
    Ok(match part(0)? {
        Cow::Borrowed("") => return Err(Malformed::NoKey),
        Cow::Borrowed(text) if is_shared => event.shared(text),
        other => Bytes::from(other.into_owned()),
    })
}

/// Events of a table list its columns in the same order nearly always: guess by place, look up by
/// name if wrong.
#[derive(Default, Debug)]
pub struct ColumnOrder {
    /// By place within the row: the column that stood there last.
    guesses: Vec<Option<u16>>,
}

impl ColumnOrder {
    /// The place at which the column stood last.
    fn place(&self, column: usize) -> Option<usize> {
        self.guesses.iter().position(|guess| guess.map(usize::from) == Some(column))
    }

    /// The column that the JSON key `token` (with quotes) names.
    fn column(&mut self, schema: &TableSchema, place: usize, token: &str) -> Option<usize> {
        let name = token.get(1..token.len().saturating_sub(1)).unwrap_or_default();
        if let Some(Some(guess)) = self.guesses.get(place)
            && *schema.columns[usize::from(*guess)].name == *name
        {
            return Some(usize::from(*guess));
        }
        let column = schema.column(&json::text(token));
        if place >= self.guesses.len() {
            self.guesses.resize(place + 1, None);
        }
        self.guesses[place] = column.and_then(|c| u16::try_from(c).ok());
        column
    }
}
