//! JSON values in columns of every kind.

use eds::change::ColumnType;
use serde_json::{Value, json};

use super::{Database, WAYS, canonical, replayed};
use crate::services::eds::{schema, upsert};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

const KINDS: [(&str, ColumnType, &str); 8] = [
    ("text", ColumnType::Text, r#"{"type":"string"}"#),
    ("time", ColumnType::Time, r#"{"type":"string","format":"date-time"}"#),
    ("integer", ColumnType::Integer, r#"{"type":"integer"}"#),
    ("number", ColumnType::Number, r#"{"type":"number"}"#),
    ("boolean", ColumnType::Boolean, r#"{"type":"boolean"}"#),
    ("object", ColumnType::Object, r#"{"type":"object"}"#),
    ("array", ColumnType::Array, r#"{"type":"array"}"#),
    ("enumeration", ColumnType::Enum, r#"{"type":"array","items":{"enum":["A"]}}"#),
];

/// Token; as integer, as number, as boolean, as instant: `None` where the column refuses it.
type Row = (&'static str, Option<i64>, Option<f64>, Option<bool>, Option<&'static str>);

#[rustfmt::skip]
const TOKENS: &[Row] = &[
    ("true", None, None, Some(true), None),
    ("false", None, None, Some(false), None),
    ("0", Some(0), Some(0.0), None, None),
    ("-1", Some(-1), Some(-1.0), None, None),
    ("1.0", Some(1), Some(1.0), None, None),
    ("1E+3", Some(1000), Some(1000.0), None, None),
    ("1.5", None, Some(1.5), None, None),
    ("0.1", None, Some(0.1), None, None),
    ("1e-300", None, Some(1e-300), None, None),
    ("9007199254740993", Some(9_007_199_254_740_993), Some(9_007_199_254_740_992.0), None, None),
    ("9223372036854775807", Some(i64::MAX), Some(9.223_372_036_854_776e18), None, None),
    ("-9223372036854775808", Some(i64::MIN), Some(-9.223_372_036_854_776e18), None, None),
    ("9223372036854775808", None, Some(9.223_372_036_854_776e18), None, None),
    ("1e400", None, None, None, None),
    ("\"\"", None, None, None, None),
    ("\"text\"", None, None, None, None),
    ("\"12\"", Some(12), Some(12.0), None, None),
    ("\"1.5\"", None, Some(1.5), None, None),
    ("\"true\"", None, None, Some(true), None),
    ("\"2024-02-03T04:05:06.7+02:00\"", None, None, None, Some("2024-02-03T02:05:06.700000Z")),
    ("\"2024-13-03T04:05:06Z\"", None, None, None, None),
    ("{}", None, None, None, None),
    ("{\"a\":[1,null]}", None, None, None, None),
    ("[]", None, None, None, None),
    ("[\"x\"]", None, None, None, None),
];

fn expected(kind: ColumnType, (token, integer, number, boolean, time): &Row) -> Option<Value> {
    match kind {
        ColumnType::Text | ColumnType::Enum => Some(
            serde_json::from_str::<String>(token).unwrap_or_else(|_| (*token).to_owned()).into(),
        ),
        ColumnType::Integer => integer.map(Value::from),
        ColumnType::Number => number.map(Value::from),
        ColumnType::Boolean => boolean.map(Value::from),
        ColumnType::Time => time.map(Value::from),
        // A number that no double holds stays a number of the document; what the database makes of
        // it is its own affair.
        ColumnType::Object | ColumnType::Array => serde_json::from_str(token).ok(),
    }
}

pub async fn scalars_meet_columns_of_every_kind(database: &dyn Database) {
    let mut schemas = json!({});
    let mut journal = String::new();
    let (mut kept, mut refused) = (Vec::new(), 0);
    for (name, kind, property) in KINDS {
        schemas[name] = schema(
            name,
            "1",
            json!({"c": serde_json::from_str::<Value>(property).unwrap_or_default()}),
        );
        for (n, row) in TOKENS.iter().enumerate() {
            if matches!(kind, ColumnType::Object | ColumnType::Array) && row.0 == "1e400" {
                continue;
            }
            let id = format!("{n:02}");
            journal += &format!(
                "{{\"operation\":\"INSERT\",\"table\":\"{name}\",\"modelVersion\":\"1\",\"key\":[\"{id}\"],\"after\":{{\"id\":\"{id}\",\"c\":{}}}}}\n",
                row.0
            );
            match expected(kind, row) {
                Some(value) => kept.push((name, id, value)),
                None => refused += 1,
            }
        }
    }
    for way in WAYS {
        let dir = temp();
        replayed(dir.path(), database, &schemas, &journal, way);
        let mut found = Vec::new();
        for (name, kind, _) in KINDS {
            let rows = database.read(name, &["id", "c"]).await;
            found.extend(rows.into_iter().map(|row| {
                (name, row[0].clone().unwrap_or_default(), canonical(kind, row[1].as_deref()))
            }));
        }
        assert_eq!(found.len(), kept.len());
        for (found, wanted) in found.iter().zip(&kept) {
            let same = match (&found.2, &wanted.2) {
                (Value::Number(a), Value::Number(b)) => a.as_f64() == b.as_f64(),
                (a, b) => a == b,
            };
            assert!(
                same && (found.0, &found.1) == (wanted.0, &wanted.1),
                "{found:?} instead of {wanted:?}"
            );
        }
        let letters = database.read("_eds_dead_letter", &["letter", "kind"]).await;
        assert_eq!(letters.len(), refused, "{letters:?}");
    }
}

/// Integers beyond 2^53 and decimals keep every digit, in integer columns and inside JSON.
pub async fn numbers_keep_every_digit(database: &dyn Database) {
    let schemas = json!({"t": schema("digits", "1", json!({"n": {"type": "integer"}, "x": {"type": "number"}, "doc": {"type": "object"}, "list": {"type": "array"}}))});
    let event = |after: &str| {
        format!(
            "{{\"operation\":\"INSERT\",\"table\":\"digits\",\"modelVersion\":\"1\",\"key\":[\"{}\"],\"after\":{after}}}\n",
            &after[7..8]
        )
    };
    let journal = [
        event(r#"{"id":"a","n":9007199254740993,"x":0.1,"doc":{"big":12345678901234567890123,"dec":1.10000000000000000000001},"list":[9007199254740993,7]}"#),
        event(r#"{"id":"b","n":-9223372036854775808,"x":1.7976931348623157e308,"doc":{"n":9223372036854775807},"list":[18446744073709551615]}"#),
        event(r#"{"id":"c","n":1E+3,"x":-2.2250738585072014e-308}"#),
    ]
    .concat();
    for way in WAYS {
        replayed(temp().path(), database, &schemas, &journal, way);
        let rows = database.read("digits", &["id", "n", "x", "doc", "list"]).await;
        let integers: Vec<&str> = rows.iter().filter_map(|r| r[1].as_deref()).collect();
        assert_eq!(integers, ["9007199254740993", "-9223372036854775808", "1000"]);
        let doubles: Vec<Value> =
            rows.iter().map(|r| canonical(ColumnType::Number, r[2].as_deref())).collect();
        assert_eq!(
            doubles,
            [json!(0.1), json!(1.7976931348623157e308), json!(-2.2250738585072014e-308)]
        );
        let compact =
            |r: usize, c: usize| rows[r][c].as_deref().unwrap_or_default().replace(' ', "");
        assert_eq!(
            (compact(0, 4), compact(1, 4), compact(1, 3)),
            (
                "[9007199254740993,7]".into(),
                "[18446744073709551615]".into(),
                r#"{"n":9223372036854775807}"#.into()
            )
        );
        if !database.limits().short_json_numbers {
            assert_eq!(
                compact(0, 3),
                r#"{"big":12345678901234567890123,"dec":1.10000000000000000000001}"#
            );
        }
        assert_eq!((&rows[2][3], &rows[2][4]), (&None, &None));
    }
}

pub async fn instants_keep_their_microseconds(database: &dyn Database) {
    let cases = [
        ("2024-07-11T21:16:51.708587506Z", "2024-07-11T21:16:51.708587Z"),
        ("1969-12-31T23:59:59.9999999+02:00", "1969-12-31T21:59:59.999999Z"),
        ("1970-01-01T00:00:00Z", "1970-01-01T00:00:00.000000Z"),
        ("2038-01-19T03:14:08.000001Z", "2038-01-19T03:14:08.000001Z"),
        ("9999-12-31T23:59:59.999999Z", "9999-12-31T23:59:59.999999Z"),
        ("1582-10-10T00:00:00Z", "1582-10-10T00:00:00.000000Z"),
        ("1000-01-01T00:00:00Z", "1000-01-01T00:00:00.000000Z"),
        ("2024-03-31T02:30:00+01:00", "2024-03-31T01:30:00.000000Z"),
        ("2024-11-03T01:30:00-05:00", "2024-11-03T06:30:00.000000Z"),
        ("2024-02-29", "2024-02-29T00:00:00.000000Z"),
    ];
    let schemas = json!({"t": schema("instants", "1", json!({"at": {"type": "string", "format": "date-time"}}))});
    let journal: String = cases
        .iter()
        .enumerate()
        .map(|(i, (text, _))| {
            upsert("instants", "1", json!({"id": format!("{i:02}"), "at": text})).to_string() + "\n"
        })
        .collect();
    for way in WAYS {
        replayed(temp().path(), database, &schemas, &journal, way);
        let rows = database.read("instants", &["id", "at"]).await;
        let found: Vec<Value> =
            rows.iter().map(|row| canonical(ColumnType::Time, row[1].as_deref())).collect();
        assert_eq!(found, cases.map(|(_, at)| Value::from(at)));
    }
}

/// A table of all kinds, in which every column is required or none but the key, and two journals:
/// in one a row's values become null, in the other they are missing.
fn table_of_all_kinds(table: &str, strict: bool) -> (Value, String, String) {
    let properties = KINDS
        .iter()
        .map(|(name, _, p)| ((*name).to_owned(), serde_json::from_str(p).unwrap_or_default()));
    let mut made = schema(table, "1", Value::Object(properties.collect()));
    if strict {
        let names = KINDS.iter().map(|(name, ..)| *name);
        made["required"] = std::iter::once("id").chain(names).collect();
    }
    let full = json!({"id": "x", "text": "t", "time": "2024-01-01T00:00:00Z", "integer": 1, "number": 1.5, "boolean": true, "object": {"a": 1}, "array": [1], "enumeration": "A"});
    let null = json!({"id": "x", "text": null, "time": null, "integer": null, "number": null, "boolean": null, "object": null, "array": null, "enumeration": null});
    let first = upsert(table, "1", full);
    let nulls = format!("{first}\n{}\n", upsert(table, "1", null));
    let missing = format!("{first}\n{}\n", upsert(table, "1", json!({"id": "x"})));
    (made, nulls, missing)
}

/// A column that must not be null gets the zero of its kind; every other one gets null, also over
/// an older value.
pub async fn nulls_and_missing_values(database: &dyn Database) {
    let mut schemas = json!({});
    let (mut journal, mut missing) = (String::new(), String::new());
    for (table, strict) in [("strict", true), ("loose", false)] {
        let (schema, nulls, lacking) = table_of_all_kinds(table, strict);
        schemas[table] = schema;
        journal += &nulls;
        missing += &lacking;
    }
    let names: Vec<&str> = KINDS.iter().map(|(name, ..)| *name).collect();
    for (journal, way) in
        [(&journal, WAYS[0]), (&journal, WAYS[1]), (&missing, WAYS[0]), (&missing, WAYS[1])]
    {
        replayed(temp().path(), database, &schemas, journal, way);
        let read = async |table: &str| -> Vec<Value> {
            let rows = database.read(table, &names).await;
            rows[0]
                .iter()
                .zip(KINDS)
                .map(|(value, (_, kind, _))| canonical(kind, value.as_deref()))
                .collect()
        };
        assert_eq!(read("loose").await, vec![Value::Null; 8]);
        let zeros = vec![
            json!(""),
            json!("1970-01-01T00:00:00.000000Z"),
            json!(0),
            json!(0.0),
            json!(false),
            json!({}),
            json!([]),
            json!(""),
        ];
        assert_eq!(read("strict").await, zeros);
    }
}
