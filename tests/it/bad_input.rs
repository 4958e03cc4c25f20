//! One message in a thousand is bad: it becomes a dead letter and is reported, and the rest goes
//! on.

use std::time::Duration;

use eds::sandbox::shop::Shop;
use serde_json::{Value, json};

use crate::services::eds::{binary, dead_letters, replay, schema, upsert};
use crate::services::postgres;
use crate::services::scene::Scene;

/// Bad messages, and what the reason of the dead letter of each says.
fn bad_messages(shop: &Shop) -> Vec<(Vec<u8>, &'static str)> {
    let version = &shop.tables[0].version;
    vec![
        (b"{\"operation\":\"INSERT\",".to_vec(), "not JSON"),
        (b"\xff\xfe not text".to_vec(), "not UTF-8"),
        (
            format!(r#"{{"operation":"INSERT","table":"customer","modelVersion":"{version}","after":{{"note":"no key"}}}}"#).into_bytes(),
            "no primary key",
        ),
        (
            format!(r#"{{"table":"customer","modelVersion":"{version}","key":["x"],"after":{{"id":"x"}}}}"#).into_bytes(),
            "\"operation\" is missing",
        ),
        (
            format!(r#"{{"operation":"MERGE","table":"customer","modelVersion":"{version}","key":["x"],"after":{{"id":"x"}}}}"#).into_bytes(),
            "neither INSERT",
        ),
        (
            br#"{"operation":"INSERT","table":"nobody","modelVersion":"0","key":["x"],"after":{"id":"x"}}"#.to_vec(),
            ", is unknown",
        ),
        (
            format!(r#"{{"operation":"INSERT","table":"customer","modelVersion":"{version}","key":["twelve"],"after":{{"id":"twelve","postalCode":"twelve"}}}}"#).into_bytes(),
            "\"postalCode\" is not an integer",
        ),
        // Too long for VARCHAR(64), which only PostgreSQL itself notices.
        (
            format!(
                r#"{{"operation":"INSERT","table":"order","modelVersion":"{}","key":["long"],"after":{{"id":"long","status":"{}"}}}}"#,
                shop.tables[2].version,
                "s".repeat(65)
            )
            .into_bytes(),
            "22001",
        ),
    ]
}

#[tokio::test(flavor = "multi_thread")]
async fn bad_messages_become_dead_letters_and_harm_nobody() {
    let mut scene = Scene::new("b1", 21).await;
    let bad = bad_messages(&scene.shop);
    let mut messages = Vec::new();
    for (n, (bad, _)) in bad.iter().cycle().take(16).enumerate() {
        for _ in 0..1000 {
            let event = scene.shop.next_event();
            messages.push((event.subject, event.payload.into_bytes()));
        }
        messages.push((format!("dbchange.customer.insert.c0.l0.PUBLIC.bad{n}"), bad.clone()));
    }
    scene.nats.publish(messages.into_iter()).await;
    let log = {
        let ended =
            scene.eds.start(&["--restart", "--until-caught-up"]).wait(Duration::from_secs(120));
        assert!(ended.status.success(), "{}", ended.log);
        ended.log
    };
    scene.assert_equal().await;
    let lines = scene.eds.dead_letters();
    for (_, reason) in bad {
        let found: Vec<&Value> = lines
            .iter()
            .filter(|l| l["reason"].as_str().is_some_and(|r| r.contains(reason)))
            .collect();
        assert_eq!(found.len(), 2, "{reason}: {lines:?}");
        assert!(found.iter().all(|l| {
            l["sequence"].as_u64() > Some(0)
                && l["subject"]
                    .as_str()
                    .is_some_and(|s| s.starts_with("dbchange.customer.insert.c0.l0.PUBLIC.bad"))
        }));
        assert!(log.contains(reason), "{reason} is not in the log: {log}");
    }
    assert_eq!(lines.len(), 16);
    assert!(!log.contains("twelve"), "no value is shown: {log}");
    assert!(scene.is_idle().await);
}

/// A thousand refusals of one table in a row are an outage, not bad data: it waits, says so, and
/// goes on once it is cured.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_without_end_are_an_outage() {
    let (name, url) = postgres::shared().database().await;
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: &str| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    let schemas = json!({"t": schema("t", "1", json!({"word": {"type": "array", "items": {"enum": ["A"]}}}))});
    let journal: String = (0..1_100)
        .map(|n| {
            format!("{}\n", upsert("t", "1", json!({"id": format!("{n}"), "word": "A".repeat(65)})))
        })
        .collect();
    write("schema.json", &schemas.to_string());
    write("journal.jsonl", &journal);
    let run = || {
        let mut command = std::process::Command::new(binary());
        let args = ["replay", "journal.jsonl", "--schema", "schema.json"];
        let output = command.current_dir(dir.path()).env("EDS_URL", &url).args(args).output();
        let output = output.unwrap_or_else(|e| panic!("{e}"));
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{said}");
        said
    };
    let said = run();
    assert!(said.contains("no more become dead letters until one is accepted"), "{said}");
    assert!(said.contains("100 of its changes wait"), "{said}");
    let client = postgres::shared().connect(&name).await;
    client
        .batch_execute("ALTER TABLE t ALTER COLUMN word TYPE text")
        .await
        .unwrap_or_else(|e| panic!("{e}"));
    let said = run();
    let kept: i64 = client
        .query_one("SELECT count(*) FROM t", &[])
        .await
        .map(|row| row.get(0))
        .unwrap_or_else(|e| panic!("{e}"));
    let letters = dead_letters(&url, &dir.path().join("data"));
    assert_eq!((kept, letters.len()), (100, 1_000), "{said}");
}

/// However many do not fit, the others among them show that it is not an outage: everything goes
/// on.
#[tokio::test(flavor = "multi_thread")]
async fn refusals_among_others_are_no_outage() {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let events: Vec<Value> = (0..3_300).map(|n| upsert("t", "1", json!({"id": format!("{n}"), "n": if n % 2 == 0 { json!(n) } else { json!("twelve") }}))).collect();
    for url in [
        format!("sqlite://{}", dir.path().join("t.db").display()),
        format!("file://{}?format=parquet", dir.path().join("lake").display()),
    ] {
        let output = replay(&url, &schemas, &events, &["--verbose"]);
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(
            output.status.success()
                && said.contains("3300 events")
                && said.contains("1650 dead letters")
                && !said.contains("in a row"),
            "{}",
            said.lines().last().unwrap_or_default()
        );
    }
}
