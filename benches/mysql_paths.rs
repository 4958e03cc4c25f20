//! Ways to get wide rows into MySQL and MariaDB; docs/decisions/0006 shows a run. Run by `cargo x
//! bench mysql_paths`. Every way gets the same JSON tokens and has to encode them itself.

use std::fmt::Write;
use std::time::Instant;

use bytes::Bytes;
use eds::change::decode::ColumnOrder;
use eds::change::value::{self, Value};
use eds::change::{Change, Decoder, Position, TableSchema};
use eds::destination::Holds;
use eds::destination::sql::mysql::dialect::{MARIADB, MYSQL};
use eds::destination::sql::mysql::encode::bind;
use eds::destination::sql::mysql::rows::{Action, sql};
use eds::destination::sql::render::{Namespace, Renderer};
use eds::sandbox::shop::{Shop, ShopOptions};
use futures::StreamExt;
use mysql_async::prelude::Queryable;
use mysql_async::{Conn, Error, Value as Wire};

use crate::services::mysql::{Flavour, MySql};

/// Rows that each way writes per measurement, in transactions of [`BATCH`] rows.
const ROWS: usize = 20_000;
const BATCH: usize = 5_000;

#[derive(Clone, Copy, Debug)]
enum Way {
    /// Rows of one prepared statement.
    Prepared(usize),
    /// MariaDB's bulk command: one statement, many rows of parameters.
    Bulk,
    /// LOAD DATA LOCAL into a temporary table, then one upsert.
    LoadData,
    /// All rows of a batch as one JSON parameter, taken apart by JSON_TABLE.
    JsonTable,
}

pub async fn bench() {
    println!(
        "rows per second, insert / update, of {ROWS} rows in transactions of {BATCH}; and what the \
         prepared statements cost the server\n"
    );
    println!(
        "| server | columns | 1 row | 16 rows | 64 rows | 256 rows | 1024 rows | bulk | LOAD DATA \
         | JSON_TABLE |\n| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |"
    );
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let server = MySql::start(flavour).await;
        for columns in [20, 90] {
            let mut line = format!("| {flavour:?} | {columns} |");
            let ways = [
                Way::Prepared(1),
                Way::Prepared(16),
                Way::Prepared(64),
                Way::Prepared(256),
                Way::Prepared(1024),
                Way::Bulk,
                Way::LoadData,
                Way::JsonTable,
            ];
            for way in ways {
                if matches!((flavour, way), (Flavour::MySql, Way::Bulk))
                    || matches!((way, columns), (Way::Prepared(1024), 90))
                {
                    line += " – |";
                    continue;
                }
                match measure(&server, way, columns).await {
                    Ok([insert, update]) => drop(write!(line, " {insert:.0} / {update:.0} |")),
                    Err(e) => drop(write!(line, " {e} |")),
                }
            }
            println!("{line}");
        }
    }
}

/// The first columns of the shop's widest table.
fn rows(columns: usize, count: usize) -> (TableSchema, Vec<Change>) {
    let mut shop = Shop::new(3, ShopOptions::default());
    let table =
        shop.tables.iter_mut().find(|t| t.name == "order").unwrap_or_else(|| panic!("no orders"));
    table.columns.truncate(columns);
    let schema =
        TableSchema::parse(&shop.schemas().swap_remove(2)).unwrap_or_else(|e| panic!("{e}"));
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let mut changes = Vec::new();
    for _ in 0..count {
        let Some(event) = shop.insert_into("order") else { continue };
        let event = decoder.decode(event.payload.into()).unwrap_or_else(|e| panic!("{e}"));
        let (row, key) = decoder.row(&event, &schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
        changes.push(Change {
            event,
            subject: "".into(),
            position: Position::default(),
            schema: None,
            row,
            key,
        });
    }
    (schema, changes)
}

async fn measure(server: &MySql, way: Way, columns: usize) -> Result<[f64; 2], Error> {
    let (schema, changes) = rows(columns, ROWS);
    let (database, _) = server.database().await;
    let mut conn = server.connect(&database).await;
    let dialect = if server.flavour == Flavour::MySql { &MYSQL } else { &MARIADB };
    let renderer =
        Renderer::new(dialect, Namespace { schema: Some(database), ..Namespace::default() });
    conn.query_drop(renderer.create_table(&schema)).await?;
    let columns: Vec<String> = schema
        .columns
        .iter()
        .map(|c| format!("{} {}", renderer.quoted(&c.name), dialect.type_of(c.kind)))
        .collect();
    conn.query_drop(format!(
        "CREATE TEMPORARY TABLE stage ({}) ENGINE=InnoDB CHARACTER SET utf8mb4",
        columns.join(", ")
    ))
    .await?;
    let mut rates = [0.0; 2];
    // First into an empty table, then over the same rows.
    for rate in &mut rates {
        let started = Instant::now();
        for piece in changes.chunks(BATCH) {
            conn.query_drop("START TRANSACTION").await?;
            match way {
                Way::Prepared(rows) => prepared(&mut conn, &renderer, &schema, piece, rows).await?,
                Way::Bulk => {
                    let statement = conn.prep(sql(&renderer, &schema, Action::Upsert, 1)).await?;
                    let rows =
                        piece.iter().map(|change| values(std::slice::from_ref(change), &schema));
                    conn.exec_batch(statement, rows).await?;
                }
                Way::LoadData => load_data(&mut conn, &renderer, &schema, piece).await?,
                Way::JsonTable => json_table(&mut conn, &renderer, &schema, piece).await?,
            }
            conn.query_drop("COMMIT").await?;
        }
        *rate = changes.len() as f64 / started.elapsed().as_secs_f64();
    }
    Ok(rates)
}

fn values(changes: &[Change], schema: &TableSchema) -> Vec<Wire> {
    let mut out = Vec::new();
    let held = vec![Holds::Anything; schema.columns.len()];
    changes.iter().for_each(|change| {
        bind(change, &schema.columns, &held, &mut out).unwrap_or_else(|e| panic!("{e}"));
    });
    out
}

async fn prepared(
    conn: &mut Conn,
    renderer: &Renderer,
    schema: &TableSchema,
    piece: &[Change],
    rows: usize,
) -> Result<(), Error> {
    for chunk in piece.chunks(rows) {
        let statement = conn.prep(sql(renderer, schema, Action::Upsert, chunk.len())).await?;
        conn.exec_drop(statement, values(chunk, schema)).await?;
    }
    Ok(())
}

/// Tab-separated, with backslashes as LOAD DATA reads them.
fn text(changes: &[Change], schema: &TableSchema) -> Vec<u8> {
    let mut out = Vec::new();
    for change in changes {
        for (i, column) in schema.columns.iter().enumerate() {
            if i > 0 {
                out.push(b'\t');
            }
            match value::read(change.token(i), column).unwrap_or_else(|e| panic!("{e}")) {
                Value::Null => out.extend_from_slice(b"\\N"),
                Value::Boolean(b) => out.push(b'0' + u8::from(b)),
                Value::Integer(n) => out.extend_from_slice(n.to_string().as_bytes()),
                Value::Number(n) => out.extend_from_slice(n.to_string().as_bytes()),
                Value::Time(micros) => {
                    out.extend_from_slice(value::rfc3339(micros).trim_end_matches('Z').as_bytes());
                }
                Value::Text(text) => escape(text.as_bytes(), &mut out),
                Value::Json(token) => escape(token.as_bytes(), &mut out),
            }
        }
        out.push(b'\n');
    }
    out
}

fn escape(bytes: &[u8], out: &mut Vec<u8>) {
    for byte in bytes {
        match byte {
            b'\\' => out.extend_from_slice(b"\\\\"),
            b'\t' => out.extend_from_slice(b"\\t"),
            b'\n' => out.extend_from_slice(b"\\n"),
            0 => out.extend_from_slice(b"\\0"),
            other => out.push(*other),
        }
    }
}

async fn load_data(
    conn: &mut Conn,
    renderer: &Renderer,
    schema: &TableSchema,
    piece: &[Change],
) -> Result<(), Error> {
    let data = Bytes::from(text(piece, schema));
    conn.set_infile_handler(
        async move { Ok(futures::stream::once(async move { Ok(data) }).boxed()) },
    );
    conn.query_drop("LOAD DATA LOCAL INFILE 'rows' INTO TABLE stage CHARACTER SET utf8mb4").await?;
    let rows = format!("SELECT {} FROM stage", renderer.list(&schema.columns));
    conn.query_drop(renderer.upsert(schema, &rows)).await?;
    conn.query_drop("DELETE FROM stage").await
}

async fn json_table(
    conn: &mut Conn,
    renderer: &Renderer,
    schema: &TableSchema,
    piece: &[Change],
) -> Result<(), Error> {
    let columns: Vec<String> = schema
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| format!("c{i} {} PATH '$[{i}]'", renderer.dialect.type_of(c.kind)))
        .collect();
    let source =
        format!("SELECT * FROM JSON_TABLE(?, '$[*]' COLUMNS ({})) AS j", columns.join(", "));
    let statement = conn.prep(renderer.upsert(schema, &source)).await?;
    // One document below the smallest max_allowed_packet.
    for piece in piece.chunks(1000) {
        let rows = piece.iter().map(|change| {
            let cell = |(i, column)| match value::read(change.token(i), column)
                .unwrap_or_else(|e| panic!("{e}"))
            {
                Value::Time(micros) => {
                    serde_json::json!(value::rfc3339(micros).trim_end_matches('Z'))
                }
                Value::Boolean(b) => serde_json::json!(i64::from(b)),
                _ => change.token(i).and_then(|t| serde_json::from_str(t).ok()).unwrap_or_default(),
            };
            serde_json::Value::Array(schema.columns.iter().enumerate().map(cell).collect())
        });
        let document = serde_json::Value::Array(rows.collect()).to_string();
        conn.exec_drop(&statement, (document,)).await?;
    }
    Ok(())
}
