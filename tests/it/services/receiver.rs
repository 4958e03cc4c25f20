//! A receiver of JSON that is posted to it.

use std::collections::VecDeque;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

/// What was posted, with the request's line and headers in lower case before it.
pub type Posted = (String, Value);

/// Takes what is posted, after the answers that a test wants first.
pub struct Receiver {
    /// Its address, with the path that was asked for.
    pub url: String,
    posted: Arc<Mutex<Vec<Posted>>>,
}

impl Receiver {
    pub fn start(path: &str, first_answers: &[&'static str]) -> Receiver {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap_or_else(|e| panic!("{e}"));
        let address = listener.local_addr().unwrap_or_else(|e| panic!("{e}"));
        let posted = Arc::new(Mutex::new(Vec::new()));
        let mut answers: VecDeque<&str> = first_answers.iter().copied().collect();
        let kept = posted.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                let mut reader =
                    BufReader::new(stream.try_clone().unwrap_or_else(|e| panic!("{e}")));
                let (mut head, mut line) = (String::new(), String::new());
                while reader.read_line(&mut line).is_ok_and(|n| n > 2) {
                    head += &line.to_lowercase();
                    line.clear();
                }
                // Somebody looks whether the port is free.
                if head.is_empty() {
                    continue;
                }
                let length = head.lines().find_map(|line| line.strip_prefix("content-length:"));
                let mut body = vec![0; length.and_then(|n| n.trim().parse().ok()).unwrap_or(0)];
                let _ = reader.read_exact(&mut body);
                let status = answers.pop_front().unwrap_or("200 OK");
                if status.starts_with('2') {
                    let body = serde_json::from_slice(&body).unwrap_or_default();
                    kept.lock().unwrap_or_else(PoisonError::into_inner).push((head, body));
                }
                let answer =
                    format!("HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        Receiver { url: format!("http://{address}{path}"), posted }
    }

    /// All that it took.
    pub fn posted(&self) -> Vec<Posted> {
        self.posted.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// The bodies of all that it took.
    pub fn told(&self) -> Vec<Value> {
        self.posted().into_iter().map(|(_, body)| body).collect()
    }
}
