//! Chunks of a file's rows, made by a thread of its own while the last one is written.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::mpsc;

use super::{BadRow, ImportError, ImportPlan, TablePlan};
use crate::change::decode::ColumnOrder;
use crate::change::stamps::StampTokens;
use crate::change::{Change, ColumnRules, Decoder, Event, Position, TableSchema, Version, json};
use crate::destination::{Abilities, WriteMode};
use crate::export::lines::{Block, Lines};
use crate::export::{ExportFile, FileName};
use crate::validator::Validator;

/// Bytes of rows that are loaded at once.
const CHUNK_BYTES: usize = 2 << 20;
/// Rows that are loaded at once.
const CHUNK_ROWS: usize = 4_000;

/// Rows of one file that follow each other.
pub struct RowChunk {
    /// Lines of the file up to its end.
    pub through_lines: u64,
    /// Each at the position of its line.
    pub changes: Arc<Vec<Change>>,
    /// Lines that are no rows of the table, with the reason.
    pub bad: Vec<BadRow>,
    /// Lines that the user's rules do not want.
    pub unwanted: Vec<u64>,
    /// Columns of the file up to its end that are left out, because the schema lacks them.
    pub unknown_columns: BTreeSet<String>,
    pub is_last: bool,
    /// Stored bytes that were read for it.
    pub bytes: u64,
}

/// Reads `file` from behind `lines_done` on. The thread ends when nobody listens any more.
pub fn read(
    file: &ExportFile,
    table: &TablePlan,
    abilities: Abilities,
    plan: &ImportPlan,
    lines_done: u64,
) -> mpsc::Receiver<Result<RowChunk, ImportError>> {
    let (sender, chunks) = mpsc::channel(1);
    let mut maker = Maker {
        decoder: Decoder::default(),
        order: ColumnOrder::default(),
        schema: table.schema.clone(),
        abilities,
        ignored: plan.ignored_columns.clone(),
        unknown: BTreeSet::new(),
        rules: plan.rules.clone(),
        columns: plan.columns.clone(),
        name: file.name.clone(),
    };
    let limits = chunk_limits(&abilities);
    let path = file.path.clone();
    tokio::task::spawn_blocking(move || {
        let damaged = |after_line: u64, e: std::io::Error| {
            Err(ImportError::Damaged { path: path.clone(), after_line, why: e.to_string() })
        };
        let mut lines = match Lines::open(&path) {
            Ok(lines) => lines,
            Err(e) => return drop(sender.blocking_send(damaged(0, e))),
        };
        let mut bytes_before = 0;
        loop {
            let next = lines.next(limits.0, limits.1);
            let made = match next {
                Ok(None) => return,
                Ok(Some(block))
                    if block.after_lines + (block.lines.len() as u64) <= lines_done
                        && !block.is_last =>
                {
                    continue;
                }
                Ok(Some(block)) => {
                    let bytes = lines.bytes_read() - bytes_before;
                    bytes_before = lines.bytes_read();
                    Ok(maker.chunk(block, lines_done, bytes))
                }
                Err(e) => damaged(lines.lines(), e),
            };
            let failed = made.is_err();
            if sender.blocking_send(made).is_err() || failed {
                return;
            }
        }
    });
    chunks
}

/// The bytes and rows that are loaded at once.
fn chunk_limits(abilities: &Abilities) -> (usize, usize) {
    let Abilities { batch_bytes_max, batch_changes_max, write_mode, .. } = abilities;
    match write_mode {
        WriteMode::Upsert => (CHUNK_BYTES, CHUNK_ROWS),
        WriteMode::Append => {
            ((*batch_bytes_max).min(CHUNK_BYTES), (*batch_changes_max).min(CHUNK_ROWS))
        }
    }
}

struct Maker {
    decoder: Decoder,
    order: ColumnOrder,
    schema: Arc<TableSchema>,
    abilities: Abilities,
    ignored: BTreeSet<String>,
    /// Columns of the file so far that the schema lacks.
    unknown: BTreeSet<String>,
    rules: Option<Arc<Validator>>,
    columns: Arc<ColumnRules>,
    name: FileName,
}

impl Maker {
    fn chunk(&mut self, block: Block, lines_done: u64, bytes: u64) -> RowChunk {
        let through_lines = block.after_lines + block.lines.len() as u64;
        let mut changes = Vec::with_capacity(block.lines.len());
        let (mut bad, mut unwanted) = (Vec::new(), Vec::new());
        for (number, line) in (block.after_lines + 1..).zip(block.lines) {
            if number <= lines_done || line.is_empty() {
                continue;
            }
            match self.change(line, number) {
                Ok(Some(change)) => changes.push(change),
                Ok(None) => unwanted.push(number),
                Err(why) => bad.push(BadRow { file: self.name.text.clone(), line: number, why }),
            }
        }
        RowChunk {
            through_lines,
            changes: Arc::new(changes),
            bad,
            unwanted,
            unknown_columns: self.unknown.clone(),
            is_last: block.is_last,
            bytes,
        }
    }

    /// The row of a line; `None` where it is not wanted.
    fn change(&mut self, line: Bytes, number: u64) -> Result<Option<Change>, String> {
        let row = |e: crate::change::Malformed| {
            e.to_string().replacen("the message", "the line", 1).replacen("the event", "the row", 1)
        };
        let line = self.columns.row(&self.schema.table, line);
        let mut event = self.decoder.decode_row(line).map_err(row)?;
        if self.columns.stamps().any() {
            event.stamped(StampTokens::of_row(Some(self.name.time)));
        }
        for unknown in self.decoder.unknown_columns(&event, &self.schema, &mut self.order) {
            if !self.ignored.contains(&*unknown) && !self.unknown.contains(&*unknown) {
                self.unknown.insert(unknown.into_owned());
            }
        }
        let (slots, key) = self.decoder.row(&event, &self.schema, &mut self.order).map_err(row)?;
        let position = Position { sequence: number, time_ns: 0 };
        let as_event = || {
            let keys = slots[..self.schema.keys].iter();
            let tokens: Vec<&str> = keys.filter_map(|slot| slot.present(event.payload())).collect();
            event_of(&event, &self.schema, &tokens, &self.name, number)
        };
        let wants = |rules: &Arc<Validator>| rules.wants(&self.schema.table, &as_event());
        if self.rules.as_ref().is_some_and(|rules| !wants(rules)) {
            return Ok(None);
        }
        if self.abilities.write_mode == WriteMode::Upsert {
            return Ok(Some(Change {
                event,
                subject: Box::default(),
                position,
                schema: Some(self.schema.clone()),
                row: slots,
                key,
            }));
        }
        let text = as_event();
        let event = self.decoder.decode(text.into()).map_err(row)?;
        let (schema, slots, key) = match self.abilities.needs_schemas() {
            true => {
                let (slots, key) =
                    self.decoder.row(&event, &self.schema, &mut self.order).map_err(row)?;
                (Some(self.schema.clone()), slots, key)
            }
            false => (None, Box::default(), Bytes::from(event.record_key().map_err(row)?)),
        };
        Ok(Some(Change {
            event,
            subject: format!("{}:{number}", self.name.text).into(),
            position,
            schema,
            row: slots,
            key,
        }))
    }
}

/// The event that a row becomes where every change is kept. The same row of the same file has the
/// same id, always.
fn event_of(row: &Event, schema: &TableSchema, key: &[&str], file: &FileName, line: u64) -> String {
    let id = xxhash_rust::xxh3::xxh3_128(format!("{}:{line}", file.text).as_bytes());
    let quoted = |token: &str| serde_json::to_string(&*json::text(token)).unwrap_or_default();
    let key: Vec<String> = key.iter().map(|token| quoted(token)).collect();
    let whose = |name: &str| {
        row.member_of_row(name)
            .filter(|token| token.starts_with('"'))
            .map(|token| format!(",\"{name}\":{token}"))
            .unwrap_or_default()
    };
    let Version { nanos, .. } = file.time;
    format!(
        "{{\"operation\":\"INSERT\",\"id\":\"{id:032x}\",\"table\":{},\"key\":[{}],\"modelVersion\":{}{}{}{},\"after\":{},\"timestamp\":{},\"mvccTimestamp\":\"{}\",\"imported\":true}}",
        serde_json::to_string(&*schema.table).unwrap_or_default(),
        key.join(","),
        serde_json::to_string(&*schema.version).unwrap_or_default(),
        whose("companyId"),
        whose("locationId"),
        whose("userId"),
        row.payload(),
        nanos / 1_000_000,
        file.time
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::destination::{objects, sql};

    fn maker(abilities: Abilities) -> Maker {
        let json = r#"{"table":"t","modelVersion":"v","primaryKeys":["id"],"properties":{"id":{"type":"integer"},"companyId":{"type":"string"},"locationId":{"type":"string"}}}"#;
        let schema = Arc::new(TableSchema::parse(json).unwrap_or_else(|e| panic!("{e}")));
        let name = FileName {
            text: "f".into(),
            table: "t".into(),
            time: Version { nanos: 1_720_732_611_708_587_506, logical: 3 },
        };
        Maker {
            decoder: Decoder::default(),
            order: ColumnOrder::default(),
            schema,
            abilities,
            ignored: BTreeSet::from(["x".to_owned()]),
            unknown: BTreeSet::new(),
            rules: None,
            columns: Arc::default(),
            name,
        }
    }

    #[test]
    fn a_row_becomes_the_event_of_the_contract() -> Result<(), String> {
        let line = r#"{"locationId":"l1","id":7,"companyId":"c1","x": 1}"#;
        let made = |number| {
            maker(objects::ABILITIES)
                .change(line.into(), number)?
                .ok_or_else(|| "not wanted".to_owned())
        };
        let change = made(5)?;
        let stored = change.event.stored();
        let id = &stored[28..60];
        assert_eq!(
            stored,
            format!(
                r#"{{"operation":"INSERT","id":"{id}","table":"t","key":["7"],"modelVersion":"v","companyId":"c1","locationId":"l1","after":{line},"timestamp":1720732611708,"mvccTimestamp":"1720732611708587506.0000000003","imported":true}}"#
            )
        );
        assert_eq!(made(5)?.event.stored(), stored);
        assert_ne!(made(6)?.event.stored(), stored);
        assert_eq!(&change.key[..], b"7");
        Ok(())
    }

    #[test]
    fn columns_that_the_schema_lacks_are_noted() -> Result<(), String> {
        let mut maker = maker(sql::ABILITIES);
        for line in [r#"{"id":1,"y":2,"x":1}"#, r#"{"id":2,"z":null}"#, r#"{"y":1,"a":2,"id":3}"#] {
            assert!(maker.change(Bytes::copy_from_slice(line.as_bytes()), 1)?.is_some());
        }
        assert_eq!(maker.unknown, BTreeSet::from(["a".to_owned(), "y".to_owned()]));
        Ok(())
    }

    #[test]
    fn what_is_no_row_of_the_table_is_said() {
        let why = |line: &str| {
            maker(sql::ABILITIES)
                .change(Bytes::copy_from_slice(line.as_bytes()), 1)
                .err()
                .unwrap_or_default()
        };
        assert!(why("{\"id\":").starts_with("the line is not JSON at byte "));
        assert_eq!(why("[1]"), "the line is not a JSON object");
        assert_eq!(why(r#"{"companyId":"c"}"#), "the row has no primary key");
        assert_eq!(why(r#"{"id":1,"y":null,"x":3}"#), "");
        assert!(why(r#"{"id":"a"}"#).contains("\"id\""));
    }
}
