//! What is SQL Server's own: its errors, its logins, tables that the predecessor of EDS made;
//! against the stand-in.

mod texts;

use serde_json::{Value, json};

use crate::services::eds::{replay, replay_in, schema, upsert};
use crate::services::tds::{FakeSqlServer, Fault, shared};

fn rows(server: &FakeSqlServer, database: &str, sql: &str) -> Vec<(String, Option<String>)> {
    let db = rusqlite::Connection::open(server.file(database)).unwrap_or_else(|e| panic!("{e}"));
    let mut statement = db.prepare(sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    let read = |row: &rusqlite::Row<'_>| Ok((row.get(0)?, row.get(1)?));
    statement.query_map([], read).and_then(Iterator::collect).unwrap_or_else(|e| panic!("{e}"))
}

fn events(count: usize, text: &str) -> Vec<Value> {
    (0..count)
        .map(|n| upsert("t", "1", json!({"id": format!("{n:04}"), "text": format!("{text}{n}")})))
        .collect()
}

/// Replays many rows, then few, so that they go in bulk and as JSON, and a delete; meets the fault
/// on the way.
fn is_survived(fault: Fault) {
    let server = FakeSqlServer::start();
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}}))});
    let mut all = events(3_000, "first ");
    all.extend(events(20, "second "));
    all.push(json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": ["0019"]}));
    let text: String = all.iter().map(|e| format!("{e}\n")).collect();
    let journal: String = text.lines().take(3_000).map(|l| format!("{l}\n")).collect();
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let latency = ["--minPendingLatency", "300ms"];
    let replay =
        |journal: &str| replay_in(dir.path(), &server.url("test"), &schemas, journal, &latency);

    let output = replay(&journal);
    assert!(output.status.success(), "{fault:?}: {}", String::from_utf8_lossy(&output.stderr));
    server.inject(fault.clone());
    let output = replay(&text);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{fault:?}: {said}");
    assert!(!said.contains("dead letter"), "{fault:?}: {said}");

    let found = rows(&server, "test", "SELECT id, text FROM t ORDER BY id");
    assert_eq!(found.len(), 2_999, "{fault:?}: {said}");
    for (n, (id, text)) in found.iter().enumerate() {
        let n = if n < 19 { n } else { n + 1 };
        let wanted = if n < 19 { format!("second {n}") } else { format!("first {n}") };
        assert_eq!(
            (id.as_str(), text.as_deref()),
            (format!("{n:04}").as_str(), Some(wanted.as_str())),
            "{fault:?}"
        );
    }
    let statements = server.statements();
    for shape in ["INSERT BULK", "DELETE t FROM", "OPENJSON"] {
        assert!(statements.iter().any(|sql| sql.contains(shape)), "{shape}");
    }
    assert!(
        !statements.iter().any(|sql| sql.contains("first 1")),
        "values are no text of statements"
    );
}

/// Deadlocks, failovers, lost connections and lost answers: waited for, nothing is lost, doubled or
/// made a dead letter.
#[tokio::test(flavor = "multi_thread")]
async fn errors_that_pass_are_survived() {
    for fault in [
        Fault::Error("UPDATE t SET", 1205),
        Fault::Error("INSERT INTO [dbo].[t]", 40613),
        Fault::Error("COMMIT", 3998),
        Fault::Error("BEGIN TRANSACTION", 40501),
        Fault::Error("TRUNCATE", 1222),
        Fault::CutBefore("COMMIT"),
        Fault::CutAfter("COMMIT"),
        Fault::CutAfter("INSERT BULK"),
        Fault::CutBefore("OPENJSON"),
        Fault::CutAfter("UPDATE t SET"),
    ] {
        is_survived(fault);
    }
}

/// A trigger that commits ends the transaction of the batch in its middle: what comes behind it in
/// the batch is written all the same.
#[tokio::test(flavor = "multi_thread")]
async fn a_trigger_that_commits_takes_nothing_from_other_tables() {
    let server = FakeSqlServer::start();
    let text = || json!({"text": {"type": "string"}});
    let schemas = json!({"t": schema("t", "1", text()), "z": schema("z", "1", text())});
    let mut all = events(10, "x");
    all.extend((0..10).map(|n| upsert("z", "1", json!({"id": format!("{n:04}"), "text": "z"}))));
    let first: Vec<Value> = all.iter().step_by(10).cloned().collect();
    assert!(replay(&server.url("commits"), &schemas, &first, &[]).status.success());
    server.inject(Fault::Commits("INSERT INTO [dbo].[t]"));
    let output = replay(&server.url("commits"), &schemas, &all, &["--minPendingLatency", "300ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("dead letter"), "{said}");
    for table in ["t", "z"] {
        let found = rows(&server, "commits", &format!("SELECT id, text FROM {table}"));
        assert_eq!(found.len(), 10, "{table}: {said}");
    }
}

/// A unique index of the customer's: the row that breaks it becomes a dead letter, and nothing
/// shows its value.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_breaks_a_unique_index_becomes_a_dead_letter() {
    let server = shared();
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}}))});
    assert!(replay(&server.url("unique"), &schemas, &events(1, "x"), &[]).status.success());
    let db = rusqlite::Connection::open(server.file("unique")).unwrap_or_else(|e| panic!("{e}"));
    db.execute_batch("CREATE UNIQUE INDEX u ON t (text)").unwrap_or_else(|e| panic!("{e}"));
    drop(db);
    let mut all = events(100, "x");
    all[70]["after"]["text"] = json!("x33");
    let output = replay(&server.url("unique"), &schemas, &all, &["--minPendingLatency", "300ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("(2627, another row has the same value in a unique index")
            && said.contains("1 dead letters"),
        "{said}"
    );
    assert!(!said.contains("x33"), "{said}");
    assert_eq!(rows(server, "unique", "SELECT id, text FROM t").len(), 99);
}

/// SQL Server locks a whole table once one statement holds 5,000 locks on it; a row and its page
/// are two. Inserts, updates and deletes stay below, however many changes wait.
#[tokio::test(flavor = "multi_thread")]
async fn no_statement_of_a_stream_locks_a_whole_table() {
    let server = FakeSqlServer::start();
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}}))});
    let delete = |n: usize| json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": [format!("{n:04}")]});
    let mut all = events(9_000, "first ");
    all.extend(events(9_000, "second "));
    all.extend((0..9_000).map(delete));
    for part in all.chunks(9_000) {
        let args = ["--minPendingLatency", "300ms"];
        let output = replay(&server.url("locks"), &schemas, part, &args);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        assert!((1_000..2_500).contains(&server.rows_max()), "{}", server.rows_max());
    }
    assert!(rows(&server, "locks", "SELECT id, text FROM t").is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_and_places_are_named() {
    let server = shared();
    let url = server.url("logins");
    let schemas = json!({"t": schema("t", "1", json!({}))});
    let cases = [
        (url.replace("s3cret", "wrong"), "refuses user \"eds\" or the password"),
        (server.url("nowhere"), "has no database \"nowhere\""),
        (url.replace(&format!(":{}", server.port), ":1"), "cannot be reached"),
        (format!("{url}?encrypt=sometimes"), "encrypt=\"sometimes\" is not known"),
        (
            format!("{url}?fedauth=ActiveDirectoryInteractive"),
            "fedauth=\"ActiveDirectoryInteractive\" is not known",
        ),
        (
            format!("{url}?connection%20timeout=soon"),
            "connection timeout=\"soon\" is not a time to wait",
        ),
        (format!("{url}?colour=blue"), "\"colour\", which EDS does not know"),
        (format!("{url}?schema=missing"), "no schema \"missing\""),
        ("mssql://localhost".into(), "names no database"),
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
    assert!(
        replay(&format!("{}?database=logins", server.url("")), &schemas, &[], &[]).status.success()
    );
}

/// A table of the predecessor's: keys and enumerations of one code page, times as texts.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_predecessor_keeps_working() {
    let server = shared();
    let db = rusqlite::Connection::open(server.file("upstream")).unwrap_or_else(|e| panic!("{e}"));
    let made = "CREATE TABLE t (id VARCHAR(64) NOT NULL, at NVARCHAR(2147483647), kind \
                VARCHAR(64), \"strict\" NVARCHAR(2147483647) NOT NULL, PRIMARY KEY (id))";
    db.execute_batch(made).unwrap_or_else(|e| panic!("{e}"));
    drop(db);
    let schemas = json!({"t": schema("t", "1", json!({"at": {"type": "string", "format": "date-time"}, "kind": {"type": "array", "items": {"enum": ["A"]}},
        "strict": {"type": "string"}, "new": {"type": "integer"}}))});
    let events = [
        upsert(
            "t",
            "1",
            json!({"id": "a", "at": "2024-07-11T21:16:51.708Z", "kind": "A", "new": 1}),
        ),
        upsert("t", "1", json!({"id": "b", "at": "2024-07-11T21:16:51.7+02:00"})),
        upsert("t", "1", json!({"id": "c", "kind": "部品"})),
        upsert("t", "1", json!({"id": "部品"})),
    ];
    let output = replay(&server.url("upstream"), &schemas, &events, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("2 dead letters")
            && said.contains("NVARCHAR cures it")
            && !said.contains("部品"),
        "{said}"
    );
    let found = rows(server, "upstream", "SELECT id, at FROM t ORDER BY id");
    let some = |s: &str| Some(s.to_owned());
    assert_eq!(
        found,
        [
            ("a".to_owned(), some("2024-07-11 21:16:51.708")),
            ("b".to_owned(), some("2024-07-11 19:16:51.7"))
        ]
    );
    let now = rows(server, "upstream", "SELECT sql, type FROM sqlite_schema WHERE name = 't'");
    assert!(
        now[0].0.contains("id VARCHAR(64) NOT NULL") && now[0].0.contains("\"new\" BIGINT"),
        "{now:?}"
    );
}

/// Among many rows of a bulk load, one that is not of its column's type and one that is too long
/// become dead letters, and the load that was announced to the server is ended: the connection goes
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn a_bad_row_does_not_break_a_bulk_load() {
    let server = FakeSqlServer::start();
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}, "text": {"type": "string"}, "word": {"type": "array", "items": {"enum": ["A"]}}}))});
    let mut all: Vec<Value> = (0..2_000)
        .map(|n| {
            upsert(
                "t",
                "1",
                json!({"id": format!("{n:04}"), "n": n, "text": "x".repeat(200), "word": "A"}),
            )
        })
        .collect();
    all[700]["after"]["n"] = json!(1.5);
    all[1_500]["after"]["word"] = json!("A".repeat(65));
    let output = replay(&server.url("bulk"), &schemas, &all, &["--minPendingLatency", "300ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("2 dead letters")
            && !said.contains("trying again"),
        "{said}"
    );
    assert!(said.contains("\"n\" is not an integer") && said.contains("column \"word\""), "{said}");
    assert_eq!(rows(&server, "bulk", "SELECT id, text FROM t").len(), 1_998);
    assert!(server.statements().iter().any(|sql| sql.contains("INSERT BULK")));
}
