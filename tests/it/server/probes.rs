//! What a server's probes say, from its first second to its end.

use std::time::Duration;

use eds::sandbox::hq::Faults;
use serde_json::{Value, json};

use crate::health::{address, get};
use crate::services::eventually_ok;
use crate::services::site::Site;

/// The reason of a server that is not ready; empty where it is. Both addresses say the same, unless
/// the state changes between the two questions.
async fn not_ready(address: &str) -> Result<String, String> {
    let (head, body) = get(address, "/readyz").await;
    let (other, _) = get(address, "/").await;
    match other == head {
        true if head.contains("200") => Ok(String::new()),
        true => Ok(body),
        false => Err(format!("/readyz says {head}, and / {other}")),
    }
}

async fn until_not_ready(site: &Site, address: &str, reason: &str) {
    eventually_ok(Duration::from_secs(60), async || {
        let said = not_ready(address).await?;
        assert!(get(address, "/livez").await.0.contains("200"), "nothing of this is a hang");
        match said.contains(reason) && said.is_empty() == reason.is_empty() {
            true => Ok(()),
            false => Err(format!("{said:?} is not {reason:?}\n{}", site.log())),
        }
    })
    .await;
}

/// HQ is away, then there is no destination, then it streams, is paused, loses its worker: the
/// server answers all the while and says what it waits for; none of it is cured by a new start.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_answers_probes_from_its_first_second() {
    let site = Site::new("probes", 81).await;
    site.enroll().await;
    site.hq.set_faults(Faults { unavailable: 1_000_000, ..Faults::default() });
    let server = site.server(&[]);
    site.until_log("status at http://", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    until_not_ready(&site, &address, "no session with HQ").await;
    for path in ["/livez", "/health", "/healthz", "/metrics", "/status.json"] {
        assert!(get(&address, path).await.0.contains("200"), "{path}");
    }
    site.hq.set_faults(Faults::default());
    let session = site.session(0).await;
    until_not_ready(&site, &address, "no destination yet").await;

    let data = json!({"url": site.sqlite(), "backfill": "false", "updateStrategy": ""});
    let reply = site.hq_nats.ask(&session, "configure", data).await.unwrap_or_default();
    assert_eq!(reply["success"], true, "{reply}");
    until_not_ready(&site, &address, "").await;
    for process in [server.pid(), Site::worker(&server)] {
        let limits = std::fs::read_to_string(format!("/proc/{process}/limits"));
        let limits = limits.unwrap_or_default();
        let core = limits.lines().find(|line| line.starts_with("Max core file size"));
        let found: Vec<&str> = core.unwrap_or_default().split_whitespace().collect();
        assert_eq!(found.get(4..6), Some(&["0", "0"][..]), "no image of its memory is kept");
    }
    site.publish(50).await;
    site.until_equal().await;
    eventually_ok(Duration::from_secs(30), async || {
        let (_, metrics) = get(&address, "/metrics").await;
        metrics.contains("eds_total_events 50").then_some(()).ok_or(metrics)
    })
    .await;

    assert_eq!(site.order(&session, "pause", Value::Null).await["success"], true);
    until_not_ready(&site, &address, "paused").await;
    assert_eq!(site.order(&session, "unpause", Value::Null).await["success"], true);
    until_not_ready(&site, &address, "").await;

    crate::services::send(Site::worker(&server), "KILL");
    until_not_ready(&site, &address, "worker").await;
    until_not_ready(&site, &address, "").await;
    assert!(server.stop().status.success());
}

/// Another process has the port: the server streams, and serves its status once the port is free.
#[tokio::test(flavor = "multi_thread")]
async fn a_port_that_is_taken_keeps_no_server_from_streaming() {
    let site = Site::new("port", 82).await;
    site.enroll().await;
    let other = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("{e}"));
    let port = other.local_addr().map_or(0, |address| address.port());
    let server = site.server(&["--url", &site.sqlite(), "--port", &port.to_string()]);
    site.until_log("cannot be served at", 1).await;
    site.until_log("streaming eds-port", 1).await;
    site.publish(20).await;
    site.until_equal().await;
    drop(other);
    site.until_log("status at http://", 1).await;
    until_not_ready(&site, &format!("127.0.0.1:{port}"), "").await;
    assert!(server.stop().status.success());
}

/// `eds health` of a real server: alive from the first second, ready once changes flow, and neither
/// where nobody listens or whoever listens never answers.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_asks_a_server_how_it_is() {
    let site = Site::new("asked", 83).await;
    site.enroll().await;
    site.hq.set_faults(Faults { unavailable: 1_000_000, ..Faults::default() });
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("status at http://", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    let port = address.rsplit(':').next().unwrap_or_default().to_owned();
    let health = async |port: &str, words: &[&str]| {
        let output = site.run(&[&["health", "--port", port], words].concat()).await;
        (output.status.code(), crate::services::hq::said(&output))
    };
    let (code, said) = health(&port, &[]).await;
    assert_eq!(code, Some(0), "{said}");
    let (code, said) = health(&port, &["--ready"]).await;
    assert!(code == Some(1) && said.contains("no session with HQ"), "{said}");
    site.hq.set_faults(Faults::default());
    site.until_log("streaming eds-asked", 1).await;
    until_not_ready(&site, &address, "").await;
    let (code, said) = health(&port, &["--ready"]).await;
    assert_eq!(code, Some(0), "{said}");
    assert!(server.stop().status.success());
    let (code, said) = health(&port, &[]).await;
    assert!(code == Some(1) && said.contains("nothing answers at http://127.0.0.1:"), "{said}");
    // The system accepts for it, and nobody reads.
    let mute = std::net::TcpListener::bind(("127.0.0.1", 0)).unwrap_or_else(|e| panic!("{e}"));
    let port = mute.local_addr().map_or(0, |address| address.port()).to_string();
    let (code, said) = health(&port, &["--ready"]).await;
    assert!(code == Some(1) && said.contains("nothing answers at http://127.0.0.1:"), "{said}");
}
