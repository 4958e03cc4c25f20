//! What HQ answers, and what a worker cannot work with, never ends a server or stops its stream.

use std::time::Duration;

use eds::sandbox::hq::Faults;

use crate::services::site::Site;
use crate::services::{eventually, send};

/// HQ allows one session at a time; all its answers are this one.
fn answering(status: u16, in_own_words: bool) -> Faults {
    Faults { answers: Some(status), in_own_words, one_session: true, ..Faults::default() }
}

fn well() -> Faults {
    Faults { one_session: true, ..Faults::default() }
}

/// The answers of walls, deployments, other servers, loads and strangers.
const ANSWERS: [(u16, bool); 9] = [
    (401, true),
    (403, false),
    (404, false),
    (404, true),
    (409, true),
    (410, false),
    (429, false),
    (500, false),
    (200, false),
];

/// Changes arrive, whatever HQ answers: while sessions are renewed, after crashes of the worker,
/// at the end of the server and at its next start.
#[tokio::test(flavor = "multi_thread")]
async fn a_whole_life_under_faults() {
    let site = Site::new("faults", 83).await;
    site.enroll().await;
    site.hq.set_faults(well());
    let args = ["--url", &site.sqlite(), "--renew-interval", "2s"];
    let mut server = site.server(&args);
    site.until_log("streaming eds-faults", 1).await;
    let mut starts = 1;
    for (round, (status, in_own_words)) in ANSWERS.into_iter().enumerate() {
        let (complaints, sessions) = (complaints(&site), site.hq.sessions().len());
        let worker = Site::worker(&server);
        site.hq.set_faults(answering(status, in_own_words));
        site.publish(30).await;
        site.until_log("HQ is asked again in", complaints + 1).await;
        site.until_equal().await;
        // A crash under four of them: the fifth one in a row would be the last.
        if round % 2 == 1 {
            send(worker, "KILL");
            starts += 1;
            site.until_log("streaming eds-faults", starts).await;
            site.publish(30).await;
            site.until_equal().await;
        } else {
            assert_eq!(Site::worker(&server), worker, "{}", site.log());
        }
        site.hq.set_faults(well());
        eventually("sessions go on", Duration::from_secs(60), async || {
            site.hq.sessions().len() > sessions
        })
        .await;
    }
    // It ends under a fault, it is killed under one, and it begins under one.
    site.hq.set_faults(answering(500, true));
    assert!(server.stop().status.success());
    for (status, killed) in [(403, true), (404, false)] {
        let complaints = complaints(&site);
        site.hq.set_faults(answering(status, false));
        server = site.server(&args);
        site.until_log("HQ is asked again in", complaints + 1).await;
        tokio::time::sleep(Duration::from_secs(3)).await;
        assert!(server.is_running(), "{}", site.log());
        site.hq.set_faults(well());
        starts += 1;
        site.until_log("streaming eds-faults", starts).await;
        site.publish(30).await;
        site.until_equal().await;
        if killed {
            server.kill();
        } else {
            assert!(server.stop().status.success());
        }
    }
    eventually("no session is left open", Duration::from_secs(30), async || {
        site.hq.sessions().iter().all(|record| record.ended.is_some())
    })
    .await;
}

fn complaints(site: &Site) -> usize {
    site.log().matches("HQ is asked again in").count()
}

/// HQ's own word that a server is gone ends it; the same status from somebody else does not.
#[tokio::test(flavor = "multi_thread")]
async fn only_hq_s_own_word_ends_a_server() {
    let site = Site::new("gone", 84).await;
    site.enroll().await;
    let mut server = site.server(&["--url", &site.sqlite(), "--renew-interval", "1s"]);
    site.until_log("streaming eds-gone", 1).await;
    site.hq.set_faults(answering(410, false));
    site.until_log("HQ is asked again in", 1).await;
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert!(server.is_running(), "{}", site.log());
    site.hq.set_faults(answering(410, true));
    let ended = server.wait(Duration::from_secs(60));
    assert!(
        ended.status.code() == Some(1) && ended.log.contains("HQ has removed this server"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
}

/// Renewals do not touch the worker, and the next session begins before the last one ends, unless
/// HQ allows only one.
#[tokio::test(flavor = "multi_thread")]
async fn a_renewal_does_not_touch_the_worker() {
    for (name, one_session) in [("overlap", false), ("single", true)] {
        let site = Site::new(name, 85).await;
        site.enroll().await;
        site.hq.set_faults(Faults { one_session, ..Faults::default() });
        let server = site.server(&["--url", &site.sqlite(), "--renew-interval", "1s"]);
        site.until_log(&format!("streaming eds-{name}"), 1).await;
        let worker = Site::worker(&server);
        for sessions in 2..=4 {
            site.publish(50).await;
            site.record(sessions - 1).await;
        }
        site.until_equal().await;
        assert_eq!(Site::worker(&server), worker, "{}", site.log());
        // The worker's log went along: HQ has it in each session.
        eventually("the sessions are closed", Duration::from_secs(30), async || {
            site.hq.sessions().iter().take(3).all(|record| {
                record.ended == Some(false) && record.uploads.iter().any(|up| up.kind == "end")
            })
        })
        .await;
        assert!(server.stop().status.success());
        assert_eq!(site.log().matches("streaming eds-").count(), 1, "{}", site.log());
    }
}
