//! A script that was written for the Go program runs unchanged.

use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use eds::sandbox::check;
use eds::sandbox::hq::SandboxHq;
use eds::sandbox::shop::{Shop, ShopOptions};

use crate::services::eds::{Running, binary};
use crate::services::{Server, eventually, free_port, installed, plain, send};

/// Enrol, import the schemas, serve from a NATS server without credentials, end by SIGINT.
#[tokio::test(flavor = "multi_thread")]
async fn an_old_script_runs_unchanged() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (port, own_port) = (free_port(), free_port());
    let words = [
        "-a",
        "127.0.0.1",
        "-p",
        &port.to_string(),
        "-js",
        "-sd",
        &dir.path().join("js").display().to_string(),
    ]
    .map(str::to_owned);
    let _nats = Server::start(
        plain(),
        &installed("nats-server").display().to_string(),
        &words,
        &dir.path().join("nats.log"),
        "TERM",
    );
    let nats_url = format!("nats://localhost:{port}");
    eventually("nats-server answers", Duration::from_secs(20), async || {
        async_nats::connect(&nats_url).await.is_ok()
    })
    .await;
    let js = async_nats::jetstream::new(
        async_nats::connect(&nats_url).await.unwrap_or_else(|e| panic!("{e}")),
    );
    let stream = async_nats::jetstream::stream::Config {
        name: "dbchange".into(),
        subjects: vec!["dbchange.>".into()],
        ..Default::default()
    };
    js.create_stream(stream).await.unwrap_or_else(|e| panic!("{e}"));

    let mut shop = Shop::new(79, ShopOptions { rows: 100, repeats: 10 });
    shop.begin_now();
    let hq = SandboxHq::start(
        0,
        Arc::new(Mutex::new(shop.clone())),
        dir.path().join("exports"),
        500,
        None,
    )
    .await
    .unwrap_or_else(|e| panic!("{e}"));
    hq.code("L777", "script");
    let (data, url) = (
        dir.path().join("data").display().to_string(),
        format!("sqlite://{}", dir.path().join("shop.db").display()),
    );
    let eds = |words: &[&str]| {
        let mut command = Command::new(binary());
        command
            .args(words)
            .env_remove("EDS_URL")
            .env_remove("SM_APIKEY")
            .env_remove("PORT")
            .stdin(Stdio::null())
            .current_dir(dir.path());
        command
    };
    let run = async |words: &[&str]| {
        let mut command = eds(words);
        let output = tokio::task::spawn_blocking(move || command.output())
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .unwrap_or_else(|e| panic!("{e}"));
        assert!(output.status.success(), "{words:?}\n{}", crate::services::hq::said(&output));
    };
    run(&["enroll", "--api-url", hq.url(), "-v", "-d", &data, "L777"]).await;
    let key = hq.tokens().pop().unwrap_or_default();
    run(&[
        "import",
        "--api-url",
        hq.url(),
        "-v",
        "-d",
        &data,
        "--no-confirm",
        "--schema-only",
        "--api-key",
        &key,
        "--url",
        &url,
        "--log-label",
        "import",
    ])
    .await;
    let server = [
        "server",
        "--api-url",
        hq.url(),
        "--url",
        &url,
        "-v",
        "-d",
        &data,
        "--server",
        &nats_url,
        "--port",
        &own_port.to_string(),
        "--minPendingLatency",
        "1ms",
        "--maxPendingLatency",
        "1ms",
        "--no-restart",
    ];
    let log = dir.path().join("server.log");
    let server = Running::start(eds(&server), log);
    eventually("it streams", Duration::from_secs(30), async || {
        server.log().contains("streaming eds-dev into sqlite")
    })
    .await;
    // What changes after the import is newer than it.
    shop.begin_now();
    for _ in 0..200 {
        let event = shop.next_event();
        js.publish(event.subject, event.payload.into())
            .await
            .unwrap_or_else(|e| panic!("{e}"))
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    }
    let path = dir.path().join("shop.db").display().to_string();
    eventually("the rows are there", Duration::from_secs(30), async || {
        check::sqlite(&shop, &path).is_ok_and(|reports| reports.iter().all(|r| r.is_equal()))
    })
    .await;
    let health = health_of(own_port).await;
    assert!(health.starts_with("HTTP/1.1 200"), "{health}");
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
