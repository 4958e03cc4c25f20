//! A backlog in JetStream into destinations that keep every change. Kafka beside a bare producer
//! that is given the same messages; the others beside their own writer, given the changes in
//! memory. Run by `cargo x bench changes [EVENTS]`; all figures are of one run on one machine, so
//! only the ratios mean anything.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;
use eds::change::decode::ColumnOrder;
use eds::change::{Batch, Change, Decoder, Position, TableSchema};
use eds::destination::catalog::DRIVERS;
use eds::destination::{Settings, Target};
use eds::sandbox::shop::{Shop, ShopOptions};
use rdkafka::config::ClientConfig;
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::producer::{BaseRecord, DefaultProducerContext, Producer, ThreadedProducer};
use tempfile::TempDir;

use crate::cost::{events_of, run};
use crate::figure;
use crate::services::eds::Eds;
use crate::services::eventhubs::EventHubs;
use crate::services::kafka::Kafka;
use crate::services::nats::Nats;

pub async fn bench(args: &[String]) {
    let events = args.iter().find_map(|a| a.parse().ok()).unwrap_or(100_000);
    println!("{events} events of each kind; all servers and clients share this machine\n");
    println!(
        "| destination | table | EDS events/s | of | reach | peak memory | CPU per event |\n| --- \
         | --- | --- | --- | --- | --- | --- |"
    );
    let kafka = Kafka::start();
    for table in ["order", "customer"] {
        let (schema, payloads) =
            events_of(&mut Shop::new(1, ShopOptions::default()), table, events);
        let schema = Arc::new(schema);
        let bare = bare_producer(&kafka, &payloads);
        line("kafka", table, &kafka.url(&kafka.topic()), ("a bare producer", bare), &payloads)
            .await;
        let (eds, alone) = (EventHubs::start(None).await, EventHubs::start(None).await);
        let seconds = written(&alone.url(), &schema, &payloads).await;
        line("eventhub", table, &eds.url(), ("its sender alone", seconds), &payloads).await;
        for format in ["ndjson", "parquet"] {
            let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
            let url = |name: &str| {
                format!("file://{}?format={format}&freshness=0s", dir.path().join(name).display())
            };
            let seconds = written(&url("alone"), &schema, &payloads).await;
            line(format, table, &url("eds"), ("its writer alone", seconds), &payloads).await;
        }
    }
}

/// Streams the backlog, and compares with what the other client took.
async fn line(
    destination: &str,
    table: &str,
    url: &str,
    (who, seconds): (&str, f64),
    made: &[(String, String)],
) {
    let nats = Nats::start().await;
    nats.publish(
        made.iter().map(|(subject, payload)| (subject.clone(), payload.clone().into_bytes())),
    )
    .await;
    let creds = nats.server_creds("bench", &["c0", "c1", "c2"], None);
    let schemas = Shop::new(1, ShopOptions::default()).schema_map();
    let cost =
        run(&Eds::stream(&nats, &creds, url, &schemas), &["--restart", "--until-caught-up"]).await;
    let rate = |seconds: f64| made.len() as f64 / seconds;
    let what = format!("{destination}, {table}");
    figure::rates((&what, who), rate(cost.seconds), rate(seconds), Some(cost.peak_mib));
    let events = made.len() as f64;
    println!(
        "| {destination} | {table} | {:.0} | {:.2} of {:.0} | {who} | {:.0} MiB | {:.1} µs |",
        events / cost.seconds,
        seconds / cost.seconds,
        events / seconds,
        cost.peak_mib,
        cost.cpu_seconds * 1e6 / events
    );
}

/// Seconds that a producer takes which has nothing to do but send, with EDS's promises: idempotent,
/// all replicas, lz4.
fn bare_producer(kafka: &Kafka, made: &[(String, String)]) -> f64 {
    let topic = kafka.topic();
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", kafka.brokers())
        .set("enable.idempotence", "true")
        .set("acks", "all")
        .set("compression.type", "lz4");
    let producer: ThreadedProducer<DefaultProducerContext> =
        config.create().unwrap_or_else(|e| panic!("{e}"));
    let started = Instant::now();
    for (subject, payload) in made {
        let mut record = BaseRecord::to(&topic).key(subject).payload(payload);
        while let Err((e, same)) = producer.send(record) {
            assert_eq!(e.rdkafka_error_code(), Some(RDKafkaErrorCode::QueueFull), "{e}");
            std::thread::sleep(std::time::Duration::from_millis(1));
            record = same;
        }
    }
    producer.flush(std::time::Duration::from_secs(120)).unwrap_or_else(|e| panic!("{e}"));
    started.elapsed().as_secs_f64()
}

/// Seconds that the destination takes for batches that are at hand, as large as it takes them.
async fn written(url: &str, schema: &Arc<TableSchema>, made: &[(String, String)]) -> f64 {
    let (settings, driver) = Settings::parse(url, DRIVERS).unwrap_or_else(|e| panic!("{e}"));
    let abilities = (driver.abilities)(&settings);
    let mut destination =
        (driver.open)(&Target::unclaimed(&settings)).await.unwrap_or_else(|e| panic!("{e}"));
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let mut seconds = 0.0;
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for (number, (_, payload)) in (1u64..).zip(made) {
        let event = decoder
            .decode(Bytes::copy_from_slice(payload.as_bytes()))
            .unwrap_or_else(|e| panic!("{e}"));
        let (row, key) = decoder.row(&event, schema, &mut order).unwrap_or_else(|e| panic!("{e}"));
        let typed = abilities.needs_schemas().then(|| schema.clone());
        piece.push(Change {
            event,
            subject: "".into(),
            position: Position { sequence: number, time_ns: 1 },
            schema: typed,
            row,
            key,
        });
        bytes += payload.len();
        if piece.len() < abilities.batch_changes_max
            && bytes < abilities.batch_bytes_max
            && number < made.len() as u64
        {
            continue;
        }
        let order = (0..piece.len() as u32).collect();
        let batch = Arc::new(Batch::new(
            Arc::new(std::mem::take(&mut piece)),
            Vec::new(),
            order,
            None,
            Position { sequence: number, time_ns: 1 },
        ));
        bytes = 0;
        let started = Instant::now();
        destination.apply(&batch).await.unwrap_or_else(|e| panic!("{e}"));
        seconds += started.elapsed().as_secs_f64();
    }
    seconds
}
