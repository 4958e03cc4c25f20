//! TLS to PostgreSQL, from `disable` to `verify-full`, with an authority of our own.

use std::process::Command;

use crate::services::certs::{certificates, write};
use crate::services::eds::replay;
use crate::services::postgres::Postgres;

/// The text itself, in place of a file's name.
fn inline(pem: &str) -> String {
    let encoded: String = url::form_urlencoded::byte_serialize(pem.as_bytes()).collect();
    format!("&sslinline=true&sslrootcert={encoded}")
}

#[tokio::test(flavor = "multi_thread")]
async fn every_sslmode_does_what_it_says() {
    let mut server = Postgres::start().await;
    if let Some(mut running) = server.server.take() {
        running.stop();
    }
    let [authority, certificate, key] = certificates().unwrap_or_else(|e| panic!("{e}"));
    let [other, ..] = certificates().unwrap_or_else(|e| panic!("{e}"));
    let dir = server.directory().to_owned();
    let (certificate, key) =
        (write(&dir, "server.crt", &certificate), write(&dir, "server.key", &key));
    let private = Command::new("chmod").arg("600").arg(&key).status();
    assert!(private.is_ok_and(|s| s.success()));
    let _ = Command::new("chown").arg("postgres").args([&certificate, &key]).status();
    let settings = [
        "ssl=on".to_owned(),
        format!("ssl_cert_file={}", certificate.display()),
        format!("ssl_key_file={}", key.display()),
    ];
    server.run(&settings.each_ref().map(String::as_str)).await;
    let (_, url) = server.database().await;
    let here = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let (our_text, their_text) = (inline(&authority), inline(&other));
    let (authority, other) =
        (write(here.path(), "ca.pem", &authority), write(here.path(), "other.pem", &other));
    let (ours, theirs) = (
        format!("&sslrootcert={}", authority.display()),
        format!("&sslrootcert={}", other.display()),
    );
    let by_name = url.replace("127.0.0.1", "localhost");
    let cases = [
        (format!("{url}?sslmode=disable"), true),
        (format!("{url}?sslmode=prefer"), true),
        (format!("{url}?sslmode=require"), true),
        (format!("{url}?sslmode=require{theirs}"), false),
        (format!("{url}?sslmode=verify-ca{ours}"), true),
        (format!("{by_name}?sslmode=verify-ca{ours}"), true),
        (format!("{url}?sslmode=verify-ca{theirs}"), false),
        (format!("{url}?sslmode=verify-full{ours}"), true),
        (format!("{by_name}?sslmode=verify-full{ours}"), false),
        (format!("{url}?sslmode=verify-full{theirs}"), false),
        (format!("{url}?sslmode=verify-full"), false),
        (format!("{url}?sslmode=verify-full{our_text}"), true),
        (format!("{url}?sslmode=verify-full{their_text}"), false),
    ];
    for (url, works) in cases {
        let output = replay(&url, &serde_json::json!({}), &[], &[]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(
            output.status.success(),
            works,
            "{}: {said}",
            url.split_once('?').map_or("", |(_, q)| q)
        );
        assert!(works || said.contains("certificate"), "{said}");
    }
}
