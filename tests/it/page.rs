//! The status page: its files, the events that keep it live, and a browser that shows it.

use std::io::{BufRead, BufReader, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use crate::health::{WatchedStream, address, get};
use crate::services::eds::binary;
use crate::services::scene::publish;
use crate::services::site::Site;
use crate::services::{eventually, eventually_ok};

/// A page that is open, as its browser hears it.
struct OpenPage(BufReader<TcpStream>);

impl OpenPage {
    fn open(address: &str) -> OpenPage {
        let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{e}"));
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap_or_else(|e| panic!("{e}"));
        stream
            .write_all(b"GET /ui/events HTTP/1.1\r\nHost: localhost\r\n\r\n")
            .unwrap_or_else(|e| panic!("{e}"));
        OpenPage(BufReader::new(stream))
    }

    /// The next event; `None` once the connection has ended.
    fn next(&mut self) -> Option<Value> {
        loop {
            let mut line = String::new();
            if self.0.read_line(&mut line).unwrap_or_else(|e| panic!("{e}")) == 0 {
                return None;
            }
            if let Some(data) = line.strip_prefix("data: ") {
                return Some(serde_json::from_str(data).unwrap_or_else(|e| panic!("{e}: {data}")));
            }
        }
    }

    /// The first event that is `wanted`.
    fn until(&mut self, wanted: impl Fn(&Value) -> bool) -> Value {
        let (deadline, mut last) = (Instant::now() + Duration::from_secs(90), Value::Null);
        while Instant::now() < deadline {
            last = self.next().unwrap_or_else(|| panic!("the page's connection has ended"));
            if wanted(&last) {
                return last;
            }
        }
        panic!("{last}")
    }
}

fn problem(status: &Value) -> &str {
    status["problems"][0]["title"].as_str().unwrap_or_default()
}

/// The page is told of changes, of an outage and of its end, for longer than other connections
/// last.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_hears_of_changes_and_of_an_outage_and_its_end() {
    let WatchedStream { nats, mut server, mut shop, running, address, eds: _eds } =
        WatchedStream::start("u1", 71, 200).await;
    let opened = Instant::now();
    let mut page = OpenPage::open(&address);
    let first = page.until(|status| status["state"]["name"] == "caught_up");
    assert_eq!((problem(&first), &first["headline"]), ("", &json!("All changes are delivered")));
    assert!(first["tables"]["order"]["upserts"].as_u64() > Some(0), "{first}");
    assert!(!first["destination"].as_str().unwrap_or_default().contains("secret"), "{first}");
    let quiet = page.until(|_| true);
    assert_eq!(quiet["tables"], json!({}), "what has not changed is not told again");
    publish(&nats, &mut shop, 50).await;
    page.until(|status| status["done"] == 250 && status["tables"] != json!({}));

    if let Some(mut gone) = server.server.take() {
        gone.stop();
    }
    publish(&nats, &mut shop, 10).await;
    let broken = page.until(|status| problem(status) == "Changes are not delivered");
    assert!(broken["problems"][0]["text"].as_str().unwrap_or_default().contains("PostgreSQL"));
    server.run(&[]).await;
    page.until(|status| status["done"] == 260 && problem(status).is_empty());
    let mut told_points = 0;
    while opened.elapsed() < Duration::from_secs(13) {
        told_points += page.until(|_| true)["points"].as_array().map_or(0, Vec::len);
    }
    assert!(told_points > 0);
    // What a terminal shows is the same.
    let port = address.rsplit(':').next().unwrap_or_default();
    let top = std::process::Command::new(binary()).args(["top", "--port", port]).output();
    let top = top.unwrap_or_else(|e| panic!("{e}"));
    let text = String::from_utf8_lossy(&top.stdout).into_owned();
    assert!(text.starts_with("All changes are delivered\neds-u1 into postgres://"), "{text}");
    assert!(text.contains("260 delivered") && text.contains("\norder "), "{text}");
    assert!(running.stop().status.success());
}

/// A worker is killed: the page stays, says so, and counts on.
#[tokio::test(flavor = "multi_thread")]
async fn an_open_page_survives_a_worker() {
    let site = Site::new("page", 83).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("status at http://", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    site.until_log("streaming eds-page", 1).await;
    site.publish(30).await;
    site.until_equal().await;
    let mut page = OpenPage::open(&address);
    let before = page.until(|status| status["done"].as_u64() >= Some(30));
    assert!(before["server"]["session_renewal_unix"].as_u64() > before["at_unix"].as_u64());
    crate::services::send(Site::worker(&server), "KILL");
    let killed = page.until(|status| status["server"]["workers"]["failed"] == 1);
    assert_eq!(problem(&killed), "Changes are not delivered", "{killed}");
    site.publish(20).await;
    let after = page.until(|status| status["done"].as_u64() >= Some(50));
    assert_eq!(after["server"]["workers"], json!({"started": 2, "failed": 1}));
    page.until(|status| problem(status).is_empty());
    let (_, metrics) = get(&address, "/metrics").await;
    for line in ["eds_worker_restarts_total 1", "eds_worker_failures_total 1"] {
        assert!(metrics.lines().any(|found| found == line), "{line} is not in\n{metrics}");
    }
    let total = metrics.lines().find_map(|line| line.strip_prefix("eds_total_events "));
    assert!(total.and_then(|n| n.parse::<u64>().ok()) >= Some(50), "{total:?}");
    assert!(server.stop().status.success());
}

/// More pages than may be open at a time: the others are told so, and probes are answered.
#[tokio::test(flavor = "multi_thread")]
async fn pages_are_bounded_and_say_where_they_may_load_from() {
    let site = Site::new("pages", 84).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("status at http://", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    for path in ["/ui", "/ui/style.css", "/ui/script.js"] {
        let (head, body) = get(&address, path).await;
        assert!(head.contains("200") && !body.is_empty(), "{path}: {head}");
    }
    let whole = tokio::task::spawn_blocking({
        let address = address.clone();
        move || {
            let mut stream = TcpStream::connect(&address).unwrap_or_else(|e| panic!("{e}"));
            let asked = stream.write_all(b"GET /ui HTTP/1.0\r\nHost: localhost\r\n\r\n");
            asked.unwrap_or_else(|e| panic!("{e}"));
            let mut head = String::new();
            let mut lines = BufReader::new(stream).lines();
            while let Some(Ok(line)) =
                lines.next().filter(|l| l.as_ref().is_ok_and(|l| !l.is_empty()))
            {
                head += &line.to_lowercase();
                head.push('\n');
            }
            head
        }
    });
    let head = whole.await.unwrap_or_else(|e| panic!("{e}"));
    for part in ["content-security-policy: default-src 'none'", "x-content-type-options: nosniff"] {
        assert!(head.contains(part), "{part} is not in\n{head}");
    }
    let mut pages: Vec<OpenPage> = (0..32).map(|_| OpenPage::open(&address)).collect();
    pages.iter_mut().for_each(|page| assert!(page.next().is_some()));
    eventually_ok(Duration::from_secs(60), async || {
        let (head, _) = get(&address, "/ui/events").await;
        head.contains("503").then_some(()).ok_or(head)
    })
    .await;
    assert!(get(&address, "/livez").await.0.contains("200"));
    drop(pages);
    eventually("there is room again", Duration::from_secs(30), async || {
        let address = address.clone();
        tokio::task::spawn_blocking(move || OpenPage::open(&address).next().is_some())
            .await
            .unwrap_or(false)
    })
    .await;
    assert!(server.stop().status.success());
}

/// A page of the internet that gives itself this machine's address is told nothing; probes and
/// metrics answer whoever asks, as do ports that were opened to a network.
#[tokio::test(flavor = "multi_thread")]
async fn foreign_names_are_refused_where_only_this_machine_listens() {
    let site = Site::new("names", 85).await;
    site.enroll().await;
    for (bind, refused) in [("127.0.0.1", "421"), ("0.0.0.0", "200")] {
        let server = site.server(&["--url", &site.sqlite(), "--bind", bind]);
        let times = if bind == "127.0.0.1" { 1 } else { 2 };
        site.until_log("status at http://", times).await;
        let address = address(&site.log()).unwrap_or_default().replace("0.0.0.0", "127.0.0.1");
        for (path, host, status) in [
            ("/status.json", "evil.example", refused),
            ("/ui", "evil.example:8080", refused),
            ("/ui/events", "127.0.0.1.evil.example", refused),
            ("/ui", "localhost", "200"),
            ("/metrics", "evil.example", "200"),
            ("/livez", "eds-0.eds.default.svc", "200"),
        ] {
            let asked = format!("GET {path} HTTP/1.0\r\nHost: {host}\r\n\r\n");
            let answer = first_line(&address, &asked);
            assert!(answer.contains(status), "{bind} {host}{path}: {answer}");
        }
        site.session(times - 1).await;
        assert!(server.stop().status.success());
    }
}

fn first_line(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).unwrap_or_else(|e| panic!("{e}"));
    stream.write_all(request.as_bytes()).unwrap_or_else(|e| panic!("{e}"));
    let mut line = String::new();
    BufReader::new(stream).read_line(&mut line).unwrap_or_else(|e| panic!("{e}"));
    line
}
