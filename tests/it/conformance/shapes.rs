//! Tables, columns and keys of every shape.

use eds::change::ColumnType;
use serde_json::{Value, json};

use super::{Database, WAYS, canonical, replayed};
use crate::services::eds::{schema, upsert};

fn temp() -> tempfile::TempDir {
    tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"))
}

fn journal(events: &[Value]) -> String {
    events.iter().map(|e| format!("{e}\n")).collect()
}

/// New tables and columns come while streaming; removed columns stay; versions may alternate; NOT
/// NULL yields.
pub async fn tables_follow_the_source(database: &dyn Database) {
    let mut first =
        schema("t", "1", json!({"gone": {"type": "string"}, "strict": {"type": "integer"}}));
    first["required"] = json!(["id", "gone", "strict"]);
    let second = schema(
        "t",
        "2",
        json!({"strict": {"type": "integer"}, "fresh": {"type": "boolean"}, "when": {"type": "string", "format": "date-time"}}),
    );
    let schemas = json!({"t": first, "t-next": second, "u": schema("u", "1", json!({"n": {"type": "integer"}}))});
    let events = [
        upsert("t", "1", json!({"id": "1", "gone": "kept", "strict": 1})),
        upsert("t", "1", json!({"id": "2", "gone": "old life", "strict": 2})),
        upsert("t", "2", json!({"id": "1", "fresh": true, "when": "2024-02-03T04:05:06.7+02:00"})),
        upsert("t", "1", json!({"id": "3", "gone": "x"})),
        json!({"operation": "DELETE", "table": "t", "modelVersion": "2", "key": ["us", "2"]}),
        upsert("t", "2", json!({"id": "2", "strict": 5})),
        upsert("u", "1", json!({"id": "1", "n": 1})),
    ];
    for way in WAYS {
        replayed(temp().path(), database, &schemas, &journal(&events), way);
        let kinds = [
            ColumnType::Text,
            ColumnType::Text,
            ColumnType::Integer,
            ColumnType::Boolean,
            ColumnType::Time,
        ];
        let rows = database.read("t", &["id", "gone", "strict", "fresh", "when"]).await;
        let read: Vec<Vec<Value>> = rows
            .iter()
            .map(|row| {
                row.iter().zip(kinds).map(|(v, kind)| canonical(kind, v.as_deref())).collect()
            })
            .collect();
        let expected = [
            vec![
                json!("1"),
                json!("kept"),
                Value::Null,
                json!(true),
                json!("2024-02-03T02:05:06.700000Z"),
            ],
            vec![json!("2"), Value::Null, json!(5), Value::Null, Value::Null],
            vec![json!("3"), json!("x"), json!(0), Value::Null, Value::Null],
        ];
        assert_eq!(read, expected);
        assert_eq!(
            database.read("u", &["id", "n"]).await,
            [[Some("1".to_owned()), Some("1".to_owned())]]
        );
    }
}

/// Keys of several columns and kinds; a region before the key says nothing about the row.
pub async fn keys_of_several_columns(database: &dyn Database) {
    let composite = json!({"table": "line", "modelVersion": "1", "primaryKeys": ["order", "n"], "required": ["order", "n"],
        "properties": {"order": {"type": "string"}, "n": {"type": "integer"}, "text": {"type": "string"}}});
    let schemas = json!({"line": composite, "plain": schema("plain", "1", json!({"text": {"type": "string"}}))});
    let line = |key: Value, order: &str, n: i64, text: &str| json!({"operation": "INSERT", "table": "line", "modelVersion": "1", "key": key, "after": {"order": order, "n": n, "text": text}});
    let delete = |table: &str, key: Value| json!({"operation": "DELETE", "table": table, "modelVersion": "1", "key": key});
    let plain = |key: Value, id: &str, text: &str| json!({"operation": "INSERT", "table": "plain", "modelVersion": "1", "key": key, "after": {"id": id, "text": text}});
    let mut events: Vec<Value> = (0..30)
        .map(|n| line(json!([format!("o{}", n % 3), n]), &format!("o{}", n % 3), n, "first"))
        .collect();
    events.extend([
        line(json!(["o0", 0]), "o0", 0, "second"),
        line(json!(["us-west", "o1", 1]), "o1", 1, "second"),
        delete("line", json!(["o0", 3])),
        delete("line", json!(["us-west", "o0", "6"])),
        // Another row has this n.
        delete("line", json!(["o2", 4])),
        plain(json!(["us-west", "p1"]), "p1", "a"),
        plain(json!(["us-west", "p2"]), "p2", "b"),
        delete("plain", json!(["us-west", "p1"])),
        plain(json!(["eu", "p2"]), "p2", "moved"),
    ]);
    for way in WAYS {
        replayed(temp().path(), database, &schemas, &journal(&events), way);
        let rows = database.read("line", &["order", "n", "text"]).await;
        assert_eq!(rows.len(), 28);
        let text = |order: &str, n: &str| {
            rows.iter()
                .find(|r| r[0].as_deref() == Some(order) && r[1].as_deref() == Some(n))
                .and_then(|r| r[2].clone())
        };
        assert_eq!(
            (text("o0", "0"), text("o1", "1"), text("o0", "3"), text("o0", "6")),
            (Some("second".into()), Some("second".into()), None, None)
        );
        assert_eq!(text("o1", "4").as_deref(), Some("first"));
        assert_eq!(
            database.read("plain", &["id", "text"]).await,
            [[Some("p2".to_owned()), Some("moved".to_owned())]]
        );
    }
}

pub async fn a_hundred_columns(database: &dyn Database) {
    let properties: Value = Value::Object(
        (0..100)
            .map(|i| {
                (
                    format!("c{i:03}"),
                    if i % 2 == 0 { json!({"type": "string"}) } else { json!({"type": "integer"}) },
                )
            })
            .collect(),
    );
    let schemas = json!({"wide": schema("wide", "1", properties)});
    let row = |n: usize, salt: usize| {
        let mut after = json!({"id": format!("{n:05}")});
        for i in 0..100 {
            after[format!("c{i:03}")] = if i % 2 == 0 {
                json!(format!("{n}-{i}-{salt} é🚗"))
            } else {
                json!(n * 1000 + i + salt)
            };
        }
        upsert("wide", "1", after)
    };
    // More than one statement takes, then half of it again.
    let mut events: Vec<Value> = (0..1500).map(|n| row(n, 0)).collect();
    events.extend((0..1500).step_by(2).map(|n| row(n, 1)));
    replayed(temp().path(), database, &schemas, &journal(&events), WAYS[1]);
    let rows = database.read("wide", &["id", "c000", "c099", "c050"]).await;
    assert_eq!(rows.len(), 1500);
    for (n, row) in rows.iter().enumerate() {
        let salt = (n + 1) % 2;
        let wanted = [
            format!("{n:05}"),
            format!("{n}-0-{salt} é🚗"),
            (n * 1000 + 99 + salt).to_string(),
            format!("{n}-50-{salt} é🚗"),
        ];
        assert_eq!(row, &wanted.map(Some));
    }
}

/// Columns that the customer added keep what is in them.
pub async fn columns_of_others_are_kept(database: &dyn Database) {
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}}))});
    let events: Vec<Value> = (0..20)
        .map(|n| upsert("t", "1", json!({"id": format!("{n:02}"), "text": "first"})))
        .collect();
    replayed(temp().path(), database, &schemas, &journal(&events), WAYS[1]);
    let (table, mine) = (database.quoted("t"), database.quoted("mine"));
    database.run(&format!("ALTER TABLE {table} ADD {mine} VARCHAR(20)")).await;
    database.run(&format!("UPDATE {table} SET {mine} = 'mine'")).await;
    let events: Vec<Value> = (0..20)
        .map(|n| upsert("t", "1", json!({"id": format!("{n:02}"), "text": "second"})))
        .collect();
    for (way, few) in [(WAYS[0], 2), (WAYS[1], 20)] {
        replayed(temp().path(), database, &schemas, &journal(&events[..few]), way);
    }
    let rows = database.read("t", &["id", "text", "mine"]).await;
    assert_eq!(rows.len(), 20);
    assert!(
        rows.iter().all(|r| r[1].as_deref() == Some("second") && r[2].as_deref() == Some("mine")),
        "{rows:?}"
    );
}
