//! What PostgreSQL holds after values, shapes and errors of every kind, read back with a client of its own.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::services::{eds, postgres};

/// Replays events into a fresh database; schemas of several versions may be given.
pub fn replay(dir: &Path, url: &str, schemas: &Value, events: &[Value], args: &[&str]) -> Output {
    let text: String = events.iter().map(|e| format!("{e}\n")).collect();
    replay_text(dir, url, schemas, &text, args)
}

fn replay_text(dir: &Path, url: &str, schemas: &Value, journal: &str, args: &[&str]) -> Output {
    let write = |name: &str, text: &str| std::fs::write(dir.join(name), text).unwrap_or_else(|e| panic!("{e}"));
    write("schema.json", &schemas.to_string());
    write("journal.jsonl", journal);
    let mut command = Command::new(eds::binary());
    command.current_dir(dir).env("EDS_URL", url).args(["replay", "journal.jsonl", "--schema", "schema.json", "--restart"]).args(args);
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

fn temp() -> TempDir {
    TempDir::new().unwrap_or_else(|e| panic!("{e}"))
}

fn schema(table: &str, version: &str, properties: Value) -> Value {
    let mut all = json!({"id": {"type": "string"}});
    all.as_object_mut().into_iter().for_each(|o| o.extend(properties.as_object().cloned().unwrap_or_default()));
    json!({"table": table, "modelVersion": version, "primaryKeys": ["id"], "required": ["id"], "properties": all})
}

fn upsert(table: &str, version: &str, after: Value) -> Value {
    json!({"operation": "UPDATE", "table": table, "modelVersion": version, "key": [after["id"]], "after": after})
}

/// Quotes, backslashes, dollar quotes, NUL, emoji, other scripts, a megabyte, and names that are keywords or worse.
#[tokio::test(flavor = "multi_thread")]
async fn text_of_every_kind_arrives_unchanged() {
    let (name, url) = postgres::shared().database().await;
    let table = "select \"from\"; --";
    let column = "order\" by 'x'";
    let mut texts: Vec<String> = [
        "it's",
        "\"quoted\"",
        "back\\slash",
        "$_H_$",
        "$1",
        "\\.",
        "\\N",
        "tab\tnew\nline\r",
        "🚗🔧",
        "Ünïcödé 部品 مرحبا",
        "",
        " ",
        "null",
        "'; DROP TABLE x; --",
        "%s{}",
        "\u{200B}\u{FEFF}",
    ]
    .iter()
    .map(|s| (*s).to_owned())
    .collect();
    texts.push("nul\0inside".into());
    texts.push("x".repeat(1 << 20));
    texts.extend((0u32..17).map(|plane| (0..64).filter_map(|i| char::from_u32(plane * 0x10000 + 0x20 + i * 0x3FF)).collect::<String>()));
    let schemas = json!({"t": schema(table, "1", json!({column: {"type": "string"}, "doc": {"type": "object"}}))});
    let events: Vec<Value> = texts.iter().enumerate().map(|(i, text)| upsert(table, "1", json!({"id": format!("{i}"), column: text, "doc": {"t": text}}))).collect();
    let dir = temp();
    // Once row by row, once in bulk.
    for args in [&["--maxPendingLatency", "1ns"][..], &["--minPendingLatency", "200ms"][..]] {
        assert_success(&replay(dir.path(), &url, &schemas, &events, args));
        let client = postgres::shared().connect(&name).await;
        let sql = "SELECT id, \"order\"\" by 'x'\", doc->>'t' FROM \"select \"\"from\"\"; --\"";
        let rows = client.query(sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        assert_eq!(rows.len(), texts.len());
        for row in rows {
            let wanted = texts[row.get::<_, &str>(0).parse::<usize>().unwrap_or_default()].replace('\0', "");
            assert_eq!((row.get::<_, &str>(1), row.get::<_, &str>(2)), (wanted.as_str(), wanted.as_str()));
        }
    }
}

/// Integers beyond 2^53 and decimals keep every digit, in integer columns and inside JSON.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_every_digit() {
    let (name, url) = postgres::shared().database().await;
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}, "x": {"type": "number"}, "doc": {"type": "object"}, "list": {"type": "array"}}))});
    let journal = r#"{"operation":"INSERT","table":"t","modelVersion":"1","key":["a"],"after":{"id":"a","n":9007199254740993,"x":0.1,"doc":{"big":12345678901234567890123,"dec":1.10000000000000000000001},"list":[9007199254740993,1E+3]}}
{"operation":"INSERT","table":"t","modelVersion":"1","key":["b"],"after":{"id":"b","n":-9223372036854775808,"x":1E+3,"doc":{},"list":[]}}
{"operation":"INSERT","table":"t","modelVersion":"1","key":["c"],"after":{"id":"c","n":1E+3,"x":-1.5e-300}}
"#;
    assert_success(&replay_text(temp().path(), &url, &schemas, journal, &[]));
    let client = postgres::shared().connect(&name).await;
    let rows = client.query("SELECT n, x, doc::text, list::text FROM t ORDER BY id", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let read: Vec<(i64, f64, Option<String>, Option<String>)> = rows.iter().map(|r| (r.get(0), r.get(1), r.get(2), r.get(3))).collect();
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(
        read,
        [
            (9_007_199_254_740_993, 0.1, some(r#"{"big": 12345678901234567890123, "dec": 1.10000000000000000000001}"#), some("[9007199254740993, 1000]")),
            (i64::MIN, 1000.0, some("{}"), some("[]")),
            (1000, -1.5e-300, None, None),
        ]
    );
}

/// New tables and columns come while streaming; removed columns stay; versions may alternate; NOT NULL yields.
#[tokio::test(flavor = "multi_thread")]
async fn tables_follow_the_source() {
    let (name, url) = postgres::shared().database().await;
    let mut first = schema("t", "1", json!({"gone": {"type": "string"}, "strict": {"type": "integer"}}));
    first["required"] = json!(["id", "gone", "strict"]);
    let second = schema("t", "2", json!({"strict": {"type": "integer"}, "fresh": {"type": "boolean"}, "when": {"type": "string", "format": "date-time"}}));
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
    let dir = temp();
    for args in [&["--maxPendingLatency", "1ns"][..], &["--minPendingLatency", "200ms"][..]] {
        assert_success(&replay(dir.path(), &url, &schemas, &events, args));
        let client = postgres::shared().connect(&name).await;
        let rows = client.query("SELECT to_jsonb(t)::text FROM t ORDER BY id", &[]).await.unwrap_or_else(|e| panic!("{e}"));
        let read: Vec<Value> = rows.iter().filter_map(|r| serde_json::from_str(r.get(0)).ok()).collect();
        assert_eq!(
            read,
            [
                json!({"id": "1", "gone": "kept", "strict": null, "fresh": true, "when": "2024-02-03T02:05:06.7+00:00"}),
                json!({"id": "2", "gone": null, "strict": 5, "fresh": null, "when": null}),
                json!({"id": "3", "gone": "x", "strict": 0, "fresh": null, "when": null}),
            ]
        );
    }
}

/// A table of the same name that EDS did not make is left alone, and the message says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_table_is_not_touched() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    client.batch_execute("CREATE TABLE t (id text, owner text); INSERT INTO t VALUES ('mine', 'me')").await.unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}, "owner": {"type": "string"}}))});
    let events = [upsert("t", "1", json!({"id": "mine", "n": 1, "owner": "eds"}))];
    let output = replay(temp().path(), &url, &schemas, &events, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(said.contains("EDS did not make") && said.contains("?schema=") && said.contains("--adopt t"), "{said}");
    let rows = client.query("SELECT owner FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["me"]);
    client.batch_execute("CREATE SCHEMA other").await.unwrap_or_else(|e| panic!("{e}"));
    assert_success(&replay(temp().path(), &format!("{url}?schema=other&prefix=eds_"), &schemas, &events, &[]));
    let rows = client.query("SELECT owner FROM other.eds_t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.len(), 1);
}

/// Every way in which a connection can be refused is told apart, and nothing shows the password.
#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_and_places_are_named() {
    let server = postgres::shared();
    let (_, url) = server.database().await;
    let schemas = json!({"t": schema("t", "1", json!({}))});
    let cases = [
        (url.replace("s3cret", "wrong"), "refuses the password"),
        (server.url("nowhere"), "has no database \"nowhere\""),
        (url.replace(&format!(":{}", server.port), ":1"), "cannot be reached"),
        (format!("{url}?sslmode=require"), "no encrypted connection"),
        (format!("{url}?sslmode=sometimes"), "sslmode=\"sometimes\" is not known"),
        (format!("{url}?colour=blue"), "\"colour\", which EDS does not know"),
        (format!("{url}?schema=missing"), "no schema"),
        ("postgres://localhost".into(), "names no database"),
        ("oracle://x/y".into(), "\"oracle\" is not known"),
        ("nonsense".into(), "is not a URL"),
    ];
    for (url, expected) in cases {
        let output = replay(temp().path(), &url, &schemas, &[], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{expected}: {said}");
        assert!(said.contains(expected) && !said.contains("s3cret") && !said.contains("p@ss"), "{expected}: {said}");
    }
}
