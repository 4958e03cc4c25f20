//! What is read of the catalog: all tables at a start, and one where only one has changed.

use eds::destination::Migration;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::promises::{Process, ok, parse};
use super::{Database, replayed};
use crate::services::eds::{schema, upsert};
use crate::services::proxy::Proxy;

/// Tables of others, and the columns of each.
const OTHERS: usize = 120;
const COLUMNS: usize = 40;

/// One table is told as it is among all others, whoever has changed it meanwhile.
pub async fn a_table_is_read_alone(database: &dyn Database) {
    let mut destination = Process::new(database).connect().await;
    let columns =
        json!({"n": {"type": "integer"}, "doc": {"type": "object"}, "b": {"type": "boolean"}});
    for name in ["t", "Us\"er's"] {
        let mut strict = schema(name, "1", columns.clone());
        strict["required"] = json!(["id", "n"]);
        ok(destination.migrate(&Migration::CreateTable(parse(&strict))).await);
    }
    let all = ok(destination.tables().await);
    assert!(all.get("t").is_some() && all.get("Us\"er's").is_some());
    for name in ["t", "Us\"er's", "nobody"] {
        assert_eq!(ok(destination.table(name).await).as_ref(), all.get(name), "{name}");
    }
    let (table, column) = (database.quoted("t"), database.quoted("more"));
    database.run(&format!("ALTER TABLE {table} ADD COLUMN {column} INTEGER")).await;
    let alone = ok(destination.table("t").await);
    assert!(alone.as_ref().is_some_and(|shape| shape.columns.contains_key("more")));
    assert_eq!(alone.as_ref(), ok(destination.tables().await).get("t"));
    database.run(&format!("DROP TABLE {table}")).await;
    assert_eq!(ok(destination.table("t").await), None);
}

/// What many tables of others cost is paid once, at the start, and not for each schema change.
pub async fn a_schema_change_reads_one_table(database: &dyn Database) {
    let columns: Vec<String> = (0..COLUMNS).map(|n| format!("column_{n} INTEGER")).collect();
    for n in 0..OTHERS {
        database.run(&format!("CREATE TABLE other_{n} ({})", columns.join(", "))).await;
    }
    let one = answered(database, "t", 1).await;
    let ten = answered(database, "u", 10).await;
    assert!(ten < 2 * one, "{one} bytes were read for one version of a table, {ten} for ten");
}

/// How many bytes the database answers while so many versions of a table come, each in a batch of
/// its own.
async fn answered(database: &dyn Database, table: &str, versions: usize) -> u64 {
    let url = database.url();
    let port = url.split("127.0.0.1:").nth(1).and_then(|rest| rest.split(['/', '?']).next());
    let port = port.and_then(|port| port.parse().ok()).unwrap_or_else(|| panic!("no port"));
    let wire = Proxy::start(port).await;
    let wired = url.replacen(&format!(":{port}"), &format!(":{}", wire.port), 1);
    let version = |n: usize| {
        let columns = (0..n).map(|n| (format!("c{n}"), json!({"type": "integer"})));
        schema(table, &n.to_string(), Value::Object(columns.collect()))
    };
    let schemas: serde_json::Map<String, Value> =
        (1..=versions).map(|n| (format!("{table}{n}"), version(n))).collect();
    let row = |n: usize| upsert(table, &n.to_string(), json!({"id": n.to_string(), "c0": n}));
    let journal: String = (1..=versions).map(|n| format!("{}\n", row(n))).collect();
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let args = ["--url", &wired, "--maxPendingLatency", "1ns"];
    replayed(dir.path(), database, &Value::Object(schemas), &journal, &args);
    let names: Vec<String> = (0..versions).map(|n| format!("c{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    assert_eq!(database.read(table, &names).await.len(), versions);
    wire.answered_bytes()
}
