//! The row of an event in the order of its table's schema, and its key in canonical form.

use std::borrow::Cow;

use bytes::Bytes;

use super::{Decoder, Event, Malformed};
use crate::change::json::{self, Slot};
use crate::change::{ColumnType, Operation, TableSchema, value};

impl Decoder {
    /// The first column of the last event's row that `schema` lacks and that is not null.
    pub fn unknown_column(
        &self,
        event: &Event,
        schema: &TableSchema,
        order: &mut ColumnOrder,
    ) -> Option<String> {
        let unknown = self.members.iter().enumerate().find(|(place, (key, value))| {
            let is_known =
                order.column(schema, *place, key.of(event.payload()).unwrap_or_default()).is_some();
            !is_known && value.present(event.payload()).is_some()
        });
        unknown
            .and_then(|(_, (key, _))| key.of(event.payload()))
            .map(|token| json::text(token).into_owned())
    }

    /// The columns of the last event's row in the order of `schema`, and the canonical form of its
    /// key. Members that the schema does not list are dropped. `order` remembers which column came
    /// at which place, for the next event.
    pub fn row(
        &self,
        event: &Event,
        schema: &TableSchema,
        order: &mut ColumnOrder,
    ) -> Result<(Box<[Slot]>, Bytes), Malformed> {
        let mut row = match event.operation {
            Operation::Delete => vec![Slot::MISSING; schema.keys],
            _ => vec![Slot::MISSING; schema.columns.len()],
        };
        if event.operation != Operation::Delete {
            for (place, (key, value)) in self.members.iter().enumerate() {
                if let Some(column) =
                    order.column(schema, place, key.of(event.payload()).unwrap_or_default())
                {
                    row[column] = *value;
                }
            }
        }
        fill_key(event, schema, &mut row)?;
        let key = canonical_key(event, schema, &row)?;
        Ok((row.into(), key))
    }
}

/// Takes what is missing of the primary key from the event's `key`, matched from the right end:
/// keys of a multi-region source carry a leading region. Failing that, a delete's `before` is
/// asked.
fn fill_key(event: &Event, schema: &TableSchema, row: &mut [Slot]) -> Result<(), Malformed> {
    let present = |slot: &Slot| slot.present(event.payload()).is_some();
    if row[..schema.keys].iter().all(present) {
        return Ok(());
    }
    let tokens = event.key_tokens();
    let skipped = tokens.len().checked_sub(schema.keys);
    for i in 0..schema.keys {
        if present(&row[i]) {
            continue;
        }
        let from_key = skipped.map(|skipped| tokens[skipped + i]).filter(present);
        let from_before = || event.member_of_before(&schema.columns[i].name);
        row[i] = from_key.or_else(from_before).ok_or(Malformed::NoKey)?;
    }
    Ok(())
}

/// Equal keys have equal bytes: each part as the text that its column would hold, length first
/// where there are several.
fn canonical_key(event: &Event, schema: &TableSchema, row: &[Slot]) -> Result<Bytes, Malformed> {
    let part = |i: usize| -> Result<Cow<'_, str>, Malformed> {
        let token = row[i].present(event.payload()).ok_or(Malformed::NoKey)?;
        Ok(match schema.columns[i].kind {
            ColumnType::Integer => {
                let mismatch = || {
                    Malformed::KeyTypeMismatch(value::TypeMismatch::of(
                        &schema.columns[i],
                        value::Wanted::Integer,
                    ))
                };
                Cow::Owned(
                    value::integer(json::text(token).trim()).ok_or_else(mismatch)?.to_string(),
                )
            }
            _ => json::text(token),
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
    Ok(match part(0)? {
        Cow::Borrowed("") => return Err(Malformed::NoKey),
        Cow::Borrowed(text) => event.shared(text),
        Cow::Owned(text) => Bytes::from(text),
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
