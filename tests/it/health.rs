//! What a running EDS says of itself over HTTP.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::services::eds::Eds;
use crate::services::eventually;
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::scene::{COMPANIES, publish};

/// Status line and body.
async fn get(address: &str, path: &str) -> (String, String) {
    let mut stream =
        tokio::net::TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: eds\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap_or_else(|e| panic!("{e}"));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap_or_else(|e| panic!("{e}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_status_tell_how_it_goes() {
    let nats = Nats::start().await;
    let mut server = Postgres::start().await;
    let (_, url) = server.database().await;
    let mut shop = Shop::new(51, ShopOptions::default());
    let creds = nats.server_creds("h1", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 500).await;
    let running = eds.start(&[]);
    eventually("it has caught up", Duration::from_secs(30), async || {
        nats.consumer("eds-h1").await.2 >= 500
    })
    .await;
    let log = running.log();
    let address = log
        .split("http://")
        .nth(1)
        .and_then(|rest| rest.split('/').next())
        .unwrap_or_else(|| panic!("no address in {log}"));
    assert_eq!(get(address, "/").await, ("HTTP/1.1 200 OK".to_owned(), "OK".to_owned()));
    let (_, metrics) = get(address, "/metrics").await;
    for line in [
        "eds_total_events 500",
        "eds_pending_events 0",
        "eds_flush_duration_seconds_bucket{le=\"0.005\"}",
        "eds_flush_count_count",
        "eds_processing_duration_seconds_bucket{le=\"3600\"}",
    ] {
        assert!(metrics.contains(line), "{line} is not in\n{metrics}");
    }
    let (_, status) = get(address, "/status.json").await;
    let status: serde_json::Value =
        serde_json::from_str(&status).unwrap_or_else(|e| panic!("{e}: {status}"));
    assert_eq!(
        (status["state"]["name"].as_str(), status["lag_events"].as_u64(), status["done"].as_u64()),
        (Some("caught_up"), Some(0), Some(500))
    );
    assert!(status["tables"]["order"]["upserts"].as_u64() > Some(0), "{status}");
    // The database goes away: health says so, and why, and comes back by itself.
    if let Some(mut gone) = server.server.take() {
        gone.stop();
    }
    publish(&nats, &mut shop, 10).await;
    eventually("health says that the database is away", Duration::from_secs(30), async || {
        let (head, body) = get(address, "/").await;
        head.contains("503") && body.contains("PostgreSQL")
    })
    .await;
    server.run(&[]).await;
    eventually("health is back", Duration::from_secs(60), async || {
        get(address, "/").await.0.contains("200")
    })
    .await;
    assert!(running.stop().status.success());
}
