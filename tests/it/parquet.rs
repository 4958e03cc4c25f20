//! Parquet files, in a folder and in S3, read back with Apache Arrow and DuckDB.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use eds::sandbox::check;
use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

use crate::kafka::{assert_equal, identity, publish, said};
use crate::parts::{PYTHON, duckdb, files};
use crate::services::eds::{Eds, replay, replay_in, schema, upsert};
use crate::services::hq::Importing;
use crate::services::installed;
use crate::services::nats::Nats;
use crate::services::s3::shared;
use crate::services::scene::COMPANIES;

const ROWS: &str = include_str!("services/parquet_rows.py");

/// A file as Arrow reads it.
pub struct Read {
    name: String,
    table: String,
    packed: String,
    types: BTreeMap<String, String>,
    rows: Vec<Map<String, Value>>,
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// All files below a folder.
pub fn read_all(folder: &Path) -> Vec<Read> {
    let names: Vec<String> = files(folder)
        .into_iter()
        .map(|(name, _)| name)
        .filter(|name| name.ends_with(".parquet"))
        .collect();
    let paths: String =
        names.iter().map(|name| format!("{}\n", folder.join(name).display())).collect();
    let mut python = Command::new(installed(PYTHON))
        .args(["-c", ROWS])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap_or_else(|e| panic!("{e}"));
    python
        .stdin
        .take()
        .unwrap_or_else(|| panic!("no input"))
        .write_all(paths.as_bytes())
        .unwrap_or_else(|e| panic!("{e}"));
    let output = python.wait_with_output().unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success());
    let lines = String::from_utf8_lossy(&output.stdout).into_owned();
    let read = |(line, name): (&str, String)| {
        let mut file: Value = serde_json::from_str(line).unwrap_or_else(|e| panic!("{e}"));
        let row = |row: &Value| row.as_object().cloned().unwrap_or_default();
        Read {
            name,
            table: text(&file["table"]),
            packed: text(&file["packed"]),
            types: serde_json::from_value(file["types"].take()).unwrap_or_default(),
            rows: file["rows"].as_array().into_iter().flatten().map(row).collect(),
        }
    };
    lines.lines().zip(names).map(read).collect()
}

/// The events that the rows of files stand for.
fn events(found: &[Read]) -> Vec<Value> {
    let event = |file: &Read, row: &Map<String, Value>| {
        let after: Map<String, Value> = row
            .iter()
            .filter(|(name, _)| !name.starts_with("_eds_"))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let is_delete = row["_eds_operation"] == "DELETE";
        let all_null = |after: &Map<String, Value>| {
            after.iter().all(|(name, value)| name == "id" || value.is_null())
        };
        assert!(!is_delete || all_null(&after), "of a delete there is the key: {after:?}");
        let key = json!([after["id"]]);
        json!({"operation": row["_eds_operation"], "id": row["_eds_id"], "table": file.table, "key": key, "mvccTimestamp": row["_eds_mvcc_timestamp"],
            "after": if is_delete { Value::Null } else { Value::Object(after) }})
    };
    found.iter().flat_map(|file| file.rows.iter().map(move |row| event(file, row))).collect()
}

/// Each event by what it is known by, of its key the row's id only, with a number for the row that
/// it left.
fn prints<'a>(shop: &Shop, events: impl Iterator<Item = &'a Value>) -> BTreeMap<String, u64> {
    let print = |event: &Value| {
        let table = shop
            .tables
            .iter()
            .find(|table| event["table"] == table.name)
            .unwrap_or_else(|| panic!("{} is no table", event["table"]));
        event["after"].as_object().map_or(0, |row| check::fingerprint(table, row))
    };
    let known = |event: &Value| {
        let key = event["key"].as_array().and_then(|key| key.last()).cloned();
        identity(json!({"table": event["table"], "key": key, "mvccTimestamp": event["mvccTimestamp"], "id": event["id"]}).to_string().as_bytes())
    };
    events.map(|event| (known(event), print(event))).collect()
}

/// All of `stream` is in the files, once, and each event left the row that the shop said.
pub fn assert_whole(shop: &Shop, stream: &[Vec<u8>], found: &[Read]) {
    for file in found {
        let shape: Vec<&str> = file.name.rsplit('/').take(4).collect();
        assert!(
            shape[3] == format!("table={}", file.table)
                && shape[0].starts_with("part-")
                && file.packed == "ZSTD",
            "{}",
            file.name
        );
    }
    let published: Vec<Value> =
        stream.iter().map(|payload| serde_json::from_slice(payload).unwrap_or_default()).collect();
    let events = events(found);
    let (expected, there) = (prints(shop, published.iter()), prints(shop, events.iter()));
    let wrong: Vec<_> = expected
        .iter()
        .filter(|(known, print)| there.get(*known) != Some(*print))
        .map(|(known, _)| known)
        .collect();
    assert!(
        wrong.is_empty() && expected.len() == there.len(),
        "{} events are missing or other than they were: {:?}",
        wrong.len(),
        &wrong[..wrong.len().min(3)]
    );
    assert_eq!(events.len(), stream.len(), "a repeat is written over itself");
    assert_equal(shop, events);
}

/// Kills at any moment: each change is there once, with the values that it had.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_one_file_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(93, ShopOptions::default());
    let (stream, _) = publish(&nats, &mut shop, 30_000).await;
    let creds = nats.server_creds("parquet", COMPANIES, None);
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("lake");
    let eds = Eds::stream(
        &nats,
        &creds,
        &format!("file://{}?format=parquet&freshness=50ms", folder.display()),
        &shop.schema_map(),
    );
    eds.begin();
    eds.kill_at_random(8, fastrand::Rng::with_seed(7), 150..700).await;
    eds.catch_up();
    let found = read_all(&folder);
    assert_whole(&shop, &stream, &found);
    let order =
        found.iter().find(|file| file.table == "order").unwrap_or_else(|| panic!("no orders"));
    for (column, kind) in [
        ("id", "string"),
        ("createdDate", "timestamp[us, tz=UTC]"),
        ("bigNumber", "int64"),
        ("margin", "double"),
        ("paid", "bool"),
        ("metadata", "string"),
        ("_eds_operation", "string"),
        ("_eds_timestamp", "timestamp[us, tz=UTC]"),
        ("_eds_sequence", "int64"),
    ] {
        assert_eq!(order.types[column], kind, "{column}");
    }
    // As documented, for DuckDB: what is left of the orders.
    let sql = format!(
        "SELECT count(*), count(DISTINCT id), any_value(typeof(totalCents)) FROM (SELECT * FROM \
         read_parquet('{}/table=order/**/*.parquet', hive_partitioning = true, \
         union_by_name = true) \
         QUALIFY row_number() OVER (PARTITION BY id ORDER BY _eds_mvcc_timestamp DESC, \
         _eds_operation = 'DELETE') = 1 AND _eds_operation <> 'DELETE')",
        folder.display()
    );
    let orders =
        shop.alive(shop.tables.iter().position(|table| table.name == "order").unwrap_or(0)).count();
    assert_eq!(duckdb(&sql), format!("({orders}, {orders}, 'BIGINT')"));
}

/// The same in S3, with kills.
#[tokio::test(flavor = "multi_thread")]
async fn each_change_is_in_one_object_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(94, ShopOptions::default());
    let (stream, _) = publish(&nats, &mut shop, 20_000).await;
    let creds = nats.server_creds("parquet-objects", COMPANIES, None);
    let server = shared();
    let (objects, url) = server.folder();
    let eds = Eds::stream(
        &nats,
        &creds,
        &format!("{url}&format=parquet&freshness=50ms"),
        &shop.schema_map(),
    );
    eds.begin();
    eds.kill_at_random(6, fastrand::Rng::with_seed(8), 200..900).await;
    eds.catch_up();
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    for (name, content) in server.objects(&objects) {
        let path: PathBuf = dir.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap_or(dir.path()))
            .and_then(|()| std::fs::write(&path, content))
            .unwrap_or_else(|e| panic!("{e}"));
    }
    assert_whole(&shop, &stream, &read_all(dir.path()));
}

/// A full export: a row for each row, whose files are named by what is in them; a second one adds
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("lake");
    let importing = Importing::new(40, 1_000, 200).await;
    let url = format!("file://{}?format=parquet", folder.display());
    importing.import(&url, &[]).await;
    importing.import(&url, &[]).await;
    let found = read_all(&folder);
    assert!(found.iter().all(|file| file.name.contains("/part-import-")
        && file.rows.iter().all(|row| row["_eds_sequence"].is_null())));
    let shop = importing.shop();
    let alive: usize = (0..shop.tables.len()).map(|table| shop.alive(table).count()).sum();
    let events = events(&found);
    assert_eq!(events.len(), alive);
    assert_equal(&shop, events);
}

/// Two versions of a table's schema, and changes of both, with values at their ends and one that
/// does not fit.
fn values_at_their_ends() -> (Value, String) {
    let properties = json!({"n": {"type": "integer"}, "x": {"type": "number"}, "b": {"type": "boolean"}, "at": {"type": "string", "format": "date-time"},
        "o": {"type": "object"}, "a": {"type": "array"}, "s": {"type": "string"}, "_eds_id": {"type": "string"}});
    let schemas = json!({"t": schema("t", "1", properties), "t2": schema("t", "2", json!({"n": {"type": "string"}}))});
    let after = [
        (
            "1",
            json!({"id": "ends", "n": i64::MIN, "x": -0.0, "b": false, "at": "9999-12-31T23:59:59.999999Z", "o": {"k": ["\u{0}", "é"]}, "a": [1, null], "s": "a\u{0}\"é\\", "_eds_id": "mine"}),
        ),
        ("1", json!({"id": "old", "n": 7, "at": "0001-01-01T00:00:00Z"})),
        ("1", json!({"id": "none", "n": null, "s": ""})),
        ("1", json!({"id": "unfit", "n": "twelve"})),
        ("2", json!({"id": "ends", "n": "twelve"})),
    ];
    let journal: String = after
        .iter()
        .map(|(version, after)| format!("{}\n", upsert("t", version, after.clone())))
        .collect::<String>()
        + &format!(
            "{}\n",
            json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": ["old"], "before": {"id": "old", "n": 7}})
        );
    (schemas, journal)
}

/// What does not fit its column becomes a dead letter, and the rest of its batch is there; each
/// model version has files of its own; values at their ends come back as they are.
#[tokio::test(flavor = "multi_thread")]
async fn columns_are_what_the_schema_says() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let (schemas, journal) = values_at_their_ends();
    let folder = dir.path().join("lake");
    let url = format!("file://{}?format=parquet", folder.display());
    let output = replay_in(dir.path(), &url, &schemas, &journal, &["--data-dir", "data"]);
    assert!(
        output.status.success()
            && said(&output).contains("the value of column \"n\" is not an integer of 64 bits")
            && !said(&output).contains("twelve"),
        "{}",
        said(&output)
    );
    let mut found = read_all(&folder);
    found.sort_by(|a, b| a.name.cmp(&b.name));
    let types: Vec<&str> = found.iter().map(|file| file.types["n"].as_str()).collect();
    assert_eq!(types, ["int64", "string"]);
    let get = |row: usize, column: &str| found[0].rows[row][column].clone();
    assert_eq!(found[0].rows.len(), 4, "{:?}", found[0].rows);
    assert_eq!(
        (get(0, "n"), get(0, "x").to_string(), get(0, "b"), get(0, "at")),
        (json!(i64::MIN), "-0.0".into(), json!(false), json!("9999-12-31T23:59:59.999999Z"))
    );
    assert_eq!(
        (get(0, "s"), get(0, "_eds_id_"), get(0, "a")),
        (json!("a\u{0}\"é\\"), json!("mine"), json!("[1,null]"))
    );
    assert_eq!(
        serde_json::from_str::<Value>(&text(&get(0, "o"))).unwrap_or_default(),
        json!({"k": ["\u{0}", "é"]})
    );
    assert_eq!(
        (get(1, "n"), get(1, "at"), get(1, "x")),
        (json!(7), json!("0001-01-01T00:00:00.000000Z"), Value::Null)
    );
    assert_eq!((get(2, "n"), get(2, "s")), (Value::Null, json!("")));
    assert_eq!(
        (get(3, "_eds_operation"), get(3, "id"), get(3, "n")),
        (json!("DELETE"), json!("old"), Value::Null)
    );
    assert_eq!(found[1].rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_its_schema_a_change_has_no_columns() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let url = format!("file://{}?format=parquet", dir.path().join("lake").display());
    let output = replay(&url, &json!({}), &[upsert("t", "1", json!({"id": "x"}))], &[]);
    assert!(
        output.status.success()
            && said(&output).contains("the schema of table \"t\", version \"1\", is unknown"),
        "{}",
        said(&output)
    );
}
