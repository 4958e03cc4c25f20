//! Alerts are posted as they fire and resolve, whatever becomes of the receiver.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::Value;

use crate::services::eds::Eds;
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::receiver::Receiver;
use crate::services::scene::{COMPANIES, publish};
use crate::services::site::Site;
use crate::services::{eventually, eventually_ok};

/// What the URL of the receiver holds, and nothing may show.
const SECRET: &str = "Zk7qWv9tXr";

fn path() -> String {
    format!("/hooks/{SECRET}?token={SECRET}")
}

/// Waits for an event of the alert.
async fn until(receiver: &Receiver, event: &str, alert: &str) -> Value {
    eventually_ok(Duration::from_secs(90), async || {
        let told = receiver.told();
        let found = told.iter().find(|one| one["event"] == event && one["alert"] == alert);
        found.cloned().ok_or(format!("{told:?}"))
    })
    .await
}

/// A database is away and comes back: the alert fires and resolves, each once, though the receiver
/// does not take the first tries. The stream goes on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn an_outage_is_posted_and_so_is_its_end() {
    let receiver =
        Receiver::start(&path(), &["503 Service Unavailable", "500 Internal Server Error"]);
    let nats = Nats::start().await;
    let mut server = Postgres::start().await;
    let (_, url) = server.database().await;
    let mut shop = Shop::new(62, ShopOptions::default());
    let creds = nats.server_creds("w1", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    let eds = eds.env("EDS_WEBHOOK", &receiver.url);
    eds.begin();
    publish(&nats, &mut shop, 100).await;
    let running = eds.start(&["--webhook-after", "2s"]);
    eventually("it has caught up", Duration::from_secs(60), async || {
        nats.consumer("eds-w1").await.2 >= 100
    })
    .await;
    if let Some(mut gone) = server.server.take() {
        gone.stop();
    }
    publish(&nats, &mut shop, 20).await;
    let fired = until(&receiver, "fired", "EdsNotStreaming").await;
    assert_eq!((&fired["severity"], &fired["version"]), (&"critical".into(), &1.into()));
    assert!(fired["reason"].as_str().unwrap_or_default().contains("PostgreSQL"), "{fired}");
    assert_eq!(fired["eds"]["consumer"], "eds-w1", "{fired}");
    server.run(&[]).await;
    let resolved = until(&receiver, "resolved", "EdsNotStreaming").await;
    assert_eq!((&resolved["key"], &resolved["since"]), (&fired["key"], &fired["since"]));
    eventually("it has caught up", Duration::from_secs(60), async || {
        nats.consumer("eds-w1").await.2 >= 120
    })
    .await;
    let of_outage = receiver.told().into_iter().filter(|one| one["alert"] == "EdsNotStreaming");
    assert_eq!(of_outage.count(), 2, "{:?}", receiver.told());
    let log = running.log();
    assert!(
        log.contains("alerts are posted to http://127.0.0.1:") && !log.contains(SECRET),
        "{log}"
    );
    assert!(running.stop().status.success());
}

/// A server's worker fails again and again; nobody listens at the webhook, and the server does not
/// care. What the configuration names is not shown either.
#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_away_is_in_nobodys_way() {
    let site = Site::new("hook", 88).await;
    site.enroll().await;
    let config = site.data_dir().join("config.toml");
    let text = std::fs::read_to_string(&config).unwrap_or_else(|e| panic!("{e}"));
    let text = format!("webhook = \"http://127.0.0.1:1/{SECRET}\"\n{text}");
    std::fs::write(&config, text).unwrap_or_else(|e| panic!("{e}"));
    let shown = site.run(&["config", "show"]).await;
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(shown.contains("http://127.0.0.1:1/****") && !shown.contains(SECRET), "{shown}");
    let server = site.server(&["--url", &site.sqlite(), "--webhook-after", "0s"]);
    site.until_log("streaming eds-hook", 1).await;
    crate::services::send(Site::worker(&server), "KILL");
    site.until_log("alert EdsNotStreaming fires", 1).await;
    site.until_log("streaming eds-hook", 2).await;
    site.publish(30).await;
    site.until_equal().await;
    let wrong = site.run(&["server", "--webhook", &format!("{SECRET}://x"), "--port", "0"]).await;
    let said = String::from_utf8_lossy(&wrong.stderr).into_owned();
    assert!(!wrong.status.success() && said.contains("the webhook is not a URL"), "{said}");
    assert!(server.stop().status.success());
    assert!(!site.log().contains(SECRET) && !said.contains(SECRET));
}
