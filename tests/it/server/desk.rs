//! What somebody with the token does on the status page of a server.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::time::Duration;

use serde_json::{Value, json};

use crate::health::{address, get};
use crate::services::eventually_ok;
use crate::services::site::Site;

const TOKEN: &str = "a token of enough bytes";

/// Status line and body of the answer.
async fn asked(address: &str, token: Option<&str>, body: &Value) -> (String, Value) {
    let (address, body) = (address.to_owned(), body.to_string());
    let token = token.map(|token| format!("Authorization: Bearer {token}\r\n")).unwrap_or_default();
    let answer = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(&address).unwrap_or_else(|e| panic!("{e}"));
        let head = format!(
            "POST /ui/actions HTTP/1.0\r\nHost: localhost\r\n{token}Content-Length: {}\r\n\r\n",
            body.len()
        );
        stream.write_all((head + &body).as_bytes()).unwrap_or_else(|e| panic!("{e}"));
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap_or_else(|e| panic!("{e}"));
        answer
    });
    let answer = answer.await.unwrap_or_else(|e| panic!("{e}"));
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
    let line = head.lines().next().unwrap_or_default().to_owned();
    (line, serde_json::from_str(body).unwrap_or_default())
}

async fn status(address: &str) -> Value {
    serde_json::from_str(&get(address, "/status.json").await.1).unwrap_or_default()
}

async fn until_state(address: &str, name: &str) {
    eventually_ok(Duration::from_secs(60), async || {
        let status = status(address).await;
        (status["state"]["name"] == name).then_some(()).ok_or(status.to_string())
    })
    .await;
}

/// Nobody acts without the token; with it a server pauses, goes on, imports one table, and tries a
/// dead letter again.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_does_what_who_has_the_token_wants() {
    let site = Site::new("desk", 86).await;
    site.enroll().await;
    let url = site.sqlite();
    let file = site.dir.path().join("token");
    std::fs::write(&file, format!("{TOKEN}\n")).unwrap_or_else(|e| panic!("{e}"));
    let server = site.server(&["--url", &url, "--ui-token-file", &file.display().to_string()]);
    site.until_log("streaming eds-desk", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    site.publish(40).await;
    site.until_equal().await;

    let pause = json!({"action": "pause"});
    for (token, line) in [(None, "401"), (Some("another token of many bytes"), "401")] {
        let (said, _) = asked(&address, token, &pause).await;
        assert!(said.contains(line), "{said}");
    }
    until_state(&address, "caught_up").await;
    let (said, _) = asked(&address, Some(TOKEN), &json!({"action": "format"})).await;
    assert!(said.contains("400"), "{said}");

    let (said, _) = asked(&address, Some(TOKEN), &pause).await;
    assert!(said.contains("200"), "{said}");
    until_state(&address, "paused").await;
    site.publish(20).await;
    assert_eq!(status(&address).await["done"], 40);
    asked(&address, Some(TOKEN), &json!({"action": "unpause"})).await;
    site.until_equal().await;

    let (_, none) = asked(&address, Some(TOKEN), &json!({"action": "import", "table": ""})).await;
    assert_eq!(none["error"], "name one table");
    let import = json!({"action": "import", "table": "customer"});
    let (_, ordered) = asked(&address, Some(TOKEN), &import).await;
    assert!(ordered["error"].is_null(), "{ordered}");
    site.until_log("the import that was ordered is done", 1).await;
    site.until_log("streaming eds-desk", 3).await;
    site.until_equal().await;
    eventually_ok(Duration::from_secs(60), async || {
        let status = status(&address).await;
        status["import"].is_null().then_some(()).ok_or(status.to_string())
    })
    .await;

    let broken = ("dbchange.order.INSERT.c0.lc0.PUBLIC.y".to_owned(), b"{\"table\":".to_vec());
    site.nats.publish(std::iter::once(broken)).await;
    let letters = eventually_ok(Duration::from_secs(60), async || {
        let (_, body) = get(&address, "/ui/letters").await;
        let found: Value = serde_json::from_str(&body).unwrap_or_default();
        let is_there = found["letters"].as_array().is_some_and(|letters| letters.len() == 1);
        is_there.then_some(found["letters"].clone()).ok_or(body)
    })
    .await;
    assert_eq!(letters[0]["kind"], "malformed", "{letters}");
    let which = json!({"action": "retry", "consumer": letters[0]["consumer"],
        "letter": letters[0]["letter"]});
    let (_, said) = asked(&address, Some(TOKEN), &which).await;
    assert!(said["said"].as_str().unwrap_or_default().contains("is tried again"), "{said}");
    assert!(server.stop().status.success());
    assert!(!site.log().contains(TOKEN));
}

/// Without a token there is nothing to be asked, and with one that can be guessed no start.
#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_the_page_only_shows() {
    let site = Site::new("desk-less", 87).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    site.until_log("streaming eds-desk-less", 1).await;
    let address = address(&site.log()).unwrap_or_default();
    let (said, _) = asked(&address, Some(TOKEN), &json!({"action": "pause"})).await;
    assert!(said.contains("404"), "{said}");
    assert!(status(&address).await.get("actions").is_none());
    assert!(server.stop().status.success());
    let file = site.dir.path().join("token");
    std::fs::write(&file, "short").unwrap_or_else(|e| panic!("{e}"));
    let file = file.display().to_string();
    let ended = site.server(&["--url", &site.sqlite(), "--ui-token-file", &file]);
    let ended = ended.wait(Duration::from_secs(30));
    assert!(!ended.status.success() && ended.log.contains("can be guessed"), "{}", ended.log);
}
