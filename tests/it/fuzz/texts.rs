//! Texts that EDS reads: each is read or refused, and what was read can be used.

use eds::change::dead_letter::LetterLabel;
use eds::change::decode::ColumnOrder;
use eds::change::{ColumnRules, Decoder, TableSchema, Version, held};
use eds::destination::{Settings, catalog};
use eds::export::name::FileName;
use eds::feed::jetstream::api::{ConsumerConfig, ConsumerInfo};
use eds::feed::jetstream::hand_back::described;
use eds::feed::jetstream::identity::Identity;
use eds::hq::export_job::ExportJob;
use eds::hq::notice;
use eds::state::predecessor::Predecessor;
use eds::validator::Template;

use super::{lines, try_with};

const SCHEMAS: &str = include_str!("corpus/schemas.txt");
const EVENTS: &str = include_str!("corpus/events.txt");

fn schema() -> TableSchema {
    let first = SCHEMAS.lines().next().unwrap_or_default();
    TableSchema::parse(first).unwrap_or_else(|e| panic!("{e}"))
}

#[test]
fn events_are_read_or_refused() {
    let schema = schema();
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    try_with("events", &lines(EVENTS), |text| {
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
    try_with("schemas", &lines(SCHEMAS), |text| {
        let _ = TableSchema::parse(&String::from_utf8_lossy(text));
    });
}

#[test]
fn urls_are_read_or_refused() {
    let seeds = lines(include_str!("corpus/urls.txt"));
    try_with("urls", &seeds, |text| {
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
    let seeds = lines(include_str!("corpus/names.txt"));
    try_with("names", &seeds, |text| {
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
    let seeds = lines(include_str!("corpus/templates.txt"));
    let event = serde_json::json!({"table": "t", "after": {"id": [1, {"x": null}]}});
    try_with("templates", &seeds, |text| {
        if let Ok(template) = Template::parse(&String::from_utf8_lossy(text)) {
            template.render(&event, str::to_owned);
        }
    });
}

#[test]
fn credentials_are_read_or_refused() {
    let seed = "-----BEGIN NATS USER JWT-----\nx.eyJuYW1lIjoicyIsIm5hdHMiOnsic3ViIjp7ImFsbG93IjpbImRiY2hhbmdlLiouKi5jMS4qLlBVQkxJQy4-Il19fX0.y\n------END NATS USER JWT------\n";
    try_with("credentials", &[seed.as_bytes()], |text| {
        let _ = Identity::from_creds(&String::from_utf8_lossy(text), 5);
    });
}

/// What NATS says of a consumer.
#[test]
fn answers_of_nats_are_read_or_refused() {
    let seeds = lines(include_str!("corpus/answers.txt"));
    let wanted: ConsumerInfo =
        serde_json::from_slice(seeds[0]).unwrap_or_else(|e| panic!("a seed is no answer: {e}"));
    try_with("answers", &seeds, |text| {
        if let Ok(info) = serde_json::from_slice::<ConsumerInfo>(text) {
            let _ = (info.floor(), info.began(), info.nothing_pending_at(), described(&info));
            let _ = info.config.behaves_as(&wanted.config);
            let _ = wanted.config.same_filter(&info.config);
        }
        let _ = serde_json::from_slice::<ConsumerConfig>(text);
    });
}

/// What HQ says of an export.
#[test]
fn export_jobs_are_read_or_refused() {
    try_with("jobs", &lines(include_str!("corpus/jobs.txt")), |text| {
        let Ok(job) = serde_json::from_slice::<ExportJob>(text) else { return };
        for table in job.tables.values() {
            let _ = (table.is_failed(), table.is_done(), table.cursor(), table.files());
        }
    });
}

#[test]
fn durations_are_read_or_refused() {
    try_with("durations", &lines(include_str!("corpus/durations.txt")), |text| {
        let text = String::from_utf8_lossy(text);
        let _ = (eds::duration::parse(&text), Version::parse(&text));
    });
}

/// The label of a dead letter, as destinations keep it and as `eds dlq` shows it.
#[test]
fn labels_of_dead_letters_are_read_or_refused() {
    let seeds = lines(include_str!("corpus/letters.txt"));
    assert!(seeds.iter().all(|seed| label(seed).is_some()), "each seed is a label");
    try_with("letters", &seeds, |text| {
        let Some(label) = label(text) else { return };
        let parts = [String::from_utf8_lossy(text).into_owned()];
        let _ = (label.may_be_tried(), label.position(), label.payload(&parts), label.to_text());
    });
}

fn label(text: &[u8]) -> Option<LetterLabel> {
    LetterLabel::from_text(&String::from_utf8_lossy(text))
}

/// Changes that a table in trouble keeps in its database.
#[test]
fn held_changes_are_read_or_refused() {
    let seeds = lines(include_str!("corpus/held.txt"));
    let is_read =
        |seed: &&[u8]| held::read(&String::from_utf8_lossy(seed), &ColumnRules::default()).is_ok();
    assert!(seeds.iter().all(is_read), "each seed is a body");
    try_with("held", &seeds, |text| {
        let text = String::from_utf8_lossy(text);
        let _ = (held::read(&text, &ColumnRules::default()), held::read_events(&text));
    });
}
