//! A worker may fail in any way: it is seen, reported, and started again, but not for ever.

use std::time::Duration;

use serde_json::Value;

use crate::services::site::{Site, children_of, unpacked};
use crate::services::{eventually, send};

/// Killed while it streams: HQ learns of it, with what the worker said last, and nothing is lost or
/// doubled.
#[tokio::test(flavor = "multi_thread")]
async fn a_killed_worker_is_reported_and_replaced() {
    let site = Site::new("crash", 65).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-crash", 1).await;
    for round in 1..=2_usize {
        site.publish(400).await;
        send(Site::worker(&server), if round == 1 { "KILL" } else { "ABRT" });
        site.until_log("streaming eds-crash", round + 1).await;
        site.publish(100).await;
        site.until_equal().await;
        let record = || site.hq.sessions().into_iter().nth(round - 1).unwrap_or_default();
        eventually("HQ has all of the session", Duration::from_secs(30), async || {
            let record = record();
            let has = |kind: &str| record.uploads.iter().any(|upload| upload.kind == kind);
            record.ended == Some(true) && has("error") && has("end")
        })
        .await;
        let record = record();
        let upload = |kind: &str| record.uploads.iter().find(|upload| upload.kind == kind);
        let error = upload("error").map(|upload| unpacked(&upload.bytes)).unwrap_or_default();
        assert!(error.contains("streaming eds-crash into sqlite"), "{error}");
    }
    assert!(site.log().contains("(failure 2 of 5)"), "{}", site.log());
    assert_eq!(children_of(server.pid()).len(), 1);
    assert!(server.stop().status.success());
}

/// After five failures the server ends, too, and not with 0.
#[tokio::test(flavor = "multi_thread")]
async fn five_failures_are_the_end() {
    let site = Site::new("five", 66).await;
    site.enroll().await;
    let mut server = site.server(&["--url", &site.sqlite()]);
    for failure in 1..=5 {
        site.until_log("streaming eds-five", failure).await;
        send(Site::worker(&server), "KILL");
    }
    eventually("the server ends", Duration::from_secs(30), async || !server.is_running()).await;
    let ended = server.wait(Duration::from_secs(1));
    assert!(
        ended.status.code() == Some(1) && ended.log.contains("it has failed 5 times in a row"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    assert!(site.hq.sessions().iter().all(|record| record.ended == Some(true)));
}

/// Without restarts the first failure is the last.
#[tokio::test(flavor = "multi_thread")]
async fn no_restart_means_none() {
    let site = Site::new("none", 67).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite(), "--no-restart"]);
    site.until_log("streaming eds-none", 1).await;
    send(Site::worker(&server), "KILL");
    let ended = server.wait(Duration::from_secs(30));
    assert!(!ended.status.success() && !ended.log.contains("started again"), "{}", ended.log);
}

/// A destination that was given by hand and cannot be used is said at once, with the code for it;
/// one that is away is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_cannot_be_used_is_the_users_to_cure() {
    let site = Site::new("wrong", 68).await;
    site.enroll().await;
    let ended = site
        .server(&["--url", "sqlite:///no/such/directory/shop.db"])
        .wait(Duration::from_secs(30));
    assert!(
        ended.status.code() == Some(3) && ended.log.contains("/no/such/directory"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    let ended = site.server(&["--url", "oracle://h/db"]).wait(Duration::from_secs(30));
    assert!(
        ended.status.code() == Some(3) && ended.log.contains("is not known to this build"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    let server = site.server(&["--url", "postgres://eds@127.0.0.1:1/shop"]);
    site.until_log("cannot be reached", 3).await;
    let said: Vec<Value> =
        site.hq.sessions().iter().map(|record| record.said["driver"]["url"].clone()).collect();
    assert_eq!(said.last(), Some(&Value::from("postgres://****@127.0.0.1:1/sh**")));
    assert!(server.stop().status.success());
    assert!(!site.log().contains("failure 1 of"), "{}", site.log());
}

/// A pause outlasts the worker that was paused.
#[tokio::test(flavor = "multi_thread")]
async fn a_pause_outlasts_a_crash() {
    let site = Site::new("still", 69).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    let session = site.session(0).await;
    site.until_log("streaming eds-still", 1).await;
    assert_eq!(site.order(&session, "pause", Value::Null).await["success"], true);
    send(Site::worker(&server), "KILL");
    let session = site.session(1).await;
    site.until_log("INFO paused", 2).await;
    site.publish(100).await;
    assert_eq!(site.log().matches("streaming eds-still").count(), 1, "{}", site.log());
    assert_eq!(site.order(&session, "unpause", Value::Null).await["success"], true);
    site.until_equal().await;
    assert!(server.stop().status.success());
}

/// An end while both NATS and HQ are away does not take long, and what was applied is not applied
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn an_end_while_everything_is_away() {
    let mut site = Site::new("dark", 82).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-dark", 1).await;
    site.publish(100).await;
    site.until_equal().await;
    site.nats.server = None;
    let ended = server.stop();
    assert!(
        ended.status.success() && !ended.log.contains("is killed; unacknowledged changes"),
        "{}",
        ended.log
    );
    site.nats.run().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-dark", 2).await;
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.stop().status.success());
}
