//! Real NATS with a credential's narrow rights, real PostgreSQL, the real binary: the destination
//! ends equal to the shop.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};

use crate::services::eds::Eds;
use crate::services::mysql::{Flavour, MySql};
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::scene::{COMPANIES, Keeper, Scene, assert_equal, publish};
use crate::services::{eventually, send};

const EVENTS: u64 = 100_000;

async fn assert_nothing_pending(nats: &Nats, consumer: &str) {
    let (unacknowledged, undelivered, _) = nats.consumer(consumer).await;
    assert_eq!((unacknowledged, undelivered), (0, 0), "{consumer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_end_equal_whatever_happens() {
    whatever_happens(&mut Postgres::start().await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_end_equal_in_mysql() {
    whatever_happens(&mut MySql::start(Flavour::MySql).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_end_equal_in_mariadb() {
    whatever_happens(&mut MySql::start(Flavour::MariaDb).await).await;
}

/// One stream, three destinations: undisturbed, with 20 kills, with both servers restarted
/// underneath.
async fn whatever_happens(server: &mut dyn Keeper) {
    let mut nats = Nats::start().await;
    nats.allow_consumers(3).await;
    let mut shop = Shop::new(42, ShopOptions::default());
    publish(&nats, &mut shop, EVENTS).await;
    let creds = nats.server_creds("s1", COMPANIES, None);
    let schemas = shop.schema_map();

    let (undisturbed, url) = server.fresh().await;
    Eds::stream(&nats, &creds, &url, &schemas).with(&["--restart"]).catch_up_first();
    assert_equal(&shop, server, &undisturbed).await;
    assert_nothing_pending(&nats, "eds-s1").await;

    let (killed, url) = server.fresh().await;
    let eds = Eds::stream(&nats, &creds, &url, &schemas).with(&["--consumer-suffix", "killed"]);
    eds.begin();
    let mut rng = fastrand::Rng::with_seed(7);
    for _ in 0..20 {
        let running = eds.start(&[]);
        tokio::time::sleep(Duration::from_millis(rng.u64(150..1200))).await;
        running.kill();
    }
    eds.catch_up();
    assert_equal(&shop, server, &killed).await;
    assert_nothing_pending(&nats, "eds-s1-killed").await;

    let (restarted, url) = server.fresh().await;
    let eds = Eds::stream(&nats, &creds, &url, &schemas).with(&["--consumer-suffix", "restarted"]);
    eds.begin();
    let running = eds.start(&["--until-caught-up"]);
    running.until_streaming().await;
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        if let Some(mut old) = nats.server.take() {
            old.stop();
        }
        tokio::time::sleep(Duration::from_millis(400)).await;
        nats.run().await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.stop();
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.start_again().await;
    }
    let ended = running.wait(Duration::from_secs(300));
    assert!(ended.status.success(), "{}", ended.log);
    assert_equal(&shop, server, &restarted).await;
    assert_nothing_pending(&nats, "eds-s1-restarted").await;
}

/// After a kill with thousands delivered and unacknowledged, they are applied at once, not after
/// the ack wait.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_delivered_before_a_kill_is_back_at_once() {
    let mut scene = Scene::new("s2", 5).await;
    scene.eds.begin();
    let client = scene.server.connect(&scene.database).await;
    let running = scene.eds.start(&[]);
    running.until_streaming().await;
    // Whoever holds the checkpoint keeps every batch from being committed.
    client
        .batch_execute("BEGIN; LOCK TABLE _eds_checkpoint IN ACCESS EXCLUSIVE MODE")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    scene.publish(25_000).await;
    eventually("deliveries are under way", Duration::from_secs(30), async || {
        scene.consumer().await.0 > 2000
    })
    .await;
    running.kill();
    client.batch_execute("ROLLBACK").await.unwrap_or_else(|e| panic!("{e}"));
    let begun = std::time::Instant::now();
    let running = scene.eds.start(&[]);
    let done = async || {
        client
            .query_one("SELECT stream_sequence FROM _eds_checkpoint", &[])
            .await
            .is_ok_and(|row| row.get::<_, i64>(0) > 0)
    };
    eventually("the first is applied again", Duration::from_secs(30), done).await;
    println!("the first change was applied again {:?} after the start", begun.elapsed());
    scene.until_idle().await;
    assert!(running.stop().status.success());
    scene.assert_equal().await;
}

/// A destination that is put back to an earlier state is brought up to date again, from its own
/// checkpoint.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_destination_catches_up() {
    let mut scene = Scene::new("s3", 6).await;
    scene.eds.begin();
    scene.publish(3_000).await;
    scene.eds.catch_up();
    let admin = scene.server.connect("postgres").await;
    let run = async |sql: String| {
        admin.batch_execute(&sql).await.unwrap_or_else(|e| panic!("{sql}: {e}"));
    };
    let database = scene.database.clone();
    run(format!("CREATE DATABASE {database}_backup TEMPLATE {database}")).await;
    let running = scene.eds.start(&[]);
    scene.publish(5_000).await;
    scene.until_idle().await;
    run(format!("ALTER DATABASE {database} ALLOW_CONNECTIONS false")).await;
    run(format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{database}'"
    ))
    .await;
    tokio::time::sleep(Duration::from_millis(300)).await;
    run(format!("DROP DATABASE {database} WITH (FORCE)")).await;
    run(format!("CREATE DATABASE {database} TEMPLATE {database}_backup")).await;
    scene.publish(500).await;
    scene.until_equal().await;
    let ended = running.stop();
    assert!(ended.status.success() && ended.log.contains("was it restored?"), "{}", ended.log);
}

/// SIGTERM: pending changes are written and acknowledged, and the next start goes on from there.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_is_clean() {
    let mut scene = Scene::new("s4", 8).await;
    scene.eds.begin();
    scene.publish(30_000).await;
    let running = scene.eds.start(&[]);
    tokio::time::sleep(Duration::from_millis(1500)).await;
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);
    let client = scene.server.connect(&scene.database).await;
    let row = client
        .query_one("SELECT stream_sequence FROM _eds_checkpoint", &[])
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(
        scene.consumer().await.2,
        row.get::<_, i64>(0) as u64,
        "what is applied is acknowledged"
    );
    scene.eds.catch_up();
    scene.assert_equal().await;
    let running = scene.eds.start(&[]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    send(running.pid(), "INT");
    assert!(running.wait(Duration::from_secs(20)).status.success());
}
