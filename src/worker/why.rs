//! What EDS knows of one row: in the state file, and at the destination. Nothing is written.

use std::path::Path;
#[cfg(feature = "jetstream")]
use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::{Value, json};

use super::letters::LetterError;
#[cfg(feature = "jetstream")]
use super::nats_login::{connection, identity};
use crate::change::decode::ColumnOrder;
use crate::change::value::rfc3339;
use crate::change::{Decoder, Position, TableSchema, dead_letter};
use crate::destination::{Destination, Driver, Failure, KeptLetter, Recorded, Settings, Target};
#[cfg(feature = "jetstream")]
use crate::feed::jetstream::{STREAM, api::Api, connect::Link};
use crate::pipeline::migrate;
use crate::pipeline::recent::{self, LastChange};
use crate::state::State;

/// Which row is asked about.
#[derive(Clone, Debug)]
pub struct RowQuestion {
    /// Its table, as the source calls it.
    pub table: String,
    /// The values of its primary key, in the order of the key.
    pub key: Vec<String>,
    /// The schema, where the state file does not have it.
    pub schema: Option<Arc<TableSchema>>,
}

/// How NATS is asked what the stream still has of the row.
#[cfg(feature = "jetstream")]
#[derive(Clone, Debug)]
pub struct StreamQuestion {
    /// The NATS servers, as a comma list of URLs.
    pub servers: String,
    /// The credentials file of NATS; servers on this machine may do without.
    pub creds: Option<PathBuf>,
    /// Certificate authorities to trust for NATS, beside the machine's.
    pub nats_ca: Option<PathBuf>,
}

#[cfg(feature = "jetstream")]
impl StreamQuestion {
    /// What the stream still has of the row: how many messages, and the sequences of the first and
    /// of the last one. The error says why it cannot be asked.
    pub async fn ask(&self, question: &RowQuestion) -> Result<StreamShare, String> {
        let [key] = &question.key[..] else {
            return Err("its key has several columns, which subjects do not tell".into());
        };
        let is_token = |text: &str| !text.is_empty() && !text.contains(['.', '*', '>', ' ', '\t']);
        if !is_token(key) || !is_token(&question.table) {
            return Err("its name cannot be part of a subject".into());
        }
        let (known, creds) =
            identity(self.creds.as_deref(), &self.servers).map_err(|e| e.to_string())?;
        let servers = connection(&self.servers, creds, self.nats_ca.as_deref(), &known.server_id);
        let link = Link::connect(&servers).await.map_err(|e| e.to_string())?;
        let filter =
            |company: &String| format!("{STREAM}.{}.*.{company}.*.PUBLIC.{key}", question.table);
        let filters = known.companies.iter().map(filter).collect();
        let api = Api { link, stream: STREAM.into() };
        let found = api.look_for(filters).await;
        let found = found.map_err(|e| e.at_start("a look at the stream").to_string())?;
        let sequence = |position: Option<Position>| position.map_or(0, |at| at.sequence);
        let (first, last) = (sequence(found.first), sequence(found.last));
        Ok(StreamShare { messages: found.messages, first, last })
    }
}

/// What the stream still has of a row.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StreamShare {
    /// How many messages.
    pub messages: u64,
    /// The sequence of the first one; 0 where there is none.
    pub first: u64,
    /// The sequence of the last one; 0 where there is none.
    pub last: u64,
}

/// Why nothing can be said.
#[derive(Debug, thiserror::Error)]
pub enum WhyError {
    /// The question cannot be right; the text says what to change.
    #[error("{0}")]
    Refused(String),
    /// The state file or the destination does not answer.
    #[error(transparent)]
    Access(#[from] LetterError),
}

impl From<Failure> for WhyError {
    fn from(failure: Failure) -> WhyError {
        WhyError::Access(failure.into())
    }
}

impl From<crate::state::StateError> for WhyError {
    fn from(error: crate::state::StateError) -> WhyError {
        WhyError::Access(error.into())
    }
}

/// What is known of a row for one stream.
#[derive(Clone, Debug)]
pub struct StreamView {
    /// The stream, and how far it is.
    pub stream: Recorded,
    /// The last change of the row, if it is among those that are remembered.
    pub last: Option<LastChange>,
    /// How many changed rows are remembered.
    pub remembered: usize,
    /// Since when the table is held (Unix seconds), why, and how many changes of the row wait.
    pub held: Option<(u64, String, u64)>,
}

/// What is known of a row.
#[derive(Clone, Debug)]
pub struct RowStory {
    /// Per stream into the destination.
    pub streams: Vec<StreamView>,
    /// Dead letters of the row.
    pub letters: Vec<KeptLetter>,
    /// Its columns and values at the destination; `None` where it is not there.
    pub row: Option<Vec<(String, Option<String>)>>,
    /// Why the row could not be looked for.
    pub not_read: Option<String>,
    /// What the stream still has of it, or why that is not known; `None` where NATS was not asked.
    pub in_stream: Option<Result<StreamShare, String>>,
}

/// The schema of the table that the state file got last.
fn known_schema(state: &State, table: &str) -> Result<Option<Arc<TableSchema>>, WhyError> {
    let texts = state.schemas()?;
    let all = texts.iter().rev().filter_map(|text| TableSchema::parse(text).ok());
    let mut of_table = all.filter(|schema| *schema.table == *table);
    Ok(of_table.next().map(Arc::new))
}

/// Whether the `key` of an event, as it spells it, is that of the row: it ends with its values.
fn is_key_of(spelled: &Value, key: &[String]) -> bool {
    let Some(values) = spelled.as_array() else { return false };
    let text = |value: &Value| value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let values: Vec<String> = values.iter().map(text).collect();
    values.ends_with(key)
}

/// The hash by which the row is remembered.
fn hash_of(schema: &Arc<TableSchema>, key: &[String]) -> Option<u64> {
    let line = Bytes::from(schema.row_of_key(key));
    let mut decoder = Decoder::default();
    let event = decoder.decode_row(line).ok()?;
    let (_, key) = decoder.row(&event, schema, &mut ColumnOrder::default()).ok()?;
    Some(dead_letter::row_hash(&schema.table, &key))
}

/// Looks for everything that is known of the row.
pub async fn why(
    data_dir: &Path,
    settings: &Settings,
    driver: &'static Driver,
    question: &RowQuestion,
) -> Result<RowStory, WhyError> {
    let RowQuestion { table, key, schema } = question;
    let state = State::open_if_there(data_dir)?;
    let state = state.of_destination(&settings.place(), None)?;
    let schema = match schema {
        Some(schema) => schema.clone(),
        None => known_schema(&state, table)?.ok_or_else(|| {
            WhyError::Refused(format!(
                "the schema of table {table:?} is not known here: name it with --schema FILE or URL"
            ))
        })?,
    };
    if key.len() != schema.keys {
        let names: Vec<&str> = schema.key_columns().iter().map(|c| &*c.name).collect();
        return Err(WhyError::Refused(format!(
            "the primary key of table {table:?} is ({}): give a value for each column",
            names.join(", ")
        )));
    }
    let mut destination = (driver.open)(&Target::as_it_is(settings)).await?;
    let mut story = RowStory {
        streams: Vec::new(),
        letters: Vec::new(),
        row: None,
        not_read: None,
        in_stream: None,
    };
    if let Some(kept) = destination.letter_box() {
        let is_of_row = |letter: &KeptLetter| {
            letter.label.table == *table
                && serde_json::from_str(&letter.label.key).is_ok_and(|k| is_key_of(&k, key))
        };
        story.letters = kept.letters().await?.into_iter().filter(is_of_row).collect();
    }
    read_row(&mut *destination, &schema, key, &mut story).await?;
    let streams = match destination.row_reader() {
        Some(reader) => reader.positions().await?,
        None => Vec::new(),
    };
    for stream in streams {
        let chunks = state.recent(&stream.consumer)?;
        let hash = hash_of(&schema, key);
        let held = held(settings, driver, &mut *destination, &stream, question).await?;
        story.streams.push(StreamView {
            last: hash.and_then(|hash| recent::last_of(&chunks, hash)),
            remembered: chunks.iter().map(|chunk| recent::versions(chunk).count()).sum(),
            held,
            stream,
        });
    }
    // Nothing is left to be lost.
    let _ = destination.close().await;
    Ok(story)
}

/// Looks for the row at the destination.
async fn read_row(
    destination: &mut dyn Destination,
    schema: &Arc<TableSchema>,
    key: &[String],
    story: &mut RowStory,
) -> Result<(), WhyError> {
    let tables = destination.tables().await?;
    let Some(reader) = destination.row_reader() else {
        story.not_read = Some("rows of this destination cannot be read back".into());
        return Ok(());
    };
    if tables.get(&schema.table).is_none() {
        story.not_read = Some("the destination has no such table".into());
        return Ok(());
    }
    let schema = migrate::reduced(&tables, schema).map_or_else(|| schema.clone(), Arc::new);
    let rows = reader.rows(&schema, &[key.to_vec()]).await?;
    let names = schema.columns.iter().map(|column| column.name.to_string());
    story.row = rows.into_iter().next().map(|row| names.zip(row).collect());
    Ok(())
}

/// What waits of the row because its table cannot be written.
async fn held(
    settings: &Settings,
    driver: &'static Driver,
    destination: &mut dyn Destination,
    stream: &Recorded,
    question: &RowQuestion,
) -> Result<Option<(u64, String, u64)>, WhyError> {
    let Some(reader) = destination.row_reader() else { return Ok(None) };
    let labels = reader.held(&stream.consumer).await?;
    let Some(label) = labels.into_iter().find(|label| label.table == question.table) else {
        return Ok(None);
    };
    let target = Target { consumer: stream.consumer.clone(), ..Target::as_it_is(settings) };
    let mut own = (driver.open)(&target).await?;
    let mut waiting = 0;
    for chunk in own.kept().await?.iter().filter(|chunk| chunk.label.table == question.table) {
        let body = own.kept_body(chunk.number).await?.unwrap_or_default();
        waiting += waiting_in(&body, chunk.applied, &question.key);
    }
    let _ = own.close().await;
    Ok(Some((label.since_unix, label.reason, waiting)))
}

/// How many changes of the row a chunk has, behind those that were applied.
fn waiting_in(body: &str, applied: u64, key: &[String]) -> u64 {
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let changes = body["changes"].as_array().map_or(&[][..], Vec::as_slice);
    let is_of_row = |change: &&Value| {
        let event = change["event"].as_str().and_then(|text| serde_json::from_str(text).ok());
        event.is_some_and(|event: Value| is_key_of(&event["key"], key))
    };
    changes.iter().skip(applied as usize).filter(is_of_row).count() as u64
}

/// As JSON; values of the row only with `shows_values`.
pub fn to_json(question: &RowQuestion, story: &RowStory, shows_values: bool) -> Value {
    let at =
        |position: Position| json!({"sequence": position.sequence, "published_at": time(position)});
    let view = |view: &StreamView| {
        json!({
            "consumer": view.stream.consumer,
            "checkpoint": view.stream.position.map(at),
            "last_change": view.last.map(|last| json!({
                "sequence": last.sequence, "version": version(last), "deleted": last.is_delete,
                "applied": is_applied(view, last),
            })),
            "remembered_rows": view.remembered,
            "held": view.held.as_ref().map(|(since, reason, waiting)| json!({
                "since": since_text(*since), "reason": reason, "waiting_changes": waiting,
            })),
        })
    };
    let mut shown = json!({
        "table": question.table, "key": question.key,
        "at_destination": story.row.is_some(), "not_read": story.not_read,
        "streams": story.streams.iter().map(view).collect::<Vec<_>>(),
        "in_stream": story.in_stream.as_ref().map(|share| match share {
            Ok(StreamShare { messages, first, last }) => json!({
                "messages": messages, "first_sequence": first, "last_sequence": last, "error": null,
            }),
            Err(why) => json!({"messages": null, "error": why}),
        }),
        "dead_letters": story.letters.iter()
            .map(|letter| super::letters::to_json(letter, None)).collect::<Vec<_>>(),
    });
    if let (true, Some(row)) = (shows_values, &story.row) {
        shown["values"] = row.iter().map(|(name, value)| (name.clone(), json!(value))).collect();
    }
    shown
}

/// When it was published; `None` where the feed does not tell.
fn time(position: Position) -> Option<String> {
    (position.time_ns > 0).then(|| rfc3339(position.time_ns / 1000))
}

/// When the row was changed at the source; `None` where the event does not tell.
pub fn version(last: LastChange) -> Option<String> {
    i64::try_from(last.nanos).ok().filter(|ns| *ns > 0).map(|ns| rfc3339(ns / 1000))
}

/// The time of Unix seconds.
pub fn since_text(since_unix: u64) -> String {
    rfc3339(i64::try_from(since_unix).unwrap_or(0) * 1_000_000)
}

/// Whether the destination has the change, by its own record.
pub fn is_applied(view: &StreamView, last: LastChange) -> bool {
    view.stream.position.is_some_and(|position| position.sequence >= last.sequence)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_ends_with_the_values_of_the_row() {
        let key = ["7".to_owned(), "x".to_owned()];
        assert!(is_key_of(&json!(["eu", 7, "x"]), &key));
        assert!(is_key_of(&json!(["7", "x"]), &key));
        assert!(!is_key_of(&json!(["x"]), &key));
        assert!(!is_key_of(&json!(["x", "7"]), &key));
        assert!(!is_key_of(&Value::Null, &key));
    }

    #[test]
    fn only_what_was_not_applied_waits() {
        let change = |key: &str| json!({"event": json!({"key": [key]}).to_string()});
        let body = json!({"changes": [change("a"), change("b"), change("a"), change("a")]});
        let key = ["a".to_owned()];
        assert_eq!(waiting_in(&body.to_string(), 0, &key), 3);
        assert_eq!(waiting_in(&body.to_string(), 1, &key), 2);
        assert_eq!(waiting_in("", 0, &key), 0);
    }
}
