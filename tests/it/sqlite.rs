//! What is particular to SQLite: a file that people have made things of in, and that commands which
//! only look leave as it is; journals that are read to their end, or not.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output};
use std::time::Duration;

use rusqlite::Connection;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::services::eds::{Running, binary, replay_in, schema, upsert};
use crate::services::send;

fn words() -> Value {
    json!({"t": schema("t", "1", json!({"word": {"type": "string"}}))})
}

fn word(id: i64) -> Value {
    upsert("t", "1", json!({"id": id.to_string(), "word": "w"}))
}

fn said(output: &Output) -> String {
    let both = [&output.stdout[..], &output.stderr].concat();
    String::from_utf8_lossy(&both).into_owned()
}

fn opened(file: &Path) -> Connection {
    Connection::open(file).unwrap_or_else(|e| panic!("{e}"))
}

fn run(file: &Path, sql: &str) {
    opened(file).execute_batch(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
}

fn rows(file: &Path) -> i64 {
    let counted = opened(file).query_row("SELECT count(*) FROM t", [], |row| row.get(0));
    counted.unwrap_or_else(|e| panic!("{e}"))
}

/// The columns of a view whose table is gone, and of a virtual table whose module is not there,
/// cannot be read: that is their owner's trouble.
#[test]
fn what_cannot_be_read_keeps_no_table_up() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let file = dir.path().join("shop.db");
    run(
        &file,
        "CREATE TABLE gone (x); CREATE VIEW of_nothing AS SELECT * FROM gone; DROP TABLE gone;
         PRAGMA writable_schema = ON;
         INSERT INTO sqlite_schema (type, name, tbl_name, rootpage, sql)
         VALUES ('table', 'far', 'far', 0, 'CREATE VIRTUAL TABLE far USING no_such_module(x)')",
    );
    let url = format!("sqlite://{}", file.display());
    let output = replay_in(dir.path(), &url, &words(), &word(1).to_string(), &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(rows(&file), 1);
    let schemas = json!({"v": schema("of_nothing", "1", json!({}))});
    let event = upsert("of_nothing", "1", json!({"id": "1"})).to_string();
    let output = replay_in(dir.path(), &url, &schemas, &event, &[]);
    assert!(said(&output).contains("it is a view"), "{}", said(&output));
}

/// Every file in the directory with what it holds.
fn files(dir: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(dir).unwrap_or_else(|e| panic!("{e}"));
    let held = |path: &Path| std::fs::read(path).unwrap_or_default();
    let named = |entry: std::fs::DirEntry| {
        (entry.file_name().to_string_lossy().into_owned(), held(&entry.path()))
    };
    entries.flatten().map(named).collect()
}

/// Commands that say that they change nothing make no file, and leave one that is there as it is,
/// its journal mode included; a file that is not there is no empty one.
#[test]
fn who_only_looks_changes_nothing() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    run(&dir.path().join("there.db"), "CREATE TABLE mine (x)");
    std::fs::write(dir.path().join("s.json"), words().to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(dir.path().join("j.jsonl"), word(1).to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    let before = files(dir.path());
    let commands: [&[&str]; 5] = [
        &["dlq", "list"],
        &["why", "t", "1", "--schema", "s.json"],
        &["doctor", "--check", "tables", "--schema", "s.json"],
        &["replay", "j.jsonl", "--schema", "s.json", "--dry-run"],
        &["import", "--validate-only"],
    ];
    for file in ["there.db", "missing.db"] {
        for words in commands {
            let mut command = Command::new(binary());
            command.current_dir(dir.path()).env("EDS_URL", format!("sqlite://{file}")).args(words);
            let output = command.output().unwrap_or_else(|e| panic!("{e}"));
            let (said, looks) = (said(&output), matches!(words[0], "dlq" | "why"));
            let expected = match (words[0], file) {
                ("dlq" | "why", "missing.db") => "there is no SQLite file missing.db",
                ("dlq", _) => "There are no dead letters",
                ("why", _) => "the destination has no such table",
                ("doctor", _) => "tables",
                ("import", _) => "can be used",
                _ => "dry run of 1 events",
            };
            assert!(said.contains(expected), "{words:?} of {file}: {said}");
            assert_eq!(
                output.status.success(),
                !(looks && file == "missing.db"),
                "{words:?}: {said}"
            );
            assert_eq!(files(dir.path()), before, "{words:?} of {file}: {said}");
        }
    }
}

/// A name that no schema has would pass all changes over, and be behind them from then on.
#[test]
fn a_table_that_nobody_knows_is_refused() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let file = dir.path().join("shop.db");
    let url = format!("sqlite://{}", file.display());
    let journal: String = (0..10).map(|n| format!("{}\n", word(n))).collect();
    let output = replay_in(dir.path(), &url, &words(), &journal, &["--tables", "tt"]);
    assert_eq!(output.status.code(), Some(3), "{}", said(&output));
    assert!(said(&output).contains("--tables names table \"tt\""), "{}", said(&output));
    let output = replay_in(dir.path(), &url, &words(), &journal, &["--tables", "t"]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(rows(&file), 10);
}

/// Who removes a journal after its replay has to know that it was not read to its end.
#[tokio::test(flavor = "multi_thread")]
async fn a_replay_that_is_stopped_says_so() {
    const EVENTS: i64 = 200_000;
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let file = dir.path().join("shop.db");
    let journal: String = (0..EVENTS).map(|n| format!("{}\n", word(n))).collect();
    std::fs::write(dir.path().join("s.json"), words().to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(dir.path().join("j.jsonl"), journal).unwrap_or_else(|e| panic!("{e}"));
    let command = || {
        let mut command = Command::new(binary());
        command.current_dir(dir.path()).args(["replay", "j.jsonl", "--schema", "s.json"]);
        command.args(["--url", "sqlite://shop.db"]);
        command
    };
    let running = Running::start(command(), dir.path().join("log"));
    running.until_log("schema: ", Duration::from_secs(60)).await;
    send(running.pid(), "INT");
    let ended = running.wait(Duration::from_secs(60));
    assert_eq!(ended.status.code(), Some(1), "{}", ended.log);
    assert!(ended.log.contains("; the same command goes on there"), "{}", ended.log);
    let output = command().output().unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(rows(&file), EVENTS);
}
