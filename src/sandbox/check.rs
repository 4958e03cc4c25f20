//! Compares a destination with the shop, row by row, through a client of its own.

use std::collections::BTreeMap;
use std::path::Path;

use futures::future::BoxFuture;
use serde_json::{Map, Value};

use super::shop::Shop;
use super::tables::{ShopKind, ShopTable};
use crate::destination::Settings;

/// How a table compares.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableReport {
    /// The table's name.
    pub table: String,
    /// Rows that the shop has.
    pub expected: usize,
    /// Rows that the destination has.
    pub found: usize,
    /// Rows that are missing, are too many, or differ.
    pub wrong: usize,
    /// The first three of them, for people.
    pub examples: Vec<String>,
}

impl TableReport {
    /// The destination has the shop's rows and no others.
    pub fn is_equal(&self) -> bool {
        self.wrong == 0 && self.expected == self.found
    }
}

/// Rows of one table as a reader found them: id → columns.
pub type FoundRows = BTreeMap<String, Map<String, Value>>;

/// Compares what was found of one table with what the shop has.
pub fn compare(shop: &Shop, table: usize, mut found: FoundRows) -> TableReport {
    let spec = &shop.tables[table];
    let mut report =
        TableReport { table: spec.name.into(), found: found.len(), ..TableReport::default() };
    let note = |text: String, report: &mut TableReport| {
        report.wrong += 1;
        if report.examples.len() < 3 {
            report.examples.push(text);
        }
    };
    for (n, revision) in shop.alive(table) {
        report.expected += 1;
        let id = shop.id(table, n);
        let Some(row) = found.remove(&id) else {
            note(format!("row {id} is missing"), &mut report);
            continue;
        };
        let expected: Map<String, Value> =
            serde_json::from_str(&shop.row(table, n, revision)).unwrap_or_default();
        if let Some(column) = first_difference(spec, &expected, &row) {
            note(
                format!(
                    "row {id}, column {column}: {} instead of {}",
                    row.get(column).unwrap_or(&Value::Null),
                    expected.get(column).unwrap_or(&Value::Null)
                ),
                &mut report,
            );
        }
    }
    for id in found.keys() {
        note(format!("row {id} should not be there"), &mut report);
    }
    report
}

fn first_difference<'a>(
    spec: &'a ShopTable,
    expected: &Map<String, Value>,
    row: &Map<String, Value>,
) -> Option<&'a str> {
    spec.columns
        .iter()
        .find(|c| {
            let wanted = expected.get(&c.name).unwrap_or(&Value::Null);
            !same(c.kind, wanted, row.get(&c.name).unwrap_or(&Value::Null))
        })
        .map(|c| c.name.as_str())
}

/// Whether a destination's value is the shop's: times compare as instants, numbers as numbers, JSON
/// as JSON.
fn same(kind: ShopKind, wanted: &Value, found: &Value) -> bool {
    match (kind, wanted, found) {
        (_, Value::Null, found) => found.is_null(),
        (ShopKind::Date, Value::String(a), Value::String(b)) => {
            micros(a).is_some() && micros(a) == micros(b)
        }
        (ShopKind::Decimal, a, b) => a.as_f64().is_some() && a.as_f64() == b.as_f64(),
        (ShopKind::Flag, Value::Bool(a), Value::Number(b)) => Some(i64::from(*a)) == b.as_i64(),
        // A database without a JSON type gives its text.
        (ShopKind::Object | ShopKind::Strings, a, Value::String(text)) => {
            serde_json::from_str::<Value>(text).is_ok_and(|b| *a == b)
        }
        (_, a, b) => a == b,
    }
}

/// A number for a row of the table that equal rows share, however a database shows their values.
pub fn fingerprint(table: &ShopTable, row: &Map<String, Value>) -> u64 {
    let mut text = String::new();
    for column in &table.columns {
        let value = row.get(&column.name).unwrap_or(&Value::Null);
        let normal = match (column.kind, value) {
            (_, Value::Null) => Value::Null,
            (ShopKind::Date, Value::String(date)) => micros(date).map_or(Value::Null, Value::from),
            (ShopKind::Decimal, number) => number.as_f64().map_or(Value::Null, Value::from),
            (ShopKind::Flag, Value::Number(n)) => Value::Bool(n.as_i64() != Some(0)),
            (ShopKind::Object | ShopKind::Strings, Value::String(json)) => {
                serde_json::from_str(json).unwrap_or(Value::Null)
            }
            (_, other) => other.clone(),
        };
        text += &normal.to_string();
        text.push('\n');
    }
    xxhash_rust::xxh3::xxh3_64(text.as_bytes())
}

/// Without offset it is UTC, as SQL Server's texts of instants are.
fn micros(text: &str) -> Option<i64> {
    let parsed = text.parse::<jiff::Timestamp>().or_else(|_| format!("{text}Z").parse());
    let instant = parsed.ok()?;
    i64::try_from(instant.as_nanosecond().div_euclid(1000)).ok()
}

/// All tables of an SQLite file. A table that is not there has no rows.
pub fn sqlite(shop: &Shop, path: &str) -> Result<Vec<TableReport>, String> {
    let db =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|e| e.to_string())?;
    let read = |table: usize| -> rusqlite::Result<FoundRows> {
        let mut found = FoundRows::new();
        each_sqlite_row(&db, shop.tables[table].name, |row| found.extend([keyed(row)]))?;
        Ok(found)
    };
    (0..shop.tables.len())
        .map(|table| match read(table) {
            Ok(found) => Ok(compare(shop, table, found)),
            Err(e) if e.to_string().contains("no such table") => {
                Ok(compare(shop, table, FoundRows::new()))
            }
            Err(e) => Err(e.to_string()),
        })
        .collect()
}

/// Every row of one table of an SQLite file.
pub fn sqlite_rows(
    shop: &Shop,
    table: usize,
    path: &str,
    each: impl FnMut(Map<String, Value>),
) -> Result<(), String> {
    let db =
        rusqlite::Connection::open_with_flags(path, rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY)
            .map_err(|e| e.to_string())?;
    each_sqlite_row(&db, shop.tables[table].name, each).map_err(|e| e.to_string())
}

fn each_sqlite_row(
    db: &rusqlite::Connection,
    table: &str,
    mut each: impl FnMut(Map<String, Value>),
) -> rusqlite::Result<()> {
    let mut statement = db.prepare(&format!("SELECT * FROM \"{table}\""))?;
    let names: Vec<String> = statement.column_names().map(str::to_owned).collect();
    let mut rows = statement.query([])?;
    while let Some(row) = rows.next()? {
        let mut out = Map::new();
        for (i, name) in names.iter().enumerate() {
            let value = match row.get_ref(i)? {
                rusqlite::types::ValueRef::Null => Value::Null,
                rusqlite::types::ValueRef::Integer(n) => n.into(),
                rusqlite::types::ValueRef::Real(n) => n.into(),
                rusqlite::types::ValueRef::Text(text) | rusqlite::types::ValueRef::Blob(text) => {
                    String::from_utf8_lossy(text).into()
                }
            };
            out.insert(name.clone(), value);
        }
        each(out);
    }
    Ok(())
}

fn keyed(row: Map<String, Value>) -> (String, Map<String, Value>) {
    (row.get("id").and_then(Value::as_str).unwrap_or_default().to_owned(), row)
}

/// All tables of a PostgreSQL database.
#[cfg(feature = "postgres")]
pub async fn postgres(
    shop: &Shop,
    client: &tokio_postgres::Client,
) -> Result<Vec<TableReport>, String> {
    let mut reports = Vec::new();
    for (index, table) in shop.tables.iter().enumerate() {
        let sql = format!("SELECT to_jsonb(t)::text FROM \"{}\" t", table.name);
        let rows = client.query(&sql, &[]).await.map_err(|e| e.to_string())?;
        let parsed = rows
            .iter()
            .map(|row| serde_json::from_str(row.get(0)).map(keyed))
            .collect::<Result<FoundRows, _>>();
        reports.push(compare(shop, index, parsed.map_err(|e| e.to_string())?));
    }
    Ok(reports)
}

/// All tables of a MySQL or MariaDB database; the session's time zone has to be UTC.
#[cfg(feature = "mysql")]
pub async fn mysql(shop: &Shop, conn: &mut mysql_async::Conn) -> Result<Vec<TableReport>, String> {
    use mysql_async::prelude::Queryable;
    let mut reports = Vec::new();
    for (index, table) in shop.tables.iter().enumerate() {
        let read = |row: mysql_async::Row| keyed(mysql_row(table, &row));
        let found: FoundRows = conn
            .query_map(format!("SELECT * FROM `{}`", table.name), read)
            .await
            .map_err(|e| e.to_string())?
            .into_iter()
            .collect();
        reports.push(compare(shop, index, found));
    }
    Ok(reports)
}

/// A row as the text protocol has it.
#[cfg(feature = "mysql")]
pub fn mysql_row(table: &ShopTable, row: &mysql_async::Row) -> Map<String, Value> {
    let kind = |name: &str| table.columns.iter().find(|c| c.name == name).map(|c| c.kind);
    let cell = |i: usize, name: &str| (name.to_owned(), from_text(kind(name), row.as_ref(i)));
    row.columns_ref().iter().enumerate().map(|(i, column)| cell(i, &column.name_str())).collect()
}

/// A value as the text protocol has it.
#[cfg(feature = "mysql")]
fn from_text(kind: Option<ShopKind>, value: Option<&mysql_async::Value>) -> Value {
    let Some(mysql_async::Value::Bytes(bytes)) = value else { return Value::Null };
    let text = String::from_utf8_lossy(bytes);
    match kind {
        Some(ShopKind::Date) => (text.replace(' ', "T") + "Z").into(),
        Some(
            ShopKind::Integer(_)
            | ShopKind::Big
            | ShopKind::Cents
            | ShopKind::Decimal
            | ShopKind::Flag,
        ) => serde_json::from_str(&text).unwrap_or(Value::Null),
        _ => text.into(),
    }
}

/// The folder of the file destination.
pub fn files(shop: &Shop, folder: &Path) -> Result<Vec<TableReport>, String> {
    let mut events = Vec::new();
    for table in &shop.tables {
        for entry in std::fs::read_dir(folder.join(table.name)).into_iter().flatten() {
            let text = std::fs::read_to_string(entry.map_err(|e| e.to_string())?.path())
                .map_err(|e| e.to_string())?;
            events.push(serde_json::from_str(&text).map_err(|e| e.to_string())?);
        }
    }
    Ok(log(shop, events))
}

/// Events that were kept: the newest of each row is what counts.
pub fn log(shop: &Shop, events: Vec<Value>) -> Vec<TableReport> {
    let mut newest: BTreeMap<(String, String), (String, Value)> = BTreeMap::new();
    for event in events {
        let key = event["key"]
            .as_array()
            .and_then(|k| k.last())
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned();
        let row = (event["table"].as_str().unwrap_or_default().to_owned(), key);
        let version = event["mvccTimestamp"].as_str().unwrap_or_default().to_owned();
        if newest.get(&row).is_none_or(|(v, _)| *v < version) {
            newest.insert(row, (version, event));
        }
    }
    let mut rows: BTreeMap<String, Vec<Map<String, Value>>> = BTreeMap::new();
    for ((table, _), (_, event)) in newest {
        rows.entry(table).or_default().extend(event["after"].as_object().cloned());
    }
    let of = |(index, table): (usize, &ShopTable)| {
        compare(
            shop,
            index,
            rows.remove(table.name).unwrap_or_default().into_iter().map(keyed).collect(),
        )
    };
    shop.tables.iter().enumerate().map(of).collect()
}

/// A report as a line.
pub fn line(report: &TableReport) -> String {
    let verdict = if report.is_equal() {
        "equal".to_owned()
    } else {
        format!("{} WRONG: {}", report.wrong, report.examples.join("; "))
    };
    format!("{:<16} {:>9} rows  {verdict}", report.table, report.found)
}

/// Reads a destination back and compares it with the shop; the last argument is its URL.
type Reader =
    for<'a> fn(&'a Shop, &'a Settings, &'a str) -> BoxFuture<'a, Result<Vec<TableReport>, String>>;

/// The destinations that can be read back, by their schemes.
const READERS: &[(&str, Reader)] = &[
    ("sqlite", |shop, settings, _| Box::pin(async { sqlite(shop, &settings.path) })),
    ("file", |shop, settings, _| Box::pin(async { files(shop, Path::new(&settings.path)) })),
    #[cfg(feature = "postgres")]
    ("postgres", |shop, _, url| Box::pin(postgres_at(shop, url))),
    #[cfg(feature = "mysql")]
    ("mysql", |shop, _, url| Box::pin(mysql_at(shop, url))),
];

#[cfg(feature = "postgres")]
async fn postgres_at(shop: &Shop, url: &str) -> Result<Vec<TableReport>, String> {
    let (client, connection) =
        tokio_postgres::connect(url, tokio_postgres::NoTls).await.map_err(|e| e.to_string())?;
    let connection = tokio::spawn(connection);
    let reports = postgres(shop, &client).await;
    connection.abort();
    reports
}

#[cfg(feature = "mysql")]
async fn mysql_at(shop: &Shop, url: &str) -> Result<Vec<TableReport>, String> {
    let mut conn = mysql_async::Conn::from_url(url).await.map_err(|e| e.to_string())?;
    mysql_async::prelude::Queryable::query_drop(&mut conn, "SET time_zone = '+00:00'")
        .await
        .map_err(|e| e.to_string())?;
    mysql(shop, &mut conn).await
}

/// Whether [`reports`] can read destinations of this scheme back.
pub fn can_read(scheme: &str) -> bool {
    READERS.iter().any(|(known, _)| *known == scheme)
}

/// Reads the destination at `url` back, with its own client, and compares it with the shop. The
/// error says why it cannot be read.
pub async fn reports(
    shop: &Shop,
    settings: &Settings,
    url: &str,
) -> Result<Vec<TableReport>, String> {
    let scheme = settings.scheme.as_str();
    match READERS.iter().find(|(known, _)| *known == scheme) {
        Some((_, read)) => read(shop, settings, url).await,
        None => Err(format!("the demo cannot read {scheme} back")),
    }
}
