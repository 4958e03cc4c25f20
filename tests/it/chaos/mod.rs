//! The real binary with real servers, and everything that happens to them at once: whatever order
//! it comes in, the destination ends equal to the source. `cargo x chaos SECONDS` lets it last.

mod storm;

use std::collections::BTreeSet;
use std::time::Duration;

use eds::sandbox::check;
use tempfile::TempDir;

use crate::parts::finished;
use crate::services::mysql::{Flavour, MySql};
use crate::services::postgres::Postgres;
use crate::services::scene::Keeper;
use storm::{ChaosScene, StormFaults};

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

/// Storms over a database; every row has to be right in the end, and every bad message a dead
/// letter.
async fn over_a_database(name: &str, server: &mut dyn Keeper) {
    let (database, url) = server.fresh().await;
    let seed = seed();
    let mut scene = ChaosScene::new(name, seed, &url).await;
    let faults = scene.storm(lasting(), Some(server)).await;
    scene.calm().await;
    let shop = &scene.shop;
    let reports = server.reports(shop, &database).await.unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> = reports.iter().filter(|r| !r.is_equal()).map(check::line).collect();
    assert!(wrong.is_empty(), "seed {seed}, after {faults:?}:\n{}", wrong.join("\n"));
    finish(name, seed, &scene, &faults);
}

/// Says what the storm was, once nothing is lost.
fn finish(name: &str, seed: u64, scene: &ChaosScene, faults: &StormFaults) {
    let dead = scene.dead_letters();
    assert_eq!(dead, scene.poisoned, "seed {seed}: dead letters");
    let (total, events) = (faults.total(), scene.published);
    println!("chaos {name}: {total} faults, {events} events, 0 lost, 0 stale; {faults:?}");
    assert!(total > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn postgres_ends_equal() {
    over_a_database("postgres", &mut Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mysql_ends_equal() {
    over_a_database("mysql", &mut MySql::start(Flavour::MySql).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn mariadb_ends_equal() {
    over_a_database("mariadb", &mut MySql::start(Flavour::MariaDb).await).await;
}

/// Storms over files that hold many changes: each event has to be in one of them, once.
#[tokio::test(flavor = "multi_thread")]
async fn ndjson_holds_each_event_once() {
    let (dir, seed) = (TempDir::new().unwrap_or_else(|e| panic!("{e}")), seed());
    let url = format!("file://{}?format=ndjson&freshness=50ms", dir.path().display());
    let mut scene = ChaosScene::new("ndjson", seed, &url).await;
    let faults = scene.storm(lasting(), None).await;
    scene.calm().await;
    let files = finished(dir.path());
    let lines: Vec<&String> = files.values().flatten().collect();
    let kept: BTreeSet<&str> = lines.iter().map(|line| id_of(line)).collect();
    let wanted = &scene.ids;
    let missing = wanted.iter().filter(|id| !kept.contains(id.as_str())).count();
    assert_eq!(missing, 0, "seed {seed}: events are missing after {faults:?}");
    // Some events come again, as in the stream.
    assert_eq!(lines.len() as u64, scene.published, "seed {seed}: lines, after {faults:?}");
    finish("ndjson", seed, &scene, &faults);
}

/// The event's own id, from its text.
pub fn id_of(event: &str) -> &str {
    let name = "\"id\":\"";
    let from = event.find(name).map_or(0, |at| at + name.len());
    event[from..].split('"').next().unwrap_or_default()
}
