//! Single statements of what the Go program does that no other test asks for.

use std::io::Write;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::json;

use crate::health::{address, get};
use crate::services::bucket::{BucketHabits, WildBucket};
use crate::services::eds::{Eds, Running, replay, upsert};
use crate::services::eventually;
use crate::services::hq::said;
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

/// A stream of the shop into a SQLite file, which has caught up with what was published.
struct Flowing {
    nats: Nats,
    eds: Eds,
    running: Running,
    file: std::path::PathBuf,
    shop: Shop,
    _dir: tempfile::TempDir,
}

impl Flowing {
    async fn new(name: &str, environment: &[(&str, &str)]) -> Flowing {
        let (nats, shop) = (Nats::start().await, Shop::new(77, ShopOptions::default()));
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let file = dir.path().join("shop.db");
        let creds = nats.server_creds(name, COMPANIES, None);
        let url = format!("sqlite://{}", file.display());
        let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
        let eds = environment.iter().fold(eds, |eds, (key, value)| eds.env(key, value));
        eds.begin();
        let running = eds.start(&[]);
        running.until_streaming().await;
        Flowing { nats, eds, running, file, shop, _dir: dir }
    }

    fn rows_of(&self, table: &str) -> i64 {
        let db = rusqlite::Connection::open(&self.file).unwrap_or_else(|e| panic!("{e}"));
        let sql = format!("SELECT count(*) FROM \"{table}\"");
        db.query_row(&sql, [], |row| row.get(0)).unwrap_or_default()
    }
}

/// A message may be packed.
#[tokio::test(flavor = "multi_thread")]
async fn events_in_gzip_are_read() {
    let mut flowing = Flowing::new("packed", &[]).await;
    let before = flowing.rows_of("customer");
    let made = flowing.shop.insert_into("customer");
    let event = made.unwrap_or_else(|| panic!("the shop has customers"));
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    gzip.write_all(event.payload.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let payload = gzip.finish().unwrap_or_else(|e| panic!("{e}"));
    let mut headers = async_nats::HeaderMap::new();
    headers.insert("content-encoding", "gzip/json");
    let sent = flowing.nats.admin().await;
    let sent = sent.publish_with_headers(event.subject, headers, payload.into()).await;
    sent.unwrap_or_else(|e| panic!("{e}")).await.unwrap_or_else(|e| panic!("{e}"));
    eventually("the row is there", Duration::from_secs(30), async || {
        flowing.rows_of("customer") == before + 1
    })
    .await;
    assert!(flowing.eds.dead_letters().is_empty());
    assert!(flowing.running.stop().status.success());
}

/// Dashboards made for the Go program read the same buckets.
#[tokio::test(flavor = "multi_thread")]
async fn metrics_have_the_buckets_of_the_contract() {
    let flowing = Flowing::new("buckets", &[]).await;
    let place = address(&flowing.running.log()).unwrap_or_else(|| panic!("no address"));
    let (_, metrics) = get(&place, "/metrics").await;
    for (name, expected) in [
        ("eds_flush_duration_seconds", "0.005 0.01 0.025 0.05 0.1 0.25 0.5 1 2.5 5 10 +Inf"),
        ("eds_flush_count", "1 10 25 50 100 250 500 1000 2500 5000 10000 +Inf"),
        ("eds_processing_duration_seconds", "1 2 3 5 10 60 300 600 1800 3600 +Inf"),
    ] {
        let start = format!("{name}_bucket{{le=\"");
        let found = metrics.lines().filter_map(|line| line.strip_prefix(&start)?.split('"').next());
        assert_eq!(found.collect::<Vec<_>>().join(" "), expected, "{name}");
    }
    for kind in ["# TYPE eds_pending_events gauge", "# TYPE eds_total_events counter"] {
        assert!(metrics.contains(kind), "{kind}");
    }
    assert!(flowing.running.stop().status.success());
}

/// `PORT` says where the status is, unless a flag does.
#[tokio::test(flavor = "multi_thread")]
async fn the_port_may_come_from_the_environment() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let port = taken.local_addr().unwrap_or_else(|e| panic!("{e}")).port().to_string();
    let words = |more: &[&str]| {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let mut command = std::process::Command::new(crate::services::eds::binary());
        command.current_dir(dir.path()).env("PORT", &port).env("EDS_URL", "file://./out");
        command.args([
            "stream",
            "--server",
            "nats://127.0.0.1:1",
            "--api-url",
            "http://127.0.0.1:1",
        ]);
        said(&command.args(more).output().unwrap_or_else(|e| panic!("{e}")))
    };
    let said = words(&[]);
    assert!(said.contains(&format!("127.0.0.1:{port}")) && said.contains("in use"), "{said}");
    let said = words(&["--port", "0"]);
    assert!(said.contains("NATS at nats://127.0.0.1:1 cannot be reached"), "{said}");
}

/// Who reads the objects learns from each that it is JSON.
#[tokio::test(flavor = "multi_thread")]
async fn objects_say_that_they_are_json() {
    let bucket = WildBucket::start(BucketHabits::default()).await;
    let url = bucket.url("");
    let event = upsert("order", "1", json!({"id": "1"}));
    let output = tokio::task::spawn_blocking(move || replay(&url, &json!({}), &[event], &[])).await;
    let output = output.unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{}", said(&output));
    let asked = bucket.asked();
    let last = asked.iter().rfind(|asked| asked.method == "PUT");
    assert!(last.is_some_and(|asked| asked.content_type == "application/json"), "{asked:?}");
}

/// An image is replaced from outside, whatever HQ orders.
#[tokio::test(flavor = "multi_thread")]
async fn a_container_refuses_updates() {
    let site = crate::services::site::Site::new("contained", 78).await;
    site.enroll().await;
    let mut command = site.command_of(
        std::path::Path::new(crate::services::eds::binary()),
        &["server", "--port", "0", "--server", &site.nats.url(), "--url", &site.sqlite()],
    );
    command.env("KUBERNETES_SERVICE_HOST", "10.0.0.1");
    let server = Running::start(command, site.dir.path().join("server.log"));
    let session = site.session(0).await;
    let answer = site.order(&session, "upgrade", json!({"version": "9.9.9"})).await;
    let why = answer["message"].as_str().unwrap_or_default();
    assert!(answer["success"] == false && why.contains("this is a container"), "{answer}");
    assert!(server.stop().status.success());
}
