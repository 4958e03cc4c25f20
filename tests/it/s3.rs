//! S3 against a server that checks signatures: which objects exist afterwards, by which names, and
//! what is said.

use std::collections::BTreeSet;
use std::path::Path;

use eds::sandbox::check::{self, TableReport};
use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kafka::identity;
use crate::services::eds::{Eds, replay, replay_in};
use crate::services::hq::Importing;
use crate::services::nats::Nats;
use crate::services::s3::{Moto, SECRET, Seaweed, shared};
use crate::services::scene::COMPANIES;

fn event(id: &str, key: &str, timestamp: i64, mvcc: &str) -> Value {
    json!({"operation": "UPDATE", "id": id, "table": "order", "key": [key], "after": {"id": key}, "timestamp": timestamp, "mvccTimestamp": mvcc})
}

/// The objects below a folder as files, so that they can be read as those are.
fn fetched(server: &Seaweed, folder: &str) -> TempDir {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    for (name, content) in server.objects(folder) {
        let path = dir.path().join(name);
        path.parent().map(std::fs::create_dir_all).transpose().unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(&path, content).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    }
    dir
}

fn assert_equal(shop: &Shop, folder: &Path) {
    let reports = check::files(shop, folder).unwrap_or_else(|e| panic!("{e}"));
    let wrong: Vec<String> =
        reports.iter().filter(|r| !TableReport::is_equal(r)).map(check::line).collect();
    // A file that tells of a deletion has no row; the shop's own rows are what counts.
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Two changes of a row within a second are both kept, in whatever order they come; repeats change
/// nothing.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_overwritten_unseen() {
    let server = shared();
    let (older, newer) = (
        event("e1", "k", 1_000_100, "1720732611708587501.0"),
        event("e2", "k", 1_000_200, "1720732611708587502.0"),
    );
    for order in [vec![&older, &newer], vec![&newer, &older], vec![&older, &newer, &older, &newer]]
    {
        let (folder, url) = server.folder();
        for _ in 0..2 {
            let events: Vec<Value> = order.iter().map(|e| (*e).clone()).collect();
            let output = replay(&url, &json!({}), &events, &[]);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        }
        let found = server.objects(&folder);
        let names: Vec<&str> = found.keys().map(|name| name.trim_start_matches(&folder)).collect();
        assert_eq!(names, ["/order/1000-k-1720732611708587501.0.json", "/order/1000-k.json"]);
        let ids: Vec<Value> = found
            .values()
            .map(|content| {
                serde_json::from_slice::<Value>(content).unwrap_or_default()["id"].clone()
            })
            .collect();
        assert_eq!(ids, ["e1", "e2"]);
    }
}

/// Keys and tables are data: whatever they say, an object stays in its folder.
#[tokio::test(flavor = "multi_thread")]
async fn no_key_leaves_its_folder() {
    let server = shared();
    let (folder, url) = server.folder();
    let long = "k".repeat(1_024);
    let keys = [
        "../../etc/passwd",
        "..",
        "%2e%2e/x",
        "a/b",
        "\u{1}\u{7f}\n",
        "",
        long.as_str(),
        "é/世界 ?&#+",
        "\\..\\x",
    ];
    let events: Vec<Value> = keys
        .iter()
        .enumerate()
        .map(|(n, key)| event(&format!("e{n}"), key, 1_000 * n as i64, "1"))
        .collect();
    let output = replay(&url, &json!({}), &events, &[]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found = server.objects(&folder);
    let letters = String::from_utf8_lossy(&output.stderr).matches("dead letter").count();
    assert!(
        found
            .keys()
            .all(|name| name.starts_with(&format!("{folder}/order/"))
                && name.matches('/').count() == 2),
        "{:?}",
        found.keys()
    );
    // An event whose key is empty is none that could be stored.
    assert_eq!(
        found.len() + letters,
        keys.len() + letters.min(1),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let ids: BTreeSet<String> = found
        .values()
        .map(|content| {
            serde_json::from_slice::<Value>(content).unwrap_or_default()["key"][0]
                .as_str()
                .unwrap_or_default()
                .to_owned()
        })
        .collect();
    assert!(keys.iter().filter(|key| !key.is_empty()).all(|key| ids.contains(*key)), "{ids:?}");
}

/// Each refusal is a clear one, at the start, and says nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_at_the_start() {
    let (server, moto) = (shared(), Moto::start());
    let cases = [
        (server.url("x", "eds-key", "wrong%2Fsecret"), "are not taken"),
        (server.url("x", "nobody", "wrong%2Fsecret"), "are not taken"),
        (server.url("x", "read-key", "read-secret"), "do not allow"),
        (
            format!(
                "s3://127.0.0.1:{}/nowhere/x?access-key-id=k&secret-access-key=wrong%2Fsecret",
                moto.port
            ),
            "there is no bucket \"nowhere\"",
        ),
        (server.url("x/..%2F..", "eds-key", "eds%2Fsecret%2Bkey"), "must not climb"),
        (server.url("x", "eds-key", "eds%2Fsecret%2Bkey&uploadTasks=many"), "uploadTasks"),
    ];
    for (url, expected) in cases {
        let output = replay(&url, &json!({}), &[event("e1", "k", 1, "1")], &[]);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        assert!(
            ["wrong/secret", "read-secret", SECRET, "Signature="]
                .iter()
                .all(|secret| !said.contains(secret)),
            "{said}"
        );
    }
}

/// A stream with kills: every event is there, under a name of its own, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn every_event_is_there_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(61, ShopOptions { rows: 1_500, repeats: 20 });
    let mut published = BTreeSet::new();
    let messages: Vec<(String, Vec<u8>)> = (0..10_000)
        .map(|_| shop.next_event())
        .map(|e| (e.subject, e.payload.into_bytes()))
        .collect();
    published.extend(messages.iter().map(|(_, payload)| identity(payload)));
    nats.publish(messages.into_iter()).await;
    let creds = nats.server_creds("objects", COMPANIES, None);
    let server = shared();
    let (folder, url) = server.folder();
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    eds.kill_at_random(6, fastrand::Rng::with_seed(3), 300..1500).await;
    eds.catch_up();
    let (unacknowledged, undelivered, _) = nats.consumer("eds-objects").await;
    assert_eq!((unacknowledged, undelivered), (0, 0));
    let stored: Vec<String> =
        server.objects(&folder).values().map(|content| identity(content)).collect();
    let distinct: BTreeSet<String> = stored.iter().cloned().collect();
    assert_eq!(distinct.len(), stored.len(), "an event is stored twice");
    assert!(
        published == distinct,
        "{} of {} events are there, {} are of nobody's",
        published.intersection(&distinct).count(),
        published.len(),
        distinct.difference(&published).count()
    );
    assert_equal(&shop, &fetched(server, &folder).path().join(&folder));
}

/// A full export: an event for each row, where a stream's would be.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let server = shared();
    let (folder, url) = server.folder();
    let importing = Importing::new(9, 1_000, 200).await;
    importing.import(&url, &[]).await;
    assert_equal(&importing.shop(), &fetched(server, &folder).path().join(&folder));
}

/// Rules of the user's say where objects go.
#[tokio::test(flavor = "multi_thread")]
async fn templates_name_objects() {
    let server = shared();
    let (folder, url) = server.folder();
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let rules = dir.path().join("rules");
    std::fs::create_dir(&rules).unwrap_or_else(|e| panic!("{e}"));
    let config = json!({"order": {"schema": "order.json", "path": "{{.table}}/received/{{.table}}_{{.mvccTimestamp}}_{{.id}}.json"}});
    std::fs::write(rules.join("config.json"), config.to_string()).unwrap_or_else(|e| panic!("{e}"));
    std::fs::write(rules.join("order.json"), "{}").unwrap_or_else(|e| panic!("{e}"));
    let journal = event("e/1", "k", 1_000, "77").to_string();
    let output =
        replay_in(dir.path(), &url, &json!({}), &journal, &["--schema-validator", "rules"]);
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let names: Vec<String> = server.objects(&folder).into_keys().collect();
    assert_eq!(names, [format!("{folder}/order/received/order_77_e%2F1.json")]);
}
