//! What the environment says: proxies, regions, keys.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::requests::listening;
use crate::services::certs::{certificates, write};
use crate::services::eds::{Running, binary, upsert};

/// `eds` in `dir`, with nothing of this environment but what is given.
fn eds(dir: &Path, environment: &[(&str, &str)], words: &[&str]) -> Command {
    let mut command = Command::new(binary());
    command.current_dir(dir).env_clear().env("PATH", "/usr/bin:/bin");
    command.envs(environment.iter().copied()).args(words).stdin(Stdio::null());
    command
}

/// HQ is reached through the proxy that the environment names, unless it says not to.
#[test]
fn hq_is_reached_through_a_proxy() {
    let enrolled = json!({"success": true, "data": {"token": "t0k3n", "serverId": "s-7"}});
    let far =
        listening(vec![("GET http://hq.example.com/v3/eds/internal/enroll/L7 ", enrolled.clone())]);
    let near = listening(vec![("GET /v3/eds/internal/enroll/L8 ", enrolled)]);
    let environment = [("HTTP_PROXY", far.url.as_str()), ("NO_PROXY", "127.0.0.1")];
    for (code, hq) in [("L7", "http://hq.example.com"), ("L8", &near.url)] {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let output = eds(dir.path(), &environment, &["enroll", code, "--api-url", hq]).output();
        let output = output.unwrap_or_else(|e| panic!("{e}"));
        assert!(output.status.success(), "{code}: {}", crate::services::hq::said(&output));
    }
    // What is encrypted goes through a tunnel.
    let tunnel = listening(Vec::new());
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let environment = [("HTTPS_PROXY", tunnel.url.as_str())];
    let words = ["enroll", "L7", "--api-url", "https://hq.example.com"];
    let running = Running::start(eds(dir.path(), &environment, &words), dir.path().join("log"));
    assert!(tunnel.first().line.starts_with("CONNECT hq.example.com:443 "));
    running.kill();
}

/// HQ may be behind a certificate authority of its own, which the environment names.
#[tokio::test(flavor = "multi_thread")]
async fn hq_may_have_a_private_certificate_authority() -> Result<(), Box<dyn std::error::Error>> {
    let [authority, certificate, key] = certificates()?;
    let chain = vec![CertificateDer::from_pem_slice(certificate.as_bytes())?];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes())?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = format!("https://{}", listener.local_addr()?);
    let serving = tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            // Who does not trust the certificate says no more.
            let Ok(mut stream) = acceptor.accept(stream).await else { continue };
            let mut piece = [0; 4096];
            let _ = stream.read(&mut piece).await;
            let body = json!({"success": true, "data": {"token": "t0k3n", "serverId": "s-7"}});
            let body = body.to_string();
            let head = "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nConnection: close";
            let answer = format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len());
            let _ = stream.write_all(answer.as_bytes()).await;
            let _ = stream.shutdown().await;
        }
    });
    let dir = tempfile::tempdir()?;
    let file = write(dir.path(), "authority.pem", &authority).display().to_string();
    for (environment, is_trusted) in
        [(vec![], false), (vec![("SSL_CERT_FILE", file.as_str())], true)]
    {
        let mut command = eds(dir.path(), &environment, &["enroll", "L7", "--api-url", &address]);
        let output = tokio::task::spawn_blocking(move || command.output()).await??;
        let said = crate::services::hq::said(&output);
        assert_eq!(output.status.success(), is_trusted, "{said}");
        assert!(is_trusted || said.contains("certificate"), "{said}");
    }
    serving.abort();
    Ok(())
}

/// The region and the keys of S3: the URL's, else the environment's, else `us-west-2`.
#[test]
fn regions_and_keys_of_s3_come_from_the_environment() {
    const KEYS: [(&str, &str); 2] =
        [("AWS_ACCESS_KEY_ID", "AKENV"), ("AWS_SECRET_ACCESS_KEY", "s")];
    const URL_KEYS: &str = "access-key-id=AKURL&secret-access-key=s";
    let (region, default) = (("AWS_REGION", "eu-west-3"), ("AWS_DEFAULT_REGION", "eu-north-1"));
    for (options, environment, key, expected) in [
        ("", &[][..], "AKENV", "us-west-2"),
        ("", &[default][..], "AKENV", "eu-north-1"),
        ("", &[default, region][..], "AKENV", "eu-west-3"),
        ("region=ap-south-1", &[default, region][..], "AKENV", "ap-south-1"),
        (URL_KEYS, &[region][..], "AKURL", "eu-west-3"),
    ] {
        let store = listening(Vec::new());
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let event = upsert("order", "1", json!({"id": "1"})).to_string();
        std::fs::write(dir.path().join("events.jsonl"), event).unwrap_or_else(|e| panic!("{e}"));
        let place = store.url.replace("http://127.0.0.1", "s3://localhost");
        let url = format!("{place}/bucket/folder?{options}");
        let environment = [&KEYS[..], &[("EDS_URL", url.as_str())], environment].concat();
        let words = ["replay", "events.jsonl", "--restart"];
        let running = Running::start(eds(dir.path(), &environment, &words), dir.path().join("log"));
        let asked = store.first();
        let signed = asked.header("authorization").unwrap_or_default().to_owned();
        assert!(signed.contains(&format!("Credential={key}/")), "{options}: {asked:?}");
        assert!(signed.contains(&format!("/{expected}/s3/")), "{options}: {asked:?}");
        assert!(asked.line.contains(" /bucket"), "the bucket is in the path: {asked:?}");
        running.kill();
    }
}
