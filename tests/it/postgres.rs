//! What PostgreSQL holds after values, shapes and errors of every kind, read back with a client of
//! its own.

use std::process::Output;

use serde_json::{Value, json};

use crate::services::eds::{replay, replay_in, schema, upsert};
use crate::services::postgres;

fn assert_success(output: &Output) {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
}

/// A table of the same name that EDS did not make is left alone, and the message says what to do.
#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_table_is_not_touched() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    client
        .batch_execute("CREATE TABLE t (id text, owner text); INSERT INTO t VALUES ('mine', 'me')")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}, "owner": {"type": "string"}}))});
    let events = [upsert("t", "1", json!({"id": "mine", "n": 1, "owner": "eds"}))];
    let output = replay(&url, &schemas, &events, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(3), "{said}");
    assert!(
        said.contains("EDS did not make")
            && said.contains("?schema=")
            && said.contains("--adopt t"),
        "{said}"
    );
    let rows = client.query("SELECT owner FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["me"]);
    client.batch_execute("CREATE SCHEMA other").await.unwrap_or_else(|e| panic!("{e}"));
    assert_success(&replay(&format!("{url}?schema=other&prefix=eds_"), &schemas, &events, &[]));
    let rows =
        client.query("SELECT owner FROM other.eds_t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
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
        (format!("{url}?connect_timeout=soon"), "connect_timeout=\"soon\" is not a time to wait"),
        (format!("{url}?colour=blue"), "\"colour\", which EDS does not know"),
        (format!("{url}?schema=missing"), "no schema"),
        ("postgres://localhost".into(), "names no database"),
        ("oracle://x/y".into(), "\"oracle\" is not known"),
        ("nonsense".into(), "is not a URL"),
    ];
    for (url, expected) in cases {
        let output = replay(&url, &schemas, &[], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(3), "{expected}: {said}");
        assert!(
            said.contains(expected) && !said.contains("s3cret") && !said.contains("p@ss"),
            "{expected}: {said}"
        );
    }
}

/// A reader that keeps a table locked is not disturbed by a change of it, and is named; what needs
/// the change waits.
#[tokio::test(flavor = "multi_thread")]
async fn a_readers_lock_is_waited_for_and_named() {
    let server = postgres::shared();
    let (name, url) = server.database().await;
    let first = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let second =
        json!({"t": schema("t", "2", json!({"n": {"type": "integer"}, "m": {"type": "integer"}}))});
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mut journal = String::new();
    let mut replay = |schemas: &Value, event: &str| {
        journal += event;
        replay_in(dir.path(), &url, schemas, &journal, &[])
    };
    let line = |version: &str, row: Value| format!("{}\n", upsert("t", version, row));
    assert_success(&replay(&first, &line("1", json!({"id": "a", "n": 1}))));
    let reader = server.connect(&name).await;
    reader
        .batch_execute("SET application_name = 'a report'; BEGIN; SELECT * FROM t")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let output = replay(&second, &line("2", json!({"id": "a", "m": 1})));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("table \"t\" is held")
            && said.contains("of its changes wait at the destination")
            && said.contains("locks are held by session")
            && said.contains("a report, idle in transaction"),
        "{said}"
    );
    reader.batch_execute("COMMIT").await.unwrap_or_else(|e| panic!("{e}"));
    assert_success(&replay(&second, ""));
    let row = reader.query_one("SELECT m FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(row.get::<_, i64>(0), 1);
}

/// A view of the table's name is left alone, and the message says what it is.
#[tokio::test(flavor = "multi_thread")]
async fn a_view_is_not_taken_for_a_table() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    client
        .batch_execute("CREATE VIEW t AS SELECT 'x'::text AS id, 1 AS n")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let output = replay(&url, &schemas, &[upsert("t", "1", json!({"id": "a", "n": 1}))], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.code() == Some(3) && said.contains("it is a view or a foreign table"),
        "{said}"
    );
}
