//! Ways to get wide rows into SQLite, in one run. Run by `cargo x bench sqlite_paths`. Every way
//! gets the same JSON tokens.

use std::time::Instant;

use eds::change::decode::ColumnOrder;
use eds::change::value::{self, Value};
use eds::change::{Decoder, TableSchema};
use eds::destination::sql::render::{Namespace, Renderer};
use eds::destination::sql::sqlite::SQLITE;
use eds::sandbox::shop::{Shop, ShopOptions};
use rusqlite::Connection;
use rusqlite::types::Value as Bound;

/// Rows that each way writes per measurement, in transactions of [`BATCH`] rows.
const ROWS: usize = 50_000;
const BATCH: usize = 5_000;

pub fn bench() {
    println!("rows per second, insert / update, of {ROWS} rows in transactions of {BATCH}\n");
    println!(
        "| columns | one statement a row | 10 rows a statement | JSON parameter |\n| --- | --- | \
         --- | --- |"
    );
    for columns in [20, 90] {
        let (schema, rows) = rows(columns);
        let rates = [1, 10, 0]
            .map(|at_once| measure(&schema, &rows, at_once).unwrap_or_else(|e| panic!("{e}")));
        println!(
            "| {columns} | {} |",
            rates.map(|[insert, update]| format!("{insert:.0} / {update:.0}")).join(" | ")
        );
    }
}

fn rows(columns: usize) -> (TableSchema, Vec<Vec<Bound>>) {
    let mut shop = Shop::new(3, ShopOptions::default());
    let table =
        shop.tables.iter_mut().find(|t| t.name == "order").unwrap_or_else(|| panic!("no orders"));
    table.columns.truncate(columns);
    let schema =
        TableSchema::parse(&shop.schemas().swap_remove(2)).unwrap_or_else(|e| panic!("{e}"));
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let bound = |value: Value<'_>| match value {
        Value::Null => Bound::Null,
        Value::Boolean(b) => Bound::Integer(i64::from(b)),
        Value::Integer(n) => Bound::Integer(n),
        Value::Number(n) => Bound::Real(n),
        Value::Text(text) => Bound::Text(text.into_owned()),
        Value::Time(micros) => Bound::Text(value::rfc3339(micros)),
        Value::Json(token) => Bound::Text(token.to_owned()),
    };
    let mut rows = Vec::new();
    for event in (0..ROWS).filter_map(|_| shop.insert_into("order")) {
        let event = decoder.decode(event.payload.into()).unwrap_or_else(|e| panic!("{e}"));
        let (row, _) = decoder.row(&event, &schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
        let cells = row.iter().zip(&schema.columns).map(|(slot, c)| {
            value::read(slot.present(event.payload()), c).unwrap_or_else(|e| panic!("{e}"))
        });
        rows.push(cells.map(bound).collect());
    }
    (schema, rows)
}

/// `at_once`: rows of one statement; 0 for all rows of a batch as one JSON parameter.
fn measure(
    schema: &TableSchema,
    rows: &[Vec<Bound>],
    at_once: usize,
) -> rusqlite::Result<[f64; 2]> {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let db = Connection::open(dir.path().join("bench.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    let renderer = Renderer::new(&SQLITE, Namespace::default());
    db.execute_batch(&renderer.create_table(schema))?;
    let row = format!("({})", vec!["?"; schema.columns.len()].join(","));
    let source = match at_once {
        0 => format!(
            "SELECT {} FROM json_each(?) WHERE true",
            (0..schema.columns.len())
                .map(|i| format!("value ->> {i}"))
                .collect::<Vec<_>>()
                .join(", ")
        ),
        n => format!("VALUES {}", vec![row.as_str(); n].join(",")),
    };
    let mut statement = db.prepare(&renderer.upsert(schema, &source))?;
    let mut rates = [0.0; 2];
    // First into an empty table, then over the same rows.
    for rate in &mut rates {
        let started = Instant::now();
        for batch in rows.chunks(BATCH) {
            db.execute_batch("BEGIN IMMEDIATE")?;
            if at_once == 0 {
                statement.execute([json(batch)])?;
            } else {
                batch.chunks(at_once).try_for_each(|rows| {
                    statement.execute(rusqlite::params_from_iter(rows.iter().flatten())).map(drop)
                })?;
            }
            db.execute_batch("COMMIT")?;
        }
        *rate = rows.len() as f64 / started.elapsed().as_secs_f64();
    }
    Ok(rates)
}

fn json(rows: &[Vec<Bound>]) -> String {
    let cell = |value: &Bound| match value {
        Bound::Integer(n) => (*n).into(),
        Bound::Real(n) => (*n).into(),
        Bound::Text(text) => text.as_str().into(),
        Bound::Null | Bound::Blob(_) => serde_json::Value::Null,
    };
    let rows = rows.iter().map(|row| serde_json::Value::Array(row.iter().map(cell).collect()));
    serde_json::Value::Array(rows.collect()).to_string()
}
