//! EDS's decoder beside serde_json over the same events. Run by `cargo x bench decode`.

use std::collections::HashMap;
use std::hint::black_box;
use std::time::Instant;

use bytes::Bytes;
use eds::change::decode::ColumnOrder;
use eds::change::{Decoder, TableSchema};
use eds::sandbox::shop::{Shop, ShopOptions};
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::figure;

#[derive(Deserialize)]
struct SerdeEnvelope<'a> {
    operation: &'a str,
    table: &'a str,
    #[serde(borrow)]
    key: Vec<&'a str>,
    #[serde(rename = "modelVersion")]
    model_version: &'a str,
    #[serde(borrow)]
    before: Option<&'a RawValue>,
    #[serde(borrow)]
    after: Option<HashMap<&'a str, &'a RawValue>>,
}

pub fn bench() {
    let mut shop = Shop::new(1, ShopOptions::default());
    println!(
        "| table | bytes | EDS events/s | serde_json events/s | ratio |\n| --- | --- | --- | \
         --- | --- |"
    );
    for table in ["order", "customer"] {
        let schema = shop
            .schemas()
            .iter()
            .filter_map(|j| TableSchema::parse(j).ok())
            .find(|s| *s.table == *table)
            .unwrap_or_else(|| panic!("no table {table}"));
        let payloads: Vec<Bytes> =
            (0..20_000).filter_map(|_| shop.insert_into(table)).map(|e| e.payload.into()).collect();
        let bytes = payloads.iter().map(Bytes::len).sum::<usize>() / payloads.len();
        let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
        let own = rate(&payloads, |payload| {
            let event = decoder.decode(payload.clone()).unwrap_or_else(|e| panic!("{e}"));
            decoder.row(&event, &schema, &mut order).map(|(row, _)| row.len()).unwrap_or_default()
        });
        let library = rate(&payloads, |payload| {
            let envelope: SerdeEnvelope<'_> =
                serde_json::from_slice(payload).unwrap_or_else(|e| panic!("{e}"));
            let SerdeEnvelope { operation, table, key, model_version, before, after } = envelope;
            black_box((operation, table, key, model_version, before));
            after.map_or(0, |after| {
                schema.columns.iter().filter(|c| after.contains_key(&*c.name)).count()
            })
        });
        figure::rates((&format!("decoding, {table}"), "serde_json"), own, library, None);
        println!("| {table} | {bytes} | {own:.0} | {library:.0} | {:.2} |", own / library);
    }
}

/// The best of five rounds.
fn rate(payloads: &[Bytes], mut work: impl FnMut(&Bytes) -> usize) -> f64 {
    let mut best = 0.0f64;
    for _ in 0..5 {
        let started = Instant::now();
        let columns: usize = payloads.iter().map(&mut work).sum();
        assert!(columns > 0);
        best = best.max(payloads.len() as f64 / started.elapsed().as_secs_f64());
    }
    best
}
