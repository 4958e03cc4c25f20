//! Reads an event in one pass into slices of its payload.

use std::borrow::Cow;

use bytes::Bytes;
use bytestring::ByteString;

use super::json::{self, Cursor, NotJson, Slot};
use super::schema::TableSchema;
use super::{Operation, Version, value};

/// Why a message is not a change event. Names fields, never shows values.
#[derive(Clone, PartialEq, Eq, Debug, thiserror::Error)]
pub enum Malformed {
    #[error("the message is not UTF-8")]
    NotUtf8,
    #[error("the message is {0}")]
    NotJson(#[from] NotJson),
    #[error("the message is not a JSON object")]
    NotAnObject,
    #[error("the message is larger than 4 GiB")]
    TooLarge,
    #[error("the field {0:?} is missing")]
    Missing(&'static str),
    #[error("the field {0:?} is not of the expected type")]
    WrongType(&'static str),
    #[error("the operation is neither INSERT, UPDATE nor DELETE")]
    UnknownOperation,
    #[error("the event has no primary key")]
    NoKey,
    #[error("the primary key does not fit its column: {0}")]
    KeyTypeMismatch(value::TypeMismatch),
    #[error("the message has the content encoding {0:?}, which is not known")]
    UnknownEncoding(String),
    #[error("the message is not valid gzip")]
    NotGzip,
}

/// A change event: its payload and where its fields stand in it.
#[derive(Clone, Debug)]
pub struct Event {
    payload: ByteString,
    pub operation: Operation,
    id: Slot,
    table: Slot,
    key: Slot,
    model_version: Slot,
    company: Slot,
    location: Slot,
    user: Slot,
    before: Slot,
    after: Slot,
    diff: Slot,
    timestamp: Slot,
    mvcc: Slot,
    imported: Slot,
}

impl Event {
    pub fn payload(&self) -> &str {
        &self.payload
    }

    fn field(&self, slot: Slot) -> Cow<'_, str> {
        slot.present(&self.payload).map_or(Cow::Borrowed(""), json::text)
    }

    pub fn id(&self) -> Cow<'_, str> {
        self.field(self.id)
    }

    pub fn table(&self) -> Cow<'_, str> {
        self.field(self.table)
    }

    pub fn model_version(&self) -> Cow<'_, str> {
        self.field(self.model_version)
    }

    /// Empty where the event names none.
    pub fn company(&self) -> Cow<'_, str> {
        self.field(self.company)
    }

    /// Empty where the event names none.
    pub fn location(&self) -> Cow<'_, str> {
        self.field(self.location)
    }

    /// Empty where the event names none.
    pub fn user(&self) -> Cow<'_, str> {
        self.field(self.user)
    }

    /// Whether it is a row of an export.
    pub fn is_imported(&self) -> bool {
        self.imported.present(&self.payload) == Some("true")
    }

    /// Unix milliseconds; 0 where absent.
    pub fn timestamp_ms(&self) -> i64 {
        self.timestamp.present(&self.payload).and_then(value::integer).unwrap_or(0)
    }

    pub fn mvcc(&self) -> Cow<'_, str> {
        self.field(self.mvcc)
    }

    pub fn version(&self) -> Option<Version> {
        Version::parse(&self.mvcc())
    }

    /// The token of a column of `after` that no schema is asked for.
    pub fn member_of_row(&self, name: &str) -> Option<&str> {
        self.after.present(&self.payload).and_then(|row| member(row, name))
    }

    /// The elements of `key`, as tokens.
    fn key_tokens(&self) -> Vec<Slot> {
        let mut tokens = Vec::new();
        if let Some(array) = self.key.present(&self.payload) {
            let base = self.key.range().start;
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
        let from_row =
            |row: Slot| row.present(&self.payload).and_then(|object| member(object, "id"));
        let last = self.key_tokens().last().and_then(|slot| slot.present(&self.payload));
        let token = last.or_else(|| from_row(self.after)).or_else(|| from_row(self.before));
        token
            .map(|t| json::text(t).into_owned())
            .filter(|key| !key.is_empty())
            .ok_or(Malformed::NoKey)
    }

    /// The event as a destination that keeps changes stores it: known fields in the contract's
    /// order, each value byte for byte as it came.
    pub fn stored(&self) -> String {
        let fields = [
            ("id", self.id),
            ("table", self.table),
            ("key", self.key),
            ("modelVersion", self.model_version),
            ("companyId", self.company),
            ("locationId", self.location),
            ("userId", self.user),
            ("before", self.before),
            ("after", self.after),
            ("diff", self.diff),
            ("timestamp", self.timestamp),
            ("mvccTimestamp", self.mvcc),
        ];
        let mut out = String::with_capacity(self.payload.len() + 16);
        out.push_str("{\"operation\":\"");
        out.push_str(self.operation.as_str());
        out.push('"');
        for (name, slot) in fields {
            if let Some(token) = slot.present(&self.payload) {
                out.push_str(",\"");
                out.push_str(name);
                out.push_str("\":");
                out.push_str(token);
            }
        }
        if self.is_imported() {
            out.push_str(",\"imported\":true");
        }
        out.push('}');
        out
    }
}

/// At the beginning of an object.
fn object_in(text: &str) -> Result<Cursor<'_>, Malformed> {
    let mut cursor = Cursor::new(text);
    if cursor.peek() != Some(b'{') {
        cursor.value()?;
        return Err(Malformed::NotAnObject);
    }
    Ok(cursor)
}

/// The token of member `name` of an object's text.
fn member<'a>(object: &'a str, name: &str) -> Option<&'a str> {
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

/// Decodes events one after the other, reusing its memory.
#[derive(Default)]
pub struct Decoder {
    /// Key and value of each member of `after` (of a delete: of `before`) of the last event.
    members: Vec<(Slot, Slot)>,
}

impl Decoder {
    fn begin(&mut self, payload: Bytes) -> Result<ByteString, Malformed> {
        self.members.clear();
        if payload.len() >= u32::MAX as usize {
            return Err(Malformed::TooLarge);
        }
        ByteString::try_from(payload).map_err(|_| Malformed::NotUtf8)
    }

    /// Reads one event. The members of its row stay with the decoder for [`Decoder::row`].
    pub fn decode(&mut self, payload: Bytes) -> Result<Event, Malformed> {
        let payload = self.begin(payload)?;
        let mut fields = EventFields::default();
        let mut cursor = object_in(&payload)?;
        cursor.object(|cursor, key| self.field(&payload, &mut fields, cursor, key))?;
        cursor.end()?;
        fields.event(payload)
    }

    fn field(
        &mut self,
        payload: &str,
        fields: &mut EventFields,
        cursor: &mut Cursor<'_>,
        key: Slot,
    ) -> Result<(), Malformed> {
        let known = match key.of(payload).map(json::text).as_deref() {
            Some("operation") => &mut fields.operation,
            Some("id") => &mut fields.id,
            Some("table") => &mut fields.table,
            Some("key") => &mut fields.key,
            Some("modelVersion") => &mut fields.model_version,
            Some("companyId") => &mut fields.company,
            Some("locationId") => &mut fields.location,
            Some("userId") => &mut fields.user,
            Some("before") => &mut fields.before,
            Some("after") => &mut fields.after,
            Some("diff") => &mut fields.diff,
            Some("timestamp") => &mut fields.timestamp,
            Some("mvccTimestamp") => &mut fields.mvcc,
            Some("imported") => &mut fields.imported,
            _ => return Ok(cursor.value().map(|_| ())?),
        };
        let is_after = key.of(payload) == Some("\"after\"");
        *known = if is_after && cursor.peek() == Some(b'{') {
            let start = cursor.position();
            let members = &mut self.members;
            members.clear();
            cursor.object::<NotJson>(|cursor, key| {
                members.push((key, cursor.value()?));
                Ok(())
            })?;
            cursor.slot(start)
        } else {
            cursor.value()?
        };
        Ok(())
    }

    /// Reads a row of an export: an object that is a table's row and nothing else. It counts as an
    /// insert.
    pub fn decode_row(&mut self, line: Bytes) -> Result<Event, Malformed> {
        let payload = self.begin(line)?;
        let mut cursor = object_in(&payload)?;
        let members = &mut self.members;
        cursor.object::<NotJson>(|cursor, key| {
            members.push((key, cursor.value()?));
            Ok(())
        })?;
        cursor.end()?;
        let after = Slot::at(0, payload.len());
        Ok(EventFields { after, ..EventFields::default() }.into_event(payload, Operation::Insert))
    }

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
        let from_before = || {
            let before = event.before.present(event.payload())?;
            let token = member(before, &schema.columns[i].name)?;
            let start =
                event.before.range().start + (token.as_ptr() as usize - before.as_ptr() as usize);
            Some(Slot::at(start, token.len()))
        };
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
            super::ColumnType::Integer => {
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
        Cow::Borrowed(text) => event.payload.as_bytes().slice_ref(text.as_bytes()),
        Cow::Owned(text) => Bytes::from(text),
    })
}

/// Events of a table list its columns in the same order nearly always: guess by place, look up by
/// name if wrong.
#[derive(Default, Debug)]
pub struct ColumnOrder {
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

struct EventFields {
    operation: Slot,
    id: Slot,
    table: Slot,
    key: Slot,
    model_version: Slot,
    company: Slot,
    location: Slot,
    user: Slot,
    before: Slot,
    after: Slot,
    diff: Slot,
    timestamp: Slot,
    mvcc: Slot,
    imported: Slot,
}

impl Default for EventFields {
    fn default() -> Self {
        let m = Slot::MISSING;
        EventFields {
            operation: m,
            id: m,
            table: m,
            key: m,
            model_version: m,
            company: m,
            location: m,
            user: m,
            before: m,
            after: m,
            diff: m,
            timestamp: m,
            mvcc: m,
            imported: m,
        }
    }
}

impl EventFields {
    /// Checks the types of the fields that EDS itself reads.
    fn event(self, payload: ByteString) -> Result<Event, Malformed> {
        let typed = |slot: Slot, name: &'static str, first: u8| match slot.present(&payload) {
            Some(token) if token.as_bytes()[0] == first => Ok(true),
            Some(_) => Err(Malformed::WrongType(name)),
            None => Ok(false),
        };
        let optional = [
            (self.id, "id", b'"'),
            (self.model_version, "modelVersion", b'"'),
            (self.company, "companyId", b'"'),
            (self.location, "locationId", b'"'),
            (self.user, "userId", b'"'),
            (self.mvcc, "mvccTimestamp", b'"'),
            (self.key, "key", b'['),
            (self.before, "before", b'{'),
        ];
        for (slot, name, first) in optional {
            typed(slot, name, first)?;
        }
        if !typed(self.operation, "operation", b'"')? {
            return Err(Malformed::Missing("operation"));
        }
        if !typed(self.table, "table", b'"')? || self.table.of(&payload) == Some("\"\"") {
            return Err(Malformed::Missing("table"));
        }
        let operation = match self.operation.of(&payload) {
            Some("\"INSERT\"") => Operation::Insert,
            Some("\"UPDATE\"") => Operation::Update,
            Some("\"DELETE\"") => Operation::Delete,
            _ => return Err(Malformed::UnknownOperation),
        };
        if !typed(self.after, "after", b'{')? && operation != Operation::Delete {
            return Err(Malformed::Missing("after"));
        }
        Ok(self.into_event(payload, operation))
    }

    fn into_event(self, payload: ByteString, operation: Operation) -> Event {
        let EventFields {
            id,
            table,
            key,
            model_version,
            company,
            location,
            user,
            before,
            after,
            diff,
            timestamp,
            mvcc,
            imported,
            ..
        } = self;
        Event {
            payload,
            operation,
            id,
            table,
            key,
            model_version,
            company,
            location,
            user,
            before,
            after,
            diff,
            timestamp,
            mvcc,
            imported,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema(keys: &str) -> TableSchema {
        let json = format!(
            r#"{{"table":"t","modelVersion":"1","primaryKeys":[{keys}],"properties":{{"id":{{"type":"string"}},"n":{{"type":"integer"}},"note":{{"type":"string"}}}}}}"#
        );
        TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}"))
    }

    fn decode(text: &str) -> Result<(Event, Decoder), Malformed> {
        let mut decoder = Decoder::default();
        let event = decoder.decode(Bytes::copy_from_slice(text.as_bytes()))?;
        Ok((event, decoder))
    }

    fn tokens(text: &str, schema: &TableSchema) -> Result<(Vec<Option<String>>, Bytes), Malformed> {
        let (event, decoder) = decode(text)?;
        let (row, key) = decoder.row(&event, schema, &mut ColumnOrder::default())?;
        Ok((row.iter().map(|s| s.of(event.payload()).map(str::to_owned)).collect(), key))
    }

    #[test]
    fn a_row_is_slices_in_the_order_of_the_schema() -> Result<(), Malformed> {
        let text = r#"{"region":"x","after":{"zzz":[1],"note":"a\"b","n":9007199254740993,"\u0069d":"k"},"operation":"UPDATE","table":"t","key":["k"]}"#;
        let (row, key) = tokens(text, &schema("\"id\""))?;
        assert_eq!(
            row,
            [
                Some("\"k\"".to_owned()),
                Some("9007199254740993".to_owned()),
                Some(r#""a\"b""#.to_owned())
            ]
        );
        assert_eq!(&key[..], b"k");
        Ok(())
    }

    #[test]
    fn a_key_is_matched_from_the_right_end() -> Result<(), Malformed> {
        let (row, key) = tokens(
            r#"{"operation":"DELETE","table":"t","key":["gcp-us-west1","abc"]}"#,
            &schema("\"id\""),
        )?;
        assert_eq!(row, [Some("\"abc\"".to_owned())]);
        assert_eq!(&key[..], b"abc");
        Ok(())
    }

    #[test]
    fn keys_of_both_operations_agree() -> Result<(), Malformed> {
        let schema = schema("\"n\",\"id\"");
        let (_, upsert) = tokens(
            r#"{"operation":"INSERT","table":"t","key":["7","x"],"after":{"n":7.0,"id":"x"}}"#,
            &schema,
        )?;
        let (_, delete) =
            tokens(r#"{"operation":"DELETE","table":"t","key":["eu","7","x"]}"#, &schema)?;
        let (_, before) =
            tokens(r#"{"operation":"DELETE","table":"t","before":{"n":7,"id":"x"}}"#, &schema)?;
        assert_eq!(upsert, delete);
        assert_eq!(upsert, before);
        Ok(())
    }

    #[test]
    fn what_is_malformed_is_named() {
        let cases = [
            ("", Malformed::NotJson(NotJson { at: 0 })),
            ("[]", Malformed::NotAnObject),
            ("{\"operation\":\"INSERT\"", Malformed::NotJson(NotJson { at: 21 })),
            ("{}", Malformed::Missing("operation")),
            (r#"{"operation":"INSERT","table":7}"#, Malformed::WrongType("table")),
            (r#"{"operation":"INSERT","table":"t"}"#, Malformed::Missing("after")),
            (r#"{"operation":"MERGE","table":"t"}"#, Malformed::UnknownOperation),
            (r#"{"operation":"UPDATE","table":"t","after":[]}"#, Malformed::WrongType("after")),
        ];
        for (text, expected) in cases {
            assert_eq!(decode(text).err(), Some(expected), "{text}");
        }
        assert_eq!(
            tokens(r#"{"operation":"DELETE","table":"t","key":[]}"#, &schema("\"id\"")).err(),
            Some(Malformed::NoKey)
        );
        assert_eq!(
            tokens(r#"{"operation":"INSERT","table":"t","after":{"n":1}}"#, &schema("\"id\""))
                .err(),
            Some(Malformed::NoKey)
        );
    }

    #[test]
    fn a_stored_event_has_the_fields_of_the_contract_in_its_order() -> Result<(), Malformed> {
        let text = r#"{"mvccTimestamp":"1","after":{"b": 1E+3 , "a":"<é>"},"operation":"INSERT","region":"x","table":"t","userId":null,"id":"e","key":["k"],"timestamp":5,"modelVersion":"v"}"#;
        let (event, _) = decode(text)?;
        assert_eq!(
            event.stored(),
            r#"{"operation":"INSERT","id":"e","table":"t","key":["k"],"modelVersion":"v","after":{"b": 1E+3 , "a":"<é>"},"timestamp":5,"mvccTimestamp":"1"}"#
        );
        assert_eq!(event.record_key()?, "k");
        Ok(())
    }
}
