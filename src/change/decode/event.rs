//! A change event: the fields of the contract, and where each stands in the payload.

use std::borrow::Cow;
use std::sync::Arc;

use bytestring::ByteString;

use super::Malformed;
use crate::change::cutover::CLOCKS_APART_MAX_NS;
use crate::change::json::{self, Cursor, NotJson, Slot};
use crate::change::stamps::{Stamp, StampTokens};
use crate::change::{Operation, Version, value};

/// A field of the event that EDS reads or stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Field {
    Operation,
    Id,
    Table,
    Key,
    ModelVersion,
    CompanyId,
    LocationId,
    UserId,
    Before,
    After,
    Diff,
    Timestamp,
    MvccTimestamp,
    Imported,
}

/// What the contract says of a field.
pub(super) struct FieldSpec {
    pub(super) field: Field,
    /// Its name in JSON.
    pub(super) name: &'static str,
    /// The first byte of its value, which tells the JSON type; `None` where any type is taken.
    first_byte: Option<u8>,
}

const fn spec(field: Field, name: &'static str, first_byte: Option<u8>) -> FieldSpec {
    FieldSpec { field, name, first_byte }
}

/// All fields, in the contract's order, which is that of `Field` too.
pub(super) const FIELDS: [FieldSpec; 14] = [
    spec(Field::Operation, "operation", Some(b'"')),
    spec(Field::Id, "id", Some(b'"')),
    spec(Field::Table, "table", Some(b'"')),
    spec(Field::Key, "key", Some(b'[')),
    spec(Field::ModelVersion, "modelVersion", Some(b'"')),
    spec(Field::CompanyId, "companyId", Some(b'"')),
    spec(Field::LocationId, "locationId", Some(b'"')),
    spec(Field::UserId, "userId", Some(b'"')),
    spec(Field::Before, "before", Some(b'{')),
    spec(Field::After, "after", Some(b'{')),
    spec(Field::Diff, "diff", None),
    spec(Field::Timestamp, "timestamp", None),
    spec(Field::MvccTimestamp, "mvccTimestamp", Some(b'"')),
    spec(Field::Imported, "imported", None),
];

// `field as usize` is the field's index in the table and among the slots.
const _: () = {
    let mut i = 0;
    while i < FIELDS.len() {
        assert!(FIELDS[i].field as usize == i);
        i += 1;
    }
};

/// Where each field stands in the payload, by `Field as usize`.
pub(super) type FieldSlots = [Slot; FIELDS.len()];

/// The slots of an event that has no field.
pub(super) const NO_FIELDS: FieldSlots = [Slot::MISSING; FIELDS.len()];

/// A change event: its payload and where its fields stand in it.
#[derive(Clone, Debug)]
pub struct Event {
    payload: ByteString,
    /// What happened to the row.
    pub operation: Operation,
    /// `mvccTimestamp` is of much later than the event was published.
    is_of_future: bool,
    slots: FieldSlots,
    /// The values of the columns that EDS adds, where there are any.
    stamps: Option<Arc<StampTokens>>,
}

impl Event {
    /// An event of these fields, once their types and the required ones are checked.
    pub(super) fn checked(payload: ByteString, slots: FieldSlots) -> Result<Event, Malformed> {
        for (slot, spec) in slots.iter().zip(&FIELDS) {
            let first_byte = slot.present(&payload).map(|token| token.as_bytes()[0]);
            if spec.first_byte.is_some() && first_byte.is_some_and(|b| Some(b) != spec.first_byte) {
                return Err(Malformed::WrongType(spec.name));
            }
        }
        let token = |field: Field| slots[field as usize].present(&payload);
        let missing = |field: Field| Malformed::Missing(FIELDS[field as usize].name);
        let operation = token(Field::Operation).ok_or_else(|| missing(Field::Operation))?;
        if token(Field::Table).is_none_or(|name| name == "\"\"") {
            return Err(missing(Field::Table));
        }
        let operation = match operation {
            "\"INSERT\"" => Operation::Insert,
            "\"UPDATE\"" => Operation::Update,
            "\"DELETE\"" => Operation::Delete,
            _ => return Err(Malformed::UnknownOperation),
        };
        if operation != Operation::Delete && token(Field::After).is_none() {
            return Err(missing(Field::After));
        }
        Ok(Event { payload, operation, is_of_future: false, slots, stamps: None })
    }

    /// A row of an export, which is nothing but its `after`. It counts as an insert.
    pub(super) fn of_row(payload: ByteString) -> Event {
        let mut slots = NO_FIELDS;
        slots[Field::After as usize] = Slot::at(0, payload.len());
        Event { payload, operation: Operation::Insert, is_of_future: false, slots, stamps: None }
    }

    /// Gives it the values of the columns that EDS adds.
    pub fn stamped(&mut self, tokens: StampTokens) {
        self.stamps = Some(Arc::new(tokens));
    }

    /// It is taken up, to be written, at this time.
    pub fn taken_up(&mut self, at: &str) {
        if let Some(stamps) = &mut self.stamps {
            Arc::make_mut(stamps).taken_up(at);
        }
    }

    /// The token of a column that EDS adds; nothing is deleted by an upsert.
    pub fn stamp(&self, stamp: Stamp) -> Option<&str> {
        let is_there = self.operation != Operation::Delete;
        let tokens = self.stamps.as_ref().filter(|_| !(is_there && stamp == Stamp::DeletedAt))?;
        tokens.token(stamp)
    }

    /// A part of the payload that shares its memory.
    pub(in crate::change) fn shared(&self, part: &str) -> bytes::Bytes {
        self.payload.as_bytes().slice_ref(part.as_bytes())
    }

    /// The whole message, unpacked: what all slots of the event point into.
    pub fn payload(&self) -> &str {
        &self.payload
    }

    /// The token of a field; `None` where it is missing or null.
    fn token(&self, field: Field) -> Option<&str> {
        self.slots[field as usize].present(&self.payload)
    }

    /// The text of a field; empty where it is missing or null.
    fn text(&self, field: Field) -> Cow<'_, str> {
        self.token(field).map_or(Cow::Borrowed(""), json::text)
    }

    /// The event's own id; empty where it has none.
    pub fn id(&self) -> Cow<'_, str> {
        self.text(Field::Id)
    }

    /// The table's name; never empty in an event, empty in a row of an export.
    pub fn table(&self) -> Cow<'_, str> {
        self.text(Field::Table)
    }

    /// The version of the table's schema; empty where the event names none.
    pub fn model_version(&self) -> Cow<'_, str> {
        self.text(Field::ModelVersion)
    }

    /// Empty where the event names none.
    pub fn company(&self) -> Cow<'_, str> {
        self.text(Field::CompanyId)
    }

    /// Empty where the event names none.
    pub fn location(&self) -> Cow<'_, str> {
        self.text(Field::LocationId)
    }

    /// Empty where the event names none.
    pub fn user(&self) -> Cow<'_, str> {
        self.text(Field::UserId)
    }

    /// Whether it is a row of an export.
    pub fn is_imported(&self) -> bool {
        self.token(Field::Imported) == Some("true")
    }

    /// Unix milliseconds; 0 where absent.
    pub fn timestamp_ms(&self) -> i64 {
        self.token(Field::Timestamp).and_then(value::integer).unwrap_or(0)
    }

    /// CockroachDB's timestamp of the change as it came; empty where the event has none.
    pub fn mvcc(&self) -> Cow<'_, str> {
        self.text(Field::MvccTimestamp)
    }

    /// The age of the row after the change; `None` where `mvccTimestamp` tells no plausible one.
    pub fn version(&self) -> Option<Version> {
        if self.is_of_future {
            return None;
        }
        Version::parse(&self.mvcc())
    }

    /// Whether `mvccTimestamp` is of much later than the event was published, so that it does not
    /// count.
    pub fn is_of_future(&self) -> bool {
        self.is_of_future
    }

    /// What [`Event::published_at`] found when the event came.
    pub fn judged(&mut self, is_of_future: bool) {
        self.is_of_future = is_of_future;
    }

    /// The event was published at this time, Unix nanoseconds: it cannot be from much later. Such a
    /// version would win over every change to come. Returns whether it claims one.
    pub fn published_at(&mut self, time_ns: i64) -> bool {
        let max_ns = u64::try_from(time_ns.saturating_add(CLOCKS_APART_MAX_NS)).unwrap_or(u64::MAX);
        self.is_of_future =
            Version::parse(&self.mvcc()).is_some_and(|version| version.nanos > max_ns);
        self.is_of_future
    }

    /// The same event as the deletion of a row.
    pub fn as_delete(&self) -> Event {
        Event { operation: Operation::Delete, ..self.clone() }
    }

    /// Whether it is the deletion of the row that an update has left.
    pub fn leaves_row(&self) -> bool {
        self.operation == Operation::Delete && self.token(Field::Operation) != Some("\"DELETE\"")
    }

    /// The token of a column of `after` that no schema is asked for.
    pub fn member_of_row(&self, name: &str) -> Option<&str> {
        self.token(Field::After).and_then(|row| member(row, name))
    }

    /// The text of a column of the row as it is after the change, of a deleted row as it was before
    /// it; empty where the row has no such column or nothing in it. `None` where the event has no
    /// row at all.
    pub fn column_text(&self, name: &str) -> Option<Cow<'_, str>> {
        let row = self.token(Field::After).or_else(|| self.token(Field::Before))?;
        Some(member(row, name).map_or(Cow::Borrowed(""), json::text))
    }

    /// `key` as the event spells it; `None` where it has none.
    pub fn spelled_key(&self) -> Option<&str> {
        self.token(Field::Key)
    }

    /// The elements of `key`, as tokens.
    pub(super) fn key_tokens(&self) -> Vec<Slot> {
        let mut tokens = Vec::new();
        if let Some(array) = self.token(Field::Key) {
            let base = self.slots[Field::Key as usize].range().start;
            // The array was passed once already; an element's slot is relative to the array.
            let _: Result<(), NotJson> = Cursor::new(array).array(|slot| {
                tokens.push(slot.moved(base));
                Ok(())
            });
        }
        tokens
    }

    /// The record's primary key for keepers of changes: the last element of `key`, else the `id` of
    /// `after`, else of `before`.
    pub fn record_key(&self) -> Result<String, Malformed> {
        let from_row = |row: Field| self.token(row).and_then(|object| member(object, "id"));
        let last = self.key_tokens().last().and_then(|slot| slot.present(&self.payload));
        let token = last.or_else(|| from_row(Field::After)).or_else(|| from_row(Field::Before));
        token
            .map(|t| json::text(t).into_owned())
            .filter(|key| !key.is_empty())
            .ok_or(Malformed::NoKey)
    }

    /// The event as a destination that keeps changes stores it: the fields that the Go program
    /// writes, in the contract's order, each value byte for byte as it came.
    pub fn stored(&self) -> String {
        let mut out = String::with_capacity(self.payload.len() + 16);
        self.store_into(&mut out);
        out
    }

    /// Appends what [`Event::stored`] returns.
    pub fn store_into(&self, out: &mut String) {
        out.push_str("{\"operation\":\"");
        out.push_str(self.operation.as_str());
        out.push('"');
        for spec in FIELDS.iter().filter(|spec| spec.field != Field::Operation) {
            if let Some(token) = self.stored_token(spec.field) {
                out.push_str(",\"");
                out.push_str(spec.name);
                out.push_str("\":");
                out.push_str(token);
            }
        }
        out.push('}');
    }

    /// The value of a field as the Go program writes it; `None` where it leaves the field out.
    fn stored_token(&self, field: Field) -> Option<&str> {
        let token = self.token(field);
        match field {
            Field::Operation
            | Field::Id
            | Field::Table
            | Field::ModelVersion
            | Field::MvccTimestamp => Some(token.unwrap_or("\"\"")),
            Field::Key => Some(token.unwrap_or("null")),
            Field::Timestamp => Some(token.unwrap_or("0")),
            Field::CompanyId | Field::LocationId | Field::UserId => token,
            // They pass through as they are, a null too.
            Field::Before | Field::After => self.slots[field as usize].of(&self.payload),
            Field::Diff => token.filter(|list| !is_empty_list(list)),
            Field::Imported => token.filter(|_| self.is_imported()),
        }
    }
}

/// Whether a JSON text is a list of nothing.
fn is_empty_list(text: &str) -> bool {
    let inner = text.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
    inner.is_some_and(|inner| inner.trim_ascii().is_empty())
}

/// The token of member `name` of an object's text.
pub(super) fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
    let mut found = None;
    let _: Result<(), NotJson> = Cursor::new(object).object(|cursor, key| {
        let value = cursor.value()?;
        if key.of(object).is_some_and(|k| json::text(k) == name) {
            found = value.present(object);
        }
        Ok(())
    });
    found
}
