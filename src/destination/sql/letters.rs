//! Dead letters in a table of EDS's own: added, superseded and taken away in the transactions that
//! move the checkpoint.

use std::collections::HashMap;

use async_trait::async_trait;
use bytes::Bytes;
use tracing::warn;

use super::connection::{Connection, Parameter};
use super::destination::SqlDestination;
use super::dialect::Dialect;
use super::render::{FORMAT, Renderer};
use crate::change::batch::LetterChanges;
use crate::change::dead_letter::{LetterEntry, LetterLabel, RejectKind, RowMark, parts};
use crate::change::{NumberedLetter, Position};
use crate::destination::{Failure, FailureKind, KeptLetter, LetterBox};

/// The name of the table that keeps them.
pub const DEAD_LETTERS: &str = "_eds_dead_letter";

/// The columns of numbers, in their order, all of a letter's first part but the consumer.
const NUMBERS: [&str; 11] = [
    "letter",
    "part",
    "superseded_by",
    "row_hash",
    "key_hash",
    "payload_hash",
    "version_ns",
    "stream_sequence",
    "stream_time_ns",
    "bytes",
    "format",
];
/// The columns of texts.
const TEXTS: [&str; 5] = ["table_name", "kind", "reason", "label", "body"];
/// Rows that one statement inserts at most; SQL Server takes 2,100 parameters.
const ROWS_MAX: usize = 64;
/// Bytes of texts after which a statement takes no more rows.
const STATEMENT_BYTES: usize = 512 << 10;

impl Renderer {
    /// Creates a table of dead letters under this name: a row for each part of a payload, of which
    /// the first also says everything else of the letter.
    pub fn create_dead_letters(&self, name: &str) -> String {
        let Dialect { consumer, types, integer, .. } = self.dialect;
        let numbers = NUMBERS.map(|name| format!("{name} {integer} NOT NULL")).join(", ");
        let texts = TEXTS.map(|name| format!("{name} {} NOT NULL", types[0])).join(", ");
        let columns = format!(
            "consumer {consumer} NOT NULL, {numbers}, {texts}, PRIMARY KEY (consumer, letter, part)"
        );
        self.create(&self.table(name), &columns)
    }

    /// Parameters: for each of `rows` the consumer, then the columns of numbers, then those of
    /// texts.
    pub fn insert_dead_letters(&self, rows: usize) -> String {
        let width = 1 + NUMBERS.len() + TEXTS.len();
        let row = |row: usize| {
            let names: Vec<_> =
                (row * width + 1..=(row + 1) * width).map(self.dialect.parameter).collect();
            format!("({})", names.join(", "))
        };
        format!(
            "INSERT INTO {} (consumer, {}, {}) VALUES {}",
            self.table(DEAD_LETTERS),
            NUMBERS.join(", "),
            TEXTS.join(", "),
            (0..rows).map(row).collect::<Vec<_>>().join(", ")
        )
    }

    /// Columns: those of numbers from `letter` to `bytes`, without `part`. Parameter: consumer.
    pub fn read_dead_letter_entries(&self) -> String {
        format!(
            "SELECT {} FROM {} WHERE consumer = {} AND part = 0 ORDER BY letter",
            entry_columns(),
            self.table(DEAD_LETTERS),
            (self.dialect.parameter)(1)
        )
    }

    /// The same of one letter. Parameters: consumer, letter.
    pub fn read_dead_letter_entry(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT {} FROM {} WHERE consumer = {} AND letter = {} AND part = 0",
            entry_columns(),
            self.table(DEAD_LETTERS),
            p(1),
            p(2)
        )
    }

    /// Columns: label. Of letters that are of use. Parameters: consumer, kind.
    pub fn read_dead_letters_of_kind(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT label FROM {} WHERE consumer = {} AND kind = {} AND part = 0 AND \
             superseded_by = 0 ORDER BY letter",
            self.table(DEAD_LETTERS),
            p(1),
            p(2)
        )
    }

    /// Columns: consumer, label. Of all consumers.
    pub fn read_dead_letter_labels(&self) -> String {
        format!(
            "SELECT consumer, label FROM {} WHERE part = 0 ORDER BY consumer, letter",
            self.table(DEAD_LETTERS)
        )
    }

    /// Columns: label, body. Parameters: consumer, letter.
    pub fn read_dead_letter(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "SELECT label, body FROM {} WHERE consumer = {} AND letter = {} ORDER BY part",
            self.table(DEAD_LETTERS),
            p(1),
            p(2)
        )
    }

    /// Parameters: the sequence of the later change, consumer, letter.
    pub fn supersede_dead_letter(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "UPDATE {} SET superseded_by = {} WHERE consumer = {} AND letter = {} AND part = 0",
            self.table(DEAD_LETTERS),
            p(1),
            p(2),
            p(3)
        )
    }

    /// One that is tried again, if it is still the same. Parameters: consumer, letter, sequence,
    /// time.
    pub fn take_dead_letter(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "DELETE FROM {} WHERE consumer = {} AND letter = {} AND stream_sequence = {} AND \
             stream_time_ns = {}",
            self.table(DEAD_LETTERS),
            p(1),
            p(2),
            p(3),
            p(4)
        )
    }

    /// Parameters: consumer, letter.
    pub fn delete_dead_letter(&self) -> String {
        let p = self.dialect.parameter;
        format!(
            "DELETE FROM {} WHERE consumer = {} AND letter = {}",
            self.table(DEAD_LETTERS),
            p(1),
            p(2)
        )
    }

    /// Parameters: the new consumer, the former one.
    pub fn adopt_dead_letters(&self) -> String {
        let p = self.dialect.parameter;
        let table = self.table(DEAD_LETTERS);
        format!("UPDATE {table} SET consumer = {} WHERE consumer = {}", p(1), p(2))
    }
}

/// The columns of numbers without `part` and `format`.
fn entry_columns() -> String {
    let of_entry = NUMBERS.into_iter().filter(|name| !["part", "format"].contains(name));
    of_entry.collect::<Vec<_>>().join(", ")
}

/// What a row of them says.
fn entry(row: &[i64]) -> Option<LetterEntry> {
    let [number, superseded_by, row, spelled, payload_hash, version_ns, sequence, time_ns, bytes] =
        row[..]
    else {
        return None;
    };
    Some(LetterEntry {
        number: number as u64,
        superseded_by: (superseded_by != 0).then_some(superseded_by as u64),
        mark: RowMark { row: row as u64, spelled: spelled as u64 },
        position: Position { sequence: sequence as u64, time_ns },
        version_ns: version_ns as u64,
        payload_hash: payload_hash as u64,
        bytes: bytes as u64,
    })
}

/// The rows of a letter.
fn rows_of(consumer: &str, numbered: &NumberedLetter) -> Vec<Vec<Parameter>> {
    let label = LetterLabel::of(numbered).to_text();
    let entry = LetterEntry::of(numbered);
    let LetterEntry { number, superseded_by, mark, position, bytes, .. } = entry;
    let letter = &numbered.letter;
    let row = |(part, body): (usize, String)| {
        let numbers = [
            number,
            part as u64,
            superseded_by.unwrap_or(0),
            mark.row,
            mark.spelled,
            entry.payload_hash,
            entry.version_ns,
            position.sequence,
            position.time_ns as u64,
            bytes,
            FORMAT as u64,
        ];
        let head = [&*letter.table, letter.kind.as_str(), &letter.reason, &label];
        let texts = head.map(|text| if part == 0 { printable(text) } else { String::new() });
        let mut row = vec![Parameter::from(consumer)];
        row.extend(numbers.map(|n| Parameter::Integer(n as i64)));
        row.extend(texts.map(Parameter::Text));
        row.push(Parameter::Text(body));
        row
    };
    parts(&letter.payload).into_iter().enumerate().map(row).collect()
}

/// What every database can hold, for people who look at the table; the label has all of it.
fn printable(text: &str) -> String {
    text.chars().map(|c| if matches!(c, ' '..='~') { c } else { '?' }).collect()
}

/// A failure of a statement about EDS's own table says nothing about any change or other table.
fn of_letters(failure: Failure) -> Failure {
    let kind = match failure.kind {
        FailureKind::Fenced => FailureKind::Fenced,
        _ => FailureKind::Unavailable,
    };
    Failure { kind, table: None, text: format!("{DEAD_LETTERS}: {}", failure.text), ..failure }
}

/// Rows that go into one statement each.
fn statements(rows: Vec<Vec<Parameter>>) -> Vec<Vec<Vec<Parameter>>> {
    let mut statements: Vec<Vec<Vec<Parameter>>> = Vec::new();
    let mut bytes = 0;
    for row in rows {
        let more: usize = row.iter().map(size).sum();
        match statements.last_mut() {
            Some(last) if last.len() < ROWS_MAX && bytes + more <= STATEMENT_BYTES => {
                bytes += more;
                last.push(row);
            }
            _ => {
                bytes = more;
                statements.push(vec![row]);
            }
        }
    }
    statements
}

fn size(parameter: &Parameter) -> usize {
    match parameter {
        Parameter::Integer(_) => 8,
        Parameter::Text(text) => text.len(),
    }
}

impl<C: Connection> SqlDestination<C> {
    /// Within the batch's transaction: what becomes of dead letters.
    pub(super) async fn write_letters(&mut self, changes: &LetterChanges) -> Result<(), Failure> {
        let rows = changes.added.iter().flat_map(|letter| rows_of(&self.consumer, letter));
        for rows in statements(rows.collect()) {
            let insert = self.renderer.insert_dead_letters(rows.len());
            self.connection.change(&insert, &rows.concat()).await.map_err(of_letters)?;
        }
        let consumer = Parameter::from(self.consumer.as_str());
        for (letter, sequence) in &changes.superseded {
            let [letter, sequence] = [letter, sequence].map(|n| Parameter::Integer(*n as i64));
            let sql = self.renderer.supersede_dead_letter();
            // One that a person has dropped meanwhile does not count.
            self.connection
                .change(&sql, &[sequence, consumer.clone(), letter])
                .await
                .map_err(of_letters)?;
        }
        let Some((letter, position)) = changes.retried else { return Ok(()) };
        let sql = self.renderer.take_dead_letter();
        let number = |n: u64| Parameter::Integer(n as i64);
        let (sequence, time) = (number(position.sequence), Parameter::Integer(position.time_ns));
        let parameters = [consumer, number(letter), sequence, time];
        match self.connection.change(&sql, &parameters).await.map_err(of_letters)? {
            // An earlier try has applied it and its answer was lost, or somebody has dropped it.
            0 => Err(Failure::unavailable(format!("dead letter {letter} is not kept any more"))),
            _ => Ok(()),
        }
    }

    /// After a COMMIT that may be void: whether the letter is kept no longer.
    pub(super) async fn confirm_retried(&mut self, letter: u64) -> Result<(), Failure> {
        let consumer = self.consumer.clone();
        match self.entry(&consumer, letter).await? {
            Some(_) => Err(super::checkpoint::void_commit()),
            None => Ok(()),
        }
    }

    async fn entry(&mut self, consumer: &str, number: u64) -> Result<Option<LetterEntry>, Failure> {
        let parameters = [consumer.into(), Parameter::Integer(number as i64)];
        let sql = self.renderer.read_dead_letter_entry();
        let rows = Self::unless_missing(self.connection.integers(&sql, &parameters).await).await?;
        Ok(rows.first().and_then(|row| entry(row)))
    }

    /// What a statement finds in the table; nothing where there is no table.
    async fn unless_missing<T>(found: Result<Vec<T>, Failure>) -> Result<Vec<T>, Failure> {
        match found {
            Err(failure) if failure.kind == FailureKind::SchemaMismatch => Ok(Vec::new()),
            found => found,
        }
    }
}

#[async_trait]
impl<C: Connection> LetterBox for SqlDestination<C> {
    async fn entries(&mut self, consumer: &str) -> Result<Vec<LetterEntry>, Failure> {
        let sql = self.renderer.read_dead_letter_entries();
        let rows = self.connection.integers(&sql, &[consumer.into()]).await;
        let rows = match rows {
            Err(failure) if failure.kind == FailureKind::SchemaMismatch => {
                // Somebody has dropped it.
                self.make_own_tables().await?;
                self.connection.integers(&sql, &[consumer.into()]).await?
            }
            rows => rows?,
        };
        Ok(rows.iter().filter_map(|row| entry(row)).collect())
    }

    async fn letters(&mut self) -> Result<Vec<KeptLetter>, Failure> {
        let sql = self.renderer.read_dead_letter_labels();
        let rows = Self::unless_missing(self.connection.texts(&sql, &[]).await).await?;
        let mut letters: Vec<KeptLetter> = Vec::with_capacity(rows.len());
        let mut superseded = HashMap::new();
        for row in rows {
            let Ok([consumer, label]) = <[String; 2]>::try_from(row) else { continue };
            if letters.last().is_none_or(|last| last.consumer != consumer) {
                let entries = self.entries(&consumer).await?;
                superseded = entries.into_iter().map(|e| (e.number, e.superseded_by)).collect();
            }
            let Some(label) = read_label(&label) else { continue };
            let superseded_by = superseded.get(&label.letter).copied().flatten();
            letters.push(KeptLetter { consumer, superseded_by, label });
        }
        Ok(letters)
    }

    async fn of_kind(
        &mut self,
        consumer: &str,
        kind: RejectKind,
    ) -> Result<Vec<LetterLabel>, Failure> {
        let parameters = [consumer.into(), kind.as_str().into()];
        let sql = self.renderer.read_dead_letters_of_kind();
        let rows = Self::unless_missing(self.connection.texts(&sql, &parameters).await).await?;
        Ok(rows.into_iter().flatten().filter_map(|label| read_label(&label)).collect())
    }

    async fn letter(
        &mut self,
        consumer: &str,
        number: u64,
    ) -> Result<Option<(KeptLetter, Bytes)>, Failure> {
        let parameters = [consumer.into(), Parameter::Integer(number as i64)];
        let sql = self.renderer.read_dead_letter();
        let rows = Self::unless_missing(self.connection.texts(&sql, &parameters).await).await?;
        let Some(label) = rows.first().and_then(|row| row.first()) else { return Ok(None) };
        let label = read_label(label).ok_or_else(|| unreadable(number))?;
        let bodies: Vec<String> = rows.into_iter().filter_map(|mut row| row.pop()).collect();
        let payload = label.payload(&bodies).ok_or_else(|| unreadable(number))?;
        let entry = self.entry(consumer, number).await?;
        let superseded_by = entry.and_then(|entry| entry.superseded_by);
        Ok(Some((KeptLetter { consumer: consumer.to_owned(), superseded_by, label }, payload)))
    }

    async fn drop_letters(&mut self, consumer: &str, numbers: &[u64]) -> Result<(), Failure> {
        let sql = self.renderer.delete_dead_letter();
        for number in numbers {
            let parameters = [consumer.into(), Parameter::Integer(*number as i64)];
            self.connection.change(&sql, &parameters).await?;
        }
        Ok(())
    }
}

/// A label; what another version of EDS has written is left for that one.
fn read_label(label: &str) -> Option<LetterLabel> {
    let read = LetterLabel::from_text(label);
    if read.is_none() {
        warn!(
            "a letter in {DEAD_LETTERS} was written by another version of EDS, and is left alone"
        );
    }
    read
}

fn unreadable(letter: u64) -> Failure {
    Failure::misconfigured(format!(
        "dead letter {letter} cannot be read: another version of EDS has written it, or a part of \
         it is missing"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::DeadLetter;

    #[test]
    fn a_statement_has_few_rows_and_few_bytes() {
        let numbered = |number, bytes| NumberedLetter {
            number,
            superseded_by: None,
            letter: DeadLetter::of_message(
                "why".into(),
                ("s", Position::default()),
                vec![b'x'; bytes].into(),
            ),
        };
        let lens = |letters: &[NumberedLetter]| -> Vec<usize> {
            let rows = letters.iter().flat_map(|letter| rows_of("c", letter)).collect();
            statements(rows).iter().map(Vec::len).collect()
        };
        let small: Vec<_> = (0..130).map(|n| numbered(n, 10)).collect();
        assert_eq!(lens(&small), [64, 64, 2]);
        assert_eq!(lens(&[numbered(1, 1 << 20), numbered(2, 10)]), [1, 1, 1, 2]);
    }
}
