//! A worker that cannot work is waited for in the same session: HQ may configure something else.

use std::net::{Ipv4Addr, TcpListener};
use std::time::Duration;

use eds::sandbox::hq::Faults;
use serde_json::{Value, json};

use crate::services::eventually;
use crate::services::site::Site;

const CANNOT_WORK: &str = "the worker cannot work: ";

async fn configure(site: &Site, session: &str, url: &str) -> Value {
    let data = json!({"url": url, "backfill": false});
    site.hq_nats.ask(session, "configure", data).await.unwrap_or_else(|e| panic!("{e}"))
}

/// It took one session, and no crash was counted.
fn assert_calm(site: &Site) {
    assert_eq!(site.hq.sessions().len(), 1, "{}", site.log());
    assert!(!site.log().contains("failure 1 of"), "{}", site.log());
}

/// No schemas at the very first start: they are waited for.
#[tokio::test(flavor = "multi_thread")]
async fn schemas_that_are_away_at_the_first_start_are_waited_for() {
    for (name, status) in [("away", 503), ("wall", 403)] {
        let site = Site::new(name, 86).await;
        site.enroll().await;
        site.hq.set_faults(Faults { schemas: Some(status), ..Faults::default() });
        let server = site.server(&["--url", &site.sqlite()]);
        site.until_log(&format!("it answered {status}"), 2).await;
        site.hq.set_faults(Faults::default());
        site.until_log(&format!("streaming eds-{name}"), 1).await;
        site.publish(50).await;
        site.until_equal().await;
        assert_calm(&site);
        assert!(server.stop().status.success());
    }
}

/// A port that somebody else has is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_is_waited_for() {
    let site = Site::new("port", 87).await;
    site.enroll().await;
    let taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap_or_else(|e| panic!("{e}"));
    let port = taken.local_addr().map_or(0, |address| address.port()).to_string();
    let server = site.server(&["--url", &site.sqlite(), "--port", &port]);
    site.until_log("cannot be served at", 1).await;
    // Nobody waits for it but the probes.
    site.until_log("streaming eds-port", 1).await;
    assert_calm(&site);
    drop(taken);
    eventually("it listens", Duration::from_secs(30), async || {
        std::net::TcpStream::connect(format!("127.0.0.1:{port}")).is_ok()
    })
    .await;
    assert!(server.stop().status.success());
}

/// A data directory that cannot be written is waited for.
#[cfg(unix)]
#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_cannot_be_opened_is_waited_for() {
    let site = Site::new("state", 88).await;
    site.enroll().await;
    let state = site.data_dir().join("eds-state.db");
    std::fs::create_dir(&state).unwrap_or_else(|e| panic!("{e}"));
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log(CANNOT_WORK, 2).await;
    assert_calm(&site);
    std::fs::remove_dir(&state).unwrap_or_else(|e| panic!("{e}"));
    site.until_log("streaming eds-state", 1).await;
    assert_calm(&site);
    assert!(server.stop().status.success());
}

/// A destination that passed HQ's test and cannot be used after all: HQ configures another, in the
/// same session.
#[tokio::test(flavor = "multi_thread")]
async fn a_destination_that_fails_after_its_test_makes_way_for_another() {
    let site = Site::new("foreign", 89).await;
    site.enroll().await;
    let server = site.server(&[]);
    let session = site.session(0).await;
    let foreign = site.dir.path().join("foreign.db");
    let made = rusqlite::Connection::open(&foreign)
        .and_then(|db| db.execute_batch("CREATE TABLE _eds_checkpoint (mine TEXT)"));
    made.unwrap_or_else(|e| panic!("{e}"));
    let reply = configure(&site, &session, &format!("sqlite://{}", foreign.display())).await;
    assert_eq!(reply["success"], true, "{reply}");
    site.until_log(CANNOT_WORK, 1).await;
    assert!(site.hq_nats.ping(&session).await, "{}", site.log());
    let reply = configure(&site, &session, &site.sqlite()).await;
    assert_eq!(reply["success"], true, "{reply}");
    site.until_log("streaming eds-foreign", 1).await;
    site.publish(50).await;
    site.until_equal().await;
    assert_calm(&site);
    assert!(server.stop().status.success());
}

/// One server at a time has a data directory: a second one says so, and takes nothing away.
#[tokio::test(flavor = "multi_thread")]
async fn a_second_server_is_refused() {
    let site = Site::new("second", 90).await;
    site.enroll().await;
    let mut server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-second", 1).await;
    let session = site.session(0).await;
    let ended = site.server(&["--url", &site.sqlite()]).wait(Duration::from_secs(30));
    assert!(
        ended.status.code() == Some(1) && ended.log.contains("in use by another EDS"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    assert!(server.is_running() && site.data_dir().join(&session).join("nats.creds").is_file());
    eventually("HQ is heard", Duration::from_secs(30), async || site.hq_nats.ping(&session).await)
        .await;
    assert_calm(&site);
    assert!(server.stop().status.success());
}
