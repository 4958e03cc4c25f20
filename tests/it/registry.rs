//! Schemas from HQ: the map at the start, single versions later, the state store after a restart,
//! patience with outages.

use std::collections::BTreeMap;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::services::eds;

/// Answers GET by path; everything else is 404. Paths asked for are kept.
struct FakeHq {
    url: String,
    asked: Arc<Mutex<Vec<String>>>,
    /// No version 2 is answered.
    is_away: Arc<AtomicBool>,
}

/// A publisher that gives these answers; its address.
pub async fn publisher(answers: Vec<(String, String)>) -> String {
    hq(answers.into_iter().collect(), 0).await.url
}

async fn hq(answers: BTreeMap<String, String>, failures: usize) -> FakeHq {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap_or_else(|e| panic!("{e}"));
    let url = format!("http://{}", listener.local_addr().unwrap_or_else(|e| panic!("{e}")));
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let seen = asked.clone();
    let is_away: Arc<AtomicBool> = Arc::default();
    let away = is_away.clone();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            let mut buffer = vec![0; 8192];
            let read = stream.read(&mut buffer).await.unwrap_or(0);
            let path = String::from_utf8_lossy(&buffer[..read])
                .split(' ')
                .nth(1)
                .unwrap_or_default()
                .to_owned();
            let count = {
                let mut seen = seen.lock().unwrap_or_else(|e| e.into_inner());
                seen.push(path.clone());
                seen.iter().filter(|p| **p == path).count()
            };
            let (status, body) = match answers.get(path.as_str()) {
                Some(_)
                    if path.contains("/2")
                        && (count <= failures || away.load(Ordering::Relaxed)) =>
                {
                    ("503 Service Unavailable", String::new())
                }
                Some(body) => ("200 OK", body.clone()),
                None => ("404 Not Found", String::new()),
            };
            let answer = format!(
                "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
                body.len()
            );
            let _ = stream.write_all(answer.as_bytes()).await;
        }
    });
    FakeHq { url, asked, is_away }
}

/// HQ is away when version 2 of table t is needed: t waits with all that follows, u goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_had_holds_up_its_own_table_only() {
    let schema = |table: &str, version: &str, column: &str| json!({"table": table, "modelVersion": version, "primaryKeys": ["id"], "properties": {"id": {"type": "string"}, column: {"type": "integer"}}});
    let answers = BTreeMap::from([
        (
            "/v3/schema".to_owned(),
            json!({"t": schema("t", "1", "n"), "u": schema("u", "1", "n")}).to_string(),
        ),
        ("/v3/schema/t/2".to_owned(), schema("t", "2", "m").to_string()),
    ]);
    let hq = hq(answers, 0).await;
    hq.is_away.store(true, Ordering::Relaxed);
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let event = |table: &str, version: &str, id: &str, after: serde_json::Value| {
        let operation = if after.is_null() { "DELETE" } else { "UPDATE" };
        format!(
            "{}\n",
            json!({"operation": operation, "table": table, "modelVersion": version, "key": [id], "after": after})
        )
    };
    let events = [
        event("t", "1", "a", json!({"id": "a", "n": 1})),
        event("t", "2", "b", json!({"id": "b", "m": 2})),
        // It must not overtake the one before: the row is gone at the end.
        event("t", "1", "b", json!(null)),
        event("t", "2", "c", json!({"id": "c", "m": 3})),
        event("u", "1", "x", json!({"id": "x", "n": 4})),
    ];
    std::fs::write(dir.path().join("j.jsonl"), events.concat()).unwrap_or_else(|e| panic!("{e}"));
    let mut command = Command::new(eds::binary());
    command
        .current_dir(dir.path())
        .args(["replay", "j.jsonl", "--url", "sqlite://out.db", "--api-url", &hq.url])
        .stderr(std::process::Stdio::piped());
    let replay = command.spawn().unwrap_or_else(|e| panic!("{e}"));
    let rows = |sql: &'static str| -> rusqlite::Result<Vec<String>> {
        let db = rusqlite::Connection::open(dir.path().join("out.db"))?;
        let mut statement = db.prepare(sql)?;
        statement.query_map([], |row| row.get(0))?.collect::<Result<Vec<String>, _>>()
    };
    while rows("SELECT id FROM u").unwrap_or_default().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let waiting = || rows("SELECT label FROM _eds_held").unwrap_or_default();
    while waiting().is_empty() {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(rows("SELECT id FROM t ORDER BY id").unwrap_or_default(), ["a"]);
    hq.is_away.store(false, Ordering::Relaxed);
    let ended = tokio::task::spawn_blocking(move || replay.wait_with_output());
    let output = ended.await.map_err(std::io::Error::other).and_then(|output| output);
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{said}");
    assert!(said.contains("table \"t\" is held"), "{said}");
    assert_eq!(rows("SELECT id FROM t ORDER BY id").unwrap_or_default(), ["a", "c"]);
    assert!(waiting().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn versions_are_asked_of_hq_by_the_name_of_their_object() {
    let schema = |version: &str, column: &str| json!({"table": "t", "modelVersion": version, "primaryKeys": ["id"], "properties": {"id": {"type": "string"}, column: {"type": "integer"}}});
    let answers = BTreeMap::from([
        ("/v3/schema".to_owned(), json!({"tObject": schema("1", "n")}).to_string()),
        ("/v3/schema/tObject/2".to_owned(), schema("2", "m").to_string()),
    ]);
    // The first question after version 2 meets an outage.
    let hq = hq(answers, 1).await;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let event = |version: &str, column: &str| {
        format!(
            "{}\n",
            json!({"operation": "INSERT", "table": "t", "modelVersion": version, "key": [version], "after": {"id": version, column: 7}})
        )
    };
    std::fs::write(dir.path().join("j.jsonl"), event("1", "n") + &event("2", "m"))
        .unwrap_or_else(|e| panic!("{e}"));
    let replay = async |hq: &str, more: &'static [&'static str]| {
        let mut command = Command::new(eds::binary());
        command
            .current_dir(dir.path())
            .args(["replay", "j.jsonl", "--url", "sqlite://out.db", "--api-url", hq])
            .args(more);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .map_err(std::io::Error::other)
            .and_then(|o| o)
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    replay(&hq.url, &[]).await;
    let db =
        rusqlite::Connection::open(dir.path().join("out.db")).unwrap_or_else(|e| panic!("{e}"));
    let row: (Option<i64>, Option<i64>) = db
        .query_row("SELECT n, m FROM t WHERE id = '2'", [], |r| Ok((r.get(0)?, r.get(1)?)))
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(row, (None, Some(7)));
    let versions = || {
        hq.asked
            .lock()
            .unwrap_or_else(|e| e.into_inner())
            .iter()
            .filter(|p| *p == "/v3/schema/tObject/2")
            .count()
    };
    assert_eq!(versions(), 2);
    // What was asked once is known after a restart.
    replay(&hq.url, &["--restart"]).await;
    assert_eq!(versions(), 2);
    // Then HQ may even be away.
    replay("http://127.0.0.1:1", &["--restart"]).await;
}

/// Only the tables that were named are made and written.
#[test]
fn tables_that_were_not_named_are_left_out() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let schema = |table: &str| json!({"table": table, "modelVersion": "1", "primaryKeys": ["id"], "properties": {"id": {"type": "string"}}});
    let event = |table: &str| {
        format!(
            "{}\n",
            json!({"operation": "INSERT", "table": table, "modelVersion": "1", "key": ["1"], "after": {"id": "1"}})
        )
    };
    let write = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("s.json", json!({"a": schema("a"), "b": schema("b"), "c": schema("c")}).to_string());
    write("j.jsonl", event("a") + &event("b") + &event("c"));
    let output = Command::new(eds::binary())
        .current_dir(dir.path())
        .args([
            "replay",
            "j.jsonl",
            "--url",
            "sqlite://out.db",
            "--schema",
            "s.json",
            "--tables",
            "a, c",
        ])
        .output();
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let db =
        rusqlite::Connection::open(dir.path().join("out.db")).unwrap_or_else(|e| panic!("{e}"));
    let mut statement = db
        .prepare("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")
        .unwrap_or_else(|e| panic!("{e}"));
    let names: Vec<String> = statement
        .query_map([], |r| r.get(0))
        .and_then(Iterator::collect)
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        names,
        ["_eds_checkpoint", "_eds_dead_letter", "_eds_held", "_eds_import", "a", "c"]
    );
}
