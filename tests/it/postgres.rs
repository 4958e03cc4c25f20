//! What PostgreSQL holds after values, shapes and errors of every kind, read back with a client of
//! its own.

use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::services::eds::{binary, data_of, replay, replay_in, schema, upsert};
use crate::services::pgbouncer::PgBouncer;
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

/// Of several hosts the one that can be written to is taken, and the server obeys its settings.
#[tokio::test(flavor = "multi_thread")]
async fn several_hosts_and_settings_of_the_server_count() {
    let server = postgres::shared();
    let (name, url) = server.database().await;
    let port = format!(":{}/", server.port);
    let url = url.replace(&port, &format!(":1,127.0.0.1{port}"));
    let client = server.connect(&name).await;
    client.batch_execute("CREATE SCHEMA other").await.unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({}))});
    let events = [upsert("t", "1", json!({"id": "a"}))];
    let options = "target_session_attrs=primary&search_path=other,%20public&work_mem=8MB\
                   &keepalives_idle=20&binary_parameters=yes&Statement_Timeout=1";
    let output = replay(&format!("{url}?{options}"), &schemas, &events, &[]);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    let told: Vec<&str> = said.lines().filter(|line| line.contains("without effect")).collect();
    assert_eq!(told.len(), 1, "{said}");
    for ignored in ["binary_parameters (values travel", "statement_timeout (EDS bounds"] {
        assert!(told[0].contains(ignored), "{said}");
    }
    let rows = client.query("SELECT id FROM other.t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
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

/// Columns of other types that take what the schema has stay as they are, whoever made them.
#[tokio::test(flavor = "multi_thread")]
async fn columns_of_customers_keep_their_types() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    let made = "CREATE TABLE t (id varchar(255) PRIMARY KEY, n numeric, i int, price numeric(10,2), \
                at timestamp, doc json, name varchar(20), word char(3), num int GENERATED ALWAYS AS \
                IDENTITY, text_of_n text)";
    client.batch_execute(made).await.unwrap_or_else(|e| panic!("{e}"));
    let types = async || -> String {
        let sql = "SELECT string_agg(format_type(atttypid, atttypmod), ',' ORDER BY attnum) \
                   FROM pg_attribute WHERE attrelid = 't'::regclass AND attnum > 0";
        client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{e}")).get(0)
    };
    let before = types().await;
    let number = || json!({"type": "number"});
    let properties = json!({"n": number(), "i": {"type": "integer"}, "price": number(),
        "at": {"type": "string", "format": "date-time"}, "doc": {"type": "object"},
        "name": {"type": "string"}, "word": {"type": "string"}, "text_of_n": number()});
    let schemas = json!({"t": schema("t", "1", properties)});
    let row = |id: String| {
        upsert(
            "t",
            "1",
            json!({"id": id, "n": 0.1 + 0.2, "i": 5, "price": 1.25,
            "at": "2024-02-03T04:05:06Z", "doc": {"a": 1}, "name": "x", "word": "abc", "text_of_n": 1.5}),
        )
    };
    for (way, rows) in [("1ns", 1), ("1s", 9), ("1s", 500)] {
        let events: Vec<_> = (0..rows).map(|n| row(format!("{way}-{rows}-{n}"))).collect();
        let output = replay(&url, &schemas, &events, &["--minPendingLatency", way]);
        assert_success(&output);
    }
    assert_eq!(types().await, before);
    let sql = "SELECT count(*), count(DISTINCT (n::text, i, price::text, at, name, word, text_of_n)), \
               min(n)::text, min(text_of_n) FROM t";
    let row = client.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    let texts: [String; 2] = [2, 3].map(|i| row.get(i));
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (510, 1));
    assert_eq!(texts, ["0.30000000000000004", "1.5"]);
}

/// Where the database does not let a column be widened, the table is named, with the column, both
/// types and the statement; it goes on once that is possible.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_that_a_view_shows_is_named() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    let run = async |sql: &str| client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{e}"));
    let of = |version: &str, kind: &str| schema("t", version, json!({"n": {"type": kind}}));
    let first = [upsert("t", "1", json!({"id": "a", "n": 1}))];
    assert_success(&replay(&url, &json!({"1": of("1", "integer")}), &first, &[]));
    run("CREATE VIEW shown AS SELECT n FROM t").await;
    let second = [upsert("t", "2", json!({"id": "b", "n": 1.5}))];
    let schemas = json!({"2": of("2", "number")});
    let output = replay(&url, &schemas, &second, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    let alter = "ALTER TABLE \"public\".\"t\" ALTER COLUMN \"n\" TYPE NUMERIC USING \
                 CAST(CAST(\"n\" AS TEXT) AS NUMERIC)";
    assert!(!output.status.success(), "{said}");
    for part in ["table \"t\"", "column \"n\" is bigint", "numbers", alter] {
        assert!(said.contains(part), "{part}: {said}");
    }
    run("DROP VIEW shown").await;
    assert_success(&replay(&url, &schemas, &second, &[]));
    let rows = client.query("SELECT n::text FROM t ORDER BY id", &[]).await;
    let rows = rows.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["1", "1.5"]);
}

/// Names that are cut off at 63 bytes but stay apart are found again, and nothing is altered twice.
#[tokio::test(flavor = "multi_thread")]
async fn long_names_are_found_again() {
    let (name, url) = postgres::shared().database().await;
    let (table, column) = ("t".repeat(80), format!("{}é", "c".repeat(62)));
    let mut properties = json!({});
    properties[&column] = json!({"type": "integer"});
    let schemas = json!({"t": schema(&table, "1", properties)});
    let mut after = json!({"id": "a"});
    after[&column] = json!(7);
    for (n, latency) in ["1ns", "1s"].into_iter().enumerate() {
        let event = upsert(&table, "1", after.clone());
        let output = replay(&url, &schemas, &[event], &["--minPendingLatency", latency]);
        assert_success(&output);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(said.contains("schema: "), n == 0, "{said}");
    }
    let client = postgres::shared().connect(&name).await;
    let sql = format!("SELECT {} FROM {}", "c".repeat(62), "t".repeat(63));
    let rows = client.query(&sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>(), [7]);
}

/// A column of short texts that cannot be widened stays, as it takes most of them.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_of_short_texts_that_a_view_shows_stays() {
    let (name, url) = postgres::shared().database().await;
    let client = postgres::shared().connect(&name).await;
    let words = json!({"w": {"type": "array", "items": {"enum": ["A"]}}});
    let schemas = json!({"1": schema("t", "1", words)});
    assert_success(&replay(&url, &schemas, &[upsert("t", "1", json!({"id": "a", "w": "A"}))], &[]));
    let view = "CREATE VIEW shown AS SELECT w FROM t";
    client.batch_execute(view).await.unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"2": schema("t", "2", json!({"w": {"type": "string"}}))});
    let rows = [
        upsert("t", "2", json!({"id": "b", "w": "short"})),
        upsert("t", "2", json!({"id": "c", "w": "x".repeat(65)})),
    ];
    let output = replay(&url, &schemas, &rows, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.contains("1 dead letters"), "{said}");
    assert!(said.contains("longer texts are dead letters") && said.contains("TYPE TEXT"), "{said}");
    client.batch_execute("DROP VIEW shown").await.unwrap_or_else(|e| panic!("{e}"));
    let output = replay(&url, &schemas, &rows, &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("dead letter"), "{said}");
    let rows = client.query("SELECT length(w)::int8 FROM t ORDER BY id", &[]).await;
    let rows = rows.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|r| r.get::<_, i64>(0)).collect::<Vec<_>>(), [1, 5, 65]);
}

/// A server that is reached through its unix socket only, by each way to write the socket's folder.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_leads_to_the_server() {
    let mut server = postgres::Postgres::start().await;
    let folder = server.directory().display().to_string();
    server.server = None;
    server.run(&[&format!("unix_socket_directories={folder}")]).await;
    let (name, url) = server.database().await;
    let login = url.split('@').next().unwrap_or_default().to_owned();
    let (encoded, port) = (folder.replace('/', "%2F"), server.port);
    let password = login.rsplit(':').next().unwrap_or_default();
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    for (n, url) in [
        format!("{login}@{encoded}:{port}/{name}"),
        format!("postgres:///{name}?host={encoded}&port={port}&user=postgres&password={password}"),
    ]
    .iter()
    .enumerate()
    {
        let events = [upsert("t", "1", json!({"id": format!("row{n}"), "n": n}))];
        assert_success(&replay(url, &schemas, &events, &[]));
    }
    let client = server.connect(&name).await;
    let rows = client.query("SELECT id FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.len(), 2);
}

/// A pool in session mode is as good as the server; one in transaction mode is named before
/// anything is written, by a start and by the doctor.
#[tokio::test(flavor = "multi_thread")]
async fn a_pooler_that_shares_sessions_is_named() {
    let server = postgres::shared();
    let (database, _) = server.database().await;
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let events = [upsert("t", "1", json!({"id": "a", "n": 1}))];
    let pooler = PgBouncer::start(server, "transaction").await;
    let shared = pooler.url(&database);
    let refused = replay(&shared, &schemas, &events, &[]);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(said.contains("a pooler in transaction mode") && said.contains("[EDS-308]"), "{said}");
    assert_eq!(refused.status.code(), Some(3), "{said}");
    let mut doctor = Command::new(binary());
    doctor.env("EDS_URL", &shared).args(["doctor", "--json", "--check", "destination"]);
    let found = data_of(&doctor.output().unwrap_or_else(|e| panic!("{e}")).stdout);
    assert!(found.iter().any(|found| found["code"] == "EDS-308"), "{found:?}");
    let client = server.connect(&database).await;
    let tables = "SELECT 1 FROM pg_catalog.pg_tables WHERE schemaname = 'public'";
    assert!(client.query(tables, &[]).await.is_ok_and(|rows| rows.is_empty()));

    let own = PgBouncer::start(server, "session").await;
    assert_success(&replay(&own.url(&database), &schemas, &events, &[]));
    let rows = client.query("SELECT id FROM t", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(rows.iter().map(|row| row.get::<_, String>(0)).collect::<Vec<_>>(), ["a"]);
}

/// A column that somebody has made NOT NULL, and that EDS may not alter, holds up no row that has a
/// value for it.
#[tokio::test(flavor = "multi_thread")]
async fn not_null_that_eds_may_not_drop_is_of_rows_without_a_value() {
    let server = postgres::shared();
    let (name, url) = server.database().await;
    let client = server.connect(&name).await;
    let schemas = json!({"t": schema("t", "1", json!({"word": {"type": "string"}}))});
    let word = |id: &str, word: Value| upsert("t", "1", json!({"id": id, "word": word}));
    assert_success(&replay(&url, &schemas, &[word("a", json!("x"))], &[]));
    let role = format!("writer_of_{name}");
    let made = format!(
        "ALTER TABLE t ALTER word SET DEFAULT '', ALTER word SET NOT NULL; \
         CREATE ROLE {role} LOGIN PASSWORD '{}'; \
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO {role}",
        postgres::PASSWORD
    );
    client.batch_execute(&made).await.unwrap_or_else(|e| panic!("{e}"));
    let url = url.replace("//postgres:", &format!("//{role}:"));
    let output = replay(&url, &schemas, &[word("b", json!("y"))], &[]);
    assert_success(&output);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("column \"word\" stays NOT NULL"), "{said}");
    let rows = "SELECT string_agg(id || word, ' ' ORDER BY id) FROM t";
    let found = async || {
        let row = client.query_one(rows, &[]).await.unwrap_or_else(|e| panic!("{e}"));
        row.get::<_, String>(0)
    };
    assert_eq!(found().await, "ax by");
    let output = replay(&url, &schemas, &[word("c", Value::Null)], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("table \"t\" is held") && said.contains("23502"), "{said}");
    assert_eq!(found().await, "ax by");
}
