//! `eds health`: what a container without a shell asks.

use std::io::{Read, Write};
use std::net::TcpListener;
use std::process::Command;

use crate::services::eds::binary;
use crate::services::hq::said;

/// A server that gives each caller this answer; its port.
pub fn answering(answer: &'static str) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
    let port = listener.local_addr().map_or(0, |address| address.port());
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let mut request = [0; 1024];
            let length = stream.read(&mut request).unwrap_or(0);
            let path = String::from_utf8_lossy(&request[..length]);
            let path = path.split(' ').nth(1).unwrap_or_default();
            let _ = stream.write_all(answer.replace("PATH", path).as_bytes());
        }
    });
    port
}

#[test]
fn health_is_the_answer_of_the_server() {
    let good = answering("HTTP/1.1 200 OK\r\n\r\nPATH").to_string();
    let bad = answering("HTTP/1.1 503 Service Unavailable\r\n\r\nthe database is away").to_string();
    for (words, code, expected) in [
        (&["--port", &good][..], 0, "/livez"),
        (&["--port", &good, "--ready"], 0, "/readyz"),
        (&["--port", &good, "--bind", "0.0.0.0"], 0, "/livez"),
        (&["--port", &bad], 1, "/livez answers 503: the database is away"),
        (&["--port", &bad, "--ready"], 1, "/readyz answers 503: the database is away"),
        (&["--port", "1"], 1, "nothing answers at http://127.0.0.1:1/livez"),
    ] {
        let mut command = Command::new(binary());
        command.env_remove("EDS_BIND").arg("health").args(words);
        let output = command.output().unwrap_or_else(|e| panic!("{e}"));
        let said = said(&output);
        assert!(output.status.code() == Some(code) && said.contains(expected), "{words:?}: {said}");
    }
    let by_environment = Command::new(binary()).arg("health").env("PORT", &good).output();
    assert!(by_environment.is_ok_and(|output| output.status.success()));
}
