//! Files of many changes: those of one table and hour that a batch brought, named by their places
//! in the stream.

use std::collections::BTreeMap;
use std::io::Write;

use flate2::Compression;
use flate2::write::GzEncoder;
use xxhash_rust::xxh3::Xxh3;

use super::format::{Format, PackError};
use super::name::{Name, path_segment};
use crate::change::{Batch, Change, Position};
use crate::destination::Failure;

/// A file and its content.
pub struct Part {
    /// Where it goes.
    pub name: Name,
    /// The packed file.
    pub content: Vec<u8>,
}

/// Changes of one table and hour; where changes have schemas, of one model version.
#[derive(Default)]
struct PartGroup<'a> {
    first: Position,
    last: Position,
    changes: Vec<&'a Change>,
}

/// The files of a batch,
/// `table=<table>/date=<date>/hour=<hour>/part-<first>-<last>-<hash>.<format>`: date and hour are
/// those of the events, in UTC, first and last their sequences in the stream. The hash tells
/// consumers and streams apart. The same batch always gives the same files.
pub fn parts(batch: &Batch, format: Format, consumer: &str) -> Result<Vec<Part>, Failure> {
    let mut groups: BTreeMap<(String, Option<&str>), PartGroup<'_>> = BTreeMap::new();
    for (_, change) in batch.ordered() {
        let folder = format!(
            "table={}/{}",
            path_segment(&change.event.table()),
            hour(change.event.timestamp_ms())
        );
        let group = groups
            .entry((folder, change.schema.as_ref().map(|schema| &*schema.version)))
            .or_default();
        if group.changes.is_empty() {
            group.first = change.position;
        }
        group.last = change.position;
        group.changes.push(change);
    }
    let packed = groups.into_iter().map(|((folder, _), group)| {
        let name = Name::new(folder, group.stem(consumer, batch.is_import()), format.extension());
        Ok(Part { name, content: group.packed(format)? })
    });
    packed.collect::<Result<_, PackError>>().map_err(|e| match e {
        PackError::TypeMismatch => Failure::rejected(batch.type_mismatches()),
        PackError::Failed(why) => {
            Failure::unavailable(format!("changes could not be packed: {why}"))
        }
    })
}

impl PartGroup<'_> {
    /// The name without its extension. Rows of an export have no place in the stream: their content
    /// names the file.
    fn stem(&self, consumer: &str, is_import: bool) -> String {
        if is_import {
            let mut content = Xxh3::new();
            for change in &self.changes {
                content.update(change.event.stored().as_bytes());
                content.update(b"\n");
            }
            return format!("part-import-{:032x}", content.digest128());
        }
        let owner =
            xxhash_rust::xxh3::xxh3_64(format!("{} {consumer}", self.first.time_ns).as_bytes())
                as u32;
        format!("part-{:020}-{:020}-{owner:08x}", self.first.sequence, self.last.sequence)
    }

    fn packed(&self, format: Format) -> Result<Vec<u8>, PackError> {
        match (format, self.changes.first().and_then(|change| change.schema.as_ref())) {
            (Format::Json | Format::Ndjson, _) => Ok(self.lines()?),
            #[cfg(feature = "parquet")]
            (Format::Parquet, Some(schema)) => super::parquet::file(schema, &self.changes),
            #[cfg(feature = "parquet")]
            (Format::Parquet, None) => {
                Err(PackError::Failed("a change came without its table's schema".into()))
            }
        }
    }

    fn lines(&self) -> std::io::Result<Vec<u8>> {
        let mut packer = GzEncoder::new(Vec::new(), Compression::default());
        for change in &self.changes {
            packer.write_all(change.event.stored().as_bytes())?;
            packer.write_all(b"\n")?;
        }
        packer.finish()
    }
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
