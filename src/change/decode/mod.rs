//! Reads an event in one pass into slices of its payload.

mod event;
mod malformed;
mod row;

use bytes::Bytes;
use bytestring::ByteString;

use super::json::{self, Cursor, NotJson, Slot};
pub use event::Event;
use event::{FIELDS, Field, FieldSpec, NO_FIELDS};
pub use malformed::Malformed;
pub use row::{ColumnOrder, RowLeft, told_of_deleted};

/// Decodes events one after the other, reusing its memory. It remembers the row of the last event
/// for [`Decoder::row`].
#[derive(Default)]
pub struct Decoder {
    /// Key and value of each member of `after` of the last event; of a row of an export, of the
    /// row.
    members: Vec<(Slot, Slot)>,
    /// The same of `before`; empty for a row of an export.
    before: Vec<(Slot, Slot)>,
}

impl Decoder {
    fn begin(&mut self, payload: Bytes) -> Result<ByteString, Malformed> {
        self.members.clear();
        self.before.clear();
        if payload.len() >= u32::MAX as usize {
            return Err(Malformed::TooLarge);
        }
        ByteString::try_from(payload).map_err(|_| Malformed::NotUtf8)
    }

    /// Reads one event. The members of its row stay with the decoder for [`Decoder::row`].
    pub fn decode(&mut self, payload: Bytes) -> Result<Event, Malformed> {
        let payload = self.begin(payload)?;
        let (mut slots, mut next) = (NO_FIELDS, 0);
        let mut cursor = object_in(&payload)?;
        cursor.object(|cursor, key| {
            match known_field(key.of(&payload).unwrap_or("\"\""), next) {
                Some(index) => {
                    next = index + 1;
                    slots[index] = self.value(cursor, index)?;
                }
                None => drop(cursor.value()?),
            }
            Ok::<(), Malformed>(())
        })?;
        cursor.end()?;
        Event::checked(payload, slots)
    }

    /// Passes the value of a field, and remembers the members of `after` and `before`.
    fn value(&mut self, cursor: &mut Cursor<'_>, index: usize) -> Result<Slot, NotJson> {
        const AFTER: usize = Field::After as usize;
        const BEFORE: usize = Field::Before as usize;
        let members = match index {
            AFTER => &mut self.members,
            BEFORE => &mut self.before,
            _ => return cursor.value(),
        };
        // Of a field that comes twice the last one counts.
        members.clear();
        if cursor.peek() != Some(b'{') {
            return cursor.value();
        }
        let start = cursor.position();
        row_members(cursor, members)?;
        Ok(cursor.slot(start))
    }

    /// Reads a row of an export: an object that is a table's row and nothing else. It counts as an
    /// insert.
    pub fn decode_row(&mut self, line: Bytes) -> Result<Event, Malformed> {
        let payload = self.begin(line)?;
        let mut cursor = object_in(&payload)?;
        row_members(&mut cursor, &mut self.members)?;
        cursor.end()?;
        Ok(Event::of_row(payload))
    }
}

fn row_members(cursor: &mut Cursor<'_>, members: &mut Vec<(Slot, Slot)>) -> Result<(), NotJson> {
    cursor.object::<NotJson>(|cursor, key| {
        members.push((key, cursor.value()?));
        Ok(())
    })
}

/// The index of the field that the JSON key `token` (with quotes) names. Senders write the fields
/// in the contract's order, so the search begins with `next`, the one behind the last found.
fn known_field(token: &str, next: usize) -> Option<usize> {
    let is_next = |spec: &FieldSpec| token.get(1..token.len() - 1) == Some(spec.name);
    if FIELDS.get(next).is_some_and(is_next) {
        return Some(next);
    }
    let name = json::text(token);
    let found = |from: usize, to: usize| (from..to).find(|i| FIELDS[*i].name == name);
    found(next, FIELDS.len()).or_else(|| found(0, next))
}

/// Whether an event has a field of this name that EDS reads or stores.
pub(super) fn is_event_field(name: &str) -> bool {
    FIELDS.iter().any(|spec| spec.name == name)
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::TableSchema;

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
    fn equal_values_of_a_key_column_are_one_key() -> Result<(), Malformed> {
        let key = |kind: &str, token: &str| {
            let json = format!(
                r#"{{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{{"id":{kind}}}}}"#
            );
            let schema = TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}"));
            let insert =
                format!(r#"{{"operation":"INSERT","table":"t","after":{{"id":{token}}}}}"#);
            let delete = format!(r#"{{"operation":"DELETE","table":"t","key":[{token}]}}"#);
            let [one, other] = [tokens(&insert, &schema)?.1, tokens(&delete, &schema)?.1];
            assert_eq!(one, other);
            Ok::<Bytes, Malformed>(one)
        };
        let (number, time) = (r#"{"type":"number"}"#, r#"{"type":"string","format":"date-time"}"#);
        for same in ["1.0", "1E0", "10e-1", "\"1\"", "\"1.00\""] {
            assert_eq!(key(number, same)?, key(number, "1")?, "{same}");
        }
        assert_eq!(key(number, "-0.0")?, key(number, "0")?);
        assert_ne!(key(number, "1.5")?, key(number, "1")?);
        let noon = "\"2024-01-02T12:00:00Z\"";
        for same in ["2024-01-02T12:00:00.000Z", "2024-01-02T13:00:00+01:00", "2024-01-02 12:00:00"]
        {
            assert_eq!(key(time, &format!("\"{same}\""))?, key(time, noon)?, "{same}");
        }
        assert!(matches!(key(time, "\"noon\""), Err(Malformed::KeyTypeMismatch(_))));
        assert!(matches!(key(number, "\"x\""), Err(Malformed::KeyTypeMismatch(_))));
        assert_eq!(
            key(r#"{"type":"boolean"}"#, "true")?,
            key(r#"{"type":"boolean"}"#, "\"true\"")?
        );
        Ok(())
    }

    #[test]
    fn a_delete_takes_its_key_from_before_by_name() -> Result<(), Malformed> {
        let (_, key) = tokens(
            r#"{"operation":"DELETE","table":"t","key":["7","x"],"before":{"id":"x","n":7}}"#,
            &schema("\"id\",\"n\""),
        )?;
        let (_, insert) = tokens(
            r#"{"operation":"INSERT","table":"t","after":{"id":"x","n":7}}"#,
            &schema("\"id\",\"n\""),
        )?;
        assert_eq!(key, insert);
        Ok(())
    }

    #[test]
    fn an_update_that_changes_the_key_names_the_row_that_it_leaves() -> Result<(), Malformed> {
        let left = |text: &str, keys: &str| {
            let (event, decoder) = decode(text)?;
            let (schema, mut order) = (schema(keys), ColumnOrder::default());
            let (_, key) = decoder.row(&event, &schema, &mut order)?;
            let left = decoder.row_left(&event, &schema, &order, &key)?;
            Ok::<Option<Bytes>, Malformed>(left.map(|left| left.key))
        };
        let update = |before: &str| {
            format!(
                r#"{{"operation":"UPDATE","table":"t","key":["b"],"before":{before},"after":{{"n":1,"id":"b"}}}}"#
            )
        };
        let of_id = |before: &str| left(&update(before), "\"id\"");
        assert_eq!(of_id(r#"{"n":1,"id":"a"}"#)?.as_deref(), Some(&b"a"[..]));
        assert_eq!(of_id(r#"{"id":"a","n":1}"#)?.as_deref(), Some(&b"a"[..]));
        assert_eq!(of_id(r#"{"n":2,"id":"b"}"#)?, None);
        assert_eq!(of_id(r#"{"n":2}"#)?, None);
        assert_eq!(of_id("null")?, None);
        assert!(left(&update(r#"{"n":2,"id":"b"}"#), "\"id\",\"n\"")?.is_some());
        assert_eq!(left(&update(r#"{"n":1.0,"id":"b"}"#), "\"id\",\"n\"")?, None);
        Ok(())
    }

    #[test]
    fn the_last_of_a_field_counts_however_its_name_is_spelt() -> Result<(), Malformed> {
        let (row, _) = tokens(
            r#"{"operation":"INSERT","table":"t","after":{"id":"a"},"\u0061fter":{"id":"b","n":5}}"#,
            &schema("\"id\""),
        )?;
        assert_eq!(row[..2], [Some("\"b\"".to_owned()), Some("5".to_owned())]);
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

    /// Field by field what the Go program writes where a field is missing, null, empty or filled:
    /// its struct has `omitempty` on some fields and not on others.
    #[test]
    fn each_field_is_stored_as_the_go_program_writes_it() {
        let table: [(&str, [Option<&str>; 4]); 13] = [
            ("id", [Some(r#""""#), Some(r#""""#), Some(r#""""#), Some(r#""x""#)]),
            ("key", [Some("null"), Some("null"), Some("[]"), Some(r#"["x"]"#)]),
            ("modelVersion", [Some(r#""""#), Some(r#""""#), Some(r#""""#), Some(r#""x""#)]),
            ("companyId", [None, None, Some(r#""""#), Some(r#""x""#)]),
            ("locationId", [None, None, Some(r#""""#), Some(r#""x""#)]),
            ("userId", [None, None, Some(r#""""#), Some(r#""x""#)]),
            ("before", [None, Some("null"), Some("{}"), Some(r#"{"a":1}"#)]),
            ("diff", [None, None, None, Some(r#"["x"]"#)]),
            ("timestamp", [Some("0"), Some("0"), Some("0"), Some("7")]),
            ("mvccTimestamp", [Some(r#""""#), Some(r#""""#), Some(r#""""#), Some(r#""x""#)]),
            ("imported", [None, None, None, Some("true")]),
            ("region", [None, None, None, None]),
            ("sessionId", [None, None, None, None]),
        ];
        let values = |field: &str| match field {
            "key" | "diff" => ["[]", r#"["x"]"#],
            "before" => ["{}", r#"{"a":1}"#],
            "timestamp" => ["0", "7"],
            "imported" => ["false", "true"],
            _ => [r#""""#, r#""x""#],
        };
        for (field, expected) in table {
            let [empty, filled] = values(field);
            for (value, expected) in
                [None, Some("null"), Some(empty), Some(filled)].into_iter().zip(expected)
            {
                let member = value.map_or_else(String::new, |v| format!(",\"{field}\":{v}"));
                let text =
                    format!(r#"{{"operation":"UPDATE","table":"t","after":{{"id":"k"}}{member}}}"#);
                let stored = decode(&text).map(|(event, _)| event.stored()).unwrap_or_default();
                let found = serde_json::from_str::<serde_json::Value>(&stored)
                    .map(|stored| stored.get(field).map(ToString::to_string))
                    .unwrap_or_else(|e| panic!("{e}: {stored}"));
                assert_eq!(found.as_deref(), expected, "{text}: {stored}");
            }
        }
        // An insertion says null of what was before, a deletion of what is after.
        let text =
            r#"{"operation":"DELETE","table":"t","key":["k"],"after":null,"before":{"id":"k"}}"#;
        let stored = decode(text).map(|(event, _)| event.stored());
        let expected = r#"{"operation":"DELETE","id":"","table":"t","key":["k"],"modelVersion":"","before":{"id":"k"},"after":null,"timestamp":0,"mvccTimestamp":""}"#;
        assert_eq!(stored.as_deref(), Ok(expected));
    }
}
