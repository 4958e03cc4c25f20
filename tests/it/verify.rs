//! `eds verify`: a destination that a stream keeps is equal to an export while changes go on, what
//! people change in it by hand is found exactly, and repaired.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use eds::sandbox::check;
use eds::sandbox::export::{self, Choice};
use eds::sandbox::shop::{Shop, ShopOptions};
use mysql_async::prelude::Queryable;
use serde_json::Value;

use crate::services::eds::{Eds, Running, binary, data_of};
use crate::services::mysql::{self, Flavour};
use crate::services::nats::Nats;
use crate::services::postgres;
use crate::services::scene::{COMPANIES, Keeper, assert_equal, publish};
use crate::services::snowflake;
use crate::services::tds::FakeSqlServer;

/// The exports are so much older than the messages that the stream is beyond them at once.
const AGO_NS: u64 = 60_000_000_000;

/// A shop that publishes what happens to it, a destination, and an `eds` between them.
struct ComparedPlace {
    nats: Nats,
    shop: Shop,
    url: String,
    eds: Eds,
    creds: PathBuf,
}

/// What a run said.
#[derive(Debug)]
struct VerifySaid {
    code: Option<i32>,
    /// Table, key and kind of each row that differs.
    differences: BTreeSet<(String, String, String)>,
    confirmed: bool,
    tables: Vec<Value>,
    text: String,
}

impl VerifySaid {
    fn of(output: &Output) -> VerifySaid {
        let out = String::from_utf8_lossy(&output.stdout);
        let lines = data_of(&output.stdout);
        let text = |line: &Value, name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let (differences, tables): (Vec<Value>, Vec<Value>) =
            lines.into_iter().partition(|line| line["type"] == "difference");
        VerifySaid {
            code: output.status.code(),
            confirmed: differences.iter().all(|line| line["confirmed"] == true),
            differences: differences
                .iter()
                .map(|d| {
                    (
                        text(d, "table"),
                        d["key"][0].as_str().unwrap_or_default().to_owned(),
                        text(d, "what"),
                    )
                })
                .collect(),
            tables,
            text: format!("{out}{}", String::from_utf8_lossy(&output.stderr)),
        }
    }

    fn sum(&self, name: &str) -> u64 {
        self.tables.iter().filter_map(|table| table[name].as_u64()).sum()
    }
}

impl ComparedPlace {
    async fn new(url: String, seed: u64, name: &str) -> ComparedPlace {
        let nats = Nats::start().await;
        // `eds why` looks with a second one.
        nats.allow_consumers(3).await;
        let mut shop = Shop::new(seed, ShopOptions { rows: 2_000, repeats: 0 });
        shop.begin_now();
        let ago = shop.version().nanos - AGO_NS;
        shop.begin_at(ago);
        let creds = nats.server_creds(name, COMPANIES, None);
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        let mut place = ComparedPlace { nats, shop, url, eds, creds };
        place.eds.begin();
        publish(&place.nats, &mut place.shop, 3_000).await;
        // What is older than the export is there: only so much older are its messages not.
        place.eds.catch_up();
        place
    }

    /// The shop as it is now, as files.
    fn export(&self, name: &str) -> PathBuf {
        let dir = self.eds.data_dir().join(name);
        export::write(&self.shop, &dir, &Choice::default(), 300).unwrap_or_else(|e| panic!("{e}"));
        dir
    }

    fn command(&self, export: &PathBuf, args: &[&str]) -> Command {
        let schema = self.eds.data_dir().with_file_name("schema.json");
        let mut command = Command::new(binary());
        command.env("EDS_URL", &self.url).args(["verify", "--json", "--wait", "60s"]);
        command.arg("--dir").arg(export).arg("--schema").arg(schema);
        command.arg("--data-dir").arg(self.eds.data_dir()).args(args);
        command
    }

    async fn verify(&self, export: &PathBuf, args: &[&str]) -> VerifySaid {
        let mut command = self.command(export, args);
        let output = tokio::task::spawn_blocking(move || command.output()).await;
        let output = output.unwrap_or_else(|e| panic!("{e}")).unwrap_or_else(|e| panic!("{e}"));
        VerifySaid::of(&output)
    }

    async fn streaming(&self) -> Running {
        let running = self.eds.start(&["--restart=false"]);
        running.until_streaming().await;
        running
    }

    /// Rows change while they are compared with what they were, and nothing is reported.
    async fn nothing_is_reported_while_changes_go_on(&mut self) {
        let running = self.streaming().await;
        let export = self.export("export-1");
        let over = AtomicBool::new(false);
        let mut shop = self.shop.clone();
        let said = {
            let changes = async {
                while !over.load(Ordering::Relaxed) {
                    publish(&self.nats, &mut shop, 30).await;
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            };
            let compared = async {
                // In the middle of it all.
                tokio::time::sleep(Duration::from_secs(2)).await;
                let said = self.verify(&export, &[]).await;
                over.store(true, Ordering::Relaxed);
                said
            };
            tokio::join!(compared, changes).0
        };
        self.shop = shop;
        assert_eq!((said.code, said.differences.len()), (Some(0), 0), "{}", said.text);
        assert!(said.sum("newer") > 0 && said.sum("rows") > 1_000, "{}", said.text);
        running.stop();
        self.eds.catch_up();
    }

    /// What is known of a row that is there.
    fn says_why(&self, id: &str) {
        let mut command = Command::new(binary());
        command.env("EDS_URL", &self.url).args(["why", "--json", "customer", id]);
        command.arg("--data-dir").arg(self.eds.data_dir());
        command.args(["--server", &self.nats.url(), "--creds"]).arg(&self.creds);
        let output = command.output().unwrap_or_else(|e| panic!("{e}"));
        let said = data_of(&output.stdout).pop().unwrap_or_else(|| panic!("{output:?}"));
        assert_eq!((said["at_destination"].as_bool(), &said["values"]), (Some(true), &Value::Null));
        let stream = &said["streams"][0];
        assert!(stream["last_change"]["sequence"].as_u64() > Some(0), "{said}");
        assert_eq!(
            (&stream["last_change"]["applied"], &stream["held"]),
            (&true.into(), &Value::Null)
        );
        let share = &said["in_stream"];
        assert!(share["messages"].as_u64() > Some(0) && share["error"].is_null(), "{said}");
        let last = stream["last_change"]["sequence"].as_u64();
        assert_eq!(share["last_sequence"].as_u64(), last, "{said}");
    }

    /// What `ids` of a table have become by hand is found, and nothing else; then it is repaired.
    async fn exactly_these_are_found_and_repaired(&self, expected: &[(&str, &str)]) {
        let export = self.export("export-2");
        let wanted: BTreeSet<(String, String, String)> = expected
            .iter()
            .map(|(id, what)| ("customer".to_owned(), (*id).to_owned(), (*what).to_owned()))
            .collect();
        let said = self.verify(&export, &[]).await;
        assert_eq!((said.code, said.confirmed), (Some(1), true), "{}", said.text);
        assert_eq!(said.differences, wanted, "{}", said.text);
        assert!(said.text.contains("[EDS-410]"), "{}", said.text);
        let repaired = self.verify(&export, &["customer", "--repair", "--delete-extra"]).await;
        assert_eq!(repaired.code, Some(0), "{}", repaired.text);
        assert_eq!(repaired.sum("repaired"), wanted.len() as u64, "{}", repaired.text);
        self.says_why(expected[0].0);
        let again = self.verify(&export, &[]).await;
        assert_eq!((again.code, again.differences.len()), (Some(0), 0), "{}", again.text);
    }
}

/// Changes, takes away and adds rows of `customer`, given six ids of it; answers how each differs.
fn by_hand(ids: &[String]) -> (Vec<String>, Vec<(String, &'static str)>) {
    let [a, b, c, d, e, f, ..] = ids else { panic!("six ids: {ids:?}") };
    let statements = vec![
        format!("UPDATE customer SET {{companyId}} = 'another' WHERE id IN ('{a}', '{b}')"),
        format!("DELETE FROM customer WHERE id IN ('{c}', '{d}')"),
        format!("CREATE TABLE more AS SELECT * FROM customer WHERE id IN ('{e}', '{f}')"),
        "UPDATE more SET id = concat('~', id)".to_owned(),
        "INSERT INTO customer SELECT * FROM more".to_owned(),
        "DROP TABLE more".to_owned(),
    ];
    let differ = vec![
        (a.clone(), "different"),
        (b.clone(), "different"),
        (c.clone(), "missing"),
        (d.clone(), "missing"),
        (format!("~{e}"), "extra"),
        (format!("~{f}"), "extra"),
    ];
    (statements, differ)
}

const IDS: &str = "SELECT id FROM customer ORDER BY id LIMIT 7";

#[tokio::test(flavor = "multi_thread")]
async fn postgres_is_compared_and_repaired() {
    let server = postgres::shared();
    let (database, url) = server.fresh().await;
    let mut place = ComparedPlace::new(url, 71, "verify-p").await;
    place.nothing_is_reported_while_changes_go_on().await;
    let client = server.connect(&database).await;
    let ids: Vec<String> = client
        .query(IDS, &[])
        .await
        .map(|rows| rows.iter().map(|row| row.get(0)).collect())
        .unwrap_or_else(|e| panic!("{e}"));
    let (statements, differ) = by_hand(&ids);
    for sql in statements {
        let sql = sql.replace("{companyId}", "\"companyId\"");
        client.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let differ: Vec<(&str, &str)> = differ.iter().map(|(id, what)| (id.as_str(), *what)).collect();
    place.exactly_these_are_found_and_repaired(&differ).await;
    assert_equal(&place.shop, server, &database).await;
    // The stream goes on where it was.
    publish(&place.nats, &mut place.shop, 200).await;
    place.eds.catch_up();
    assert_equal(&place.shop, server, &database).await;
}

async fn is_compared_and_repaired_in(flavour: Flavour, name: &str) {
    let server = mysql::shared(flavour);
    let (database, url) = server.fresh().await;
    let mut place = ComparedPlace::new(url, 72, name).await;
    place.nothing_is_reported_while_changes_go_on().await;
    let mut conn = server.connect(&database).await;
    let ids: Vec<String> = conn.query(IDS).await.unwrap_or_else(|e| panic!("{e}"));
    let (statements, differ) = by_hand(&ids);
    for sql in statements {
        let sql = sql.replace("{companyId}", "companyId");
        conn.query_drop(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let differ: Vec<(&str, &str)> = differ.iter().map(|(id, what)| (id.as_str(), *what)).collect();
    place.exactly_these_are_found_and_repaired(&differ).await;
    assert_equal(&place.shop, server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_is_compared_and_repaired() {
    is_compared_and_repaired_in(Flavour::MySql, "verify-m").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_is_compared_and_repaired() {
    is_compared_and_repaired_in(Flavour::MariaDb, "verify-a").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_is_compared_and_repaired() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("shop.db").display().to_string();
    let mut place = ComparedPlace::new(format!("sqlite://{path}"), 73, "verify-s").await;
    place.nothing_is_reported_while_changes_go_on().await;
    let db = rusqlite::Connection::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let ids = |sql: &str| -> rusqlite::Result<Vec<String>> {
        db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let ids = ids(IDS).unwrap_or_else(|e| panic!("{e}"));
    let (mut statements, mut differ) = by_hand(&ids);
    // A row that is marked as deleted is missing; the repair takes the mark away.
    statements.push("ALTER TABLE customer ADD COLUMN _eds_deleted_at TEXT".into());
    statements
        .push(format!("UPDATE customer SET _eds_deleted_at = 'then' WHERE id = '{}'", ids[6]));
    differ.push((ids[6].clone(), "missing"));
    for sql in statements {
        let sql = sql.replace("{companyId}", "companyId").replace("concat('~', id)", "'~' || id");
        db.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let differ: Vec<(&str, &str)> = differ.iter().map(|(id, what)| (id.as_str(), *what)).collect();
    place.exactly_these_are_found_and_repaired(&differ).await;
    let reports = check::sqlite(&place.shop, &path).unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = reports.iter().filter(|r| !r.is_equal()).map(check::line).collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The stand-in for SQL Server keeps its tables in a file of SQLite.
#[tokio::test(flavor = "multi_thread")]
async fn sql_server_is_compared_and_repaired() {
    let server = FakeSqlServer::start();
    let mut place = ComparedPlace::new(server.url("verify"), 75, "verify-t").await;
    place.nothing_is_reported_while_changes_go_on().await;
    let path = server.file("verify");
    let db = rusqlite::Connection::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let ids = |sql: &str| -> rusqlite::Result<Vec<String>> {
        db.prepare(sql)?.query_map([], |row| row.get(0))?.collect()
    };
    let (statements, differ) = by_hand(&ids(IDS).unwrap_or_else(|e| panic!("{e}")));
    for sql in statements {
        let sql = sql.replace("{companyId}", "companyId").replace("concat('~', id)", "'~' || id");
        db.execute_batch(&sql).unwrap_or_else(|e| panic!("{sql}: {e}"));
    }
    let differ: Vec<(&str, &str)> = differ.iter().map(|(id, what)| (id.as_str(), *what)).collect();
    place.exactly_these_are_found_and_repaired(&differ).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snowflake_is_compared_and_repaired() {
    let server = snowflake::shared();
    let database = server.database();
    let url = server.url(&database, "&freshness=0");
    let mut place = ComparedPlace::new(url, 76, "verify-f").await;
    place.nothing_is_reported_while_changes_go_on().await;
    let ids =
        server.sql(&database, &IDS.replace("customer", "\"customer\"").replace("id", "\"id\""));
    let ids: Vec<String> = ids.into_iter().flatten().flatten().collect();
    let (statements, differ) = by_hand(&ids);
    for sql in statements {
        let sql = sql.replace("{companyId}", "\"companyId\"").replace("customer", "\"customer\"");
        let sql = sql.replace(" id ", " \"id\" ").replace("(id)", "(\"id\")");
        server.sql(&database, &sql.replace("concat('~', id)", "'~' || \"id\""));
    }
    let differ: Vec<(&str, &str)> = differ.iter().map(|(id, what)| (id.as_str(), *what)).collect();
    place.exactly_these_are_found_and_repaired(&differ).await;
}

/// Neither what was read nor what was found is lost by a kill.
#[tokio::test(flavor = "multi_thread")]
async fn a_comparison_goes_on_where_it_was_cut_off() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let path = dir.path().join("shop.db").display().to_string();
    let mut place = ComparedPlace::new(format!("sqlite://{path}"), 77, "verify-c").await;
    place.eds.catch_up();
    publish(&place.nats, &mut place.shop, 300).await;
    place.eds.catch_up();
    let db = rusqlite::Connection::open(&path).unwrap_or_else(|e| panic!("{e}"));
    let changed = "UPDATE customer SET companyId = 'another' WHERE id = \
                   (SELECT min(id) FROM customer) RETURNING id";
    let id: String =
        db.query_row(changed, [], |row| row.get(0)).unwrap_or_else(|e| panic!("{changed}: {e}"));
    let export = place.export("export-1");
    let log = dir.path().join("verify.log");
    let slow = Running::start(place.command(&export, &["--rate", "300"]), log);
    slow.until_log("\"customer\" is compared", Duration::from_secs(60)).await;
    slow.kill();
    let kept = place.eds.data_dir().join("verify.db");
    assert!(kept.exists());
    let said = place.verify(&export, &[]).await;
    let wanted = BTreeSet::from([("customer".to_owned(), id, "different".to_owned())]);
    assert_eq!((said.code, &said.differences), (Some(1), &wanted), "{}", said.text);
    assert!(said.text.contains("going on with the comparison"), "{}", said.text);
    assert!(!said.text.contains("\"customer\" is compared"), "{}", said.text);
    assert!(!kept.exists());
    // Another one begins at the start.
    let again = place.verify(&export, &[]).await;
    assert!(again.text.contains("\"customer\" is compared"), "{}", again.text);
    assert_eq!(again.differences, wanted, "{}", again.text);
}

/// An export that is newer than the stream proves nothing wrong, and a running EDS is not written
/// beside.
#[tokio::test(flavor = "multi_thread")]
async fn what_the_stream_has_not_reached_is_not_called_wrong() {
    let (_, url) = postgres::shared().fresh().await;
    let mut place = ComparedPlace::new(url, 74, "verify-n").await;
    place.eds.catch_up();
    // It happens, and is never published.
    (0..500).for_each(|_| drop(place.shop.next_event()));
    place.shop.begin_now();
    let export = place.export("export-1");
    let said = place.verify(&export, &[]).await;
    assert_eq!((said.code, said.confirmed), (Some(1), false), "{}", said.text);
    assert_eq!(said.sum("missing") + said.sum("extra") + said.sum("different"), 0, "{}", said.text);
    assert!(said.sum("unconfirmed") > 0, "{}", said.text);
}
