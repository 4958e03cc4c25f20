//! The durable consumer, as another client reads it from the server.

use std::io::{BufRead, Write};
use std::time::Duration;

use async_nats::jetstream::consumer::{AckPolicy, Config};
use eds::sandbox::shop::{Shop, ShopOptions};
use futures::StreamExt;

use crate::services::eds::{Eds, Running, binary};
use crate::services::nats::Nats;

/// The consumer of server `id` for these companies, as EDS makes it.
async fn made(nats: &Nats, id: &str, companies: &[&str], args: &[&str]) -> Config {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let url = format!("sqlite://{}", dir.path().join("x.db").display());
    let creds = nats.server_creds(id, companies, None);
    let schemas = Shop::new(1, ShopOptions::default()).schema_map();
    Eds::stream(nats, &creds, &url, &schemas).with(args).begin();
    let stream = nats.admin().await.get_stream("dbchange").await.unwrap_or_else(|e| panic!("{e}"));
    let all: Vec<_> = stream.consumers().collect().await;
    let own = format!("eds-{id}");
    let found = all.into_iter().flatten().find(|info| info.name.starts_with(&own));
    found.map(|info| info.config).unwrap_or_default()
}

/// Its name, its filters and its limits; one company's filter is the one field that servers before
/// 2.10 know.
#[tokio::test(flavor = "multi_thread")]
async fn the_consumer_is_configured_as_the_contract_says() {
    let nats = Nats::start().await;
    nats.allow_consumers(2).await;
    let one = made(&nats, "alone", &["c1"], &[]).await;
    assert_eq!(one.durable_name.as_deref(), Some("eds-alone"));
    assert_eq!(one.filter_subject, "dbchange.*.*.c1.*.PUBLIC.>");
    assert!(one.filter_subjects.is_empty());
    let words = ["--consumer-suffix", "two", "--ack", "explicit", "--maxAckPending", "100"];
    let two = made(&nats, "both", &["c1", "c2"], &words).await;
    assert_eq!(two.durable_name.as_deref(), Some("eds-both-two"));
    assert_eq!(two.filter_subject, "");
    assert_eq!(two.filter_subjects, ["dbchange.*.*.c1.*.PUBLIC.>", "dbchange.*.*.c2.*.PUBLIC.>"]);
    for config in [&one, &two] {
        assert_eq!(config.ack_wait, Duration::from_secs(300));
        assert_eq!(config.inactive_threshold, Duration::from_secs(3 * 24 * 3600));
        assert_eq!(config.max_waiting, 1);
        assert_eq!(config.max_deliver, -1, "nothing is lost after some tries");
    }
    assert_eq!((one.ack_policy, one.max_ack_pending), (AckPolicy::All, 25_000));
    assert_eq!((two.ack_policy, two.max_ack_pending), (AckPolicy::Explicit, 100));
}

/// Whom NATS sees: a connection with the server's name. Without credentials that is `dev`.
#[test]
fn the_connection_has_the_name_of_the_server() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let port = listener.local_addr().map_or(0, |address| address.port());
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let mut command = std::process::Command::new(binary());
    let server = format!("nats://localhost:{port}");
    command.current_dir(dir.path()).env("EDS_URL", "file://out");
    command.args(["stream", "--port", "0", "--server", &server]);
    let running = Running::start(command, dir.path().join("log"));
    let (mut stream, _) = listener.accept().unwrap_or_else(|e| panic!("{e}"));
    let info = "INFO {\"server_id\":\"x\",\"server_name\":\"x\",\"version\":\"2.12.2\",\"go\":\"\",\"host\":\"x\",\"port\":1,\"headers\":true,\"max_payload\":1048576,\"proto\":1}\r\n";
    stream.write_all(info.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let mut line = String::new();
    std::io::BufReader::new(stream).read_line(&mut line).unwrap_or_else(|e| panic!("{e}"));
    let said = line.strip_prefix("CONNECT ").unwrap_or_default();
    let said: serde_json::Value =
        serde_json::from_str(said).unwrap_or_else(|e| panic!("{e}: {line}"));
    assert_eq!(said["name"], "eds-dev");
    running.kill();
}
