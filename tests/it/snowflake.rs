//! What is particular to Snowflake: logins, a session that ends or is throttled, lost answers, the
//! stage, cost.

use std::process::{Command, Output};
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::services::eds::{Eds, binary, replay, schema, upsert};
use crate::services::eventually;
use crate::services::hq::Importing;
use crate::services::nats::Nats;
use crate::services::scene::{COMPANIES, Keeper, assert_equal, publish};
use crate::services::snowflake::{FINGERPRINT, KEY, PASSPHRASE, PASSWORD, shared};

fn words() -> Value {
    json!({"t": schema("words", "1", json!({"word": {"type": "string"}}))})
}

fn word(id: u32, text: &str) -> Value {
    upsert("words", "1", json!({"id": format!("{id:05}"), "word": text}))
}

/// Replays one event with these variables in the environment.
fn replay_with(url: &str, variables: &[(&str, &str)]) -> Output {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let write = |name: &str, text: String| {
        std::fs::write(dir.path().join(name), text).unwrap_or_else(|e| panic!("{e}"));
    };
    write("schema.json", words().to_string());
    write("journal.jsonl", word(1, "hello").to_string());
    let mut command = Command::new(binary());
    command.current_dir(dir.path()).env("EDS_URL", url).envs(variables.iter().copied());
    command
        .args(["replay", "journal.jsonl", "--schema", "schema.json", "--verbose"])
        .output()
        .unwrap_or_else(|e| panic!("{e}"))
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

async fn until_idle(nats: &Nats, consumer: &str) {
    let idle = async || {
        let (unacknowledged, undelivered, _) = nats.consumer(consumer).await;
        (unacknowledged, undelivered) == (0, 0)
    };
    eventually("everything is applied and acknowledged", Duration::from_secs(60), idle).await;
}

/// An encrypted key, the way that Snowflake's own documentation makes one; a token of a program.
#[tokio::test(flavor = "multi_thread")]
async fn who_has_a_key_or_a_token_is_let_in() {
    let server = shared();
    for (name, passphrase) in [
        ("SNOWFLAKE_SECRET_ACCESS_KEY", "SNOWFLAKE_SECRET_ACCESS_KEY_PASSPHRASE"),
        ("MY_KEY", "MY_KEY_PASSPHRASE"),
    ] {
        let database = server.database();
        let more = if name == "MY_KEY" { "&secret-key=MY_KEY" } else { "" };
        let output =
            replay_with(&server.key_url(&database, more), &[(name, KEY), (passphrase, PASSPHRASE)]);
        assert!(output.status.success(), "{}", said(&output));
        assert_eq!(
            server.sql(&database, "SELECT \"word\" FROM \"words\""),
            [[Some("hello".to_owned())]]
        );
    }
    let database = server.database();
    let url = server
        .url(&database, "&authenticator=programmatic_access_token")
        .replace("s3cret%2Fp%40ss%3Aw%25rd", "pat-token");
    let output = replay_with(&url, &[]);
    assert!(output.status.success(), "{}", said(&output));
}

/// A URL, variables of the environment, and what is said.
type Case = (String, Vec<(&'static str, &'static str)>, &'static str);

/// Each refusal names its cure, and nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_let_in_learns_why() {
    let server = shared();
    let database = server.database();
    let key = |more: &str| server.key_url(&database, more);
    let name = "SNOWFLAKE_SECRET_ACCESS_KEY";
    let cases: Vec<Case> = vec![
        (
            server.url(&database, "").replace("s3cret", "wrong"),
            vec![],
            "refuses user \"eds\" or the password",
        ),
        (
            key("").replace("robot", "nobody"),
            vec![(name, KEY), ("SNOWFLAKE_SECRET_ACCESS_KEY_PASSPHRASE", PASSPHRASE)],
            FINGERPRINT,
        ),
        (key(""), vec![(name, KEY)], "SNOWFLAKE_SECRET_ACCESS_KEY_PASSPHRASE"),
        (
            key(""),
            vec![(name, KEY), ("SNOWFLAKE_SECRET_ACCESS_KEY_PASSPHRASE", "wrong")],
            "the passphrase does not open it",
        ),
        (key("&secret-key=NO_SUCH_VARIABLE"), vec![], "NO_SUCH_VARIABLE is not set"),
        (server.url("NO_SUCH_DATABASE", ""), vec![], "has no database \"NO_SUCH_DATABASE\""),
        (
            server.url(&database, "&schema=NO_SUCH_SCHEMA"),
            vec![],
            "has no schema \"NO_SUCH_SCHEMA\"",
        ),
        (server.url(&database, "&warehouse=none"), vec![], "has no warehouse"),
        (server.url(&database, "&freshness=soon"), vec![], "freshness"),
        (server.url(&database, "&freshness=5m"), vec![], "at most 240s"),
        (server.url(&database, "&update-strategy=before"), vec![], "update-strategy"),
        (server.url(&database, "&protocol=ftp"), vec![], "protocol"),
    ];
    for (url, variables, expected) in cases {
        let output = replay_with(&url, &variables);
        let said = said(&output);
        assert!(!output.status.success() && said.contains(expected), "{expected}: {said}");
        let secrets = [PASSWORD, "s3cret", PASSPHRASE, "PRIVATE KEY-----\nMII"];
        assert!(secrets.iter().all(|secret| !said.contains(secret)), "{said}");
    }
}

/// A batch that is large goes over the stage, wherever Snowflake has it; deletes too. The history
/// names the batch.
#[tokio::test(flavor = "multi_thread")]
async fn large_batches_go_over_the_stage() {
    let server = shared();
    let database = server.database();
    let long = "x".repeat(200);
    let mut events: Vec<Value> =
        (0..3_000).map(|n| word(n, &format!("{long}{n} \\N NULL \u{1F600}"))).collect();
    events.extend((0..1_000).map(|n| json!({"operation": "DELETE", "table": "words", "modelVersion": "1", "key": [format!("{n:05}")]})));
    for _ in 0..2 {
        let output = replay(&server.url(&database, "&freshness=2m"), &words(), &events, &[]);
        assert!(output.status.success(), "{}", said(&output));
    }
    let rows = server
        .sql(&database, "SELECT COUNT(*), COUNT(DISTINCT \"id\"), MIN(\"word\") FROM \"words\"");
    assert_eq!(
        rows,
        [[
            Some("2000".to_owned()),
            Some("2000".to_owned()),
            Some(format!("{long}1000 \\N NULL \u{1F600}"))
        ]]
    );
    let statements = server.statements(&database);
    let count = |what: &str| statements.iter().filter(|(sql, _)| sql.starts_with(what)).count();
    assert_eq!(
        (
            count("PUT "),
            count("COPY "),
            count("MERGE INTO \"PUBLIC\".\"words\""),
            count("DELETE FROM \"PUBLIC\".\"words\"")
        ),
        (2, 2, 2, 2)
    );
    let tag = statements
        .iter()
        .find(|(sql, _)| sql.starts_with("COPY "))
        .map(|(_, tag)| tag.clone())
        .unwrap_or_default();
    let tag: Value = serde_json::from_str(&tag).unwrap_or_else(|e| panic!("{tag}: {e}"));
    assert_eq!((&tag["application"], &tag["through"]), (&json!("eds"), &json!(4000)));
    let consumer = tag["consumer"].as_str().unwrap_or_default();
    assert!(consumer.starts_with("eds-replay-journal.jsonl-"), "{consumer}");
}

/// The older of two changes may come later; with `after` the row keeps the newer one.
#[tokio::test(flavor = "multi_thread")]
async fn with_after_the_later_updated_date_stays() {
    let server = shared();
    let schemas = json!({"t": schema("dated", "1", json!({"word": {"type": "string"}, "updatedDate": {"type": "string", "format": "date-time"}}))});
    let dated = |id: &str, word: &str, date: Option<&str>| {
        upsert("dated", "1", json!({"id": id, "word": word, "updatedDate": date}))
    };
    let first = [
        dated("1", "new", Some("2024-05-05T00:00:00Z")),
        dated("2", "old", Some("2024-01-01T00:00:00Z")),
        dated("3", "old", None),
    ];
    let then = [
        dated("1", "late", Some("2024-05-04T00:00:00Z")),
        dated("2", "new", Some("2024-01-01T00:00:00Z")),
        dated("3", "new", Some("2020-01-01T00:00:00Z")),
    ];
    for (strategy, expected) in
        [("after", ["new", "new", "new"]), ("standard", ["late", "new", "new"])]
    {
        let database = server.database();
        let url = server.url(&database, &format!("&freshness=0&update-strategy={strategy}"));
        for events in [&first, &then] {
            let output = replay(&url, &schemas, events, &[]);
            assert!(output.status.success(), "{}", said(&output));
        }
        let found: Vec<String> = server
            .sql(&database, "SELECT \"word\" FROM \"dated\" ORDER BY \"id\"")
            .into_iter()
            .flatten()
            .flatten()
            .collect();
        assert_eq!(found, expected, "{strategy}");
    }
}

/// Sessions expire, answers get lost, the service throttles, takes its time, forgets sessions with
/// a transaction open; EDS is killed at any moment.
#[tokio::test(flavor = "multi_thread")]
async fn forty_thousand_events_end_equal_whatever_happens() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(43, ShopOptions::default());
    publish(&nats, &mut shop, 40_000).await;
    let creds = nats.server_creds("sf", COMPANIES, None);
    let server = shared();
    let (database, url) = (&server).fresh().await;
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    server.disturb(&database, json!({"expire": 0.02, "throttle": 0.03, "lose": 0.03, "slow": 0.05, "forget": 0.008, "steal": 0.05}));
    eds.kill_at_random(12, fastrand::Rng::with_seed(11), 300..2500).await;
    eds.catch_up_supervised();
    assert_equal(&shop, &server, &database).await;
    let (unacknowledged, undelivered, _) = nats.consumer("eds-sf").await;
    assert_eq!((unacknowledged, undelivered), (0, 0));
}

/// Snowflake keeps the transaction of a session that is gone open, with its locks; EDS ends it, and
/// nobody else's.
#[tokio::test(flavor = "multi_thread")]
async fn the_transaction_of_a_lost_session_is_ended() {
    let server = shared();
    let database = server.database();
    server.disturb(&database, json!({"forget_open": true}));
    let output = replay(&server.url(&database, ""), &words(), &[word(1, "hello")], &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(
        server.sql(&database, "SELECT \"word\" FROM \"words\""),
        [[Some("hello".to_owned())]]
    );
    let statements = server.statements(&database);
    let ended = statements.iter().filter(|(sql, _)| sql.starts_with("SELECT SYSTEM$ABORT")).count();
    assert_eq!(ended, 1, "{statements:?}");
}

/// EDS replaces a session that ended while it was idle, without a warning.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ended_while_idle_is_replaced() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(44, ShopOptions::default());
    let creds = nats.server_creds("night", COMPANIES, None);
    let server = shared();
    let (database, url) = (&server).fresh().await;
    server.disturb(&database, json!({"master_seconds": 2}));
    let eds = Eds::stream(&nats, &creds, &url, &shop.schema_map());
    eds.begin();
    let running = eds.start(&["--verbose"]);
    for _ in 0..2 {
        publish(&nats, &mut shop, 2_000).await;
        until_idle(&nats, "eds-night").await;
        tokio::time::sleep(Duration::from_millis(2500)).await;
    }
    let ended = running.stop();
    assert!(ended.status.success() && !ended.log.contains("WARN"), "{}", ended.log);
    assert_equal(&shop, &server, &database).await;
}

/// Where the server delivers no more until it is told of some, waiting would bring nothing.
#[tokio::test(flavor = "multi_thread")]
async fn what_may_be_unacknowledged_bounds_the_wait() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(45, ShopOptions::default());
    // Twice as many as may be unacknowledged.
    publish(&nats, &mut shop, 500).await;
    let creds = nats.server_creds("bound", COMPANIES, None);
    let server = shared();
    let database = server.database();
    let eds =
        Eds::stream(&nats, &creds, &server.url(&database, "&freshness=4m"), &shop.schema_map())
            .with(&["--maxAckPending", "250"]);
    let running = eds.start(&["--restart"]);
    running.until_streaming().await;
    until_idle(&nats, "eds-bound").await;
    assert!(running.stop().status.success());
    assert_equal(&shop, &server, &database).await;
}

/// The flag of the Go program reaches the statements.
#[tokio::test(flavor = "multi_thread")]
async fn the_update_strategy_is_a_flag_too() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(46, ShopOptions::default());
    publish(&nats, &mut shop, 500).await;
    let creds = nats.server_creds("flag", COMPANIES, None);
    let server = shared();
    let database = server.database();
    let eds =
        Eds::stream(&nats, &creds, &server.url(&database, "&freshness=100ms"), &shop.schema_map())
            .with(&["--update-strategy", "after", "--restart"]);
    eds.catch_up_first();
    let merges: Vec<String> = server
        .statements(&database)
        .into_iter()
        .map(|(sql, _)| sql)
        .filter(|sql| sql.starts_with("MERGE INTO \"PUBLIC\".\"order\""))
        .collect();
    assert!(
        !merges.is_empty()
            && merges.iter().all(|sql| sql.contains("WHEN MATCHED AND (t.\"updatedDate\" IS NULL")),
        "{merges:?}"
    );
}

/// Whoever has its transaction ended at the beginning or the end of an import is told so; the same
/// command goes on.
async fn import_until_done(importing: &Importing, url: &str, args: &[&str]) {
    for _ in 0..10 {
        let output = importing.run(url, args).await;
        if output.status.success() {
            return;
        }
        let said = crate::services::hq::said(&output);
        assert!(said.contains("another session ended the transaction"), "{said}");
    }
    panic!("the import does not come to its end");
}

/// A full export, and another one into the same tables: they stay, and so do the views on them.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let server = shared();
    let (database, url) = (&server).fresh().await;
    let importing = Importing::new(3, 4_000, 300).await;
    server.disturb(
        &database,
        json!({"expire": 0.01, "throttle": 0.02, "lose": 0.02, "slow": 0.02, "steal": 0.1}),
    );
    import_until_done(&importing, &url, &[]).await;
    assert_equal(&importing.shop(), &server, &database).await;
    {
        let mut shop = importing.shop.lock().unwrap_or_else(|e| panic!("{e}"));
        (0..2_000).for_each(|_| drop(shop.next_event()));
    }
    server.sql(&database, "CREATE VIEW all_orders AS SELECT * FROM \"order\"");
    import_until_done(&importing, &url, &["--single"]).await;
    assert_equal(&importing.shop(), &server, &database).await;
    let seen = server.sql(&database, "SELECT COUNT(*) FROM all_orders");
    assert_eq!(seen, [[Some(importing.shop().alive(2).count().to_string())]]);
    let left = server.sql(
        &database,
        "SELECT table_name FROM information_schema.tables WHERE table_name LIKE '_eds_new%'",
    );
    assert!(left.is_empty(), "{left:?}");
}

/// An import that is killed leaves a transaction open; the next one ends it and goes on.
#[tokio::test(flavor = "multi_thread")]
async fn an_import_goes_on_after_kills() {
    let server = shared();
    let (database, url) = (&server).fresh().await;
    let importing = Importing::new(5, 6_000, 200).await;
    let mut rng = fastrand::Rng::with_seed(5);
    for _ in 0..6 {
        let mut child = importing.start(&url, &[]);
        tokio::time::sleep(Duration::from_millis(rng.u64(800..2500))).await;
        let _ = child.kill();
        let _ = child.wait();
    }
    importing.import(&url, &[]).await;
    let checked = importing.import(&url, &["--check"]).await;
    assert!(checked.contains("stays, and its rows are replaced"), "{checked}");
    assert_equal(&importing.shop(), &server, &database).await;
}
