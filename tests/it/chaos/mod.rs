//! The real binary with real servers, and everything that happens to them at once: whatever order
//! it comes in, the destination ends equal to the source. `cargo x chaos SECONDS` lets it last.

mod faults;
mod poison;
mod services;
mod source;
mod storm;
mod targets;

use std::time::Duration;

use tempfile::TempDir;

use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::nats_cluster::NatsCluster;
use crate::services::postgres::Postgres;
use crate::services::snowflake::Snowflake;
use crate::services::tds::FakeSqlServer;
use services::{BucketTarget, HubTarget};
use source::StormSource;
use storm::ChaosScene;
use targets::{FilesForm, FilesTarget, KafkaTarget, ServedTarget, StormTarget};

/// How long each storm lasts where nobody says so.
const SECONDS: u64 = 20;

fn lasting() -> Duration {
    let seconds = std::env::var("EDS_CHAOS_SECONDS").ok().and_then(|text| text.parse().ok());
    Duration::from_secs(seconds.unwrap_or(SECONDS))
}

fn seed() -> u64 {
    let seed = std::env::var("EDS_CHAOS_SEED").ok().and_then(|text| text.parse().ok());
    seed.unwrap_or_else(|| fastrand::u64(..1_000_000))
}

/// A storm; in the end everything that was published is where it belongs, and says so.
async fn storm(name: &str, source: StormSource, target: impl StormTarget + 'static) {
    storm_over(name, &mut scene(name, source, target).await).await;
}

async fn scene(name: &str, source: StormSource, target: impl StormTarget + 'static) -> ChaosScene {
    let seed = seed();
    println!("chaos {name}: seed {seed}");
    ChaosScene::new(name, seed, source, Box::new(target)).await
}

/// The storm itself, and what is there behind it.
async fn storm_over(name: &str, scene: &mut ChaosScene) {
    scene.storm(lasting()).await;
    println!("chaos {name}: {} faults, {:?}", scene.faults.total(), scene.faults);
    println!("chaos {name}: behind it\n{}", scene.calm());
    let found = scene.check().await;
    let (faults, events) = (scene.faults.total(), scene.published.events);
    println!("chaos {name}: {faults} faults, {events} events, {found}");
    assert!(faults > 0);
}

async fn one() -> StormSource {
    StormSource::One(Nats::start().await)
}

fn files(form: FilesForm) -> FilesTarget {
    FilesTarget { form, dir: TempDir::new().unwrap_or_else(|e| panic!("{e}")) }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_ends_equal() {
    storm("postgres", one().await, ServedTarget::of(Postgres::on_disk().await).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_ends_equal() {
    let target = ServedTarget::of(MySql::on_disk(Flavour::MySql).await).await;
    storm("mysql", one().await, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_ends_equal() {
    let target = ServedTarget::of(MySql::on_disk(Flavour::MariaDb).await).await;
    storm("mariadb", one().await, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlite_ends_equal() {
    storm("sqlite", one().await, files(FilesForm::Sqlite)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn sqlserver_ends_equal() {
    let target = ServedTarget::of(FakeSqlServer::start()).await.slow(500);
    storm("sqlserver", one().await, target).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn snowflake_ends_equal() {
    let target = ServedTarget::of(Snowflake::start()).await.slow(100);
    storm("snowflake", one().await, target).await;
}

/// The stream forgets what is applied: a copy of the database that is put back may be older than
/// anything that the stream still has. Then users are told, and otherwise it ends equal. Behind the
/// storm it is so for certain, and the import that users are told to make cures it.
#[tokio::test(flavor = "multi_thread")]
async fn a_copy_that_is_older_than_the_stream_is_reported() {
    let scene = scene("forgetful", one().await, files(FilesForm::Sqlite)).await;
    let mut scene = scene.purged();
    storm_over("forgetful", &mut scene).await;
    scene.outlive_the_stream().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn ndjson_holds_each_event_once() {
    storm("ndjson", one().await, files(FilesForm::Ndjson)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn parquet_holds_each_event_once() {
    storm("parquet", one().await, files(FilesForm::Parquet)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn kafka_holds_each_event_once() {
    storm("kafka", one().await, KafkaTarget::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn s3_holds_each_event_once() {
    storm("s3", one().await, BucketTarget::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn eventhubs_get_each_event() {
    storm("eventhubs", one().await, HubTarget::start().await).await;
}

/// The events come from a cluster whose leaders change.
#[tokio::test(flavor = "multi_thread")]
async fn whoever_leads_the_cluster_a_database_ends_equal() {
    let source = StormSource::Three(Box::new(NatsCluster::start().await));
    storm("cluster", source, ServedTarget::of(Postgres::on_disk().await).await).await;
}
