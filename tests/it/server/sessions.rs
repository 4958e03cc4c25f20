//! Sessions with HQ: they begin whatever it takes, are renewed, and outlast NATS and credentials.

use std::time::Duration;

use eds::sandbox::hq::Faults;

use crate::services::site::{CODE, Site};
use crate::services::{eventually, send};

/// Another server's session, too many questions, odd answers, outages: a session begins in the end.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_begins_whatever_hq_is_like() {
    let site = Site::new("patient", 73).await;
    site.enroll().await;
    site.hq.set_faults(Faults {
        conflicts: 3,
        too_many: 2,
        odd_answers: 1,
        unavailable: 2,
        thinks: Duration::from_millis(50),
        ..Faults::default()
    });
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("another server runs for this id", 1).await;
    site.until_log("answers in a form that EDS does not know", 1).await;
    site.until_log("streaming eds-patient", 1).await;
    // What lasts is said once, and that it is over.
    let log = site.log();
    assert_eq!(log.matches("another server runs for this id").count(), 1, "{log}");
    assert!(log.contains("HQ gives sessions again, after"), "{log}");
    let record = site.record(0).await;
    assert_eq!(record.server_id, "patient");
    for word in ["version", "hostname", "ipAddress", "machineId"] {
        assert!(
            record.said[word].as_str().is_some_and(|text| !text.is_empty()),
            "{word}: {}",
            record.said
        );
    }
    assert!(
        record.said["osinfo"]["num_cpu"].is_u64()
            && record.said["osinfo"]["go_version"].is_string()
            && record.said["osinfo"]["host"]["os"].is_string()
    );
    assert_eq!(
        (record.said["driver"]["id"].as_str(), record.said["driver"]["name"].as_str()),
        (Some("sqlite"), Some("SQLite"))
    );
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.stop().status.success());
}

/// A token that HQ does not know any more is the owner's to replace; an end is possible while HQ is
/// asked.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_is_not_enrolled_says_so() {
    let site = Site::new("nobody", 74).await;
    let ended = site.server(&[]).wait(Duration::from_secs(20));
    assert!(
        ended.status.code() == Some(3) && ended.log.contains("`eds enroll CODE` enrols it"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    site.enroll().await;
    let ended = site
        .server(&["--api-key", "a.b.c", "--api-url", site.hq.url()])
        .wait(Duration::from_secs(20));
    assert!(
        ended.status.code() == Some(1) && ended.log.contains("is this server still enrolled?"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    // HQ is away: waited for, until told to end.
    let server = site.server(&["--api-url", "http://127.0.0.1:1"]);
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert!(server.stop().status.success());
    let output = site.run(&["enroll", "X123"]).await;
    assert!(
        output.status.code() == Some(3)
            && crate::services::hq::said(&output).contains("begins with P, S, E or L")
    );
    let output =
        site.run(&["enroll", &format!("{CODE}/../../x"), "--api-url", site.hq.url()]).await;
    assert_eq!(output.status.code(), Some(1));
}

/// Credentials that expire are replaced before, by a new session; what was published meanwhile
/// arrives once.
#[tokio::test(flavor = "multi_thread")]
async fn expiring_credentials_lead_to_a_new_session() {
    let site = Site::new("expiry", 75).await;
    site.enroll().await;
    site.hq
        .set_faults(Faults { credential_life: Some(Duration::from_secs(8)), ..Faults::default() });
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-expiry", 1).await;
    let worker = Site::worker(&server);
    for sessions in 2..=4 {
        site.publish(100).await;
        site.record(sessions - 1).await;
    }
    site.publish(100).await;
    site.until_equal().await;
    assert_eq!(Site::worker(&server), worker, "{}", site.log());
    assert!(server.stop().status.success());
    assert!(
        site.log().contains("the credentials of NATS expire")
            && !site.log().contains("failure 1 of"),
        "{}",
        site.log()
    );
    assert!(site.hq.sessions().iter().all(|record| record.ended == Some(false)));
}

/// NATS goes and comes back: nothing is lost, nothing counts as a failure, and HQ is heard again.
#[tokio::test(flavor = "multi_thread")]
async fn nats_may_go_and_come_back() {
    let mut site = Site::new("cut", 77).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    let session = site.session(0).await;
    site.until_log("streaming eds-cut", 1).await;
    for _ in 0..3 {
        site.publish(200).await;
        site.nats.server = None;
        tokio::time::sleep(Duration::from_millis(700)).await;
        site.nats.run().await;
    }
    site.publish(100).await;
    site.until_equal().await;
    eventually("HQ is heard again", Duration::from_secs(30), async || {
        site.hq_nats.ping(&session).await
    })
    .await;
    assert_eq!(site.hq.sessions().len(), 1);
    assert!(!site.log().contains("failure 1 of"), "{}", site.log());
    assert!(server.stop().status.success());
}

/// SIGHUP: the configuration is read again.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn sighup_reads_the_configuration_again() {
    let site = Site::new("hup", 78).await;
    site.enroll().await;
    let server = site.server(&[]);
    site.until_log("configure one at HQ", 1).await;
    let (url, strategy) = (site.sqlite(), "after");
    let entries = [("url", Some(url.as_str())), ("update_strategy", Some(strategy))];
    eds::config::Config::write(&site.data_dir(), &entries).unwrap_or_else(|e| panic!("{e}"));
    send(server.pid(), "HUP");
    site.until_log("streaming eds-hup", 1).await;
    assert!(site.log().contains("--update-strategy after has no effect"), "{}", site.log());
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.stop().status.success());
}

/// Credentials that NATS takes no more, long before they expire: HQ is asked for others.
#[tokio::test(flavor = "multi_thread")]
async fn credentials_that_are_taken_back_lead_to_a_new_session() {
    let mut site = Site::new("revoked", 81).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-revoked", 1).await;
    site.publish(100).await;
    site.until_equal().await;
    site.nats.change_account().await;
    site.hq.set_account(Some(site.nats.account.clone()), &eds::sandbox::shop::Shop::companies());
    site.until_log("NATS does not take the credentials any more", 1).await;
    site.publish(100).await;
    site.until_equal().await;
    assert!(!site.log().contains("failure 1 of"), "{}", site.log());
    assert!(server.stop().status.success());
}
