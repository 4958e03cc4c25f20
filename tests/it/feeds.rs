//! JetStream as it comes: narrow rights, other people's consumers, streams that are cut or made anew.

use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, pull};
use eds::sandbox::check;
use eds::sandbox::shop::{Habits, Shop};

use crate::services::eds::Eds;
use crate::services::nats::Nats;
use crate::services::{eventually, postgres};
use crate::stream::{assert_equal, publish};

const COMPANIES: &[&str] = &["c0", "c1", "c2"];

/// A credential for one company brings that company's rows and no others.
#[tokio::test(flavor = "multi_thread")]
async fn one_company_sees_only_itself() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(31, Habits::default());
    publish(&nats, &mut shop, 3_000).await;
    let creds = nats.server_creds("one", &["c1"], None);
    Eds::stream(&nats, &creds, &url, &shop.schema_map()).with(&["--restart"]).catch_up_first();
    let client = server.connect(&database).await;
    let found = client.query("SELECT DISTINCT \"companyId\" FROM \"order\"", &[]).await.unwrap_or_else(|e| panic!("{e}"));
    assert_eq!(found.iter().map(|r| r.get::<_, String>(0)).collect::<Vec<_>>(), ["c1"]);
}

/// With an acknowledgement for each message the end is the same.
#[tokio::test(flavor = "multi_thread")]
async fn explicit_acknowledgement_ends_equal() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(32, Habits::default());
    publish(&nats, &mut shop, 8_000).await;
    let creds = nats.server_creds("explicit", COMPANIES, None);
    Eds::stream(&nats, &creds, &url, &shop.schema_map()).with(&["--restart", "--ack", "explicit"]).catch_up_first();
    assert_equal(&shop, server, &database).await;
    assert_eq!(nats.consumer("eds-explicit").await.0, 0);
}

/// Credentials that have expired, that lack a right, or that the server does not know are told apart.
#[tokio::test(flavor = "multi_thread")]
async fn refused_credentials_are_named() {
    let (nats, other) = (Nats::start().await, Nats::start().await);
    let (_, url) = postgres::shared().database().await;
    let shop = Shop::new(33, Habits::default());
    let expired = nats.server_creds("expired", COMPANIES, Some(1_000_000_000));
    let foreign = other.server_creds("foreign", COMPANIES, None);
    let rights = serde_json::json!({"allow": ["_INBOX.>"]});
    let subjects = serde_json::json!({"allow": ["dbchange.*.*.c0.*.PUBLIC.>", "_INBOX.>"]});
    let narrow = nats.creds("narrow", &rights, &subjects, None);
    for (creds, expected) in [(expired, "expired"), (foreign, "refuses the login"), (narrow, "do the credentials allow publishing to $JS.API.CONSUMER.>")] {
        let ended = Eds::stream(&nats, &creds, &url, &shop.schema_map()).start(&[]).wait(Duration::from_secs(60));
        assert!(!ended.status.success() && ended.log.contains(expected), "{expected}: {}", ended.log);
    }
}

/// Somebody deletes the consumer while it is in use: it is made anew, and nothing is lost.
#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_consumer_is_made_anew() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(34, Habits::default());
    let creds = nats.server_creds("deleted", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 5_000).await;
    let running = eds.start(&[]);
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        let _ = nats.admin().await.delete_consumer_from_stream("eds-deleted", "dbchange").await;
        publish(&nats, &mut shop, 3_000).await;
    }
    eventually("the destination is equal", Duration::from_secs(60), async || {
        let client = server.connect(&database).await;
        check::postgres(&shop, &client).await.is_ok_and(|reports| reports.iter().all(check::TableReport::is_equal))
    })
    .await;
    assert!(running.stop().status.success());
}

/// The durable of the predecessor is taken over where it stands, with what it had under way.
#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_of_the_predecessor_is_taken_over() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(35, Habits::default());
    let config = pull::Config {
        durable_name: Some("eds-upstream".into()),
        ack_policy: AckPolicy::Explicit,
        max_deliver: 20,
        max_waiting: 1,
        max_ack_pending: 25_000,
        max_batch: 500,
        filter_subjects: COMPANIES.iter().map(|c| format!("dbchange.*.*.{c}.*.PUBLIC.>")).collect(),
        ..Default::default()
    };
    let consumer = nats.admin().await.create_consumer_on_stream(config, "dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    publish(&nats, &mut shop, 2_000).await;
    let mut batch = futures::StreamExt::take(consumer.fetch().max_messages(300).messages().await.unwrap_or_else(|e| panic!("{e}")), 300);
    while let Some(message) = futures::StreamExt::next(&mut batch).await {
        drop(message);
    }
    let creds = nats.server_creds("upstream", COMPANIES, None);
    Eds::stream(&nats, &creds, &url, &shop.schema_map()).catch_up();
    assert_equal(&shop, server, &database).await;
    assert_eq!(nats.consumer("eds-upstream").await.0, 0);
}

/// What retention removed before it was read is said aloud; what was removed after it was read is not.
#[tokio::test(flavor = "multi_thread")]
async fn a_gap_is_said_aloud_and_never_cried_falsely() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (_, url) = server.database().await;
    let mut shop = Shop::new(36, Habits::default());
    let creds = nats.server_creds("gap", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 1_000).await;
    eds.catch_up();
    let stream = async || nats.admin().await.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    // All of it was applied: its removal loses nothing.
    stream().await.purge().await.unwrap_or_else(|e| panic!("{e}"));
    nats.admin().await.delete_consumer_from_stream("eds-gap", "dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    publish(&nats, &mut shop, 100).await;
    let log = eds.catch_up();
    assert!(!log.contains("changes may be missing"), "{log}");
    publish(&nats, &mut shop, 500).await;
    stream().await.purge().sequence(1_400).await.unwrap_or_else(|e| panic!("{e}"));
    let log = eds.catch_up();
    assert!(log.contains("changes may be missing") && log.contains("1101 to 1399") && log.contains("import"), "{log}");
}

/// A stream that was deleted and made again is noticed and read from its beginning.
#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_was_made_anew_is_read_from_its_beginning() {
    let nats = Nats::start().await;
    let server = postgres::shared();
    let (database, url) = server.database().await;
    let mut shop = Shop::new(37, Habits::default());
    let creds = nats.server_creds("anew", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 1_000).await;
    eds.catch_up();
    nats.admin().await.delete_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    nats.stream().await;
    publish(&nats, &mut shop, 300).await;
    let log = eds.catch_up();
    assert!(log.contains("made anew"), "{log}");
    assert_equal(&shop, server, &database).await;
}
