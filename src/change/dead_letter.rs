//! Dead letters: changes that cannot be applied, in the form in which they are kept until a person
//! retries or drops them.

use std::str::FromStr;

use bytes::Bytes;
use data_encoding::BASE64;
use serde::{Deserialize, Serialize};

use super::held::in_ascii;
use super::{Change, Event, EventPart, Position};
use crate::help::HelpCode;

/// The most bytes of a key and of a reason that are kept beside the payload.
const TEXT_BYTES_MAX: usize = 4 << 10;
/// The payload is kept in parts of so many bytes, so that no statement meets a limit.
const PART_BYTES: usize = 256 << 10;

/// Why a change cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RejectKind {
    /// The message is no change event.
    Malformed,
    /// Nobody knows the version of the table's schema that the event has.
    UnknownSchema,
    /// The event does not fit its table's schema.
    InvalidRow,
    /// The destination refuses the row.
    Refused,
}

impl RejectKind {
    /// All kinds.
    pub const ALL: [RejectKind; 4] = [
        RejectKind::Malformed,
        RejectKind::UnknownSchema,
        RejectKind::InvalidRow,
        RejectKind::Refused,
    ];

    /// The word of the command line, the metrics and the tables.
    pub fn as_str(self) -> &'static str {
        match self {
            RejectKind::Malformed => "malformed",
            RejectKind::UnknownSchema => "unknown-schema",
            RejectKind::InvalidRow => "invalid-row",
            RejectKind::Refused => "refused",
        }
    }

    /// The page that helps.
    pub fn help(self) -> HelpCode {
        match self {
            RejectKind::Malformed => HelpCode::LetterMalformed,
            RejectKind::UnknownSchema => HelpCode::LetterUnknownSchema,
            RejectKind::InvalidRow => HelpCode::LetterInvalidRow,
            RejectKind::Refused => HelpCode::LetterRefused,
        }
    }
}

impl FromStr for RejectKind {
    type Err = String;

    fn from_str(word: &str) -> Result<RejectKind, String> {
        let known = RejectKind::ALL.into_iter().find(|kind| kind.as_str() == word);
        known.ok_or_else(|| {
            let all = RejectKind::ALL.map(RejectKind::as_str).join(", ");
            format!("there is no such kind; there are {all}")
        })
    }
}

/// By what later changes of a row are told from those of others: hashes, 0 where one is not known.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug, Default, Serialize, Deserialize)]
pub struct RowMark {
    /// Of the table and the primary key's value.
    pub row: u64,
    /// Of the table and `key` as the event spells it, for events whose schema is not known.
    pub spelled: u64,
}

impl RowMark {
    /// That of an event whose row is not known.
    pub fn of_event(event: &Event) -> RowMark {
        let spelled = event.spelled_key().map(|key| row_hash(&event.table(), key.as_bytes()));
        RowMark { row: 0, spelled: spelled.unwrap_or(0) }
    }

    /// That of a row of `table` with this key, as [`Change::key`] has it.
    pub fn of_key(table: &str, key: &[u8]) -> RowMark {
        RowMark { row: row_hash(table, key), spelled: 0 }
    }

    /// That of a change.
    pub fn of_change(change: &Change) -> RowMark {
        let row = change.row_hash();
        match EventPart::of(change) {
            // `key` is that of the other row.
            EventPart::Left => RowMark { row, spelled: 0 },
            EventPart::Own | EventPart::Both => RowMark { row, ..RowMark::of_event(&change.event) },
        }
    }

    /// Whether it says which row it is.
    pub fn is_known(self) -> bool {
        self != RowMark::default()
    }
}

/// A hash of a table and one of its keys.
pub fn row_hash(table: &str, key: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(table.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.digest()
}

/// A change that cannot be applied.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct DeadLetter {
    /// The table; empty where the message does not tell.
    pub table: String,
    /// The event's `key`, as it spells it; empty where the message does not tell.
    pub key: String,
    /// The version of the table's schema; empty where the message does not tell.
    pub version: String,
    /// Which row it is about.
    pub mark: RowMark,
    /// What of the event cannot be applied.
    pub part: EventPart,
    /// Why it cannot be applied.
    pub kind: RejectKind,
    /// The same, for people.
    pub reason: String,
    /// Where it came from, for people: a NATS subject, or file and line.
    pub subject: String,
    /// Where it is in the stream.
    pub position: Position,
    /// The age of the row after the change: nanoseconds of its version; 0 where it is not known.
    pub version_ns: u64,
    /// When it became a dead letter, Unix milliseconds.
    pub at_ms: i64,
    /// The message: unpacked, where it can be.
    pub payload: Bytes,
}

impl DeadLetter {
    /// Of a message that says nothing of a row.
    pub fn of_message(
        reason: String,
        (subject, position): (&str, Position),
        payload: Bytes,
    ) -> Self {
        DeadLetter {
            table: String::new(),
            key: String::new(),
            version: String::new(),
            mark: RowMark::default(),
            part: EventPart::Both,
            kind: RejectKind::Malformed,
            reason: shortened(&reason),
            subject: subject.to_owned(),
            position,
            version_ns: 0,
            at_ms: crate::clock::now_ms(),
            payload,
        }
    }

    /// Of an event that has no row: its schema is not known, or it does not fit it.
    pub fn of_event(
        (kind, reason): (RejectKind, String),
        (subject, position): (&str, Position),
        event: &Event,
    ) -> DeadLetter {
        DeadLetter {
            table: event.table().into_owned(),
            key: shortened(event.spelled_key().unwrap_or_default()),
            version: event.model_version().into_owned(),
            mark: RowMark::of_event(event),
            version_ns: event.version().map_or(0, |version| version.nanos),
            kind,
            ..DeadLetter::of_message(reason, (subject, position), event.shared(event.payload()))
        }
    }

    /// Of a change that the destination refuses.
    pub fn of_change(reason: String, change: &Change) -> DeadLetter {
        let place = (&*change.subject, change.position);
        let why = (RejectKind::Refused, reason);
        let (mark, part) = (RowMark::of_change(change), EventPart::of(change));
        DeadLetter { mark, part, ..DeadLetter::of_event(why, place, &change.event) }
    }
}

fn shortened(text: &str) -> String {
    match (0..=TEXT_BYTES_MAX).rev().find(|at| text.is_char_boundary(*at)) {
        Some(end) if text.len() > TEXT_BYTES_MAX => format!("{}…", &text[..end]),
        _ => text.to_owned(),
    }
}

/// By which a message is known again.
pub fn payload_hash(payload: &[u8]) -> u64 {
    xxhash_rust::xxh3::xxh3_64(payload)
}

/// A dead letter with what is kept beside it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct NumberedLetter {
    /// By which a person names it; letters of one consumer are tried in this order.
    pub number: u64,
    /// The sequence of a later change of its row that was applied: the letter is of no more use.
    pub superseded_by: Option<u64>,
    /// The change.
    pub letter: DeadLetter,
}

/// What has to be known of a kept letter without reading it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetterEntry {
    /// Its number.
    pub number: u64,
    /// The sequence of the later change that superseded it.
    pub superseded_by: Option<u64>,
    /// Which row it is about.
    pub mark: RowMark,
    /// Where it is in the stream.
    pub position: Position,
    /// The age of the row after the change; 0 where it is not known.
    pub version_ns: u64,
    /// A hash of its payload: a place in the stream may be that of another message in another life.
    pub payload_hash: u64,
    /// The bytes of its payload.
    pub bytes: u64,
}

impl LetterEntry {
    /// The entry of a letter.
    pub fn of(numbered: &NumberedLetter) -> LetterEntry {
        LetterEntry {
            number: numbered.number,
            superseded_by: numbered.superseded_by,
            mark: numbered.letter.mark,
            position: numbered.letter.position,
            version_ns: numbered.letter.version_ns,
            payload_hash: payload_hash(&numbered.letter.payload),
            bytes: numbered.letter.payload.len() as u64,
        }
    }
}

/// How a payload is kept, so that every database can hold it byte for byte.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum PayloadForm {
    /// As it is: printable ASCII.
    Plain,
    /// In base64.
    Base64,
}

/// All of a letter but its payload, as it is kept and shown.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LetterLabel {
    /// Its number.
    pub letter: u64,
    /// The table; empty where the message does not tell.
    pub table: String,
    /// The event's `key`, as it spells it.
    pub key: String,
    /// The version of the table's schema.
    pub model_version: String,
    /// Why it cannot be applied.
    pub kind: RejectKind,
    /// The same, for people.
    pub reason: String,
    /// Where it came from.
    pub subject: String,
    /// Its place in the stream.
    pub sequence: u64,
    /// When it was published, Unix nanoseconds.
    pub time_ns: i64,
    /// When it became a dead letter, Unix milliseconds.
    pub at_ms: i64,
    /// What of the event cannot be applied.
    pub part: EventPart,
    /// Whether it is known which row it is about.
    pub is_of_known_row: bool,
    /// The bytes of its payload.
    pub bytes: u64,
    form: PayloadForm,
}

impl LetterLabel {
    /// The label of a letter.
    pub fn of(numbered: &NumberedLetter) -> LetterLabel {
        let letter = &numbered.letter;
        LetterLabel {
            letter: numbered.number,
            table: letter.table.clone(),
            key: letter.key.clone(),
            model_version: letter.version.clone(),
            kind: letter.kind,
            reason: letter.reason.clone(),
            subject: letter.subject.clone(),
            sequence: letter.position.sequence,
            time_ns: letter.position.time_ns,
            at_ms: letter.at_ms,
            part: letter.part,
            is_of_known_row: letter.mark.is_known(),
            bytes: letter.payload.len() as u64,
            form: form_of(&letter.payload),
        }
    }

    /// As JSON in characters that every database can store.
    pub fn to_text(&self) -> String {
        // It has only keys that are texts.
        in_ascii(serde_json::to_string(self).unwrap_or_default())
    }

    /// The label that was written so; `None` where it is of another version of EDS.
    pub fn from_text(text: &str) -> Option<LetterLabel> {
        serde_json::from_str(text).ok()
    }

    /// Whether it can be tried again: it is known which row it is about, so that a newer version of
    /// it is never overwritten.
    pub fn may_be_tried(&self) -> bool {
        self.kind != RejectKind::Malformed && self.is_of_known_row
    }

    /// Its place in the stream.
    pub fn position(&self) -> Position {
        Position { sequence: self.sequence, time_ns: self.time_ns }
    }

    /// The payload that these parts are; `None` where they are not what [`parts`] makes.
    pub fn payload(&self, parts: &[String]) -> Option<Bytes> {
        let text = parts.concat();
        match self.form {
            PayloadForm::Plain => Some(text.into()),
            PayloadForm::Base64 => BASE64.decode(text.as_bytes()).ok().map(Bytes::from),
        }
    }
}

fn form_of(payload: &[u8]) -> PayloadForm {
    let is_plain = |b: &u8| matches!(b, b' '..=b'~' | b'\n' | b'\t');
    match payload.iter().all(is_plain) {
        true => PayloadForm::Plain,
        false => PayloadForm::Base64,
    }
}

/// The parts in which a payload is kept: at least one, in ASCII.
pub fn parts(payload: &[u8]) -> Vec<String> {
    let text = match form_of(payload) {
        PayloadForm::Plain => String::from_utf8_lossy(payload).into_owned(),
        PayloadForm::Base64 => BASE64.encode(payload),
    };
    let part = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match text.is_empty() {
        true => vec![text],
        false => text.as_bytes().chunks(PART_BYTES).map(part).collect(),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn numbered(payload: &[u8]) -> NumberedLetter {
        let place = ("s", Position { sequence: 7, time_ns: 8 });
        let payload = Bytes::copy_from_slice(payload);
        let letter = DeadLetter::of_message("why".into(), place, payload);
        NumberedLetter { number: 3, superseded_by: None, letter }
    }

    proptest! {
        #[test]
        fn a_payload_is_kept_byte_for_byte(payload: Vec<u8>, times in 1..3_usize) {
            let numbered = numbered(&payload.repeat(times));
            let parts = parts(&numbered.letter.payload);
            prop_assert!(parts.iter().all(|part| part.is_ascii() && !part.contains('\0')));
            let label = LetterLabel::of(&numbered);
            prop_assert_eq!(LetterLabel::from_text(&label.to_text()), Some(label.clone()));
            prop_assert_eq!(label.payload(&parts), Some(numbered.letter.payload));
        }
    }

    #[test]
    fn a_large_payload_has_parts_and_an_empty_one_has_one() {
        let kept = parts(&vec![b'x'; PART_BYTES + 1]);
        assert_eq!(kept.iter().map(String::len).collect::<Vec<_>>(), [PART_BYTES, 1]);
        assert_eq!(parts(b""), [""]);
    }

    #[test]
    fn kinds_are_read_as_they_are_written() {
        for kind in RejectKind::ALL {
            assert_eq!(kind.as_str().parse(), Ok(kind));
            assert_eq!(serde_json::to_value(kind).ok(), Some(kind.as_str().into()));
        }
        assert!("bad".parse::<RejectKind>().is_err());
    }
}
