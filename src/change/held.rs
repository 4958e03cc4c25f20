//! Changes of a table that cannot be written now, in the form in which the destination keeps them
//! until it can: in chunks, each with all that is needed to make changes of it again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::decode::{ColumnOrder, RowLeft};
use super::json::Slot;
use super::{Change, Decoder, Event, EventPart, Position, TableSchema};

/// A chunk ends with the change that brings it to so many bytes of events.
const CHUNK_BYTES: usize = 256 << 10;

/// Neighbouring changes of one table, to be kept by the destination.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldChunk {
    /// Chunks are applied in the order of their numbers.
    pub number: u64,
    /// What has to be known of it without reading it.
    pub label: HeldLabel,
    /// The changes, in the form that [`read`] reads.
    pub body: String,
}

/// What has to be known of a chunk without reading it.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct HeldLabel {
    /// The table, as events have it.
    pub table: String,
    /// Why the table could not be written, for people.
    pub reason: String,
    /// Whether the table was there when it was held: if it is missing later it must not be created
    /// anew, as its rows are elsewhere.
    pub was_there: bool,
    /// Since when the table waits, Unix seconds.
    pub since_unix: u64,
    /// How many changes the chunk has.
    pub changes: u64,
    /// The bytes of its body.
    pub bytes: u64,
}

/// A chunk whose changes are applied, or some of them. The destination takes note in the same
/// transaction, and fails where the chunk is not as `from` says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Release {
    /// The chunk's number.
    pub chunk: u64,
    /// How many of its changes were applied before.
    pub from: u64,
    /// How many are applied with this batch.
    pub to: u64,
    /// Whether none is left, so that the chunk is not needed any more.
    pub is_last: bool,
}

#[derive(Serialize, Deserialize)]
struct BodyText {
    schema: serde_json::Value,
    changes: Vec<ChangeText>,
}

#[derive(Serialize, Deserialize)]
struct ChangeText {
    subject: String,
    sequence: u64,
    time_ns: i64,
    part: EventPart,
    /// The event as it came.
    event: String,
}

/// The changes of one chunk, as text.
pub struct Body {
    /// How many changes it has.
    pub changes: u64,
    /// What [`read`] reads.
    pub text: String,
}

/// Puts the changes at `indices` (of one table, in their order) into bodies of chunks. Changes
/// without a schema are left out.
pub fn bodies(changes: &[Change], indices: &[usize]) -> Vec<Body> {
    let mut bodies = Vec::new();
    let mut rest = indices;
    while let Some(schema) = rest.first().and_then(|first| changes[*first].schema.as_ref()) {
        let taken = chunk_len(changes, rest, schema);
        let (chunk, others) = rest.split_at(taken);
        let text = BodyText { schema: schema.to_json(), changes: texts(changes, chunk) };
        // It has only keys that are texts.
        let text = serde_json::to_string(&text).unwrap_or_default();
        bodies.push(Body { changes: taken as u64, text: in_ascii(text) });
        rest = others;
    }
    bodies
}

/// The same JSON in characters that every database can store.
pub(super) fn in_ascii(json: String) -> String {
    if json.is_ascii() {
        return json;
    }
    let mut out = String::with_capacity(json.len() * 2);
    for c in json.chars() {
        match c.is_ascii() {
            true => out.push(c),
            false => {
                let units = c.encode_utf16(&mut [0; 2]).to_vec();
                units.iter().for_each(|unit| out += &format!("\\u{unit:04x}"));
            }
        }
    }
    out
}

/// How many of the first changes at `indices` make one chunk: they have the same schema, and two
/// of one event stay together.
fn chunk_len(changes: &[Change], indices: &[usize], schema: &Arc<TableSchema>) -> usize {
    let mut bytes = 0;
    for (at, index) in indices.iter().enumerate() {
        let change = &changes[*index];
        let is_second = at > 0 && changes[indices[at - 1]].is_of_same_event(change);
        let is_other = change.schema.as_ref().is_none_or(|s| **s != **schema);
        if !is_second && (is_other || bytes >= CHUNK_BYTES) {
            return at.max(1);
        }
        bytes += change.event.payload().len();
    }
    indices.len()
}

fn texts(changes: &[Change], indices: &[usize]) -> Vec<ChangeText> {
    let mut texts: Vec<ChangeText> = Vec::with_capacity(indices.len());
    for (at, index) in indices.iter().enumerate() {
        let change = &changes[*index];
        if at > 0 && changes[indices[at - 1]].is_of_same_event(change) {
            if let Some(last) = texts.last_mut() {
                last.part = EventPart::Both;
            }
            continue;
        }
        texts.push(ChangeText {
            subject: change.subject.to_string(),
            sequence: change.position.sequence,
            time_ns: change.position.time_ns,
            part: EventPart::of(change),
            event: change.event.payload().to_owned(),
        });
    }
    texts
}

/// The changes of a body, as they were when it was made. Fails where it is not of the form that
/// [`bodies`] makes; why, for people.
pub fn read(body: &str) -> Result<Vec<Change>, String> {
    let body: BodyText = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let schema = TableSchema::parse(&body.schema.to_string()).map_err(|e| e.to_string())?;
    let schema = Arc::new(schema);
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let mut changes = Vec::with_capacity(body.changes.len());
    for text in body.changes {
        let position = Position { sequence: text.sequence, time_ns: text.time_ns };
        let mut event = decoder.decode(Bytes::from(text.event)).map_err(|e| e.to_string())?;
        event.published_at(position.time_ns);
        let (row, key) = decoder.row(&event, &schema, &mut order).map_err(|e| e.to_string())?;
        let left = match text.part {
            EventPart::Own => None,
            EventPart::Left | EventPart::Both => {
                decoder.row_left(&event, &schema, &order, &key).map_err(|e| e.to_string())?
            }
        };
        let change = |event: Event, row: Box<[Slot]>, key: Bytes| Change {
            event,
            subject: text.subject.as_str().into(),
            position,
            schema: Some(schema.clone()),
            row,
            key,
        };
        changes.extend(left.map(|RowLeft { row, key }| change(event.as_delete(), row, key)));
        if text.part != EventPart::Left {
            changes.push(change(event, row, key));
        }
    }
    Ok(changes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SCHEMA: &str = r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"required":["n"],
        "properties":{"id":{"type":"string"},"n":{"type":"integer"}}}"#;

    /// The changes of an event: two, where it changes the key.
    fn changes_of(schema: &Arc<TableSchema>, sequence: u64, payload: &str) -> Vec<Change> {
        let body = BodyText {
            schema: schema.to_json(),
            changes: vec![ChangeText {
                subject: format!("s{sequence}"),
                sequence,
                time_ns: 5,
                part: EventPart::Both,
                event: payload.to_owned(),
            }],
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        read(&text).unwrap_or_else(|e| panic!("{e}"))
    }

    fn shown(change: &Change) -> (u64, bool, &[u8], Option<&str>, &str) {
        let own = if change.is_delete() { None } else { change.token(1) };
        (change.position.sequence, change.is_delete(), &change.key, own, &change.subject)
    }

    #[test]
    fn what_is_kept_is_read_as_it_was() -> Result<(), Box<dyn std::error::Error>> {
        let schema = Arc::new(TableSchema::parse(SCHEMA)?);
        let wider = SCHEMA.replace(r#""modelVersion":"1""#, r#""modelVersion":"2""#);
        let wider = Arc::new(TableSchema::parse(&wider)?);
        let large = "x".repeat(CHUNK_BYTES);
        let insert = |id: &str| {
            format!(
                r#"{{"operation":"INSERT","table":"t","key":["{id}"],"after":{{"id":"{id}","n":1}}}}"#
            )
        };
        let moved = r#"{"operation":"UPDATE","table":"t","key":["b"],"before":{"id":"a"},"after":{"id":"b","n":2}}"#;
        let delete = r#"{"operation":"DELETE","table":"t","key":["b"],"before":{"id":"b"}}"#;
        let mut all = changes_of(&schema, 1, &insert("a"));
        all.extend(changes_of(&schema, 2, moved));
        // Its other half was older than what the row held.
        all.extend(changes_of(&schema, 3, moved).into_iter().take(1));
        all.extend(changes_of(&schema, 4, moved).into_iter().skip(1));
        all.extend(changes_of(&schema, 5, &insert(&large)));
        all.extend(changes_of(&schema, 6, delete));
        all.extend(changes_of(&wider, 7, &insert(r#"\u0000\n\"ä💡"#)));
        let indices: Vec<usize> = (0..all.len()).collect();
        let kept = bodies(&all, &indices);
        assert_eq!(kept.iter().map(|body| body.changes).collect::<Vec<_>>(), [6, 1, 1]);
        assert!(kept.iter().all(|body| body.text.is_ascii()));
        let mut found = Vec::new();
        for body in &kept {
            found.extend(read(&body.text)?);
        }
        let expected: Vec<_> = all.iter().map(shown).collect();
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(found.last().and_then(|c| c.schema.as_ref()), Some(&wider));
        Ok(())
    }
}
