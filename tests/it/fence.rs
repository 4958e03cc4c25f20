//! Two processes on one destination: the older one commits nothing more, and says why it ends.

use std::time::Duration;

use eds::sandbox::shop::{Habits, Shop};

use crate::services::eds::Eds;
use crate::services::nats::Nats;
use crate::services::{eventually, postgres, send};
use crate::stream::{assert_equal, publish};

#[tokio::test(flavor = "multi_thread")]
async fn a_process_that_was_replaced_while_it_slept_commits_nothing_more() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(11, Habits::default());
    let creds = nats.server_creds("f1", &["c0", "c1", "c2"], None);
    // Each has its own data directory: what is shared is the destination and the consumer.
    let (old, new) = (Eds::stream(&nats, &creds, &url, &shop.schema_map()), Eds::stream(&nats, &creds, &url, &shop.schema_map()));
    old.begin();
    let older = old.start(&[]);
    publish(&nats, &mut shop, 4_000).await;
    eventually("the older one streams", Duration::from_secs(30), async || nats.consumer("eds-f1").await.2 > 0).await;
    send(older.pid(), "STOP");
    // Asleep, perhaps within a transaction.
    publish(&nats, &mut shop, 4_000).await;
    let newer = new.start(&[]);
    eventually("the newer one has caught up", Duration::from_secs(60), async || {
        let (unacknowledged, undelivered, _) = nats.consumer("eds-f1").await;
        (unacknowledged, undelivered) == (0, 0) && newer.log().contains("streaming eds-")
    })
    .await;
    assert_equal(&shop, server, &database).await;
    send(older.pid(), "CONT");
    publish(&nats, &mut shop, 2_000).await;
    let ended = older.wait(Duration::from_secs(60));
    assert!(!ended.status.success() && ended.log.contains("another EDS has taken over"), "{:?}\n{}", ended.status, ended.log);
    eventually("the newer one goes on", Duration::from_secs(60), async || {
        let (unacknowledged, undelivered, _) = nats.consumer("eds-f1").await;
        (unacknowledged, undelivered) == (0, 0)
    })
    .await;
    assert!(newer.stop().status.success());
    assert_equal(&shop, server, &database).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_that_start_at_once_one_streams_and_nothing_is_lost() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(12, Habits::default());
    publish(&nats, &mut shop, 20_000).await;
    let creds = nats.server_creds("f2", &["c0", "c1", "c2"], None);
    let (one, two) = (Eds::stream(&nats, &creds, &url, &shop.schema_map()), Eds::stream(&nats, &creds, &url, &shop.schema_map()));
    one.begin();
    let (mut first, mut second) = (one.start(&["--until-caught-up"]), two.start(&["--until-caught-up"]));
    eventually("at least one ends", Duration::from_secs(120), async || !first.is_running() || !second.is_running()).await;
    let (first, second) = (first.wait(Duration::from_secs(120)), second.wait(Duration::from_secs(120)));
    assert!(first.status.success() || second.status.success(), "{}\n---\n{}", first.log, second.log);
    for loser in [&first, &second].iter().filter(|e| !e.status.success()) {
        assert!(loser.log.contains("another EDS"), "{}", loser.log);
    }
    one.catch_up();
    assert_equal(&shop, server, &database).await;
}

/// One that runs is not disturbed by a second one that is started by mistake.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_one_started_by_mistake_ends_and_the_first_goes_on() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(13, Habits::default());
    let creds = nats.server_creds("f3", &["c0", "c1", "c2"], None);
    let (one, two) = (Eds::stream(&nats, &creds, &url, &shop.schema_map()), Eds::stream(&nats, &creds, &url, &shop.schema_map()));
    one.begin();
    let first = one.start(&[]);
    eventually("the first streams", Duration::from_secs(30), async || first.log().contains("streaming eds-")).await;
    let ended = two.start(&[]).wait(Duration::from_secs(60));
    assert!(!ended.status.success() && ended.log.contains("another EDS is reading"), "{}", ended.log);
    publish(&nats, &mut shop, 2_000).await;
    eventually("the first has applied it", Duration::from_secs(60), async || {
        let (unacknowledged, undelivered, _) = nats.consumer("eds-f3").await;
        (unacknowledged, undelivered) == (0, 0)
    })
    .await;
    assert!(first.stop().status.success());
    assert_equal(&shop, server, &database).await;
}

/// A predecessor that hangs within a transaction, its locks held, does not keep its successor out.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_a_predecessor_left_hanging_is_ended() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(14, Habits::default());
    let creds = nats.server_creds("f4", &["c0", "c1", "c2"], None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 1_000).await;
    eds.catch_up();
    publish(&nats, &mut shop, 1_000).await;
    // What a session of EDS is known by, and the locks that it would hold.
    let hanging = server.connect(&database).await;
    let key = xxhash_rust::xxh3::xxh3_64(b"eds-f4") as i64;
    hanging.execute("SELECT pg_advisory_lock_shared($1)", &[&key]).await.unwrap_or_else(|e| panic!("{e}"));
    hanging.batch_execute("BEGIN; LOCK TABLE \"order\", _eds_checkpoint IN EXCLUSIVE MODE").await.unwrap_or_else(|e| panic!("{e}"));
    let log = eds.catch_up();
    assert!(!log.contains("trying again"), "{log}");
    assert!(hanging.batch_execute("COMMIT").await.is_err(), "the hanging session was ended");
    assert_equal(&shop, server, &database).await;
}
