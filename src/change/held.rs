//! Changes of a table that cannot be written now, in the form in which the destination keeps them
//! until it can: in chunks, each with all that is needed to make changes of it again.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Deserialize, Serialize};

use super::decode::{ColumnOrder, RowLeft};
use super::json::Slot;
use super::{Change, ColumnRules, Decoder, Event, EventPart, MessageOrigin, Position, TableSchema};

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
    /// Its changes are events as they came, as the schema of one of them was not known: to be read
    /// with [`read_events`].
    #[serde(default)]
    pub is_unresolved: bool,
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
    /// Whether the event claims to be from later than it was published, as it was judged when it
    /// came: by then it was known how far the broker's clock was behind. `None` where an earlier
    /// version of EDS kept it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    is_of_future: Option<bool>,
    /// The event as it came.
    event: String,
}

/// The changes of one chunk, as text.
pub struct Body {
    /// How many changes it has.
    pub changes: u64,
    /// What [`read`] reads, or [`read_events`].
    pub text: String,
    /// The changes have no schema.
    pub is_unresolved: bool,
}

/// An event whose changes were kept before its schema was known.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HeldEvent {
    /// What it was published to.
    pub subject: String,
    /// Where it is in the stream.
    pub position: Position,
    /// The event as it came.
    pub payload: Bytes,
}

/// Puts the changes at `indices` (of one table, in their order) into bodies of chunks.
pub fn bodies(changes: &[Change], indices: &[usize]) -> Vec<Body> {
    let mut bodies = Vec::new();
    let mut rest = indices;
    while let Some(first) = rest.first() {
        let schema = changes[*first].schema.as_ref();
        let taken = chunk_len(changes, rest, schema);
        let (chunk, others) = rest.split_at(taken);
        let json = schema.map_or(serde_json::Value::Null, |schema| schema.to_json());
        let text = BodyText { schema: json, changes: texts(changes, chunk) };
        // It has only keys that are texts.
        let text = in_ascii(serde_json::to_string(&text).unwrap_or_default());
        bodies.push(Body { changes: taken as u64, text, is_unresolved: schema.is_none() });
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
fn chunk_len(changes: &[Change], indices: &[usize], schema: Option<&Arc<TableSchema>>) -> usize {
    let mut bytes = 0;
    for (at, index) in indices.iter().enumerate() {
        let change = &changes[*index];
        let is_second = at > 0 && changes[indices[at - 1]].is_of_same_event(change);
        let is_other = change.schema.as_ref() != schema;
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
            is_of_future: Some(change.event.is_of_future()),
            event: change.event.payload().to_owned(),
        });
    }
    texts
}

/// The events of a body whose changes have no schema. Fails as [`read`] does.
pub fn read_events(body: &str) -> Result<Vec<HeldEvent>, String> {
    let body: BodyText = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let event = |text: ChangeText| HeldEvent {
        subject: text.subject,
        position: Position { sequence: text.sequence, time_ns: text.time_ns },
        payload: Bytes::from(text.event),
    };
    Ok(body.changes.into_iter().map(event).collect())
}

/// The changes of a body, as they were when it was made, less what `columns` take away now. Fails
/// where it is not of the form that [`bodies`] makes of changes with a schema; why, for people.
pub fn read(body: &str, columns: &ColumnRules) -> Result<Vec<Change>, String> {
    let body: BodyText = serde_json::from_str(body).map_err(|e| e.to_string())?;
    let schema = TableSchema::parse(&body.schema.to_string()).map_err(|e| e.to_string())?;
    let left = columns.schema(&schema).map_err(|e| e.to_string())?;
    let schema = Arc::new(left.unwrap_or(schema));
    let (mut decoder, mut order) = (Decoder::default(), ColumnOrder::default());
    let mut changes = Vec::with_capacity(body.changes.len());
    for text in body.changes {
        let position = Position { sequence: text.sequence, time_ns: text.time_ns };
        let mut event = columns
            .decode(&mut decoder, Bytes::from(text.event), MessageOrigin::Kept)
            .map_err(|e| e.to_string())?;
        match text.is_of_future {
            Some(known) => event.judged(known),
            None => drop(event.published_at(position.time_ns)),
        }
        let (row, key) = decoder.row(&event, &schema, &mut order).map_err(|e| e.to_string())?;
        let left = match text.part {
            EventPart::Own => None,
            EventPart::Left | EventPart::Both => {
                decoder.row_left(&event, &schema, &order, &key).map_err(|e| e.to_string())?
            }
        };
        let subject: Box<str> = text.subject.as_str().into();
        let change = |event: Event, row: Box<[Slot]>, key: Bytes| {
            let schema = Some(schema.clone());
            Change { event, subject: subject.clone(), position, schema, row, key }.as_told()
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
                is_of_future: None,
                event: payload.to_owned(),
            }],
        };
        let text = serde_json::to_string(&body).unwrap_or_default();
        read(&text, &ColumnRules::default()).unwrap_or_else(|e| panic!("{e}"))
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
            found.extend(read(&body.text, &ColumnRules::default())?);
        }
        let expected: Vec<_> = all.iter().map(shown).collect();
        assert_eq!(found.iter().map(shown).collect::<Vec<_>>(), expected);
        assert_eq!(found.last().and_then(|c| c.schema.as_ref()), Some(&wider));
        Ok(())
    }

    #[test]
    fn what_was_plausible_when_it_came_stays_so() -> Result<(), Box<dyn std::error::Error>> {
        let schema = Arc::new(TableSchema::parse(SCHEMA)?);
        let event = r#"{"operation":"INSERT","table":"t","key":["a"],"after":{"id":"a","n":1},"mvccTimestamp":"1720732611708587506.0000000000"}"#;
        // It was published at the beginning of all times, as an earlier version kept it.
        let mut changes = changes_of(&schema, 1, event);
        assert_eq!(changes[0].event.version(), None);
        for is_of_future in [false, true] {
            changes[0].event.judged(is_of_future);
            let kept = bodies(&changes, &[0]);
            let found = read(&kept[0].text, &ColumnRules::default())?;
            assert_eq!(found[0].event.version().is_none(), is_of_future);
        }
        Ok(())
    }

    #[test]
    fn what_has_no_schema_is_kept_as_it_came() -> Result<(), Box<dyn std::error::Error>> {
        let schema = Arc::new(TableSchema::parse(SCHEMA)?);
        let mut all = changes_of(&schema, 1, r#"{"operation":"DELETE","table":"t","key":["a"]}"#);
        let unknown = r#"{"operation":"INSERT","table":"t","after":{"id":"ä","other":1}}"#;
        for sequence in [2, 3] {
            let event = Decoder::default().decode(Bytes::copy_from_slice(unknown.as_bytes()))?;
            all.push(Change {
                event,
                subject: "s".into(),
                position: Position { sequence, time_ns: 7 },
                schema: None,
                row: Box::default(),
                key: Bytes::new(),
            });
        }
        let kept = bodies(&all, &[0, 1, 2]);
        let forms: Vec<_> = kept.iter().map(|body| (body.changes, body.is_unresolved)).collect();
        assert_eq!(forms, [(1, false), (2, true)]);
        let text = kept.last().map_or("", |body| &body.text);
        let events = read_events(text)?;
        let found: Vec<_> = events.iter().map(|e| (e.position.sequence, &*e.payload)).collect();
        assert_eq!(found, [(2, unknown.as_bytes()), (3, unknown.as_bytes())]);
        assert!(read(text, &ColumnRules::default()).is_err(), "nobody takes it for changes");
        Ok(())
    }
}
