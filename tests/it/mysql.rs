//! What is MySQL's and MariaDB's own: logins, TLS, older tables, locks, names of tables in lower
//! case.

use std::time::Duration;

use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Row};
use serde_json::{Value, json};

use crate::services::eds::{replay, schema, upsert};
use crate::services::eventually;
use crate::services::mysql::{Flavour, MySql, PASSWORD, RIGHTS, shared};
use crate::services::nats::Nats;
use crate::services::scene::{COMPANIES, assert_equal, publish};
use eds::sandbox::shop::{Shop, ShopOptions};

const BOTH: [Flavour; 2] = [Flavour::MySql, Flavour::MariaDb];

async fn run(conn: &mut Conn, sql: &str) {
    conn.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

async fn texts(conn: &mut Conn, sql: &str) -> Vec<Vec<Option<String>>> {
    let rows: Vec<Row> = conn.query(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    rows.into_iter()
        .map(|row| (0..row.len()).map(|i| row.get::<Option<String>, _>(i).flatten()).collect())
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_logins_and_places_are_named() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (_, url) = server.database().await;
        let schemas = json!({"t": schema("t", "1", json!({}))});
        let cases = [
            (url.replace("s3cret", "wrong"), "refuses user \"eds\" or the password"),
            (server.url("test_nowhere"), "database \"test_nowhere\""),
            (server.url("mysql"), "does not let user \"eds\" into database \"mysql\""),
            (url.replace(&format!(":{}", server.port), ":1"), "cannot be reached"),
            (format!("{url}?tls=sometimes"), "tls=\"sometimes\" is not known"),
            (format!("{url}?timeout=soon"), "timeout=\"soon\" is not a time to wait"),
            (format!("{url}?colour=blue"), "\"colour\", which EDS does not know"),
            (format!("{url}?schema=missing"), "no database \"missing\""),
            ("mysql://localhost".into(), "names no database"),
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
}

/// Every `tls` does what it says, with an authority of our own.
#[tokio::test(flavor = "multi_thread")]
async fn every_tls_mode_does_what_it_says() {
    let here = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let [authority, certificate, key] =
        crate::services::certs::certificates().unwrap_or_else(|e| panic!("{e}"));
    let [other, ..] = crate::services::certs::certificates().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        crate::services::certs::write(here.path(), name, text).display().to_string()
    };
    let (authority, other) = (write("ca.pem", &authority), write("other.pem", &other));
    let settings = [
        format!("ssl-ca={authority}"),
        format!("ssl-cert={}", write("server.crt", &certificate)),
        format!("ssl-key={}", write("server.key", &key)),
    ];
    let server =
        MySql::start_with(Flavour::MariaDb, &settings.each_ref().map(String::as_str)).await;
    let (_, url) = server.database().await;
    let by_name = url.replace("127.0.0.1", "localhost");
    let cases = [
        (format!("{url}?tls=false"), true),
        (format!("{url}?tls=preferred"), true),
        (format!("{url}?tls=skip-verify"), true),
        (format!("{url}?tls=true&ssl-ca={authority}"), true),
        (format!("{by_name}?tls=true&ssl-ca={authority}"), false),
        (format!("{by_name}?tls=true&ssl-ca={authority}&ssl-host=127.0.0.1"), true),
        (format!("{url}?tls=true&ssl-ca={other}"), false),
        (format!("{url}?tls=true"), false),
    ];
    for (url, works) in cases {
        let output = replay(&url, &json!({}), &[], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.success(),
            works,
            "{}: {said}",
            url.split_once('?').map_or("", |(_, q)| q)
        );
        assert!(works || said.contains("certificate"), "{said}");
    }
    let plain = shared(Flavour::MariaDb).database().await.1;
    assert!(
        replay(&format!("{plain}?tls=preferred"), &json!({}), &[], &[]).status.success(),
        "a server that cannot encrypt is accepted"
    );
    let output = replay(&format!("{plain}?tls=skip-verify"), &json!({}), &[], &[]);
    assert!(String::from_utf8_lossy(&output.stderr).contains("cannot encrypt"));
}

/// A table as the predecessor of EDS made it, with a row.
async fn table_of_the_predecessor(conn: &mut Conn) {
    run(
        conn,
        "CREATE TABLE `t` (`id` VARCHAR(64) NOT NULL, `at` TIMESTAMP NULL, `rate` FLOAT, `doc` \
         JSON, `text` TEXT, `on` BOOLEAN, \
         `strict` VARCHAR(10) NOT NULL COMMENT 'NOT NULL, it''s said', PRIMARY KEY (`id`)) \
         CHARACTER SET utf8mb4",
    )
    .await;
    run(conn, "INSERT INTO t (id, text, strict) VALUES ('old', 'kept', 'x')").await;
}

/// Replays changes into that table, of which two do not fit its types; what was said.
fn replay_into_it(url: &str) -> String {
    let schemas = json!({"t": schema("t", "1", json!({"at": {"type": "string", "format": "date-time"}, "rate": {"type": "number"}, "doc": {"type": "object"},
        "text": {"type": "string"}, "on": {"type": "boolean"}, "strict": {"type": "string"}, "new": {"type": "string", "format": "date-time"}}))});
    let events = [
        upsert(
            "t",
            "1",
            json!({"id": "a", "at": "2024-07-11T21:16:51.999999999+02:00", "rate": 0.1, "doc": {"b": 1}, "text": "ü", "on": true, "new": "2024-07-11T21:16:51.1Z"}),
        ),
        upsert("t", "1", json!({"id": "late", "at": "2039-01-01T00:00:00Z"})),
        upsert("t", "1", json!({"id": "long", "text": "x".repeat(65_536)})),
    ];
    let output = replay(url, &schemas, &events, &[]);
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success() && said.contains("2 dead letters"), "{said}");
    said
}

/// A table of the predecessor's keeps its types; columns are added, NOT NULL is taken back, nothing
/// else is altered.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_of_the_predecessor_keeps_working() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (name, url) = server.database().await;
        let mut conn = server.connect(&name).await;
        table_of_the_predecessor(&mut conn).await;
        let said = replay_into_it(&url);
        for cure in [
            "column \"at\"",
            "MODIFY COLUMN … DATETIME(6)",
            "column \"text\"",
            "MODIFY COLUMN … LONGTEXT",
        ] {
            assert!(said.contains(cure), "{cure}: {said}");
        }
        let some = |s: &str| Some(s.to_owned());
        let read = texts(
            &mut conn,
            "SELECT id, at, rate, JSON_EXTRACT(doc, '$.b'), text, `on`, \
            strict, new FROM t ORDER BY id",
        )
        .await;
        let wanted = vec![
            some("a"),
            some("2024-07-11 19:16:51"),
            some("0.1"),
            some("1"),
            some("ü"),
            some("1"),
            None,
            some("2024-07-11 21:16:51.100000"),
        ];
        assert_eq!(
            read,
            [wanted, vec![some("old"), None, None, None, some("kept"), None, some("x"), None]]
        );
        let made = texts(&mut conn, "SHOW CREATE TABLE t").await[0][1].clone().unwrap_or_default();
        for kept in [
            "`at` timestamp NULL",
            "`rate` float",
            "`text` text",
            "COMMENT 'NOT NULL, it''s said'",
            "`new` datetime(6)",
        ] {
            assert!(made.contains(kept), "{kept}: {made}");
        }
    }
}

/// Tables in which rows would not be safe are named, with the cure.
#[tokio::test(flavor = "multi_thread")]
async fn unsafe_tables_are_named() {
    let server = shared(Flavour::MariaDb);
    let (name, url) = server.database().await;
    let mut conn = server.connect(&name).await;
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    for (table, expected) in [
        (
            "CREATE TABLE t (id VARCHAR(64) NOT NULL PRIMARY KEY, n BIGINT) ENGINE=MyISAM",
            "ENGINE=InnoDB cures it",
        ),
        (
            "CREATE TABLE t (id VARCHAR(64) NOT NULL PRIMARY KEY, n BIGINT, UNIQUE KEY \
             only_one (n))",
            "unique index \"only_one\"",
        ),
        ("CREATE VIEW t AS SELECT 'x' AS id, 1 AS n", "it is a view"),
    ] {
        run(&mut conn, table).await;
        let output = replay(&url, &schemas, &[upsert("t", "1", json!({"id": "a", "n": 1}))], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        run(&mut conn, if table.contains("VIEW") { "DROP VIEW t" } else { "DROP TABLE t" }).await;
    }
}

/// A reader that keeps a table locked holds a change of it up, and is named where the server tells.
#[tokio::test(flavor = "multi_thread")]
async fn a_readers_lock_is_waited_for_and_named() {
    let server = shared(Flavour::MySql);
    let (name, url) = server.database().await;
    // A user of its own: others must not see the locks.
    let mut root = server.connect("").await;
    for sql in [
        format!("CREATE USER watcher@'%' IDENTIFIED BY '{PASSWORD}'"),
        format!("GRANT {RIGHTS} ON {name}.* TO watcher@'%'"),
        "GRANT SELECT ON performance_schema.* TO watcher@'%'".to_owned(),
    ] {
        run(&mut root, &sql).await;
    }
    let url = url.replace("//eds:", "//watcher:");
    let first = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let second =
        json!({"t": schema("t", "2", json!({"n": {"type": "integer"}, "m": {"type": "integer"}}))});
    assert!(
        replay(&url, &first, &[upsert("t", "1", json!({"id": "a", "n": 1}))], &[]).status.success()
    );
    let mut reader = server.connect(&name).await;
    run(&mut reader, "START TRANSACTION").await;
    run(&mut reader, "SELECT * FROM t").await;
    let output = replay(&url, &second, &[upsert("t", "2", json!({"id": "a", "m": 1}))], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success()
            && said.contains("locks are held by session")
            && said.contains("user root"),
        "{said}"
    );
    run(&mut reader, "COMMIT").await;
    assert!(
        replay(&url, &second, &[upsert("t", "2", json!({"id": "a", "m": 1}))], &[])
            .status
            .success()
    );
}

/// Where the server keeps names of tables in lower case, tables are found again.
#[tokio::test(flavor = "multi_thread")]
async fn names_in_lower_case_are_found_again() {
    let server = MySql::start_with(Flavour::MariaDb, &["lower-case-table-names=1"]).await;
    let (name, url) = server.database().await;
    let schemas = json!({"t": schema("orderItem", "1", json!({"n": {"type": "integer"}})), "t2": schema("orderItem", "2", json!({"n": {"type": "integer"}, "Later": {"type": "integer"}}))});
    let events = |n: i64| -> Vec<Value> {
        vec![
            upsert("orderItem", "1", json!({"id": "a", "n": n})),
            upsert("orderItem", "2", json!({"id": "b", "n": n, "Later": 1})),
        ]
    };
    for n in [1, 2] {
        let output = replay(&format!("{url}?prefix=Eds_"), &schemas, &events(n), &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("create table") == (n == 1), "{said}");
    }
    let mut conn = server.connect(&name).await;
    assert_eq!(texts(&mut conn, "SELECT id, n FROM eds_orderitem ORDER BY id").await.len(), 2);
}

/// `?schema=` is another database, and logs name the place without anything of the password.
#[tokio::test(flavor = "multi_thread")]
async fn another_database_is_written_to() {
    let server = shared(Flavour::MySql);
    let ((_, url), (other, _)) = (server.database().await, server.database().await);
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let output = replay(
        &format!("{url}?schema={other}&prefix=x_"),
        &schemas,
        &[upsert("t", "1", json!({"id": "a", "n": 1}))],
        &["-v"],
    );
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && !said.contains("s3cret"), "{said}");
    assert_eq!(
        texts(&mut server.connect(&other).await, "SELECT id, n FROM x_t").await,
        [[Some("a".to_owned()), Some("1".to_owned())]]
    );
}

/// A server that takes small packets only gets small ones; a row that is larger becomes a dead
/// letter.
#[tokio::test(flavor = "multi_thread")]
async fn small_packets_are_kept_to() {
    let server = MySql::start_with(Flavour::MariaDb, &["max-allowed-packet=1M"]).await;
    let (name, url) = server.database().await;
    let schemas = json!({"t": schema("t", "1", json!({"text": {"type": "string"}}))});
    let mut events: Vec<Value> = (0..500)
        .map(|n| upsert("t", "1", json!({"id": format!("{n:03}"), "text": "ü".repeat(5_000)})))
        .collect();
    events.insert(250, upsert("t", "1", json!({"id": "large", "text": "x".repeat(1 << 20)})));
    let output = replay(&url, &schemas, &events, &["--minPendingLatency", "300ms"]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success()
            && said.contains("1 dead letters")
            && said.contains("max_allowed_packet"),
        "{said}"
    );
    let count =
        texts(&mut server.connect(&name).await, "SELECT COUNT(*), SUM(CHAR_LENGTH(text)) FROM t")
            .await;
    assert_eq!(count, [[Some("500".to_owned()), Some("2500000".to_owned())]]);
}

/// A session that a predecessor left hanging within a transaction is ended by its successor.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_predecessor_left_hanging_is_ended() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (database, url) = server.database().await;
        let nats = Nats::start().await;
        let mut shop = Shop::new(14, ShopOptions::default());
        let creds = nats.server_creds("m4", COMPANIES, None);
        let eds = crate::services::eds::Eds::stream(&nats, &creds, &url, &shop.schema_map());
        eds.begin();
        publish(&nats, &mut shop, 1_000).await;
        eds.catch_up();
        // Asleep within a transaction: a stopped process, its connection open.
        let mut older = eds.start(&[]);
        older.until_streaming().await;
        let mut admin = server.connect(&database).await;
        run(&mut admin, "LOCK TABLES _eds_checkpoint READ").await;
        publish(&nats, &mut shop, 1_000).await;
        eventually("it waits within its transaction", Duration::from_secs(30), async || {
            let waiting =
                texts(&mut server.connect(&database).await, "SHOW FULL PROCESSLIST").await;
            waiting.iter().any(|row| {
                row[1].as_deref() == Some("eds")
                    && row.iter().flatten().any(|cell| cell.contains("lock"))
            })
        })
        .await;
        crate::services::send(older.pid(), "STOP");
        run(&mut admin, "UNLOCK TABLES").await;
        let log =
            crate::services::eds::Eds::stream(&nats, &creds, &url, &shop.schema_map()).catch_up();
        assert!(!log.contains("trying again"), "{log}");
        assert_equal(&shop, server, &database).await;
        crate::services::send(older.pid(), "CONT");
        assert!(older.is_running() || older.log().contains("another EDS"));
    }
}

/// Keys of 255 characters are stored, however many texts a key has; a longer one is a dead letter
/// that names the column and its cure.
#[tokio::test(flavor = "multi_thread")]
async fn long_keys_are_stored() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (name, url) = server.database().await;
        let text = || json!({"type": "string"});
        let many = json!({"table": "many", "modelVersion": "1",
            "primaryKeys": ["a", "b", "c", "d", "n"], "required": [],
            "properties": {"a": text(), "b": text(), "c": text(), "d": text(), "n": {"type": "integer"}}});
        let schemas = json!({"t": schema("t", "1", json!({})), "many": many});
        let (fits, long) = ("ü".repeat(255), "ü".repeat(256));
        let part = "x".repeat(191);
        let after = json!({"a": part, "b": part, "c": part, "d": part, "n": 1});
        let events = [
            upsert("t", "1", json!({"id": fits})),
            upsert("t", "1", json!({"id": long})),
            json!({"operation": "UPDATE", "table": "many", "modelVersion": "1",
                "key": [part, part, part, part, 1], "after": after}),
        ];
        let output = replay(&url, &schemas, &events, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 dead letters"), "{said}");
        assert!(said.contains("column \"id\"") && said.contains("VARCHAR("), "{said}");
        let mut conn = server.connect(&name).await;
        let lengths = "SELECT CHAR_LENGTH(id) FROM t UNION ALL SELECT CHAR_LENGTH(d) FROM many";
        let lengths = texts(&mut conn, lengths).await;
        assert_eq!(lengths, [[Some("255".to_owned())], [Some("191".to_owned())]]);
    }
}

/// Where the server keeps names of tables in lower case, two that differ in nothing else are
/// refused, both by name.
#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_one_in_lower_case_are_refused() {
    let server = MySql::start_with(Flavour::MariaDb, &["lower-case-table-names=1"]).await;
    let (name, url) = server.database().await;
    let schemas =
        json!({"1": schema("users", "1", json!({})), "2": schema("Users", "1", json!({}))});
    let output = replay(&url, &schemas, &[], &[]);
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("\"users\"") && said.contains("\"Users\""), "{said}");
    let mut conn = server.connect(&name).await;
    assert_eq!(texts(&mut conn, "SHOW TABLES LIKE 'users'").await.len(), 0);
}

/// Numbers of a column that has become text keep every digit, those that were there and those that
/// come; so do whole numbers in a column of doubles, or they are named.
#[tokio::test(flavor = "multi_thread")]
async fn numbers_keep_their_digits_as_text_and_as_doubles() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (name, url) = server.database().await;
        let of = |version: &str, kind: &str| schema("t", version, json!({"f": {"type": kind}}));
        let schemas = json!({"1": of("1", "number"), "2": of("2", "integer")});
        let row =
            |version: &str, id: &str, f: Value| upsert("t", version, json!({"id": id, "f": f}));
        let sum = 0.1 + 0.2;
        let events = [
            row("1", "a", json!(sum)),
            row("1", "b", json!(1e300)),
            row("2", "c", json!(9_007_199_254_740_992_i64)),
            row("2", "d", json!(9_007_199_254_740_993_i64)),
        ];
        let output = replay(&url, &schemas, &events, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 dead letters"), "{said}");
        assert!(said.contains("more digits than its floating-point column"), "{said}");
        let schemas = json!({"1": of("1", "number"), "3": of("3", "string")});
        let events =
            [row("3", "e", json!("x")), row("1", "f", json!(sum)), row("1", "g", json!(1))];
        let output = replay(&url, &schemas, &events, &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && !said.contains("dead letter"), "{said}");
        let mut conn = server.connect(&name).await;
        let read = texts(&mut conn, "SELECT f FROM t ORDER BY id").await;
        let read: Vec<String> = read.into_iter().flatten().flatten().collect();
        let parsed: Vec<f64> = read.iter().filter_map(|text| text.parse().ok()).collect();
        assert_eq!(parsed, [sum, 1e300, 9_007_199_254_740_992.0, sum, 1.0], "{read:?}");
        assert_eq!(read.len(), 6);
    }
}

/// A column that is in an index and becomes text stays in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_column_in_an_index_is_widened() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (name, url) = server.database().await;
        let of = |version: &str, kind: &str| schema("t", version, json!({"n": {"type": kind}}));
        let first = upsert("t", "1", json!({"id": "a", "n": 1}));
        let second = upsert("t", "2", json!({"id": "b", "n": 1.5}));
        let mut conn = server.connect(&name).await;
        for (schemas, event) in
            [(json!({"1": of("1", "integer")}), first), (json!({"2": of("2", "number")}), second)]
        {
            let output = replay(&url, &schemas, &[event], &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            let _ = conn.query_drop("CREATE INDEX by_n ON t (n)").await;
        }
        let made = texts(&mut conn, "SHOW CREATE TABLE t").await[0][1].clone().unwrap_or_default();
        // MariaDB shortens what is in the index by itself.
        assert!(made.contains("KEY `by_n` (`n`"), "{made}");
        let rows = texts(&mut conn, "SELECT n FROM t ORDER BY id").await;
        assert_eq!(rows, [[Some("1".to_owned())], [Some("1.5".to_owned())]]);
    }
}

/// A server that is reached through its unix socket; variables of the session that the URL sets.
#[tokio::test(flavor = "multi_thread")]
async fn a_unix_socket_and_variables_of_the_session_count() {
    for flavour in BOTH {
        let server = shared(flavour);
        let (name, url) = server.database().await;
        let socket = server.socket().display().to_string().replace('/', "%2F");
        let by_socket = format!("{}@{socket}/{name}", url.split('@').next().unwrap_or_default());
        let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
        let events = [upsert("t", "1", json!({"id": "one", "n": 1}))];
        let said = |url: &str| {
            let output = replay(url, &schemas, &events, &[]);
            (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
        };
        let set = "?optimizer_switch=%27index_merge=off%27&sort_buffer_size=100000";
        let (code, text) = said(&format!("{by_socket}{set}"));
        assert_eq!(code, Some(0), "{text}");
        let rows = texts(&mut server.connect(&name).await, "SELECT n FROM t").await;
        assert_eq!(rows, [[Some("1".to_owned())]]);
        let (code, text) = said(&format!("{by_socket}?sort_bufer_size=100000"));
        assert!(code == Some(3) && text.contains("sort_bufer_size"), "{text}");
    }
}
