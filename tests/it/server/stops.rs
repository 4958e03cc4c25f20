//! A server ends in time, whatever hangs, and another one follows what a killed one left.

use std::path::Path;
use std::time::Duration;

use eds::sandbox::hq::Faults;

use crate::services::eds::{Running, binary};
use crate::services::send;
use crate::services::site::Site;

/// A worker and an HQ that hang do not hold up the end.
#[tokio::test(flavor = "multi_thread")]
async fn what_hangs_does_not_hold_up_the_end() {
    let site = Site::new("hang", 91).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite(), "--stop-timeout", "2s"]);
    site.until_log("streaming eds-hang", 1).await;
    site.publish(50).await;
    site.until_equal().await;
    let thinks = Duration::from_secs(3_600);
    site.hq.set_faults(Faults { thinks, ..Faults::default() });
    send(Site::worker(&server), "STOP");
    let ended = server.stop();
    assert!(
        ended.status.success()
            && ended.log.contains("is killed; unacknowledged changes")
            && ended.log.contains("was not fully reported to HQ"),
        "{:?}\n{}",
        ended.status,
        ended.log
    );
    // The session that HQ did not hear the end of is ended by the next server.
    site.hq.set_faults(Faults { one_session: true, ..Faults::default() });
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-hang", 2).await;
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.stop().status.success());
    assert!(site.hq.sessions().iter().all(|record| record.ended.is_some()));
}

/// The supervisor is killed while its worker hangs: the next server waits for the worker's end,
/// and counts nothing as a failure.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_waits_for_the_worker_of_a_killed_one() {
    let site = Site::new("orphan", 92).await;
    site.enroll().await;
    site.hq.set_faults(Faults { one_session: true, ..Faults::default() });
    let port = crate::services::free_port().to_string();
    let args = ["--url", &site.sqlite(), "--port", &port];
    let server = site.server(&args);
    site.until_log("streaming eds-orphan", 1).await;
    site.publish(50).await;
    site.until_equal().await;
    let orphan = Site::worker(&server);
    send(orphan, "STOP");
    server.kill();
    let server = site.server(&args);
    site.record(1).await;
    site.publish(50).await;
    assert!(Path::new(&format!("/proc/{orphan}")).exists());
    send(orphan, "CONT");
    site.until_log("streaming eds-orphan", 2).await;
    site.until_equal().await;
    assert!(!site.log().contains("failure 1 of"), "{}", site.log());
    assert!(server.stop().status.success());
    let ended: Vec<Option<bool>> = site.hq.sessions().iter().map(|record| record.ended).collect();
    assert_eq!(ended, [Some(true), Some(false)]);
}

/// Started by nohup, a server does not hear that its terminal is closed.
#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread")]
async fn nohup_is_respected() {
    let site = Site::new("nohup", 93).await;
    site.enroll().await;
    let (url, nats) = (site.sqlite(), site.nats.url());
    let words = [binary(), "server", "--port", "0", "--server", &nats, "--url", &url];
    let command = site.command_of(Path::new("nohup"), &words);
    let mut server = Running::start(command, site.dir.path().join("server.log"));
    site.until_log("streaming eds-nohup", 1).await;
    send(server.pid(), "HUP");
    site.publish(50).await;
    site.until_equal().await;
    assert!(server.is_running());
    assert!(server.stop().status.success());
    assert!(!site.log().contains("the configuration is read again"), "{}", site.log());
}
