//! The former program's own tests from end to end: a stream that allows one consumer, an import of
//! the schema alone, then eight changes one after the other, into each kind of destination.

use std::process::Command;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use mysql_async::prelude::Queryable;
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::registry::publisher;
use crate::services::eds::{Eds, Running, binary};
use crate::services::eventually_ok;
use crate::services::mysql::{self, Flavour};
use crate::services::nats::Nats;
use crate::services::scene::Keeper;
use crate::services::{kafka, postgres, s3};

const COMPANY: &str = "1234567890";
const VERSIONS: [&str; 3] = ["fff000111", "fff000112-update", "fff000113-update"];
const NAMED: &str = r#"{"id":"12345","name":"test"}"#;
const AGED: &str = r#"{"id":"12345","name":"test","age":1}"#;

/// Table, operation, which version, row.
const CASES: [(&str, &str, usize, &str); 8] = [
    ("order", "INSERT", 0, NAMED),
    ("customer", "INSERT", 0, NAMED),
    ("order", "UPDATE", 0, NAMED),
    ("order", "DELETE", 0, NAMED),
    ("customer", "INSERT", 1, NAMED),
    ("order", "INSERT", 1, AGED),
    ("order", "UPDATE", 2, AGED),
    ("customer", "INSERT", 1, NAMED),
];

/// The schema of a table as HQ has it there: without the names of required columns.
fn schema(table: &str, version: usize) -> Value {
    let mut properties = json!({"id": {"type": "string"}, "name": {"type": "string"}});
    if table == "order" && version > 0 {
        properties["age"] = json!({"type": "number"});
    }
    json!({"table": table, "modelVersion": VERSIONS[version], "primaryKeys": ["id"], "properties": properties})
}

/// What HQ answers by path. At first it tells of one table only.
fn answers() -> Vec<(String, String)> {
    let first = json!({"order": schema("order", 0)}).to_string();
    let mut all = vec![("/v3/schema".to_owned(), first)];
    for table in ["order", "customer"] {
        for (index, version) in VERSIONS.iter().enumerate() {
            let path = format!("/v3/schema/{table}/{version}");
            all.push((path, schema(table, index).to_string()));
        }
    }
    all
}

/// A change as that program's tests publish it: `mvccTimestamp` is the part of the second.
fn event(number: usize) -> Value {
    let (table, operation, version, row) = CASES[number];
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let row: Value = serde_json::from_str(row).unwrap_or_default();
    let mut event = json!({"operation": operation, "id": format!("e{number}"), "table": table, "key": ["gcp-us-central1", "12345"],
        "modelVersion": VERSIONS[version], "timestamp": now.as_millis() as u64, "mvccTimestamp": now.subsec_nanos().to_string()});
    event[if operation == "DELETE" { "before" } else { "after" }] = row;
    if operation == "UPDATE" {
        event["diff"] = json!(["name"]);
    }
    event
}

/// Everything between HQ and the destination, after the import of the schema.
struct EndToEnd {
    nats: Nats,
    running: Running,
    _eds: Eds,
    _data_dir: TempDir,
}

impl EndToEnd {
    async fn begin(name: &str, url: &str) -> EndToEnd {
        let hq = publisher(answers()).await;
        let nats = Nats::start().await;
        let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
        let mut import = Command::new(binary());
        import.env("EDS_URL", url).env("SM_APIKEY", "apikey").args([
            "import",
            "--no-confirm",
            "--schema-only",
            "--api-url",
            &hq,
            "--data-dir",
        ]);
        import.arg(dir.path());
        let imported = tokio::task::spawn_blocking(move || import.output()).await;
        let imported = imported.map_err(std::io::Error::other).flatten();
        assert!(imported.as_ref().is_ok_and(|o| o.status.success()), "{imported:?}");
        let creds = nats.server_creds(name, &[COMPANY], None);
        let data_dir = dir.path().display().to_string();
        let latency = ["--minPendingLatency", "1ms", "--maxPendingLatency", "1ms"];
        let eds = Eds::stream_of_hq(&nats.url(), &creds, url, &hq)
            .with(&["--data-dir", &data_dir])
            .with(&latency);
        let running = eds.start(&["--restart=false"]);
        running.until_streaming().await;
        EndToEnd { nats, running, _eds: eds, _data_dir: dir }
    }

    /// Publishes each change, and waits until `arrived` has nothing to say against it.
    async fn run(self, mut arrived: impl AsyncFnMut(usize, &Value) -> Result<(), String>) {
        for (number, (table, operation, ..)) in CASES.iter().enumerate() {
            let event = event(number);
            let subject = format!("dbchange.{table}.{operation}.{COMPANY}.1.PUBLIC.2");
            let message = (subject, event.to_string().into_bytes());
            self.nats.publish(std::iter::once(message)).await;
            eventually_ok(Duration::from_secs(60), async || {
                let came = arrived(number, &event).await;
                came.map_err(|why| format!("case {number}: {why}\n{}", self.running.log()))
            })
            .await;
        }
        let ended = self.running.stop();
        assert!(ended.status.success() && !ended.log.contains("dead letter ("), "{}", ended.log);
    }
}

/// Where the former program puts a change: its table, its second, its key.
fn place(event: &Value) -> String {
    let second = event["timestamp"].as_i64().unwrap_or_default() / 1_000;
    format!("{}/{second}-12345.json", event["table"].as_str().unwrap_or_default())
}

fn same(event: &Value, found: &[u8]) -> Result<(), String> {
    match serde_json::from_slice::<Value>(found) {
        Ok(found) if found == *event => Ok(()),
        found => Err(format!("{found:?} instead of {event}")),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_files() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let test = EndToEnd::begin("file", &format!("file://{}", dir.path().display())).await;
    test.run(async |_, event| {
        let found = std::fs::read(dir.path().join(place(event))).map_err(|e| e.to_string())?;
        same(event, &found)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_s3() {
    let server = s3::shared();
    let (folder, url) = server.folder();
    let test = EndToEnd::begin("s3", &url).await;
    test.run(async |_, event| {
        let found = server.objects(&folder);
        let name = format!("{folder}/{}", place(event));
        same(event, found.get(&name).ok_or_else(|| format!("no {name} in {:?}", found.keys()))?)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_kafka() {
    let broker = kafka::shared();
    let topic = broker.topic();
    let test = EndToEnd::begin("kafka", &broker.url(&topic)).await;
    test.run(async |number, event| {
        let found = kafka::messages(&broker.brokers(), &topic);
        if found.len() != number + 1 {
            return Err(format!("{} messages", found.len()));
        }
        let name = format!(".{}", event["id"].as_str().unwrap_or_default());
        let this = found.iter().find(|record| record.key.ends_with(&name));
        same(event, &this.ok_or("another message")?.value)
    })
    .await;
}

/// What a table has to have after a change: nothing, or the row's name and age.
fn left(event: &Value) -> Option<(String, Option<f64>)> {
    let row = event.get("after")?;
    Some((row["name"].as_str().unwrap_or_default().to_owned(), row["age"].as_f64()))
}

fn expect<T: PartialEq + std::fmt::Debug>(found: &T, expected: &T) -> Result<(), String> {
    if found == expected { Ok(()) } else { Err(format!("{found:?} instead of {expected:?}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_postgres() {
    let (database, url) = postgres::shared().fresh().await;
    let client = postgres::shared().connect(&database).await;
    let test = EndToEnd::begin("postgres", &url).await;
    test.run(async |_, event| {
        let table = event["table"].as_str().unwrap_or_default();
        let sql = format!("SELECT to_jsonb(t)::text FROM \"{table}\" t WHERE id = '12345'");
        let rows = client.query(&sql, &[]).await.map_err(|e| e.to_string())?;
        let found: Option<Value> =
            rows.first().map(|row| serde_json::from_str(row.get(0)).unwrap_or_default());
        let found =
            found.map(|r| (r["name"].as_str().unwrap_or_default().to_owned(), r["age"].as_f64()));
        expect(&found, &left(event))
    })
    .await;
}

async fn mysql_has(flavour: Flavour) {
    let server = mysql::shared(flavour);
    let (database, url) = server.fresh().await;
    server.allow_imports(&database).await;
    let mut session = server.connect(&database).await;
    let test = EndToEnd::begin("mysql", &url).await;
    test.run(async |_, event| {
        let table = event["table"].as_str().unwrap_or_default();
        let sql = format!("SELECT * FROM `{table}` WHERE id = '12345'");
        let row: Option<mysql_async::Row> =
            session.query_first(sql).await.map_err(|e| e.to_string())?;
        let has_age = row.as_ref().is_some_and(|row| row.len() > 2);
        let found = row.map(|row| {
            let name = row.get::<String, _>("name").unwrap_or_default();
            (name, has_age.then(|| row.get::<Option<f64>, _>("age").flatten()).flatten())
        });
        expect(&found, &left(event))
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_mysql() {
    mysql_has(Flavour::MySql).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eight_changes_arrive_in_mariadb() {
    mysql_has(Flavour::MariaDb).await;
}
