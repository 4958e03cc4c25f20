//! What HQ receives: methods, paths, headers and bodies, as they go over the wire.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Command, Output};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};

use crate::services::eds::{binary, schema};
use crate::services::hq::said;
use crate::services::until_ok;

/// A request as it came.
#[derive(Clone, Debug, Default)]
pub struct HqRequest {
    pub line: String,
    headers: Vec<(String, String)>,
    body: String,
}

impl HqRequest {
    pub fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// Answers by path, and keeps what it is asked.
pub struct Listening {
    pub url: String,
    received: Arc<Mutex<Vec<HqRequest>>>,
}

fn read(stream: &mut impl Read) -> HqRequest {
    let (mut bytes, mut buffer) = (Vec::new(), [0; 4096]);
    loop {
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if let Some((head, body)) = text.split_once("\r\n\r\n") {
            let mut lines = head.lines();
            let line = lines.next().unwrap_or_default().to_owned();
            let headers = lines
                .filter_map(|line| line.split_once(": "))
                .map(|(key, value)| (key.to_owned(), value.to_owned()))
                .collect();
            let received = HqRequest { line, headers, body: body.to_owned() };
            let length = received.header("content-length").and_then(|n| n.parse().ok());
            if body.len() >= length.unwrap_or(0) {
                return received;
            }
        }
        match stream.read(&mut buffer) {
            Ok(0) | Err(_) => return HqRequest::default(),
            Ok(read) => bytes.extend_from_slice(&buffer[..read]),
        }
    }
}

/// A server that gives the first answer whose path the request's begins with.
pub fn listening(answers: Vec<(&'static str, Value)>) -> Listening {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
    let received: Arc<Mutex<Vec<HqRequest>>> = Arc::default();
    let keeping = received.clone();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let asked = read(&mut stream);
            let answer = answers.iter().find(|(line, _)| asked.line.starts_with(line));
            let (status, body) = match answer {
                Some((_, body)) => ("200 OK", body.to_string()),
                None => {
                    ("404 Not Found", json!({"success": false, "message": "not yours"}).to_string())
                }
            };
            keeping.lock().unwrap_or_else(PoisonError::into_inner).push(asked);
            let head = format!("HTTP/1.1 {status}\r\nX-Request-Id: r-7\r\nConnection: close\r\n");
            let head = format!("{head}Content-Length: {}\r\n\r\n", body.len());
            let _ = stream.write_all(format!("{head}{body}").as_bytes());
        }
    });
    Listening { url: format!("http://{address}"), received }
}

impl Listening {
    /// The first request of all, once it is there.
    pub fn first(&self) -> HqRequest {
        until_ok(Duration::from_secs(60), || {
            let all = self.received.lock().unwrap_or_else(PoisonError::into_inner);
            all.first().cloned().ok_or_else(|| "nobody asked".to_owned())
        })
    }

    /// The request that begins like this.
    pub fn request(&self, line: &str) -> HqRequest {
        let all = self.received.lock().unwrap_or_else(PoisonError::into_inner);
        let found = all.iter().find(|received| received.line.starts_with(line));
        found.cloned().unwrap_or_else(|| panic!("{line} was not asked: {all:?}"))
    }
}

fn eds(dir: &Path, words: &[&str]) -> Output {
    let mut command = Command::new(binary());
    for name in ["EDS_URL", "SM_APIKEY", "RUST_LOG"] {
        command.env_remove(name);
    }
    command.current_dir(dir).args(words).output().unwrap_or_else(|e| panic!("{e}"))
}

fn order() -> Value {
    schema("order", "1", json!({}))
}

/// Every request says who asks and in what form; the token goes where it is wanted, and nowhere
/// else.
#[test]
fn requests_have_the_headers_of_the_contract() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let tables =
        json!({"order": {"status": "Completed", "urls": [], "cursor": "1720732611708587506"}});
    let hq = listening(vec![
        (
            "GET /v3/eds/internal/enroll/L-7_8 ",
            json!({"success": true, "data": {"token": "t0k3n", "serverId": "s-7"}}),
        ),
        ("GET /v3/schema ", json!({"order": order()})),
        ("POST /v3/export/bulk ", json!({"success": true, "data": {"jobId": "j-7_8.9~"}})),
        (
            "GET /v3/export/bulk/j-7_8.9~ ",
            json!({"success": true, "data": {"completed": true, "tables": tables}}),
        ),
    ]);
    let output = eds(dir.path(), &["enroll", "L-7_8", "--api-url", &hq.url]);
    assert!(output.status.success(), "{}", said(&output));
    let words = ["import", "--no-confirm", "--url", "sqlite://x.db", "--api-url", &hq.url];
    let more = ["--companyIds", "c1,c2", "--locationIds", "l1", "--only", "order"];
    let time = ["--timeOffset", "2024-07-11T21:16:51Z"];
    let output = eds(dir.path(), &[&words[..], &more, &time].concat());
    assert!(output.status.success(), "{}", said(&output));
    for (line, token) in [
        ("GET /v3/eds/internal/enroll/L-7_8 ", None),
        ("GET /v3/schema ", None),
        ("POST /v3/export/bulk ", Some("Bearer t0k3n")),
        ("GET /v3/export/bulk/j-7_8.9~ ", Some("Bearer t0k3n")),
    ] {
        let request = hq.request(line);
        let agent = format!("Shopmonkey EDS Server/{}", env!("CARGO_PKG_VERSION"));
        assert_eq!(request.header("user-agent"), Some(agent.as_str()), "{line}");
        assert_eq!(request.header("content-type"), Some("application/json"), "{line}");
        assert_eq!(request.header("authorization"), token, "{line}");
    }
    let ordered: Value = serde_json::from_str(&hq.request("POST /v3/export/bulk ").body)
        .unwrap_or_else(|e| panic!("{e}"));
    let expected = json!({"companyIds": ["c1", "c2"], "locationIds": ["l1"], "tables": ["order"], "timeOffset": 1_720_732_611_000_i64});
    assert_eq!(ordered, expected);
}

/// A refusal shows HQ's words and the number of the request.
#[test]
fn a_refusal_shows_the_request() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let hq = listening(vec![("GET /v3/schema ", json!({"order": order()}))]);
    let output = eds(dir.path(), &["enroll", "L7", "--api-url", &hq.url]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("request r-7"), "{}", said(&output));
    assert!(!dir.path().join("data/config.toml").exists());
    let words = ["import", "--no-confirm", "--url", "sqlite://x.db", "--api-key", "k"];
    let output = eds(dir.path(), &[&words[..], &["--api-url", &hq.url]].concat());
    let said = said(&output);
    assert!(!output.status.success(), "{said}");
    assert!(said.contains("says: not yours (404, request r-7)"), "{said}");
}
