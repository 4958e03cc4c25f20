//! Kafka: what is in the topic afterwards, where, in which order, and what is said when it cannot
//! be.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use data_encoding::BASE64URL_NOPAD;
use eds::sandbox::check;
use eds::sandbox::shop::{Shop, ShopOptions};
use rdkafka::mocking::MockCluster;
use serde_json::{Value, json};

use crate::services::at_once;
use crate::services::eds::{Eds, replay};
use crate::services::hq::Importing;
use crate::services::kafka::{Kafka, KafkaRecord, PASSWORD, messages, shared};
use crate::services::nats::Nats;
use crate::services::scene::COMPANIES;

pub fn event(id: &str, key: &str) -> Value {
    json!({"operation": "UPDATE", "id": id, "table": "order", "key": [key], "after": {"id": key}, "timestamp": 1, "mvccTimestamp": "1"})
}

pub fn said(output: &std::process::Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// XXH64 as its specification describes it, with the seed 0.
fn xxh64(data: &[u8]) -> u64 {
    const P: [u64; 5] = [
        0x9E37_79B1_85EB_CA87,
        0xC2B2_AE3D_27D4_EB4F,
        0x1656_67B1_9E37_79F9,
        0x85EB_CA77_C2B2_AE63,
        0x27D4_EB2F_1656_67C5,
    ];
    let word = |at: usize| u64::from_le_bytes(data[at..at + 8].try_into().unwrap_or_default());
    let round = |lane: u64, input: u64| {
        lane.wrapping_add(input.wrapping_mul(P[1])).rotate_left(31).wrapping_mul(P[0])
    };
    let mut at = 0;
    let mut hash = P[4];
    if data.len() >= 32 {
        let mut lanes = [P[0].wrapping_add(P[1]), P[1], 0, 0u64.wrapping_sub(P[0])];
        while at + 32 <= data.len() {
            for (i, lane) in lanes.iter_mut().enumerate() {
                *lane = round(*lane, word(at + 8 * i));
            }
            at += 32;
        }
        hash = [1, 7, 12, 18]
            .iter()
            .zip(lanes)
            .fold(0u64, |sum, (bits, lane)| sum.wrapping_add(lane.rotate_left(*bits)));
        hash = lanes.iter().fold(hash, |hash, lane| {
            (hash ^ round(0, *lane)).wrapping_mul(P[0]).wrapping_add(P[3])
        });
    }
    hash = hash.wrapping_add(data.len() as u64);
    while at + 8 <= data.len() {
        hash = (hash ^ round(0, word(at))).rotate_left(27).wrapping_mul(P[0]).wrapping_add(P[3]);
        at += 8;
    }
    if at + 4 <= data.len() {
        let half = u64::from(u32::from_le_bytes(data[at..at + 4].try_into().unwrap_or_default()));
        hash =
            (hash ^ half.wrapping_mul(P[0])).rotate_left(23).wrapping_mul(P[1]).wrapping_add(P[2]);
        at += 4;
    }
    for byte in &data[at..] {
        hash = (hash ^ u64::from(*byte).wrapping_mul(P[4])).rotate_left(11).wrapping_mul(P[0]);
    }
    hash = (hash ^ (hash >> 33)).wrapping_mul(P[1]);
    hash = (hash ^ (hash >> 29)).wrapping_mul(P[2]);
    hash ^ (hash >> 32)
}

/// The rule of the contract: `fnv1a-32(hex(xxhash64(key))) mod partitions`.
fn partition(key: &str, partitions: u32) -> i32 {
    let hex = format!("{:016x}", xxh64(key.as_bytes()));
    let hash = hex
        .bytes()
        .fold(2_166_136_261u32, |hash, byte| (hash ^ u32::from(byte)).wrapping_mul(16_777_619));
    (hash % partitions) as i32
}

/// Key, header, value and partition of each message, for 10,000 keys.
#[tokio::test(flavor = "multi_thread")]
async fn messages_are_as_the_contract_says() {
    assert_eq!(format!("{:016x}", xxh64(b"hello")), "26c7827d889f6da3");
    let kafka = shared();
    let topic = kafka.topic();
    let whole = json!({"operation": "DELETE", "id": "e0", "table": "customer", "key": ["eu", "c1"], "modelVersion": "1", "companyId": "co", "locationId": "lo",
        "before": {"id": "c1"}, "timestamp": 5, "mvccTimestamp": "7", "region": "not ours"});
    let events: Vec<Value> = std::iter::once(whole)
        .chain((1..10_000).map(|n| {
            event(&format!("e{n}"), &"é".repeat(n % 50)[..].replace('é', &format!("{n}-")))
        }))
        .collect();
    let output = replay(&kafka.url(&topic), &json!({}), &events, &[]);
    assert!(output.status.success(), "{}", said(&output));
    let found = messages(&kafka.brokers(), &topic);
    let letters = said(&output).matches("dead letter (").count();
    assert_eq!(found.len() + letters, 10_000);
    for KafkaRecord { partition: at, key, value, headers } in &found {
        let event: Value = serde_json::from_slice(value).unwrap_or_else(|e| panic!("{e}"));
        let text = |field: &str| event[field].as_str().unwrap_or("NONE").to_owned();
        let row = event["key"]
            .as_array()
            .and_then(|key| key.last())
            .and_then(Value::as_str)
            .unwrap_or_default();
        let named = format!("{}.{}.{}.{row}", text("table"), text("companyId"), text("locationId"));
        assert_eq!(headers.get("eds-partitionkey"), Some(&named));
        assert_eq!(
            *key,
            format!(
                "dbchange.{}.{}.{}.{}.{}",
                text("table"),
                text("operation"),
                text("companyId"),
                text("locationId"),
                text("id")
            )
        );
        assert_eq!(*at, partition(&named, 3), "{named}");
    }
    let deleted = found
        .iter()
        .find(|read| read.key == "dbchange.customer.DELETE.co.lo.e0")
        .map(|read| String::from_utf8_lossy(&read.value).into_owned());
    let expected = r#"{"operation":"DELETE","id":"e0","table":"customer","key":["eu","c1"],"modelVersion":"1","companyId":"co","locationId":"lo","before":{"id":"c1"},"timestamp":5,"mvccTimestamp":"7"}"#;
    assert_eq!(deleted.as_deref(), Some(expected));
}

/// What was published: in its order, and by what the events are known.
pub async fn publish(
    nats: &Nats,
    shop: &mut Shop,
    count: usize,
) -> (Vec<Vec<u8>>, BTreeSet<String>) {
    let messages: Vec<(String, Vec<u8>)> = (0..count)
        .map(|_| shop.next_event())
        .map(|e| (e.subject, e.payload.into_bytes()))
        .collect();
    let stream: Vec<Vec<u8>> = messages.iter().map(|(_, payload)| payload.clone()).collect();
    nats.publish(messages.into_iter()).await;
    let known = stream.iter().map(|payload| identity(payload)).collect();
    (stream, known)
}

/// By which an event is known: its row, its version and its id.
pub fn identity(payload: &[u8]) -> String {
    let event: Value = serde_json::from_slice(payload).unwrap_or_else(|e| panic!("{e}"));
    ["table", "key", "mvccTimestamp", "id"].map(|field| event[field].to_string()).join(" ")
}

/// Everything is there, and nothing else. All that may be asked of a mock broker after an error: it
/// takes what comes out of order, which a broker refuses.
pub fn assert_there(found: &[KafkaRecord], published: &BTreeSet<String>) {
    let there: BTreeSet<String> = found.iter().map(|read| identity(&read.value)).collect();
    let (missing, strange) =
        (published.difference(&there).count(), there.difference(published).count());
    assert!(
        missing == 0 && strange == 0,
        "{missing} of {} events are missing, {strange} are nobody's",
        published.len()
    );
}

/// Everything is there, repeats have one key, and each partition is in the order of the stream once
/// repeats are passed over. Returns how many repeats there are.
pub fn assert_whole(found: &[KafkaRecord], published: &BTreeSet<String>) -> usize {
    assert_there(found, published);
    let mut key_of: HashMap<String, &str> = HashMap::new();
    let mut last: BTreeMap<i32, u64> = BTreeMap::new();
    let positions: BTreeSet<&String> =
        found.iter().filter_map(|read| read.headers.get("eds-position")).collect();
    let mut repeats = 0;
    for read in found {
        assert_eq!(*key_of.entry(identity(&read.value)).or_insert(&read.key), read.key);
        let sequence = read
            .headers
            .get("eds-position")
            .and_then(|text| text.split(' ').next()?.parse().ok())
            .unwrap_or(0);
        let last = last.entry(read.partition).or_default();
        if sequence <= *last {
            repeats += 1;
        }
        *last = sequence.max(*last);
    }
    assert_eq!(
        found.len() - positions.len(),
        repeats,
        "only repeats may stand behind what is later in the stream"
    );
    repeats
}

/// A stream with kills: nothing is missing, nothing is out of order, and what was written before a
/// kill is not written again.
#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_thousand_events_are_there_after_kills() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(71, ShopOptions::default());
    let (_, published) = publish(&nats, &mut shop, 100_000).await;
    let creds = nats.server_creds("log", COMPANIES, None);
    let kafka = shared();
    let topic = kafka.topic();
    let eds = Eds::stream(&nats, &creds, &kafka.url(&topic), &shop.schema_map());
    eds.begin();
    eds.kill_at_random(12, fastrand::Rng::with_seed(3), 200..1200).await;
    eds.catch_up();
    let (unacknowledged, undelivered, _) = nats.consumer("eds-log").await;
    assert_eq!((unacknowledged, undelivered), (0, 0));
    let found = messages(&kafka.brokers(), &topic);
    assert_eq!(assert_whole(&found, &published), 0, "the topic's end told what was there");
    assert_equal(
        &shop,
        found.iter().map(|read| serde_json::from_slice(&read.value).unwrap_or_default()).collect(),
    );
}

/// The broker dies twice underneath, at once; it is waited for.
#[tokio::test(flavor = "multi_thread")]
async fn a_broker_may_go_and_come_back() {
    let nats = Nats::start().await;
    let mut shop = Shop::new(72, ShopOptions::default());
    let (_, mut published) = publish(&nats, &mut shop, 20_000).await;
    let creds = nats.server_creds("away", COMPANIES, None);
    let mut kafka = Kafka::start();
    let topic = kafka.topic();
    let eds = Eds::stream(&nats, &creds, &kafka.url(&topic), &shop.schema_map());
    eds.begin();
    let running = eds.start(&["--restart=false"]);
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(700)).await;
        kafka.kill();
        published.extend(publish(&nats, &mut shop, 5_000).await.1);
        tokio::time::sleep(Duration::from_secs(2)).await;
        kafka.run();
    }
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);
    eds.catch_up();
    assert_whole(&messages(&kafka.brokers(), &topic), &published);
}

/// Errors that brokers answer with, and leaders that move: retried in order.
#[tokio::test(flavor = "multi_thread")]
async fn errors_of_brokers_pass() {
    use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};
    let cluster = MockCluster::new(3).unwrap_or_else(|e| panic!("{e}"));
    cluster.create_topic("mock", 4, 3).unwrap_or_else(|e| panic!("{e}"));
    let nats = Nats::start().await;
    let mut shop = Shop::new(73, ShopOptions::default());
    let (_, published) = publish(&nats, &mut shop, 10_000).await;
    let creds = nats.server_creds("mock", COMPANIES, None);
    let eds = Eds::stream(
        &nats,
        &creds,
        &format!("kafka://{}/mock", cluster.bootstrap_servers()),
        &shop.schema_map(),
    );
    eds.begin();
    let errors = [
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_ENOUGH_REPLICAS,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_KAFKA_STORAGE_ERROR,
        RDKafkaRespErr::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    ];
    cluster.request_errors(RDKafkaApiKey::Produce, &errors);
    let running = eds.start(&["--restart=false"]);
    for leader in [1, 2, 3] {
        for partition in 0..4 {
            cluster
                .partition_leader("mock", partition, Some(leader))
                .unwrap_or_else(|e| panic!("{e}"));
        }
        cluster.request_errors(RDKafkaApiKey::Produce, &errors);
        tokio::time::sleep(Duration::from_millis(700)).await;
    }
    let ended = running.stop();
    assert!(ended.status.success(), "{}", ended.log);
    eds.catch_up();
    assert_there(&messages(&cluster.bootstrap_servers(), "mock"), &published);
}

/// A message that the topic would not take becomes a dead letter before anything is sent; the rest
/// keeps its order.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_too_large_becomes_a_dead_letter() {
    let kafka = shared();
    let topic = kafka.topic();
    let mut large = event("large", "k");
    large["after"]["text"] = "x".repeat(2 << 20).into();
    let output =
        replay(&kafka.url(&topic), &json!({}), &[event("e1", "k"), large, event("e2", "k")], &[]);
    assert!(
        output.status.success() && said(&output).contains("the topic takes 1048588"),
        "{}",
        said(&output)
    );
    let keys: Vec<String> =
        messages(&kafka.brokers(), &topic).into_iter().map(|read| read.key).collect();
    assert_eq!(keys, ["dbchange.order.UPDATE.NONE.NONE.e1", "dbchange.order.UPDATE.NONE.NONE.e2"]);
}

/// Logins of each kind over TLS; compression of each kind.
#[tokio::test(flavor = "multi_thread")]
async fn who_may_write_writes() {
    let kafka = shared();
    let ca = kafka.path().join("ca.pem").display().to_string().replace('/', "%2F");
    let login = |user: &str, password: &str, more: &str| {
        format!(
            "kafka://{user}:{}@127.0.0.1:{}/logins?ca={ca}{more}",
            password.replace('@', "%40").replace('/', "%2F").replace(':', "%3A"),
            kafka.secure_port
        )
    };
    let good = [
        "",
        "&sasl=PLAIN&compression=none",
        "&sasl=SCRAM-SHA-256&compression=zstd",
        "&sasl=SCRAM-SHA-512&compression=gzip",
        "&compression=snappy",
    ];
    for more in good {
        let output = replay(&login("eds", PASSWORD, more), &json!({}), &[event("e1", "k")], &[]);
        assert!(output.status.success(), "{more}: {}", said(&output));
    }
    assert_eq!(messages(&kafka.brokers(), "logins").len(), good.len());
}

/// A token as brokers without keys check it: unsigned, whose it is and until when.
pub fn token(claims: &Value) -> String {
    let part = |json: &Value| BASE64URL_NOPAD.encode(json.to_string().as_bytes());
    format!("{}.{}.\n", part(&json!({"alg": "none"})), part(claims))
}

/// A token that the broker checks, of a file; a certificate.
#[tokio::test(flavor = "multi_thread")]
async fn tokens_and_certificates_log_in() {
    let kafka = shared();
    let file = |name: &str| kafka.path().join(name).display().to_string().replace('/', "%2F");
    let token = |name: &str, claims: Value| {
        std::fs::write(kafka.path().join(name), token(&claims)).unwrap_or_else(|e| panic!("{e}"));
        format!(
            "kafka://127.0.0.1:{}/tokens?ca={}&sasl=OAUTHBEARER&token-file={}",
            kafka.secure_port,
            file("ca.pem"),
            file(name)
        )
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let certified = |more: String| {
        format!("kafka://127.0.0.1:{}/tokens?ca={}{more}", kafka.certified_port, file("ca.pem"))
    };
    let shown = format!("&cert={}&key={}", file("cert.pem"), file("key.pem"));
    for url in
        [token("good", json!({"sub": "eds", "iat": now, "exp": now + 600})), certified(shown)]
    {
        let output = replay(&url, &json!({}), &[event("e1", "k")], &[]);
        assert!(output.status.success(), "{}", said(&output));
    }
    assert_eq!(messages(&kafka.brokers(), "tokens").len(), 2);
    let refused = [
        (token("ended", json!({"sub": "eds", "iat": 1, "exp": 2})), "has expired"),
        (
            token("other", json!({"sub": "nobody", "iat": now, "exp": now + 600})),
            "does not allow to write to topic \"tokens\"",
        ),
        (certified(String::new()), "certificate"),
    ];
    at_once(refused, |(url, expected)| {
        let output = replay(&url, &json!({}), &[event("e1", "k")], &[]);
        let said = said(&output);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
    });
}

/// Each refusal is a clear one, at the start, and says nothing that is secret.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_wrong_is_said_at_the_start() {
    let kafka = shared();
    let ca = kafka.path().join("ca.pem").display().to_string().replace('/', "%2F");
    let secure = format!("127.0.0.1:{}", kafka.secure_port);
    let cases = [
        (format!("kafka://eds:wr0ng@{secure}/t?ca={ca}"), "refuses the login"),
        (format!("kafka://eds:wr0ng@{secure}/t?ca={ca}&sasl=SCRAM-SHA-512"), "refuses the login"),
        (
            format!("kafka://nobody:p%40ss%2Fw%3Ard@{secure}/t?ca={ca}"),
            "does not allow to write to topic \"t\"",
        ),
        (format!("kafka://eds:p%40ss%2Fw%3Ard@{secure}/t?tls=true"), "certificate"),
        (format!("kafka://eds:p%40ss%2Fw%3Ard@{secure}/t?ca=%2Fno%2Fsuch%2Ffile"), "/no/such/file"),
        (format!("kafka://{}/", kafka.brokers()), "names no topic"),
        (format!("kafka://{}/t?acks=0", kafka.brokers()), "\"acks\""),
        ("kafka://127.0.0.1:1,127.0.0.1:2/t".to_owned(), "refused"),
    ];
    at_once(cases, |(url, expected)| {
        let output = replay(&url, &json!({}), &[event("e1", "k")], &[]);
        let said = said(&output);
        assert!(output.status.code() == Some(3) && said.contains(expected), "{expected}: {said}");
        assert!(["wr0ng", PASSWORD].iter().all(|secret| !said.contains(secret)), "{said}");
    });
}

/// A full export: an event for each row, where a stream's would be.
#[tokio::test(flavor = "multi_thread")]
async fn an_export_arrives_whole() {
    let kafka = shared();
    let topic = kafka.topic();
    let importing = Importing::new(19, 1_000, 200).await;
    importing.import(&kafka.url(&topic), &[]).await;
    let mut events = Vec::new();
    for read in messages(&kafka.brokers(), &topic) {
        let event: Value = serde_json::from_slice(&read.value).unwrap_or_else(|e| panic!("{e}"));
        assert!(event["operation"] == "INSERT" && event["imported"] == true, "{event}");
        assert_eq!(read.headers.get("eds-position"), None, "it has no place in the stream");
        events.push(event);
    }
    assert_equal(&importing.shop(), events);
}

pub fn assert_equal(shop: &Shop, events: Vec<Value>) {
    let wrong: Vec<String> = check::log(shop, events)
        .iter()
        .filter(|report| !report.is_equal())
        .map(check::line)
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
