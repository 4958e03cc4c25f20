//! Ways to get wide rows into PostgreSQL, at several widths and batch sizes; docs/decisions/0003
//! shows a run. Run by `cargo x bench postgres_paths`. Every way gets the same JSON tokens and has
//! to encode them itself.

use std::fmt::Write;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use eds::change::decode::ColumnOrder;
use eds::change::value::{self, Value};
use eds::change::{Change, Decoder, Position, TableSchema};
use eds::destination::Holds;
use eds::destination::sql::postgres::dialect::POSTGRES;
use eds::destination::sql::postgres::encode::{
    BoundArray, BoundValue, COPY_HEADER, COPY_TRAILER, put_field, wire_array_type, wire_type,
};
use eds::destination::sql::postgres::rows::{stage_columns, upsert_from};
use eds::destination::sql::render::{Namespace, Renderer};
use eds::sandbox::shop::{Shop, ShopOptions};
use futures::future::try_join_all;
use futures::{SinkExt, pin_mut};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Error, Statement};

use crate::services::postgres::Postgres;

/// Rows that each way writes per measurement, in batches.
const ROWS: usize = 10_000;

pub async fn bench() {
    let server = Postgres::start().await;
    println!("rows per second, insert / update, of {ROWS} rows (300 where a batch is one row)\n");
    println!(
        "| columns | batch | single statements | unnest | text COPY | binary COPY |\n| --- | --- | \
         --- | --- | --- | --- |"
    );
    for columns in [20, 50, 90] {
        for batch in [1, 10, 30, 100, 1000, 5000] {
            let rows = if batch == 1 { 300 } else { ROWS };
            let mut line = format!("| {columns} | {batch} |");
            for way in [WritePath::Single, WritePath::Unnest, WritePath::Text, WritePath::Binary] {
                if way == WritePath::Single && batch > 100 {
                    line += " – |";
                    continue;
                }
                let (insert, update) = measure(&server, way, columns, batch, rows)
                    .await
                    .unwrap_or_else(|e| panic!("{way:?}: {e}"));
                let _ = write!(line, " {insert:.0} / {update:.0} |");
            }
            println!("{line}");
        }
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum WritePath {
    Single,
    Unnest,
    Text,
    Binary,
}

/// The first columns of the shop's widest table.
fn rows(columns: usize, count: usize) -> (TableSchema, Vec<Change>) {
    let mut shop = Shop::new(3, ShopOptions::default());
    let table =
        shop.tables.iter_mut().find(|t| t.name == "order").unwrap_or_else(|| panic!("no orders"));
    table.columns.truncate(columns);
    let json = shop.schemas().swap_remove(2);
    let schema = TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}"));
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

async fn measure(
    server: &Postgres,
    way: WritePath,
    columns: usize,
    batch: usize,
    count: usize,
) -> Result<(f64, f64), Error> {
    let (schema, changes) = rows(columns, count);
    let (database, _) = server.database().await;
    let client = server.connect(&database).await;
    let renderer = Renderer::new(
        &POSTGRES,
        Namespace { schema: Some("public".into()), prefix: String::new(), lower_case: false },
    );
    client.batch_execute(&renderer.create_table(&schema)).await?;
    client
        .batch_execute(&format!(
            "CREATE TEMP TABLE stage ({}) ON COMMIT DELETE ROWS",
            stage_columns(&renderer, &schema)
        ))
        .await?;
    let statement = prepared(&client, &renderer, &schema, way).await?;
    let mut rates = [0.0; 2];
    // First into an empty table, then over the same rows.
    for rate in &mut rates {
        let started = Instant::now();
        for piece in changes.chunks(batch) {
            client.batch_execute("BEGIN").await?;
            match way {
                WritePath::Single => single(&client, &statement, &schema, piece).await?,
                WritePath::Unnest => unnest(&client, &statement, &schema, piece).await?,
                WritePath::Text | WritePath::Binary => {
                    copy(&client, &statement, &schema, piece, way).await?;
                }
            }
            client.batch_execute("COMMIT").await?;
        }
        *rate = changes.len() as f64 / started.elapsed().as_secs_f64();
    }
    Ok((rates[0], rates[1]))
}

async fn prepared(
    client: &Client,
    renderer: &Renderer,
    schema: &TableSchema,
    way: WritePath,
) -> Result<Statement, Error> {
    match way {
        WritePath::Single => {
            let types: Vec<Type> =
                schema.columns.iter().map(|c| wire_type(c.kind, Holds::Anything)).collect();
            client.prepare_typed(&renderer.upsert_one(schema), &types).await
        }
        WritePath::Unnest => {
            let types: Vec<Type> =
                schema.columns.iter().map(|c| wire_array_type(c.kind, Holds::Anything)).collect();
            let arrays: Vec<String> = (1..=types.len()).map(|n| format!("${n}")).collect();
            client
                .prepare_typed(
                    &renderer
                        .upsert(schema, &format!("SELECT * FROM unnest({})", arrays.join(", "))),
                    &types,
                )
                .await
        }
        WritePath::Text | WritePath::Binary => {
            client.prepare(&upsert_from(renderer, schema, "pg_temp.stage")).await
        }
    }
}

fn read<'a>(change: &'a Change, schema: &'a TableSchema) -> impl Iterator<Item = Value<'a>> {
    schema
        .columns
        .iter()
        .enumerate()
        .map(|(i, c)| value::read(change.token(i), c).unwrap_or_else(|e| panic!("{e}")))
}

async fn single(
    client: &Client,
    statement: &Statement,
    schema: &TableSchema,
    piece: &[Change],
) -> Result<(), Error> {
    let rows: Vec<Vec<BoundValue<'_>>> = piece
        .iter()
        .map(|change| read(change, schema).map(|v| BoundValue(v, Holds::Anything)).collect())
        .collect();
    try_join_all(
        rows.iter()
            .map(|row| client.execute_raw(statement, row.iter().map(|f| f as &(dyn ToSql + Sync)))),
    )
    .await?;
    Ok(())
}

async fn unnest(
    client: &Client,
    statement: &Statement,
    schema: &TableSchema,
    piece: &[Change],
) -> Result<(), Error> {
    let mut columns: Vec<BoundArray<'_>> = schema
        .columns
        .iter()
        .map(|_| BoundArray(Vec::with_capacity(piece.len()), Holds::Anything))
        .collect();
    for change in piece {
        read(change, schema).zip(&mut columns).for_each(|(value, column)| column.0.push(value));
    }
    let parameters: Vec<&(dyn ToSql + Sync)> = columns.iter().map(|c| c as _).collect();
    client.execute(statement, &parameters).await?;
    Ok(())
}

async fn copy(
    client: &Client,
    upsert: &Statement,
    schema: &TableSchema,
    piece: &[Change],
    way: WritePath,
) -> Result<(), Error> {
    let format = if way == WritePath::Binary { "binary" } else { "text" };
    let sink = client
        .copy_in::<_, Bytes>(&format!("COPY pg_temp.stage FROM STDIN (FORMAT {format})"))
        .await?;
    pin_mut!(sink);
    let mut buffer = BytesMut::with_capacity(160 << 10);
    if way == WritePath::Binary {
        buffer.put_slice(COPY_HEADER);
    }
    for change in piece {
        match way {
            WritePath::Binary => {
                buffer.put_i16(schema.columns.len() as i16);
                read(change, schema).for_each(|v| put_field(&v, Holds::Anything, &mut buffer));
            }
            _ => put_line(read(change, schema), &mut buffer),
        }
        if buffer.len() >= 128 << 10 {
            sink.send(buffer.split().freeze()).await?;
            buffer.reserve(160 << 10);
        }
    }
    if way == WritePath::Binary {
        buffer.put_i16(COPY_TRAILER);
    }
    sink.send(buffer.freeze()).await?;
    sink.finish().await?;
    client.execute(upsert, &[]).await?;
    Ok(())
}

/// One row in COPY's text form.
fn put_line<'a>(values: impl Iterator<Item = Value<'a>>, out: &mut BytesMut) {
    for (i, value) in values.enumerate() {
        if i > 0 {
            out.put_u8(b'\t');
        }
        match value {
            Value::Null => out.put_slice(b"\\N"),
            Value::Boolean(b) => out.put_u8(if b { b't' } else { b'f' }),
            Value::Integer(n) => drop(write!(out, "{n}")),
            Value::Number(n) => drop(write!(out, "{n}")),
            Value::Time(micros) => out.put_slice(value::rfc3339(micros).as_bytes()),
            Value::Text(text) => put_escaped(text.as_bytes(), out),
            Value::Json(token) => put_escaped(eds::change::json::storable(token).as_bytes(), out),
        }
    }
    out.put_u8(b'\n');
}

fn put_escaped(text: &[u8], out: &mut BytesMut) {
    for byte in text {
        match byte {
            b'\\' => out.put_slice(b"\\\\"),
            b'\t' => out.put_slice(b"\\t"),
            b'\n' => out.put_slice(b"\\n"),
            b'\r' => out.put_slice(b"\\r"),
            0 => {}
            b => out.put_u8(*b),
        }
    }
}
