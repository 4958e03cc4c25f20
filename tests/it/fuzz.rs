//! Whatever foreign bytes come, nothing panics: seeds of every form that EDS reads, changed at
//! random. `cargo x fuzz SECONDS` lets each of them last.

use std::time::{Duration, Instant};

use eds::change::decode::ColumnOrder;
use eds::change::{Decoder, TableSchema};
use eds::destination::{Settings, catalog};
use eds::export::name::FileName;
use eds::feed::jetstream::identity::Identity;
use eds::hq::notice;
use eds::state::predecessor::Predecessor;
use eds::validator::Template;

/// How long each reader is tried where nobody says so.
const MILLIS: u64 = 700;

const SCHEMA: &str = r#"{"table":"t","modelVersion":"1","primaryKeys":["id","at"],"required":["id"],"properties":{"id":{"type":["string","null"]},"at":{"type":"string","format":"date-time"},"n":{"type":"integer"},"x":{"type":"number"},"o":{"type":"object"},"e":{"type":"array","items":{"enum":["A"]}}}}"#;
const EVENTS: [&str; 3] = [
    r#"{"operation":"UPDATE","id":"e","table":"t","key":["eu","a","2024-01-02T03:04:05Z"],"modelVersion":"1","before":{"id":"b","at":"2024-01-02T03:04:05Z","n":1},"after":{"id":"a","at":"2024-01-02T03:04:05.123456789Z","n":1E+3,"x":-0.5e-7,"o":{"a":[1,{"b":null}]},"\u0065":["A"]},"timestamp":1720732611708,"mvccTimestamp":"1720732611708587506.0000000001"}"#,
    r#"{"operation":"DELETE","table":"t","key":["a",7],"before":{"at":"9999-12-31","id":"\ud83d\ude00\ud800"}}"#,
    r#"{"operation":"INSERT","table":"t","after":{"id":"","at":null},"imported":true,"diff":["a"]}"#,
];

/// Gives `read` the seeds and what random changes make of them.
fn try_with(name: &str, seeds: &[&[u8]], mut read: impl FnMut(&[u8])) {
    let millis = std::env::var("EDS_FUZZ_SECONDS").ok().and_then(|text| text.parse::<u64>().ok());
    let until = Instant::now() + Duration::from_millis(millis.map_or(MILLIS, |s| s * 1000));
    let seed = fastrand::u64(..);
    let mut rng = fastrand::Rng::with_seed(seed);
    seeds.iter().for_each(|seed| read(seed));
    let mut tried = 0_u64;
    while Instant::now() < until {
        for _ in 0..64 {
            let mut text = seeds[rng.usize(..seeds.len())].to_vec();
            for _ in 0..rng.usize(1..6) {
                change(&mut rng, &mut text, seeds);
            }
            let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| read(&text)));
            let shown = String::from_utf8_lossy(&text);
            assert!(caught.is_ok(), "{name}, seed {seed}, panics at {shown:?}");
            tried += 1;
        }
    }
    println!("fuzz {name}: {tried} texts");
}

/// One random change.
fn change(rng: &mut fastrand::Rng, text: &mut Vec<u8>, seeds: &[&[u8]]) {
    const ODD: [&[u8]; 14] = [
        b"\"",
        b"\\u",
        b"\\ud800",
        b"{",
        b"}",
        b"[",
        b"null",
        b"1e999",
        b"-",
        b"\0",
        b"\xff",
        b"%",
        b"99999999999999999999",
        b"\r\n",
    ];
    let at = rng.usize(..=text.len());
    match rng.u32(..6) {
        0 if !text.is_empty() => drop(text.remove(at.min(text.len() - 1))),
        1 => text.insert(at, rng.u8(..)),
        2 => drop(text.splice(at..at, ODD[rng.usize(..ODD.len())].iter().copied())),
        3 => text.truncate(at),
        4 => {
            let other = seeds[rng.usize(..seeds.len())];
            let from = rng.usize(..=other.len());
            let to = rng.usize(from..=other.len());
            text.splice(at..at, other[from..to].iter().copied());
        }
        _ if !text.is_empty() => {
            let at = at.min(text.len() - 1);
            text[at] ^= 1 << rng.u32(..8);
        }
        _ => {}
    }
}

fn bytes<'a>(texts: &[&'a str]) -> Vec<&'a [u8]> {
    texts.iter().map(|text| text.as_bytes()).collect()
}

#[test]
fn events_are_read_or_refused() {
    let schema = TableSchema::parse(SCHEMA).unwrap_or_else(|e| panic!("{e}"));
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    try_with("events", &bytes(&EVENTS), |text| {
        let Ok(mut event) = decoder.decode(text.to_vec().into()) else { return };
        event.published_at(1_720_732_611_708_587_506);
        let _ = (event.stored(), event.record_key(), event.version(), event.timestamp_ms());
        if let Ok((row, key)) = decoder.row(&event, &schema, &mut order) {
            let _ = decoder.row_left(&event, &schema, &order, &key);
            for (slot, column) in row.iter().zip(&schema.columns) {
                let _ = eds::change::value::read(slot.present(event.payload()), column);
            }
        }
        let _ = decoder.decode_row(text.to_vec().into());
    });
}

#[test]
fn schemas_are_read_or_refused() {
    try_with("schemas", &bytes(&[SCHEMA]), |text| {
        let _ = TableSchema::parse(&String::from_utf8_lossy(text));
    });
}

#[test]
fn urls_are_read_or_refused() {
    let seeds = [
        "postgres://u:p%40@[::1]:5432,b:1/db?sslmode=verify-full&schema=s&freshness=1m",
        "mysql://u@h/db?timeout=10s",
        "sqlserver://u:p@h:1433?database=d&encrypt=true",
        "snowflake://u:p@account/db/schema?warehouse=w",
        "s3://bucket/prefix?region=eu&endpoint=http://127.0.0.1:1",
        "kafka://a:1,b:2/topic?sasl=plain",
        "file:///tmp/x?format=ndjson",
        "eventhub://Endpoint=sb://h/;SharedAccessKeyName=n;SharedAccessKey=k",
    ];
    try_with("urls", &bytes(&seeds), |text| {
        let text = String::from_utf8_lossy(text);
        if let Ok((settings, driver)) = Settings::parse(&text, catalog::DRIVERS) {
            let _ = ((driver.abilities)(&settings), settings.to_string());
        }
    });
}

#[test]
fn notices_are_read_or_refused() {
    let seeds: [&[u8]; 3] = [
        br#"{"action":"configure","data":{"url":"sqlite://x","backfill":true}}"#,
        br#"{"action":"import","data":{"backfill":"x"}}"#,
        b"\x82\xa6action\xa7restart\xa4data\xc0",
    ];
    try_with("notices", &seeds, |text| {
        for encoding in [None, Some("msgpack"), Some("json"), Some("gzip/json")] {
            let _ = notice::read(text, encoding);
        }
    });
}

#[test]
fn names_of_exports_are_read_or_refused() {
    let seeds = ["202407112116517085875060000000000-0a1b2c3d-1-2-0000000a-order_item-5.ndjson.gz"];
    try_with("names", &bytes(&seeds), |text| {
        let _ = FileName::parse(&String::from_utf8_lossy(text));
    });
}

#[test]
fn files_of_the_predecessor_are_read_or_refused() {
    let seeds: [&[u8]; 2] = [
        b"*3\r\n$3\r\nset\r\n$12\r\ntable-export\r\n$47\r\n[{\"Table\":\"t\",\"Timestamp\":\"2024-01-02T03:04:05Z\"}]\r\n",
        b"*5\r\n$3\r\nset\r\n$1\r\nx\r\n$1\r\ny\r\n$2\r\nex\r\n$1\r\n9\r\n*2\r\n$3\r\ndel\r\n$1\r\nx\r\n",
    ];
    try_with("predecessor", &seeds, |text| {
        let _ = Predecessor::parse(&mut &text[..]);
    });
}

#[test]
fn templates_are_read_or_refused() {
    let seeds = ["{{.table}}/a/{{ .after.id }}_{{.mvccTimestamp}}.json"];
    let event = serde_json::json!({"table": "t", "after": {"id": [1, {"x": null}]}});
    try_with("templates", &bytes(&seeds), |text| {
        if let Ok(template) = Template::parse(&String::from_utf8_lossy(text)) {
            template.render(&event, str::to_owned);
        }
    });
}

#[test]
fn credentials_are_read_or_refused() {
    let seeds = [
        "-----BEGIN NATS USER JWT-----\nx.eyJuYW1lIjoicyIsIm5hdHMiOnsic3ViIjp7ImFsbG93IjpbImRiY2hhbmdlLiouKi5jMS4qLlBVQkxJQy4-Il19fX0.y\n------END NATS USER JWT------\n",
    ];
    try_with("credentials", &bytes(&seeds), |text| {
        let _ = Identity::from_creds(&String::from_utf8_lossy(text), 5);
    });
}
