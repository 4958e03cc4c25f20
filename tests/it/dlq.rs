//! The dead letter queue: what is refused is kept where the rows are, and a person looks at it,
//! retries it, exports it, drops it. On every kind of destination.

use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::conformance::{Database, databases};
use crate::services::eds::{Eds, Running, dead_letters, dlq, replay_in, schema, upsert};
use crate::services::eventually_ok;
use crate::services::mysql::Flavour;
use crate::services::nats::Nats;

const COMPANY: &str = "c1";
const PATIENCE: Duration = Duration::from_secs(120);

/// A stream into one table `t` of a text `id` and a number `n`.
struct LetterScene {
    nats: Nats,
    eds: Eds,
    url: String,
}

impl LetterScene {
    async fn of(url: &str) -> LetterScene {
        let nats = Nats::start().await;
        let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
        let creds = nats.server_creds("dlq", &[COMPANY], None);
        let eds = Eds::stream(&nats, &creds, url, &schemas.to_string());
        eds.begin();
        LetterScene { nats, eds, url: url.to_owned() }
    }

    fn start(&self) -> Running {
        self.eds.start(&[])
    }

    async fn send(&self, events: &[Value]) {
        let message = |event: &Value| {
            let subject = format!("dbchange.t.UPDATE.{COMPANY}.l1.PUBLIC.1");
            (subject, event.to_string().into_bytes())
        };
        self.nats.publish(events.iter().map(message)).await;
    }

    /// Waits until so many letters are kept, and returns them.
    async fn until_letters(&self, count: usize, running: &Running) -> Vec<Value> {
        eventually_ok(PATIENCE, async || match self.eds.dead_letters() {
            letters if letters.len() == count => Ok(()),
            letters => Err(format!("{letters:?}\n{}", running.log())),
        })
        .await;
        self.eds.dead_letters()
    }

    fn said(&self, args: &[&str]) -> (bool, String) {
        let output = dlq(&self.url, &self.eds.data_dir(), args);
        let said = [output.stdout, output.stderr].concat();
        (output.status.success(), String::from_utf8_lossy(&said).into_owned())
    }
}

fn row(id: &str, n: i64) -> Value {
    upsert("t", "1", json!({"id": id, "n": n}))
}

fn delete(id: &str) -> Value {
    let key = json!([id]);
    json!({"operation": "DELETE", "table": "t", "modelVersion": "1", "key": key, "before": {"id": id}})
}

async fn until_rows(database: &dyn Database, rows: &[(&str, i64)], running: &Running) {
    let expected: Vec<Vec<Option<String>>> =
        rows.iter().map(|(id, n)| vec![Some((*id).to_owned()), Some(n.to_string())]).collect();
    eventually_ok(PATIENCE, async || match database.read("t", &["id", "n"]).await {
        found if found == expected => Ok(()),
        found => Err(format!("{found:?} instead of {expected:?}\n{}", running.log())),
    })
    .await;
}

/// What a CHECK refuses is kept; once the CHECK is gone `eds dlq retry` applies exactly what no
/// later change has replaced, beside a running stream.
async fn what_was_refused_is_applied_after_the_cure(
    database: &dyn Database,
    (check, cure): (&str, &str),
) {
    let scene = LetterScene::of(&database.url()).await;
    let running = scene.start();
    scene.send(&[row("a", 1), row("b", 1), row("c", 1), row("d", 1)]).await;
    until_rows(database, &[("a", 1), ("b", 1), ("c", 1), ("d", 1)], &running).await;
    database.run(check).await;
    // Of b a later change is applied, c is deleted later, of d a later one is refused, too.
    scene.send(&[row("a", 101), row("b", 102), row("c", 103), row("d", 104)]).await;
    scene.until_letters(4, &running).await;
    scene.send(&[row("b", 2), delete("c"), row("d", 105), row("e", 1)]).await;
    let letters = scene.until_letters(5, &running).await;
    until_rows(database, &[("a", 1), ("b", 2), ("d", 1), ("e", 1)], &running).await;
    let superseded: Vec<bool> = letters.iter().map(|l| !l["superseded_by"].is_null()).collect();
    assert_eq!(superseded, [false, true, true, false, false], "{letters:?}");
    assert_eq!(letters[0]["kind"], "refused");
    assert_eq!(letters[0]["payload"], row("a", 101).to_string());
    assert_eq!(letters[0]["key"], json!(["a"]));
    let kept = database.read("_eds_dead_letter", &["letter", "table_name", "kind"]).await;
    let first = [Some("0".to_owned()), Some("t".to_owned()), Some("refused".to_owned())];
    assert_eq!((kept.len(), &kept[0][..]), (5, &first[..]));

    let (is_ok, said) = scene.said(&["retry", "--wait", "20s"]);
    assert!(!is_ok && said.contains("3 of 3 letters were not applied"), "{said}");
    database.run(cure).await;
    let (is_ok, said) = scene.said(&["retry", "--dry-run"]);
    assert!(is_ok && said.matches("would be tried").count() == 3, "{said}");
    let (is_ok, said) = scene.said(&["retry", "--wait", "20s"]);
    assert!(is_ok && said.matches("applied").count() == 3, "{said}");
    until_rows(database, &[("a", 101), ("b", 2), ("d", 105), ("e", 1)], &running).await;
    let (is_ok, said) = scene.said(&["list"]);
    assert!(is_ok && said.contains("no dead letters"), "{said}");
    let (is_ok, said) = scene.said(&["list", "--superseded"]);
    assert!(is_ok && said.matches("superseded by sequence").count() == 2, "{said}");
    let (is_ok, said) = scene.said(&["drop", "--all"]);
    assert!(is_ok && said.contains("Dropped: 2"), "{said}");
    assert!(database.read("_eds_dead_letter", &["letter"]).await.is_empty());
    assert!(running.stop().status.success());
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_apply_what_is_still_of_use_in_postgres() {
    let ways = (
        "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)",
        "ALTER TABLE t DROP CONSTRAINT small",
    );
    let database = databases::PostgresCase::fresh().await;
    what_was_refused_is_applied_after_the_cure(&database, ways).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_apply_what_is_still_of_use_in_mysql() {
    let ways = (
        "ALTER TABLE t ADD CONSTRAINT small CHECK (n < 100)",
        "ALTER TABLE t DROP CONSTRAINT small",
    );
    for flavour in [Flavour::MySql, Flavour::MariaDb] {
        let database = databases::MySqlCase::fresh(flavour).await;
        what_was_refused_is_applied_after_the_cure(&database, ways).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn retries_apply_what_is_still_of_use_in_sqlite() {
    let check = "CREATE TRIGGER small BEFORE INSERT ON t WHEN NEW.n >= 100 BEGIN SELECT \
                 RAISE(ABORT, 'too large'); END";
    let database = databases::SqliteCase::fresh().await;
    what_was_refused_is_applied_after_the_cure(&database, (check, "DROP TRIGGER small")).await;
}

/// Letters that were ordered while EDS did not run are tried at its next start, before it ends.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_ordered_while_eds_is_away_is_tried_at_its_start() {
    let database = databases::SqliteCase::fresh().await;
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let journal = format!(
        "{}\n{{\"broken\":\n{}\n",
        row("a", 1),
        upsert("t", "1", json!({"id": "b", "n": "x"}))
    );
    let replayed = || replay_in(dir.path(), &database.url(), &schemas, &journal, &[]);
    assert!(replayed().status.success());
    // The same once more: nothing is kept twice.
    assert!(replayed().status.success());
    let data = dir.path().join("data");
    let letters = dead_letters(&database.url(), &data);
    let kinds: Vec<_> = letters.iter().map(|l| l["kind"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["malformed", "refused"], "{letters:?}");
    let said = dlq(&database.url(), &data, &["retry"]);
    assert!(
        String::from_utf8_lossy(&said.stdout)
            .contains("EDS does not run; to be tried when it streams next: 2"),
        "{said:?}"
    );
    let said = String::from_utf8_lossy(&replayed().stderr).into_owned();
    for expected in
        ["dead letter 0 was not applied: the message does not say", "dead letter 1 was not applied"]
    {
        assert!(said.contains(expected), "{said}");
    }
    let said = dlq(&database.url(), &data, &["drop"]);
    assert_eq!(said.status.code(), Some(3), "{said:?}");
    let said = dlq(&database.url(), &data, &["drop", "--kind", "malformed"]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(dead_letters(&database.url(), &data).len(), 1);
}

/// Changes whose schema nobody knew are applied by themselves once it is published.
#[tokio::test(flavor = "multi_thread")]
async fn changes_of_a_schema_that_becomes_known_are_applied() {
    let database = databases::SqliteCase::fresh().await;
    let scene = LetterScene::of(&database.url()).await;
    let running = scene.start();
    let of_version_2 = |id: &str, n: i64| upsert("t", "2", json!({"id": id, "n": n}));
    scene.send(&[row("a", 1), of_version_2("a", 2), of_version_2("b", 2), row("b", 3)]).await;
    let letters = scene.until_letters(2, &running).await;
    let kinds: Vec<_> = letters.iter().map(|l| l["kind"].clone()).collect();
    assert_eq!(kinds, ["unknown-schema", "unknown-schema"]);
    until_rows(&database, &[("a", 1), ("b", 3)], &running).await;
    let both = json!({"t": schema("t", "2", json!({"n": {"type": "integer"}}))});
    std::fs::write(scene.eds.dir.path().join("schema.json"), both.to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    let (is_ok, said) = scene.said(&["retry", "--wait", "20s"]);
    assert!(is_ok && said.contains("applied"), "{said}\n{}", running.log());
    until_rows(&database, &[("a", 2), ("b", 3)], &running).await;
    assert!(running.stop().status.success());
}

/// A destination without tables keeps them in the state file.
#[tokio::test(flavor = "multi_thread")]
async fn files_have_their_letters_in_the_state_file() {
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let folder = dir.path().join("out");
    std::fs::create_dir(&folder).unwrap_or_else(|e| panic!("{e}"));
    let url = format!("file://{}", folder.display());
    let bad = "\u{1}{\"not\": json ä";
    let journal = format!("{}\n{bad}\n{}\n", row("a", 1), row("b", 2));
    for _ in 0..2 {
        let said = replay_in(dir.path(), &url, &json!({}), &journal, &[]);
        assert!(said.status.success(), "{said:?}");
    }
    let data = dir.path().join("data");
    let letters = dead_letters(&url, &data);
    assert_eq!(letters.len(), 1, "{letters:?}");
    assert_eq!((&letters[0]["payload"], &letters[0]["sequence"]), (&json!(bad), &json!(2)));
    let said = dlq(&url, &data, &["show", "0"]);
    assert!(String::from_utf8_lossy(&said.stdout).contains(bad), "{said:?}");
    assert_eq!(dlq(&url, &data, &["show", "7"]).status.code(), Some(1));
    assert!(dlq(&url, &data, &["drop", "0"]).status.success());
    assert!(dead_letters(&url, &data).is_empty());
}

/// With `--on-rejected stop` a run ends before what cannot be applied, and the next one meets it
/// again.
#[tokio::test(flavor = "multi_thread")]
async fn a_run_that_may_reject_nothing_stops_before_it() {
    let database = databases::SqliteCase::fresh().await;
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let schemas = json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))});
    let unfit = upsert("t", "1", json!({"id": "b", "n": "x"}));
    for bad in ["{", &unfit.to_string()] {
        let journal = format!("{}\n{bad}\n", row("a", 1));
        let stop = ["--on-rejected", "stop"];
        for _ in 0..2 {
            let said = replay_in(dir.path(), &database.url(), &schemas, &journal, &stop);
            let text = String::from_utf8_lossy(&said.stderr).into_owned();
            assert!(!said.status.success(), "{text}");
            assert!(text.contains("--on-rejected stop ends the run before it"), "{text}");
        }
        assert!(dead_letters(&database.url(), &dir.path().join("data")).is_empty());
    }
    let journal = format!("{}\n{{\n", row("a", 1));
    let said = replay_in(dir.path(), &database.url(), &schemas, &journal, &[]);
    assert!(said.status.success(), "{said:?}");
    assert_eq!(dead_letters(&database.url(), &dir.path().join("data")).len(), 1);
}

/// A kind of message that cannot be applied: the message, and whether the cure makes it a row.
type Poison = (Vec<u8>, bool);

/// Twenty kinds; `n` tells their messages apart.
fn poisons(n: usize) -> Vec<Poison> {
    let good = |id: &str, more: Value| {
        let mut after = json!({"id": format!("{id}{n}"), "n": n, "w": "A"});
        let more = more.as_object().cloned().unwrap_or_default();
        after.as_object_mut().into_iter().for_each(|after| after.extend(more.clone()));
        after
    };
    let event = |after: Value| upsert("t", "1", after);
    let with = |name: &str, value: Value| {
        let mut event = event(good("m", json!({})));
        event[name] = value;
        event.to_string().into_bytes()
    };
    let without = |name: &str| {
        let mut event = event(good("m", json!({})));
        event.as_object_mut().and_then(|event| event.remove(name));
        event.to_string().into_bytes()
    };
    let row = |id: &str, more: Value| event(good(id, more)).to_string().into_bytes();
    let mut of_version_2 = event(good("v", json!({})));
    of_version_2["modelVersion"] = json!("2");
    let keyless =
        json!({"operation": "INSERT", "table": "t", "modelVersion": "1", "after": {"n": n}});
    vec![
        (b"{\"operation\":".to_vec(), false),
        (b"\xff\xfe".to_vec(), false),
        (b"[1, 2]".to_vec(), false),
        (b"7".to_vec(), false),
        (Vec::from("\0\u{1}"), false),
        ("[".repeat(100_000).into_bytes(), false),
        (without("operation"), false),
        (without("table"), false),
        (without("after"), false),
        (without("modelVersion"), false),
        (with("operation", json!("MERGE")), false),
        (with("after", json!([1])), false),
        (with("key", json!("x")), false),
        (keyless.to_string().into_bytes(), false),
        (row("x", json!({"n": "many"})), false),
        (row("d", json!({"d": "noon"})), false),
        (row("l", json!({"w": "A".repeat(70)})), true),
        (row("c", json!({"n": -1 - n as i64})), true),
        (row("u", json!({"n": 0})), true),
        (of_version_2.to_string().into_bytes(), true),
    ]
}

/// Of many events one in a hundred is poison, of twenty kinds: exactly those become dead letters,
/// and after the cure exactly those that it cures are applied.
async fn poison_is_kept_apart(database: &dyn Database, (poison, cure): (&[&str], &[&str])) {
    let nats = Nats::start().await;
    let columns = json!({"n": {"type": "integer"}, "w": {"type": "array", "items": {"enum": ["A"]}},
        "d": {"type": "string", "format": "date-time"}});
    let schemas = json!({"t": schema("t", "1", columns.clone())});
    let creds = nats.server_creds("dlq", &[COMPANY], None);
    let eds = Eds::stream(&nats, &creds, &database.url(), &schemas.to_string());
    eds.begin();
    let scene = LetterScene { nats, eds, url: database.url() };
    let running = scene.start();
    scene.send(&[upsert("t", "1", json!({"id": "first", "n": 0, "w": "A"}))]).await;
    until_count(database, 1, &running).await;
    for statement in poison {
        database.run(statement).await;
    }
    let (mut messages, mut curable, mut dead) = (Vec::new(), 0, 0);
    let mut number = 1_000_000;
    for round in 1..=2 {
        for (bad, is_curable) in poisons(round) {
            for _ in 0..99 {
                number += 1;
                let after = json!({"id": format!("g{number}"), "n": number, "w": "A"});
                messages.push(upsert("t", "1", after).to_string().into_bytes());
            }
            messages.push(bad);
            curable += usize::from(is_curable);
            dead += 1;
        }
    }
    let subject = format!("dbchange.t.UPDATE.{COMPANY}.l1.PUBLIC.1");
    scene.nats.publish(messages.into_iter().map(|m| (subject.clone(), m))).await;
    let good = dead * 99 + 1;
    until_count(database, good, &running).await;
    let letters = scene.until_letters(dead, &running).await;
    assert!(letters.iter().all(|letter| letter["superseded_by"].is_null()), "{letters:?}");
    for statement in cure {
        database.run(statement).await;
    }
    let both = json!({"t": schema("t", "2", columns)});
    std::fs::write(scene.eds.dir.path().join("schema.json"), both.to_string())
        .unwrap_or_else(|e| panic!("{e}"));
    let (is_ok, said) = scene.said(&["retry", "--wait", "60s"]);
    assert!(!is_ok, "what is malformed stays: {said}");
    let left = scene.until_letters(dead - curable, &running).await;
    until_count(database, good + curable, &running).await;
    let kinds: Vec<&str> = left.iter().filter_map(|letter| letter["kind"].as_str()).collect();
    assert!(!kinds.contains(&"unknown-schema"), "{left:?}");
    assert!(running.stop().status.success());
}

async fn until_count(database: &dyn Database, rows: usize, running: &Running) {
    eventually_ok(PATIENCE, async || match database.read("t", &["id"]).await.len() {
        found if found == rows => Ok(()),
        found => Err(format!("{found} rows instead of {rows}\n{}", running.log())),
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn poison_is_kept_apart_in_postgres() {
    let poison =
        ["CREATE UNIQUE INDEX u ON t (n)", "ALTER TABLE t ADD CONSTRAINT small CHECK (n >= 0)"];
    let cure = [
        "DROP INDEX u",
        "ALTER TABLE t DROP CONSTRAINT small",
        "ALTER TABLE t ALTER COLUMN w TYPE text",
    ];
    let database = databases::PostgresCase::fresh().await;
    poison_is_kept_apart(&database, (&poison, &cure)).await;
}
