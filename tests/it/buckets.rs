//! Buckets as customers have them: services without conditions, keys with exactly the rights that
//! the documentation asks for, keys that change, single objects that are refused.

use std::collections::BTreeMap;
use std::time::Duration;

use eds::sandbox::shop::{Shop, ShopOptions};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::kafka::{identity, publish, said};
use crate::services::bucket::{BucketHabits, KEY_ID, WildBucket};
use crate::services::eds::{Eds, dead_letters, replay, replay_in, replay_with};
use crate::services::eventually;
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

fn event(id: &str, key: &str, mvcc: &str) -> Value {
    json!({"operation": "UPDATE", "id": id, "table": "order", "key": [key], "after": {"id": key}, "timestamp": 1_000_100, "mvccTimestamp": mvcc})
}

/// Two changes of a row within a second, and one of another row.
fn three() -> [Value; 3] {
    [
        event("e1", "k", "1720732611708587501.0"),
        event("e2", "k", "1720732611708587502.0"),
        event("e3", "other", "1720732611708587503.0"),
    ]
}

/// The ids of the stored events, sorted.
fn ids(objects: &BTreeMap<String, Vec<u8>>) -> Vec<String> {
    let id = |content: &Vec<u8>| {
        let event: Value = serde_json::from_slice(content).unwrap_or_default();
        event["id"].as_str().unwrap_or_default().to_owned()
    };
    let mut ids: Vec<String> = objects.values().map(id).collect();
    ids.sort_unstable();
    ids
}

/// Keys with the rights to put and to get, and no other, do for everything: to keep both of two
/// changes of one name, to find a repeat, to start again where the probe could not be deleted.
#[tokio::test(flavor = "multi_thread")]
async fn the_rights_that_are_documented_suffice() {
    let bucket = WildBucket::start(BucketHabits::default()).await;
    for format in ["", "", "&format=ndjson", "&names=position"] {
        let output = replay(&bucket.url(format), &json!({}), &three(), &[]);
        assert!(output.status.success(), "{format}: {}", said(&output));
    }
    let names: Vec<String> = bucket.objects().into_keys().collect();
    for (start, end) in [
        ("order/1000-k-1720732611708587501.0", ".json"),
        ("order/1000-k-00000000000000000001-", ".json"),
        ("order/1000-k-00000000000000000002-", ".json"),
        ("order/1000-other-00000000000000000003-", ".json"),
        ("table=order/", ".ndjson.gz"),
    ] {
        let is_there = |name: &String| name.starts_with(start) && name.ends_with(end);
        assert!(names.iter().any(is_there), "{start} is not among {names:?}");
    }
    assert_eq!(names.len(), 7, "{names:?}");
}

/// A service that would let one change replace another is found at the start, and named with the
/// way out, which keeps every change.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_without_conditions_is_found_at_the_start() {
    for habits in [
        BucketHabits { ignores_conditions: true, ..BucketHabits::default() },
        BucketHabits { lacks_conditions: true, ..BucketHabits::default() },
    ] {
        let bucket = WildBucket::start(habits).await;
        let output = replay(&bucket.url(""), &json!({}), &three(), &[]);
        let said_first = said(&output);
        assert!(
            output.status.code() == Some(3) && said_first.contains("?names=position"),
            "{said_first}"
        );
        assert!(bucket.objects().is_empty());
        let conditional = bucket.asked().iter().filter(|asked| asked.is_conditional).count();
        assert!(conditional <= 3, "{conditional} requests: such an answer is not waited for");
        for _ in 0..2 {
            let output = replay(&bucket.url("&names=position"), &json!({}), &three(), &[]);
            assert!(output.status.success(), "{}", said(&output));
        }
        assert_eq!(ids(&bucket.objects()), ["e1", "e2", "e3"]);
        for _ in 0..2 {
            let url = bucket.url("&names=position&format=ndjson");
            let output = replay(&url, &json!({}), &three(), &[]);
            assert!(output.status.success(), "{}", said(&output));
        }
        assert_eq!(bucket.objects().len(), 4, "the file of many changes is there once");
    }
}

/// An object that the service does not take is a change that cannot be stored, not an outage: all
/// others are.
#[tokio::test(flavor = "multi_thread")]
async fn the_refusal_of_one_object_stops_no_other() {
    let bucket = WildBucket::start(BucketHabits {
        key_bytes_max: Some(200),
        object_bytes_max: Some(10_000),
        ..BucketHabits::default()
    })
    .await;
    let mut large = event("e4", "large", "4");
    large["after"]["text"] = "x".repeat(20_000).into();
    let events = [&three()[..], &[large, event("e5", &"n".repeat(170), "5")]].concat();
    let dir = TempDir::new().unwrap_or_else(|e| panic!("{e}"));
    let journal: String = events.iter().map(|event| format!("{event}\n")).collect();
    let data = dir.path().join("data");
    let args = ["--data-dir", &data.display().to_string()];
    let output = replay_in(dir.path(), &bucket.url(""), &json!({}), &journal, &args);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(ids(&bucket.objects()), ["e1", "e2", "e3"]);
    let letters = dead_letters(&bucket.url(""), &data);
    let why: Vec<String> = letters.iter().map(|letter| letter["reason"].to_string()).collect();
    assert_eq!(why.len(), 2, "{letters:?}");
    assert!(why.iter().any(|why| why.contains("EntityTooLarge")), "{why:?}");
    assert!(why.iter().any(|why| why.contains("KeyTooLongError")), "{why:?}");
}

/// What is wrong is said with its cure.
#[tokio::test(flavor = "multi_thread")]
async fn keys_clocks_and_regions_are_named() {
    for (answer, expected) in [
        ((403, "RequestTimeTooSkewed"), "clock"),
        ((403, "ExpiredToken"), "have expired"),
        ((403, "SignatureDoesNotMatch"), "are not taken"),
        ((403, "AccessDenied"), "s3:GetObject and s3:PutObject"),
        ((404, "NoSuchBucket"), "there is no bucket \"my.shop.bucket\""),
    ] {
        let habits = BucketHabits { fails: Some(answer), ..BucketHabits::default() };
        let bucket = WildBucket::start(habits).await;
        let output = replay(&bucket.url("&max-retries=1"), &json!({}), &three(), &[]);
        let said = said(&output);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        assert!(bucket.asked().len() <= 2, "{} requests", bucket.asked().len());
    }
}

/// A service that asks for fewer requests gets them, and then all objects, each once.
#[tokio::test(flavor = "multi_thread")]
async fn a_service_that_is_too_slow_is_waited_for() {
    // Some after the probe, while many are on their way.
    let habits = BucketHabits { throttled: 10..50, ..BucketHabits::default() };
    let bucket = WildBucket::start(habits).await;
    let events: Vec<Value> =
        (0..200).map(|n| event(&format!("e{n}"), &format!("k{n}"), "1")).collect();
    let output = replay(&bucket.url("&max-retries=1"), &json!({}), &events, &[]);
    assert!(output.status.success(), "{}", said(&output));
    assert_eq!(bucket.objects().len(), 200);
    let put = bucket.asked().iter().filter(|asked| asked.method == "PUT").count();
    assert!(put <= 200 + 40 + 3, "{put} requests: none is made more often than it is refused");
}

/// Keys that were lent come with a token; that of the environment belongs to other keys.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_token_belongs_to_its_keys() {
    let lent = BucketHabits { token: Some("lent/token=="), ..BucketHabits::default() };
    let bucket = WildBucket::start(lent).await;
    let with_token = bucket.url("&session-token=lent%2Ftoken%3D%3D");
    let output = replay_with(&with_token, &three(), &[("AWS_SESSION_TOKEN", "another")]);
    assert!(output.status.success(), "{}", said(&output));
    let environment = [
        ("AWS_ACCESS_KEY_ID", KEY_ID),
        ("AWS_SECRET_ACCESS_KEY", "s"),
        ("AWS_SESSION_TOKEN", "lent/token=="),
    ];
    let output = replay_with(&bucket.url_without_keys(), &three(), &environment);
    assert!(output.status.success(), "{}", said(&output));
    let owned = WildBucket::start(BucketHabits::default()).await;
    let output = replay_with(&owned.url(""), &three(), &[("AWS_SESSION_TOKEN", "another")]);
    assert!(output.status.success(), "{}", said(&output));
}

/// Keys in a file change while EDS streams: those that have expired are read again, and every
/// event is there once.
#[tokio::test(flavor = "multi_thread")]
async fn keys_in_a_file_may_change() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(63, ShopOptions { rows: 500, repeats: 0 });
    let (_, mut published) = publish(&nats, &mut shop, 300).await;
    let creds = nats.server_creds("rotating", COMPANIES, None);
    let bucket = WildBucket::start(BucketHabits::default()).await;
    let eds = Eds::stream(&nats, &creds, &bucket.url_without_keys(), &shop.schema_map());
    let file = eds.dir.path().join("credentials");
    let write = |key: &str| {
        let text = format!("[default]\naws_access_key_id = {key}\naws_secret_access_key = s\n");
        std::fs::write(&file, text).unwrap_or_else(|e| panic!("{e}"));
    };
    write(KEY_ID);
    let eds = eds.env("AWS_SHARED_CREDENTIALS_FILE", &file.display().to_string());
    eds.begin();
    let running = eds.start(&["--restart=false"]);
    for key in ["second-key", "third-key"] {
        let expected = published.len();
        eventually("all events are there", Duration::from_secs(60), async || {
            bucket.objects().len() >= expected
        })
        .await;
        bucket.expect_key(key);
        published.extend(publish(&nats, &mut shop, 300).await.1);
        // Whoever writes the file is later than the service.
        tokio::time::sleep(Duration::from_millis(300)).await;
        write(key);
    }
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);
    eds.catch_up();
    let stored: std::collections::BTreeSet<String> =
        bucket.objects().values().map(|content| identity(content)).collect();
    assert!(stored == published, "{} of {} events", stored.len(), published.len());
}
