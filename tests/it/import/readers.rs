//! Readers come first: a report that reads all tables in one long transaction, while columns are
//! added by the stream and an import is put in place, holds up neither itself nor other readers.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tokio::task::JoinHandle;
use tokio_postgres::Client;

use super::columns::ExportDir;
use crate::services::eds::{Eds, schema, upsert};
use crate::services::eventually;
use crate::services::mysql::{self, Flavour};
use crate::services::nats::Nats;
use crate::services::postgres;
use crate::services::scene::Keeper;

/// How long a reader waits for a lock before its query fails.
const PATIENCE: &str = "SET lock_timeout = '1s'";
const WAIT_MAX: Duration = Duration::from_secs(60);

/// `t` is exchanged, and has one more column in version 2; `m` stays, because a view reads it.
fn schemas(version: &str) -> Value {
    let (one, two) = (
        json!({"n": {"type": "integer"}}),
        json!({"n": {"type": "integer"}, "a": {"type": "string"}}),
    );
    let t = if version == "2" { two } else { one.clone() };
    json!({"t": schema("t", version, t), "m": schema("m", version, one)})
}

fn row(table: &str) -> Value {
    json!({"id": "new", "n": 2, "a": table})
}

async fn publish(nats: &Nats) {
    let messages = ["t", "m"].map(|table| {
        let subject = format!("dbchange.{table}.UPDATE.c1.l1.PUBLIC.1");
        (subject, upsert(table, "2", row(table)).to_string().into_bytes())
    });
    nats.publish(messages.into_iter()).await;
}

/// Sessions that read all the time, until told to end; their queries must not fail.
struct Readers {
    ended: Arc<AtomicBool>,
    tasks: Vec<JoinHandle<usize>>,
}

impl Readers {
    fn start(database: &str) -> Readers {
        let ended = Arc::new(AtomicBool::new(false));
        let read = |table: &'static str| {
            let (database, ended) = (database.to_owned(), ended.clone());
            tokio::spawn(async move {
                let mut reads = 0;
                while !ended.load(Ordering::Acquire) {
                    // A new reader each time, as those of a dashboard are.
                    let client = postgres::shared().connect(&database).await;
                    query(&client, PATIENCE).await;
                    query(&client, &format!("SELECT count(*) FROM {table}")).await;
                    reads += 1;
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                reads
            })
        };
        Readers { tasks: vec![read("t"), read("m")], ended }
    }

    async fn end(self) {
        self.ended.store(true, Ordering::Release);
        for task in self.tasks {
            assert!(task.await.unwrap_or_else(|e| panic!("{e}")) > 5);
        }
    }
}

async fn query(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
}

/// Whether something has waited for an exclusive lock of `t`.
async fn has_waited(client: &Client) -> bool {
    let sql = "SELECT 1 FROM pg_locks WHERE relation = 't'::regclass AND NOT granted AND mode = \
               'AccessExclusiveLock'";
    client.query_opt(sql, &[]).await.is_ok_and(|row| row.is_some())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_report_holds_up_no_reader() {
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let export = ExportDir::new();
    export.rows(1, "t", &[json!({"id": "x", "n": 1})]);
    export.rows(2, "m", &[json!({"id": "x", "n": 1})]);
    export.import(&url, &schemas("1"), &[]);
    let (watcher, report) = (server.connect(&database).await, server.connect(&database).await);
    query(&watcher, "CREATE VIEW reading AS SELECT n FROM m").await;
    query(&report, PATIENCE).await;
    query(&report, "BEGIN ISOLATION LEVEL REPEATABLE READ; SELECT * FROM t; SELECT * FROM m").await;
    let readers = Readers::start(&database);

    let nats = Nats::start().await;
    let creds = nats.server_creds("readers", &["c1"], None);
    publish(&nats).await;
    let eds = Eds::stream(&nats, &creds, &url, &schemas("2").to_string());
    let running = eds.start(&[]);
    let arrived = "SELECT 1 FROM m WHERE id = 'new'";
    eventually("the other table flows", WAIT_MAX, async || {
        watcher.query_opt(arrived, &[]).await.is_ok_and(|row| row.is_some())
    })
    .await;
    eventually("a column waits", WAIT_MAX, async || has_waited(&watcher).await).await;
    query(&report, "SELECT * FROM t; SELECT * FROM m").await;
    running.stop();

    for (number, table) in [(1, "t"), (2, "m")] {
        export.rows(number, table, &[row(table)]);
    }
    let import = {
        let url = url.clone();
        tokio::task::spawn_blocking(move || export.import(&url, &schemas("2"), &[]))
    };
    // After five tries the swap begins again.
    for _ in 0..6 {
        eventually("an exchange waits", WAIT_MAX, async || has_waited(&watcher).await).await;
        eventually("readers go on", WAIT_MAX, async || !has_waited(&watcher).await).await;
        query(&report, "SELECT * FROM t; SELECT * FROM m").await;
    }
    query(&report, "COMMIT").await;
    let text = import.await.unwrap_or_else(|e| panic!("{e}"));
    assert!(text.contains("locks are held by session"), "{text}");
    assert!(text.contains("\"m\" stays") && !text.contains("\"t\" stays"), "{text}");
    readers.end().await;
    let sql = "SELECT t.a FROM t JOIN m USING (id)";
    let found = watcher.query_one(sql, &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.get::<_, String>(0), "t");
}

/// MySQL waits for at least a second, and so do readers behind it.
const PATIENCE_IN_MYSQL: &str = "SET SESSION lock_wait_timeout = 3";

async fn a_long_report_holds_up_no_reader_of(flavour: Flavour) {
    let server = mysql::shared(flavour);
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    let export = ExportDir::new();
    export.rows(1, "t", &[json!({"id": "x", "n": 1})]);
    export.import(&url, &schemas("1"), &[]);
    let run = async |conn: &mut mysql_async::Conn, sql: &str| {
        conn.query_drop(sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    };
    let (mut report, mut watcher) =
        (server.connect(&database).await, server.connect(&database).await);
    run(&mut report, "START TRANSACTION").await;
    run(&mut report, "SELECT COUNT(*) FROM t").await;
    let ended = Arc::new(AtomicBool::new(false));
    let reader = {
        let (database, ended) = (database.clone(), ended.clone());
        tokio::spawn(async move {
            while !ended.load(Ordering::Acquire) {
                let mut reader = mysql::shared(flavour).connect(&database).await;
                run(&mut reader, PATIENCE_IN_MYSQL).await;
                run(&mut reader, "SELECT COUNT(*) FROM t").await;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
    };
    let import = tokio::task::spawn_blocking(move || {
        export.import(&url, &schemas("2"), &["--restart-import"])
    });
    let waiting = format!(
        "SELECT COUNT(*) FROM information_schema.processlist WHERE db = '{database}' AND info LIKE \
         'RENAME%' AND state LIKE 'Waiting for table metadata lock%'"
    );
    eventually("an exchange waits", WAIT_MAX, async || {
        watcher.query_first::<u64, _>(&waiting).await.is_ok_and(|n| n > Some(0))
    })
    .await;
    run(&mut report, "SELECT COUNT(*) FROM t").await;
    run(&mut report, "COMMIT").await;
    let text = import.await.unwrap_or_else(|e| panic!("{e}"));
    assert!(!text.contains("\"t\" stays"), "{text}");
    ended.store(true, Ordering::Release);
    reader.await.unwrap_or_else(|e| panic!("{e}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_report_holds_up_no_reader_in_mysql() {
    a_long_report_holds_up_no_reader_of(Flavour::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_long_report_holds_up_no_reader_in_mariadb() {
    a_long_report_holds_up_no_reader_of(Flavour::MariaDb).await;
}
