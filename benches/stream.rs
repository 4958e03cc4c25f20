//! A backlog in JetStream into PostgreSQL, beside a bare client that sends the same rows, encoded
//! beforehand. Run by `cargo x bench stream [EVENTS]`; all figures are of one run on one machine,
//! so only the ratios mean anything.

use std::sync::Arc;
use std::time::Instant;

use bytes::{BufMut, Bytes, BytesMut};
use eds::change::decode::ColumnOrder;
use eds::change::{Change, Decoder, Position, TableSchema, value};
use eds::destination::Holds;
use eds::destination::sql::mysql::dialect::{MARIADB, MYSQL};
use eds::destination::sql::mysql::encode::bind;
use eds::destination::sql::mysql::rows::{Action, sql};
use eds::destination::sql::postgres::dialect::POSTGRES;
use eds::destination::sql::postgres::encode::{COPY_HEADER, COPY_TRAILER, put_field};
use eds::destination::sql::postgres::rows::{stage_columns, upsert_from};
use eds::destination::sql::render::{Namespace, Renderer};
use eds::sandbox::shop::{Shop, ShopOptions};
use futures::{SinkExt, pin_mut};
use mysql_async::prelude::Queryable;
use tokio_postgres::Client;

use crate::cost::{events_of, run};
use crate::figure;
use crate::services::eds::Eds;
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;

const ROWS_PER_UPSERT: usize = 5_000;

pub async fn bench(args: &[String]) {
    let events = args.iter().find_map(|a| a.parse().ok()).unwrap_or(200_000);
    println!(
        "{events} events of each kind; PostgreSQL, nats-server and all clients share this machine\n"
    );
    println!(
        "| table | bytes per event | EDS events/s | of one bare connection | of two | peak memory \
         | CPU per event |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for table in ["order", "customer"] {
        measure(table, events).await;
    }
    println!(
        "\n| server | table | EDS events/s | of one bare connection | peak memory | CPU per event \
         |\n| --- | --- | --- | --- | --- | --- |"
    );
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        for table in ["order", "customer"] {
            measure_mysql(flavour, table, events).await;
        }
    }
}

async fn measure_mysql(flavour: Flavour, table: &str, events: usize) {
    let server = MySql::start(flavour).await;
    let nats = Nats::start().await;
    let mut shop = Shop::new(1, ShopOptions::default());
    let (schema, made) = events_of(&mut shop, table, events);
    nats.publish(
        made.iter().map(|(subject, payload)| (subject.clone(), payload.clone().into_bytes())),
    )
    .await;
    let (database, url) = server.database().await;
    let creds = nats.server_creds("bench", &["c0", "c1", "c2"], None);
    let cost = run(
        &Eds::stream(&nats, &creds, &url, &shop.schema_map()),
        &["--restart", "--until-caught-up"],
    )
    .await;
    let there: Option<i64> = server
        .connect(&database)
        .await
        .query_first(format!("SELECT COUNT(*) FROM `{table}`"))
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(there, Some(events as i64), "EDS wrote every row");
    let bare = bare_mysql(&server, &schema, &made).await;
    let server = match flavour {
        Flavour::MySql => "MySQL",
        Flavour::MariaDb => "MariaDB",
    };
    let (what, rate) = (format!("{server}, {table}"), |seconds: f64| events as f64 / seconds);
    let compared = (&*what, "a bare client on one connection");
    figure::rates(compared, rate(cost.seconds), rate(bare), Some(cost.peak_mib));
    println!(
        "| {server} | {table} | {:.0} | {:.2} of {:.0} | {:.0} MiB | {:.1} µs |",
        events as f64 / cost.seconds,
        bare / cost.seconds,
        events as f64 / bare,
        cost.peak_mib,
        cost.cpu_seconds * 1e6 / events as f64
    );
}

/// Seconds that a client takes which has nothing to do but send values that were read beforehand.
async fn bare_mysql(server: &MySql, schema: &TableSchema, made: &[(String, String)]) -> f64 {
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let (database, _) = server.database().await;
    let mut conn = server.connect(&database).await;
    let dialect = if server.flavour == Flavour::MySql { &MYSQL } else { &MARIADB };
    let renderer =
        Renderer::new(dialect, Namespace { schema: Some(database), ..Namespace::default() });
    conn.query_drop(renderer.create_table(schema)).await.unwrap_or_else(|e| panic!("{e}"));
    let mut seconds = 0.0;
    let held = vec![Holds::Anything; schema.columns.len()];
    for piece in made.chunks(ROWS_PER_UPSERT) {
        let statements: Vec<(usize, Vec<mysql_async::Value>)> = piece
            .chunks(256)
            .map(|rows| {
                let mut values = Vec::new();
                for (_, payload) in rows {
                    let event = decoder
                        .decode(Bytes::copy_from_slice(payload.as_bytes()))
                        .unwrap_or_else(|e| panic!("{e}"));
                    let (row, key) =
                        decoder.row(&event, schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
                    let change = Change {
                        event,
                        subject: "".into(),
                        position: Position::default(),
                        schema: None,
                        row,
                        key,
                    };
                    bind(&change, &schema.columns, &held, &mut values)
                        .unwrap_or_else(|e| panic!("{e}"));
                }
                (rows.len(), values)
            })
            .collect();
        let started = Instant::now();
        conn.query_drop("START TRANSACTION").await.unwrap_or_else(|e| panic!("{e}"));
        for (rows, values) in statements {
            let statement = conn
                .prep(sql(&renderer, schema, Action::Upsert, rows))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
            conn.exec_drop(statement, values).await.unwrap_or_else(|e| panic!("{e}"));
        }
        conn.query_drop("COMMIT").await.unwrap_or_else(|e| panic!("{e}"));
        seconds += started.elapsed().as_secs_f64();
    }
    seconds
}

async fn measure(table: &str, events: usize) {
    let server = Postgres::start().await;
    let nats = Nats::start().await;
    let mut shop = Shop::new(1, ShopOptions::default());
    let (schema, made) = events_of(&mut shop, table, events);
    let bytes = made.iter().map(|(_, payload)| payload.len()).sum::<usize>() / events.max(1);
    nats.publish(
        made.iter().map(|(subject, payload)| (subject.clone(), payload.clone().into_bytes())),
    )
    .await;
    let payloads: Vec<String> = made.into_iter().map(|(_, payload)| payload).collect();

    let (database, url) = server.database().await;
    let creds = nats.server_creds("bench", &["c0", "c1", "c2"], None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map())
        .with(&["--restart", "--until-caught-up"]);
    let cost = run(&eds, &[]).await;
    assert_eq!(
        count(&server.connect(&database).await, table).await,
        events as i64,
        "EDS wrote every row"
    );

    let one = bare(&server, &schema, &payloads, 1).await;
    let two = bare(&server, &schema, &payloads, 2).await;
    let rate = |seconds: f64| events as f64 / seconds;
    let what = format!("PostgreSQL, {table}");
    for (seconds, beside) in
        [(one, "a bare client on one connection"), (two, "a bare client on two connections")]
    {
        figure::rates((&what, beside), rate(cost.seconds), rate(seconds), Some(cost.peak_mib));
    }
    println!(
        "| {table} | {bytes} | {:.0} | {:.2} of {:.0} | {:.2} of {:.0} | {:.0} MiB | {:.1} µs |",
        rate(cost.seconds),
        one / cost.seconds,
        rate(one),
        two / cost.seconds,
        rate(two),
        cost.peak_mib,
        cost.cpu_seconds * 1e6 / events as f64
    );
}

async fn count(client: &Client, table: &str) -> i64 {
    client
        .query_one(&format!("SELECT count(*) FROM \"{table}\""), &[])
        .await
        .map(|row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"))
}

/// The rows as one binary COPY per upsert.
fn encoded(schema: &Arc<TableSchema>, payloads: &[String]) -> Vec<Vec<Bytes>> {
    let mut decoder = Decoder::default();
    let mut order = ColumnOrder::default();
    let mut pieces = Vec::new();
    for piece in payloads.chunks(ROWS_PER_UPSERT) {
        let mut buffer = BytesMut::new();
        buffer.put_slice(COPY_HEADER);
        for payload in piece {
            let event = decoder
                .decode(Bytes::copy_from_slice(payload.as_bytes()))
                .unwrap_or_else(|e| panic!("{e}"));
            let (row, _) =
                decoder.row(&event, schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
            buffer.put_i16(schema.columns.len() as i16);
            for (slot, column) in row.iter().zip(&schema.columns) {
                put_field(
                    &value::read(slot.present(event.payload()), column)
                        .unwrap_or_else(|e| panic!("{e}")),
                    Holds::Anything,
                    &mut buffer,
                );
            }
        }
        buffer.put_i16(COPY_TRAILER);
        let mut whole = buffer.freeze();
        let mut chunks = Vec::new();
        while !whole.is_empty() {
            chunks.push(whole.split_to(whole.len().min(128 << 10)));
        }
        pieces.push(chunks);
    }
    pieces
}

/// Seconds that a client takes which has nothing to do but send.
async fn bare(
    server: &Postgres,
    schema: &TableSchema,
    payloads: &[String],
    connections: usize,
) -> f64 {
    let json_schema = Arc::new(
        Shop::new(1, ShopOptions::default())
            .schemas()
            .iter()
            .filter_map(|j| TableSchema::parse(j).ok())
            .find(|s| s.table == schema.table)
            .unwrap_or_else(|| panic!("schema")),
    );
    let pieces = encoded(&json_schema, payloads);
    let (database, _) = server.database().await;
    let renderer = Renderer::new(
        &POSTGRES,
        Namespace { schema: Some("public".into()), prefix: String::new(), lower_case: false },
    );
    server
        .connect(&database)
        .await
        .batch_execute(&renderer.create_table(schema))
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let share = pieces.len().div_ceil(connections);
    let mut clients = Vec::new();
    for _ in 0..connections {
        let client = server.connect(&database).await;
        client
            .batch_execute(&format!(
                "CREATE TEMP TABLE stage ({}) ON COMMIT DELETE ROWS",
                stage_columns(&renderer, schema)
            ))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
        clients.push(client);
    }
    let upsert = upsert_from(&renderer, schema, "pg_temp.stage");
    let started = Instant::now();
    let sending = clients
        .iter()
        .zip(pieces.chunks(share))
        .map(|(client, pieces)| send(client, &upsert, pieces));
    futures::future::join_all(sending).await;
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!(
        count(&server.connect(&database).await, &schema.table).await,
        payloads.len() as i64,
        "the bare client wrote every row"
    );
    seconds
}

async fn send(client: &Client, upsert: &str, pieces: &[Vec<Bytes>]) {
    let done = async {
        for chunks in pieces {
            client.batch_execute("BEGIN").await?;
            let sink =
                client.copy_in::<_, Bytes>("COPY pg_temp.stage FROM STDIN (FORMAT binary)").await?;
            pin_mut!(sink);
            for chunk in chunks {
                sink.send(chunk.clone()).await?;
            }
            sink.finish().await?;
            client.execute(upsert, &[]).await?;
            client.batch_execute("COMMIT").await?;
        }
        Ok::<_, tokio_postgres::Error>(())
    };
    done.await.unwrap_or_else(|e| panic!("{e}"));
}
