//! What HQ tells a server, in every encoding, and what the server answers, field by field.

use std::time::Duration;

use eds::destination::catalog::DRIVERS;
use eds::sandbox::hq::nats::Said;
use msgpack_simple::{Extension, MapElement, MsgPack};
use serde_json::{Value, json};

use crate::cli::golden;
use crate::services::eds::Running;
use crate::services::site::Site;

/// The fields of a message, read by another library than the one that wrote it.
fn fields(payload: &[u8]) -> Vec<(String, MsgPack)> {
    let decoded = MsgPack::parse(payload).unwrap_or_else(|e| panic!("{e:?}"));
    let map = decoded.as_map().unwrap_or_else(|e| panic!("{e:?}"));
    map.into_iter()
        .map(|MapElement { key, value }| {
            (key.as_string().unwrap_or_else(|e| panic!("{e:?}")), value)
        })
        .collect()
}

fn field(of: &[(String, MsgPack)], name: &str) -> MsgPack {
    of.iter()
        .find(|(key, _)| key == name)
        .map(|(_, value)| value.clone())
        .unwrap_or_else(|| panic!("no {name}"))
}

fn map(of: MsgPack) -> Vec<(String, MsgPack)> {
    fields(&of.encode())
}

fn names(of: &[(String, MsgPack)]) -> Vec<&str> {
    let mut names: Vec<&str> = of.iter().map(|(key, _)| key.as_str()).collect();
    names.sort_unstable();
    names
}

fn number(value: &MsgPack) -> i64 {
    value
        .clone()
        .as_int()
        .or_else(|_| value.clone().as_uint().map(|n| n as i64))
        .unwrap_or_else(|e| panic!("{e:?}"))
}

/// A server that streams into SQLite, and its session.
async fn streaming(name: &str, seed: u64) -> (Site, Running, String) {
    let site = Site::new(name, seed).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    let session = site.session(0).await;
    site.until_log(&format!("streaming eds-{name}"), 1).await;
    (site, server, session)
}

/// The next message on `topic` after the first `from` messages.
async fn next(site: &Site, topic: &str, from: usize) -> Said {
    let said = site.hq_nats.wait_for(topic, from, Duration::from_secs(20)).await;
    said.unwrap_or_else(|| panic!("no {topic}:\n{}", site.log()))
}

fn header(said: &Said, name: &str) -> Option<String> {
    said.headers.get(name).map(|value| value.as_str().to_owned())
}

/// A heartbeat, as another msgpack library reads it.
#[tokio::test(flavor = "multi_thread")]
async fn a_heartbeat_has_the_fields_of_the_contract() {
    let (site, server, session) = streaming("fields", 70).await;
    let said = next(&site, "heartbeat", 0).await;
    assert_eq!(said.session, session);
    assert_eq!(header(&said, "content-encoding").as_deref(), Some("msgpack"));
    let heartbeat = fields(&said.payload);
    assert_eq!(names(&heartbeat), ["offset", "sessionId", "stats", "uptime"]);
    assert_eq!(field(&heartbeat, "sessionId").as_string().ok(), Some(session.clone()));
    assert_eq!(number(&field(&heartbeat, "offset")), 0);
    assert!((0..60).contains(&number(&field(&heartbeat, "uptime"))));
    let stats = map(field(&heartbeat, "stats"));
    assert_eq!(names(&stats), ["load", "memory", "metrics"]);
    let metrics = map(field(&stats, "metrics"));
    assert_eq!(
        names(&metrics),
        ["flushCount", "flushDuration", "pendingEvents", "processingDuration", "totalEvents"]
    );
    assert!(
        metrics.iter().all(|(_, value)| value.clone().as_float().is_ok()),
        "floats: {metrics:?}"
    );
    assert_eq!(names(&map(field(&stats, "load"))), ["load1", "load15", "load5"]);
    let memory = map(field(&stats, "memory"));
    assert!(
        ["available", "free", "total", "used"]
            .iter()
            .all(|name| number(&field(&memory, name)) >= 0)
    );
    assert!(field(&memory, "usedPercent").as_float().is_ok_and(|percent| percent > 0.0));
    assert!(server.stop().status.success());
}

/// An answer, as another msgpack library reads it; each message has an id of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_has_the_fields_of_the_contract() {
    let (site, server, session) = streaming("answers", 73).await;
    let heartbeat = next(&site, "heartbeat", 0).await;
    site.hq_nats.send(&session, "pause", Value::Null).await.unwrap_or_else(|e| panic!("{e}"));
    let paused = next(&site, "pause-response", 0).await;
    let answer = fields(&paused.payload);
    assert_eq!(names(&answer), ["action", "sessionId", "success"]);
    assert_eq!(field(&answer, "success").as_boolean().ok(), Some(true));
    assert_eq!(field(&answer, "action").as_string().ok().as_deref(), Some("pause"));
    assert_ne!(header(&paused, "Nats-Msg-Id"), header(&heartbeat, "Nats-Msg-Id"));
    assert!(header(&paused, "Nats-Msg-Id").is_some());
    assert!(server.stop().status.success());
}

/// Heartbeats of one session are numbered, and say since when a server is paused. A worker sends
/// one when it begins, so the test restarts it instead of waiting for a minute to pass.
#[tokio::test(flavor = "multi_thread")]
async fn heartbeats_are_numbered_and_tell_a_pause() {
    let (site, server, session) = streaming("beats", 74).await;
    next(&site, "heartbeat", 0).await;
    assert_eq!(site.order(&session, "pause", Value::Null).await["success"], true);
    let heartbeats = || -> Vec<Vec<(String, MsgPack)>> {
        let heard = site.hq_nats.heard();
        heard.iter().filter(|s| s.topic == "heartbeat").map(|s| fields(&s.payload)).collect()
    };
    let tells_pause = |heartbeat: &Vec<(String, MsgPack)>| names(heartbeat).contains(&"paused");
    let from = site.hq_nats.heard().len();
    assert_eq!(site.order(&session, "restart", Value::Null).await["success"], true);
    next(&site, "heartbeat", from).await;
    let all = heartbeats();
    for (n, heartbeat) in all.iter().enumerate() {
        assert_eq!(number(&field(heartbeat, "offset")), n as i64);
    }
    let paused = all.iter().find(|heartbeat| tells_pause(heartbeat));
    let paused = paused.unwrap_or_else(|| panic!("no heartbeat tells it:\n{}", site.log()));
    // MessagePack's own type for a time: nanoseconds, then seconds.
    let MsgPack::Extension(Extension { type_id: -1, value }) = field(paused, "paused") else {
        panic!("not a time: {paused:?}")
    };
    let seconds = value.last_chunk().map(|seconds| i64::from_be_bytes(*seconds));
    let now = jiff::Timestamp::now().as_second();
    assert!(value.len() == 12 && seconds.is_some_and(|s| (now - 3_600..=now).contains(&s)));
    assert!(server.stop().status.success());
}

/// The update strategy that HQ configures is the next worker's. SQLite has none to choose from, and
/// the worker says so.
#[tokio::test(flavor = "multi_thread")]
async fn a_configured_update_strategy_reaches_the_worker() {
    let (site, server, session) = streaming("strategy", 75).await;
    let (warning, mut workers) = ("--update-strategy after has no effect", 1);
    for (strategy, warnings) in [("after", 1), ("standard", 1), ("after", 2), ("", 2)] {
        let data = json!({"url": site.sqlite(), "backfill": true, "updateStrategy": strategy});
        let reply = site.hq_nats.ask(&session, "configure", data).await;
        assert!(reply.is_ok_and(|reply| reply["success"] == true), "{}", site.log());
        workers += 1;
        site.until_log("streaming eds-strategy", workers).await;
        assert_eq!(site.log().matches(warning).count(), warnings, "{strategy:?}:\n{}", site.log());
    }
    assert!(server.stop().status.success());
}

/// Whatever comes, the server lives on; what it knows it does, in any encoding.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_that_is_told_breaks_it() {
    let site = Site::new("odd", 71).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite()]);
    let session = site.session(0).await;
    site.until_log("streaming eds-odd", 1).await;
    let raw = async |payload: &[u8], encoding: Option<&str>| {
        site.hq_nats
            .send_raw(&session, payload.to_vec(), encoding)
            .await
            .unwrap_or_else(|e| panic!("{e}"));
    };
    for (payload, encoding) in [
        (&b""[..], None),
        (b"{", None),
        (b"[1,2]", Some("json")),
        (b"\xc1\xff", Some("msgpack")),
        (b"not gzip", Some("gzip/json")),
        (b"{}", Some("protobuf")),
        (br#"{"action":"explode"}"#, None),
        (br#"{"action":"configure","data":{"url":7}}"#, None),
        (br#"{"action":"validate"}"#, None),
        (br#"{"action":"upgrade","data":null}"#, None),
        (br#"{"action":"ping","data":{"subject":"a b"}}"#, None),
    ] {
        raw(payload, encoding).await;
    }
    assert!(site.hq_nats.ping(&session).await);
    site.until_log("WARN", 11).await;
    let packed = MsgPack::Map(vec![MapElement {
        key: MsgPack::String("action".into()),
        value: MsgPack::String("pause".into()),
    }])
    .encode();
    raw(&packed, Some("msgpack")).await;
    assert_eq!(site.answer("pause-response", 0).await["success"], true);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    std::io::Write::write_all(&mut gzip, br#"{"action":"unpause","data":{}}"#)
        .unwrap_or_else(|e| panic!("{e}"));
    raw(&gzip.finish().unwrap_or_else(|e| panic!("{e}")), Some("gzip/json")).await;
    assert_eq!(site.answer("unpause-response", 0).await["success"], true);
    assert!(server.stop().status.success());
    assert_eq!(site.hq.sessions().len(), 1);
}

/// The forms that HQ shows, and what they come to.
#[tokio::test(flavor = "multi_thread")]
async fn destinations_are_described_and_checked() {
    let site = Site::new("forms", 72).await;
    site.enroll().await;
    let server = site.server(&[]);
    let session = site.session(0).await;
    site.until_log("configure one at HQ", 1).await;
    let ask = async |action: &str, data: Value| {
        site.hq_nats.ask(&session, action, data).await.unwrap_or_else(|e| panic!("{e}"))
    };
    let reply = ask("driverconfig", Value::Null).await;
    assert_eq!(reply["sessionId"], session.as_str());
    assert_eq!(reply["drivers"].as_object().map(serde_json::Map::len), Some(DRIVERS.len()));
    golden(
        "driverconfig.json",
        &(serde_json::to_string_pretty(&reply["drivers"]).unwrap_or_default() + "\n"),
    );

    let validate = async |driver: &str, config: Value| {
        ask("validate", json!({"driver": driver, "config": config})).await
    };
    let reply =
        validate("postgres", json!({"Database": "db", "Hostname": "h", "Username": "user"})).await;
    assert_eq!(
        reply,
        json!({"success": true, "sessionId": session, "url": "postgres://user:@h:5432/db"})
    );
    let reply = validate("mysql", json!({"Hostname": "h", "Port": 0})).await;
    let errors = json!([{"field": "Database", "error": "it \
        is required"}, {"field": "Port", "error": "it is a number from 1 to 65535"}]);
    assert_eq!(reply, json!({"success": false, "sessionId": session, "field_errors": errors}));
    let reply = validate("oracle", json!({})).await;
    assert_eq!(
        reply,
        json!({"success": false, "sessionId": session, "messsage": "there is no \
            destination \"oracle\" in this version of EDS"})
    );

    // An import before there is a destination.
    let answer = site.order(&session, "import", json!({"backfill": "true"})).await;
    assert!(
        answer["success"] == false
            && answer["message"].as_str().is_some_and(|m| m.contains("configure it first")),
        "{answer}"
    );
    assert!(server.stop().status.success());
}

/// A server without a worker sends heartbeats itself: those tell a pause, too.
#[tokio::test(flavor = "multi_thread")]
async fn a_server_without_a_worker_tells_that_it_is_paused() {
    let site = Site::new("resting", 76).await;
    site.enroll().await;
    let server = site.server(&["--paused"]);
    let heartbeat = fields(&next(&site, "heartbeat", 0).await.payload);
    assert_eq!(names(&heartbeat), ["offset", "paused", "sessionId", "stats", "uptime"]);
    assert!(server.stop().status.success());
}

/// Logs are uploaded now and then without an order, and HQ is told of it as of an ordered upload.
#[tokio::test(flavor = "multi_thread")]
async fn uploads_that_nobody_ordered_are_told() {
    let site = Site::new("hourly", 77).await;
    site.enroll().await;
    let server = site.server(&["--url", &site.sqlite(), "--upload-interval", "2s"]);
    let session = site.session(0).await;
    for _ in 0..2 {
        let from = site.hq_nats.heard().len();
        let said = site.answer("sendlogs-response", from).await;
        assert_eq!(said["success"], true, "{said}");
        assert_eq!(said["path"], format!("/uploads/{session}/log"));
    }
    assert!(server.stop().status.success());
}
