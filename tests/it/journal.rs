//! `eds replay`: which journal it is, and what its events mean for rows.

use std::path::Path;
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::parts::{files, finished};
use crate::services::eds::{binary, replay, schema, upsert};
use crate::services::{mysql, postgres};

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// Replays `journal` without --restart, with the data directory of `dir`.
fn resume(dir: &Path, url: &str, schemas: &Value, journal: &Path, events: &[Value]) -> String {
    let text: String = events.iter().map(|event| format!("{event}\n")).collect();
    let write = |path: &Path, text: &str| {
        path.parent().map(std::fs::create_dir_all).transpose().unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(path, text).unwrap_or_else(|e| panic!("{e}"));
    };
    write(&dir.join("schema.json"), &schemas.to_string());
    write(journal, &text);
    let output = Command::new(binary())
        .current_dir(dir)
        .env("EDS_URL", url)
        .args(["replay", &journal.display().to_string(), "--schema", "schema.json"])
        .output()
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    said(&output)
}

/// A journal is known by its content and not by its name alone; where the destination keeps no
/// positions, another one has none of it.
#[test]
fn a_journal_goes_on_where_it_ended_and_no_other_does() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let at = |name: &str| dir.path().join(name);
    let url = |name: &str| format!("file://{}", at(name).display());
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let of = |ids: &[&str]| -> Vec<Value> {
        ids.iter().map(|id| upsert("t", "1", json!({"id": id, "n": 1}))).collect()
    };
    let monday = at("mon/j.jsonl");
    resume(dir.path(), &url("a"), &schemas, &monday, &of(&["1", "2"]));
    assert_eq!(files(&at("a")).len(), 2);
    // Into another folder all of it goes.
    resume(dir.path(), &url("b"), &schemas, &monday, &of(&["1", "2"]));
    assert_eq!(files(&at("b")).len(), 2);
    // It has grown: only what is new is applied.
    let log = resume(dir.path(), &url("a"), &schemas, &monday, &of(&["1", "2", "3"]));
    assert!(log.contains("already applied up to line 2"), "{log}");
    assert_eq!(files(&at("a")).len(), 3);
    // Another journal of the same name is another one.
    let log = resume(dir.path(), &url("a"), &schemas, &at("tue/j.jsonl"), &of(&["7", "8"]));
    assert!(!log.contains("already applied"), "{log}");
    assert_eq!(files(&at("a")).len(), 5);
}

/// Replays the directory into files of many changes, without --restart.
fn resume_directory(dir: &Path, more: &[&str]) -> Output {
    let mut command = Command::new(binary());
    let url = format!("file://{}?format=ndjson", dir.join("to").display());
    command.current_dir(dir).env("EDS_URL", url);
    command.args(["replay", "journal", "--schema", "schema.json"]).args(more);
    command.output().unwrap_or_else(|e| panic!("{e}"))
}

/// Lines are known by their place: what an earlier file of a journal gets later comes once, after
/// what was there, and so does a file between others.
#[test]
fn an_earlier_file_of_a_journal_may_grow() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let journal = dir.path().join("journal");
    std::fs::create_dir(&journal).unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    std::fs::write(dir.path().join("schema.json"), schemas.to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, ids: &[&str]| {
        let line = |id: &&str| format!("{}\n", upsert("t", "1", json!({"id": id, "n": 1})));
        let text: String = ids.iter().map(line).collect();
        std::fs::write(journal.join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    let arrived = |more: &[&str]| {
        let output = resume_directory(dir.path(), more);
        assert!(output.status.success(), "{}", said(&output));
        finished(&dir.path().join("to")).values().flatten().count()
    };
    write("a.jsonl", &["a1", "a2"]);
    write("b.jsonl", &["b1"]);
    assert_eq!(arrived(&[]), 3);
    write("a.jsonl", &["a1", "a2", "a3"]);
    write("aa.jsonl", &["x1"]);
    write("b.jsonl", &["b1", "b2"]);
    assert_eq!(arrived(&[]), 6);
    write("aa.jsonl", &["x1", "x2"]);
    assert_eq!(arrived(&[]), 7);
    assert_eq!(arrived(&[]), 7);
    // Lines that are gone cannot be counted.
    write("aa.jsonl", &["x1"]);
    let output = resume_directory(dir.path(), &[]);
    assert!(!output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("aa.jsonl is shorter than it was"), "{}", said(&output));
    // From its beginning each has its place again, and comes again.
    assert_eq!(arrived(&["--restart"]), 7 + 6);
}

/// A pipe gives each line only once: none is lost to a look at it.
#[test]
fn a_pipe_is_read_as_standard_input_is() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    std::fs::write(dir.path().join("schema.json"), schemas.to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    let line = |n: u32| format!("{}\n", upsert("t", "1", json!({"id": n.to_string(), "n": n})));
    let text: String = (0..50).map(line).collect();
    std::fs::write(dir.path().join("all"), text).unwrap_or_else(|e| panic!("{e}"));
    for _ in 0..2 {
        let script = "cat all | \"$0\" replay /dev/stdin --schema schema.json";
        let output = Command::new("sh")
            .args(["-c", script, binary()])
            .current_dir(dir.path())
            .env("EDS_URL", format!("file://{}", dir.path().join("to").display()))
            .output()
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(files(&dir.path().join("to")).len(), 50);
}

/// The rows of table `t` in order of its key, each as its columns' texts.
async fn rows_of(events: &[Value], schemas: &Value, columns: &str) -> [Vec<String>; 2] {
    let postgres = postgres::shared();
    let (database, url) = postgres.database().await;
    let output = replay(&url, schemas, events, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let sql = format!("SELECT concat_ws(' ', {columns}) FROM t ORDER BY 1");
    let client = postgres.connect(&database).await;
    let rows = client.query(&sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let of_postgres = rows.iter().map(|row| row.get::<_, String>(0)).collect();
    let mysql = mysql::shared(mysql::Flavour::MySql);
    let (database, url) = mysql.database().await;
    let output = replay(&url, schemas, events, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let mut client = mysql.connect(&database).await;
    let of_mysql: Vec<String> = mysql_async::prelude::Queryable::query(&mut client, sql)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    [of_postgres, of_mysql]
}

/// An update whose key is another than before leaves no row behind, in whatever order they come.
#[tokio::test(flavor = "multi_thread")]
async fn an_update_of_the_key_moves_the_row() {
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let moved = |from: &str, to: &str, n: u64| {
        json!({"operation": "UPDATE", "table": "t", "modelVersion": "1", "key": [to],
            "before": {"id": from, "n": n}, "after": {"id": to, "n": n}})
    };
    let mut events: Vec<Value> =
        (1..=5).map(|i| upsert("t", "1", json!({"id": i.to_string(), "n": i}))).collect();
    events.extend((1..=5).rev().map(|i: u64| moved(&i.to_string(), &(i + 1).to_string(), i)));
    events.push(upsert("t", "1", json!({"id": "x", "n": 7})));
    events.push(moved("x", "y", 7));
    events.push(moved("y", "x", 7));
    for rows in rows_of(&events, &schemas, "id, n").await {
        assert_eq!(rows, ["2 1", "3 2", "4 3", "5 4", "6 5", "x 7"]);
    }
}

/// Keys that are equal in the database are one row, however they are spelt.
#[tokio::test(flavor = "multi_thread")]
async fn keys_are_compared_by_their_value() {
    let schemas = json!({"t": {"table": "t", "modelVersion": "1", "primaryKeys": ["n", "at"],
        "required": ["n", "at"], "properties": {
            "n": {"type": "number"}, "at": {"type": "string", "format": "date-time"},
            "v": {"type": "integer"}}}});
    let insert = |n: Value, at: &str, v: u64| {
        json!({"operation": "INSERT", "table": "t", "modelVersion": "1",
            "after": {"n": n, "at": at, "v": v}})
    };
    let delete = |n: Value, at: &str| json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": [n, at]});
    let noon = "2024-01-02T12:00:00Z";
    let events = [
        insert(json!(1.0), noon, 1),
        delete(json!(1), "2024-01-02T12:00:00.000Z"),
        insert(json!(2), noon, 1),
        insert(json!("2.0"), "2024-01-02T13:00:00+01:00", 2),
        insert(json!(3), noon, 1),
        delete(json!("3E0"), noon),
        insert(json!(3), noon, 3),
    ];
    for rows in rows_of(&events, &schemas, "n, v").await {
        assert_eq!(rows, ["2 2", "3 3"]);
    }
}

/// Names that a file system does not take, and those that fall together there, keep their events.
#[test]
fn every_event_has_a_file_whatever_its_key_is() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let out = dir.path().join("out");
    let (long, wide) = ("t".repeat(300), "é".repeat(200));
    let tables = ["t", long.as_str(), "../up", "."];
    let schemas: Value = tables
        .iter()
        .map(|table| ((*table).to_owned(), schema(table, "1", json!({"n": {"type": "integer"}}))))
        .collect();
    let mut keys: Vec<String> =
        [150, 185, 250, 255, 256, 3_000].iter().map(|length| "k".repeat(*length)).collect();
    keys.extend([
        format!("{}x", keys[5]),
        wide,
        "a/b".into(),
        "..".into(),
        "\0".into(),
        "K".into(),
    ]);
    // Twice each, in one second.
    let events: Vec<Value> = tables
        .iter()
        .flat_map(|table| keys.iter().map(move |key| (table, key)))
        .flat_map(|(table, key)| {
            [1, 2].map(|n| {
                let mut event = upsert(table, "1", json!({"id": key, "n": n}));
                event["timestamp"] = json!(1_720_732_611_708_u64);
                event
            })
        })
        .collect();
    let url = format!("file://{}", out.display());
    resume(dir.path(), &url, &schemas, &dir.path().join("j.jsonl"), &events);
    let mut stored: Vec<Value> = files(&out)
        .iter()
        .map(|(_, content)| serde_json::from_slice(content).unwrap_or_else(|e| panic!("{e}")))
        .map(|event: Value| json!([event["table"], event["after"]]))
        .collect();
    let mut sent: Vec<Value> =
        events.iter().map(|event| json!([event["table"], event["after"]])).collect();
    for all in [&mut stored, &mut sent] {
        all.sort_by_key(Value::to_string);
    }
    assert_eq!(stored.len(), sent.len());
    assert_eq!(stored, sent);
}

/// What has no schema is set aside, and the changes of other tables around it are applied.
#[test]
fn a_table_without_a_schema_stops_no_other() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let events: Vec<Value> = ["t", "ghost", "t", "ghost", "other", "t"]
        .iter()
        .zip(0..)
        .map(|(table, n)| upsert(table, "1", json!({"id": n.to_string(), "n": n})))
        .collect();
    let url = format!("sqlite://{}", dir.path().join("out.db").display());
    let log = resume(dir.path(), &url, &schemas, &dir.path().join("j.jsonl"), &events);
    assert!(log.contains("ghost") && log.contains("other"), "{log}");
    let db =
        rusqlite::Connection::open(dir.path().join("out.db")).unwrap_or_else(|e| panic!("{e}"));
    let ids: String = db
        .query_row("SELECT group_concat(id) FROM (SELECT id FROM t ORDER BY id)", [], |row| {
            row.get(0)
        })
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(ids, "0,2,5");
}
