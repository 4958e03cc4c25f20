//! A script that was written for the Go program runs unchanged.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_nats::jetstream;
use eds::sandbox::check;
use eds::sandbox::hq::SandboxHq;
use eds::sandbox::shop::{Shop, ShopOptions};
use tempfile::TempDir;

use crate::services::eds::{Running, binary};
use crate::services::hq::said;
use crate::services::{Server, eventually, free_port, installed, plain, send};

/// A NATS server without credentials, and its stream.
struct OpenNats {
    url: String,
    js: jetstream::Context,
    _server: Server,
}

impl OpenNats {
    async fn start(dir: &Path) -> OpenNats {
        let port = free_port().to_string();
        let storage = dir.join("js").display().to_string();
        let words = ["-a", "127.0.0.1", "-p", &port, "-js", "-sd", &storage].map(str::to_owned);
        let program = installed("nats-server").display().to_string();
        let server = Server::start(plain(), &program, &words, &dir.join("nats.log"), "TERM");
        let url = format!("nats://localhost:{port}");
        eventually("nats-server answers", Duration::from_secs(20), async || {
            async_nats::connect(&url).await.is_ok()
        })
        .await;
        let client = async_nats::connect(&url).await.unwrap_or_else(|e| panic!("{e}"));
        let js = jetstream::new(client);
        let stream = jetstream::stream::Config {
            name: "dbchange".into(),
            subjects: vec!["dbchange.>".into()],
            ..Default::default()
        };
        js.create_stream(stream).await.unwrap_or_else(|e| panic!("{e}"));
        OpenNats { url, js, _server: server }
    }

    async fn publish(&self, shop: &mut Shop, events: u64) {
        for _ in 0..events {
            let event = shop.next_event();
            self.js
                .publish(event.subject, event.payload.into())
                .await
                .unwrap_or_else(|e| panic!("{e}"))
                .await
                .unwrap_or_else(|e| panic!("{e}"));
        }
    }
}

/// `eds` with these words, as the script calls it in `dir`.
fn command(dir: &Path, words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    for name in ["EDS_URL", "SM_APIKEY", "PORT"] {
        command.env_remove(name);
    }
    command.args(words).stdin(Stdio::null()).current_dir(dir);
    command
}

/// Runs `eds` to its end, which has to be a good one.
async fn run(dir: &Path, words: &[&str]) {
    let mut command = command(dir, words);
    // HQ lives in this process: its runtime must go on.
    let output = tokio::task::spawn_blocking(move || command.output())
        .await
        .unwrap_or_else(|e| panic!("{e}"))
        .unwrap_or_else(|e| panic!("{e}"));
    assert!(output.status.success(), "{words:?}\n{}", said(&output));
}

/// Enrol, import the schemas, serve from a NATS server without credentials, end by SIGINT.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_script_runs_unchanged() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let dir = dir.path();
    let nats = OpenNats::start(dir).await;
    let mut shop = Shop::new(79, ShopOptions { rows: 100, repeats: 10 });
    shop.begin_now();
    let known = Arc::new(Mutex::new(shop.clone()));
    let hq = SandboxHq::start(0, known, dir.join("exports"), 500, None)
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    hq.add_code("L777", "script");
    let (data, database) =
        (dir.join("data").display().to_string(), dir.join("shop.db").display().to_string());
    let url = format!("sqlite://{database}");
    let common = ["--api-url", hq.url(), "-v", "-d", &data];

    run(dir, &[&["enroll"][..], &common, &["L777"]].concat()).await;
    let key = hq.tokens().pop().unwrap_or_default();
    let words = ["--no-confirm", "--schema-only", "--api-key", &key, "--url", &url];
    run(dir, &[&["import"][..], &common, &words, &["--log-label", "import"]].concat()).await;

    let port = free_port();
    let own_port = port.to_string();
    let from_nats = ["--url", &url, "--server", &nats.url, "--port", &own_port];
    let latency = ["--minPendingLatency", "1ms", "--maxPendingLatency", "1ms", "--no-restart"];
    let words = [&["server"][..], &common, &from_nats, &latency].concat();
    let server = Running::start(command(dir, &words), dir.join("server.log"));
    server.until_log("streaming eds-dev into sqlite", Duration::from_secs(30)).await;
    // What changes after the import is newer than it.
    shop.begin_now();
    nats.publish(&mut shop, 200).await;
    eventually("the rows are there", Duration::from_secs(30), async || {
        check::sqlite(&shop, &database).is_ok_and(|reports| reports.iter().all(|r| r.is_equal()))
    })
    .await;
    eventually("it is healthy", Duration::from_secs(30), async || {
        health_of(port).await.starts_with("HTTP/1.1 200")
    })
    .await;
    send(server.pid(), "INT");
    let ended = server.wait(Duration::from_secs(30));
    assert_eq!(ended.status.code(), Some(0), "{}", ended.log);
}

/// `GET /` of the health endpoint.
async fn health_of(port: u16) -> String {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream =
        tokio::net::TcpStream::connect(("127.0.0.1", port)).await.unwrap_or_else(|e| panic!("{e}"));
    stream
        .write_all(b"GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let mut text = String::new();
    stream.read_to_string(&mut text).await.unwrap_or_else(|e| panic!("{e}"));
    text
}
