//! Files of many changes: those of one table and hour that a batch brought, one a line, named by their places in the stream.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;

use super::name::{Name, part};
use crate::change::{Batch, Position};
use crate::destination::{Failure, Settings};

/// What an object holds.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Format {
    /// One change.
    Json,
    /// The changes of a table and an hour, one a line, packed by gzip.
    Ndjson,
}

impl Format {
    pub fn read(settings: &Settings) -> Result<Format, Failure> {
        match settings.parameter("format") {
            None | Some("json") => Ok(Format::Json),
            Some("ndjson") => Ok(Format::Ndjson),
            Some(other) => Err(Failure::misconfigured(format!("format={other:?} is not known; there is json (an object per change) and ndjson"))),
        }
    }

    pub fn content_type(self) -> &'static str {
        match self {
            Format::Json => "application/json",
            Format::Ndjson => "application/gzip",
        }
    }
}

/// A file and its content.
pub struct Part {
    pub name: Name,
    pub content: Vec<u8>,
}

/// Changes that go together.
#[derive(Default)]
struct Lines {
    first: Position,
    last: Position,
    text: Vec<u8>,
}

/// The files of a batch, `table=<table>/date=<date>/hour=<hour>/part-<first>-<last>-<hash>.ndjson.gz`: date and hour are
/// those of the events, in UTC, first and last their sequences in the stream. The hash tells consumers and streams apart.
/// The same batch comes to the same files.
pub fn parts(batch: &Batch, consumer: &str) -> std::io::Result<Vec<Part>> {
    let mut found: BTreeMap<String, Lines> = BTreeMap::new();
    for (_, change) in batch.ordered() {
        let folder = format!("table={}/{}", part(&change.event.table()), hour(change.event.timestamp_ms()));
        let lines = found.entry(folder).or_default();
        if lines.text.is_empty() {
            lines.first = change.position;
        }
        lines.last = change.position;
        lines.text.extend_from_slice(change.event.stored().as_bytes());
        lines.text.push(b'\n');
    }
    found.into_iter().map(|(folder, lines)| packed(folder, &lines, consumer, batch.is_import())).collect()
}

/// Lines of an export have no place in the stream: their content names them.
fn packed(folder: String, lines: &Lines, consumer: &str, is_import: bool) -> std::io::Result<Part> {
    let stem = match is_import {
        true => format!("part-import-{:032x}", xxhash_rust::xxh3::xxh3_128(&lines.text)),
        false => {
            let owner = xxhash_rust::xxh3::xxh3_64(format!("{} {consumer}", lines.first.time_ns).as_bytes()) as u32;
            format!("part-{:020}-{:020}-{owner:08x}", lines.first.sequence, lines.last.sequence)
        }
    };
    let mut packer = GzEncoder::new(Vec::with_capacity(lines.text.len() / 4), Compression::default());
    packer.write_all(&lines.text)?;
    Ok(Part { name: Name::new(folder, stem, ".ndjson.gz"), content: packer.finish()? })
}

/// Where an event of this time belongs, in the form that query engines read partitions from.
fn hour(timestamp_ms: i64) -> String {
    match jiff::Timestamp::from_millisecond(timestamp_ms) {
        Ok(time) => time.strftime("date=%Y-%m-%d/hour=%H").to_string(),
        Err(_) => "date=unknown/hour=unknown".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_hour_is_that_of_utc() {
        assert_eq!(hour(0), "date=1970-01-01/hour=00");
        assert_eq!(hour(1_732_380_000_000), "date=2024-11-23/hour=16");
        assert_eq!(hour(i64::MAX), "date=unknown/hour=unknown");
    }
}
