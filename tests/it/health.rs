//! What a running EDS says of itself over HTTP.

use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::services::eds::{Eds, Running};
use crate::services::eventually;
use crate::services::nats::Nats;
use crate::services::postgres::Postgres;
use crate::services::proxy::Proxy;
use crate::services::scene::{COMPANIES, publish};

/// Where `log` says that the status is.
pub fn address(log: &str) -> Option<String> {
    let rest = log.split("status at http://").last().filter(|_| log.contains("status at"))?;
    rest.split('/').next().map(str::to_owned)
}

/// An EDS that streams a shop's changes into PostgreSQL, and is watched over HTTP.
pub struct WatchedStream {
    pub nats: Nats,
    pub server: Postgres,
    pub shop: Shop,
    pub running: Running,
    /// Where it tells its status.
    pub address: String,
    /// Its directories live as long.
    pub eds: Eds,
}

impl WatchedStream {
    /// It has applied so many changes.
    pub async fn start(name: &str, seed: u64, changes: u64) -> WatchedStream {
        let (nats, server) = (Nats::start().await, Postgres::start().await);
        let (_, url) = server.database().await;
        let mut shop = Shop::new(seed, ShopOptions::default());
        let creds = nats.server_creds(name, COMPANIES, None);
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        eds.begin();
        publish(&nats, &mut shop, changes).await;
        let running = eds.start(&[]);
        eventually("it has caught up", Duration::from_secs(60), async || {
            nats.consumer(&format!("eds-{name}")).await.2 >= changes
        })
        .await;
        let address = address(&running.log()).unwrap_or_else(|| panic!("{}", running.log()));
        WatchedStream { nats, server, shop, running, address, eds }
    }
}

/// Status line and body.
pub async fn get(address: &str, path: &str) -> (String, String) {
    let mut stream = TcpStream::connect(address).await.unwrap_or_else(|e| panic!("{e}"));
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap_or_else(|e| panic!("{e}"));
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap_or_else(|e| panic!("{e}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    (head.lines().next().unwrap_or_default().to_owned(), body.to_owned())
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_status_tell_how_it_goes() {
    let WatchedStream { nats, mut server, mut shop, running, address, eds: _eds } =
        WatchedStream::start("h1", 51, 500).await;
    let address = address.as_str();
    let ok = ("HTTP/1.1 200 OK".to_owned(), "OK".to_owned());
    for path in ["/", "/readyz", "/livez", "/health", "/healthz"] {
        assert_eq!(get(address, path).await, ok, "{path}");
    }
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
    assert!(get(address, "/readyz").await.0.contains("503"));
    assert_eq!(get(address, "/livez").await, ok, "an outage is not cured by a new start");
    server.run(&[]).await;
    eventually("health is back", Duration::from_secs(60), async || {
        get(address, "/").await.0.contains("200")
    })
    .await;
    assert!(running.stop().status.success());
}

/// A destination that takes a flush and never answers it: whoever watches EDS starts it anew.
#[tokio::test(flavor = "multi_thread")]
async fn a_flush_that_hangs_fails_the_liveness_probe() {
    let nats = Nats::start().await;
    let server = Postgres::start().await;
    let (_, url) = server.database().await;
    let wire = Proxy::start(server.port).await;
    let url = url.replace(&format!(":{}/", server.port), &format!(":{}/", wire.port));
    let mut shop = Shop::new(52, ShopOptions::default());
    let creds = nats.server_creds("h2", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    publish(&nats, &mut shop, 100).await;
    let running = eds.start(&["--flush-hang-max", "1s"]);
    let caught_up = async || nats.consumer("eds-h2").await.2 >= 100;
    eventually("it has caught up", Duration::from_secs(30), caught_up).await;
    let address = address(&running.log()).unwrap_or_else(|| panic!("{}", running.log()));
    let live = async || get(&address, "/livez").await;
    assert!(live().await.0.contains("200"));
    wire.stall(true);
    publish(&nats, &mut shop, 100).await;
    eventually("the flush hangs", Duration::from_secs(30), async || {
        let (head, body) = live().await;
        head.contains("503") && body.contains("a flush has hung")
    })
    .await;
    wire.stall(false);
    eventually("it goes on", Duration::from_secs(60), async || {
        nats.consumer("eds-h2").await.2 >= 200 && live().await.0.contains("200")
    })
    .await;
    assert!(running.stop().status.success());
}

/// The most files that this process may have open.
fn files_max() -> usize {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits.lines().find(|line| line.starts_with("Max open files"));
    line.and_then(|line| line.split_whitespace().nth(3)?.parse().ok()).unwrap_or(1024)
}

/// Ten thousand connections that say nothing, or half a header, or too much, and never end: EDS has
/// no more than a few of them, goes on streaming, and answers who asks.
#[tokio::test(flavor = "multi_thread")]
async fn half_open_connections_keep_nobody_from_anything() {
    let nats = Nats::start().await;
    let server = Postgres::start().await;
    let (_, url) = server.database().await;
    let mut shop = Shop::new(53, ShopOptions::default());
    let creds = nats.server_creds("h3", COMPANIES, None);
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    let running = eds.start(&[]);
    eventually("it listens", Duration::from_secs(30), async || address(&running.log()).is_some())
        .await;
    let address = address(&running.log()).unwrap_or_default();
    let mut open = Vec::new();
    let most = 10_000.min(files_max().saturating_sub(2_000) / 2);
    let mut answered = 0;
    while open.len() < most {
        let mut connection =
            TcpStream::connect(&address).await.unwrap_or_else(|e| panic!("{}: {e}", open.len()));
        let said: &[u8] = match open.len() % 3 {
            0 => b"",
            1 => b"GET / HTTP/1.1\r\nHost: localhost\r\nX-Half: ",
            _ => &[b'x'; 20_000],
        };
        // It may be closed already.
        let _ = connection.write_all(said).await;
        open.push(connection);
        if open.len() % 1_000 == 0 {
            publish(&nats, &mut shop, 10).await;
            answered += u64::from(get(&address, "/livez").await.0.contains("200"));
        }
    }
    assert_eq!(answered, most as u64 / 1_000, "every probe is answered");
    let files = std::fs::read_dir(format!("/proc/{}/fd", running.pid()));
    let files = files.map_or(0, Iterator::count);
    assert!((1..1_000).contains(&files), "{files} files are open");
    let published = answered * 10;
    eventually("it streams meanwhile", Duration::from_secs(60), async || {
        nats.consumer("eds-h3").await.2 >= published && get(&address, "/").await.0.contains("200")
    })
    .await;
    drop(open);
    assert!(running.stop().status.success());
}
