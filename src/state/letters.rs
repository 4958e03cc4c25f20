//! Dead letters in the state file, of destinations that have no tables; and for every destination
//! which of them a person wants to be tried again.

use rusqlite::{OptionalExtension, Row, params};

use super::{State, StateError};
use crate::change::batch::LetterChanges;
use crate::change::dead_letter::{LetterEntry, LetterLabel, RowMark};
use crate::change::{NumberedLetter, Position};

/// Creates the tables.
pub(super) const TABLES: &str = "
CREATE TABLE IF NOT EXISTS dead_letter (consumer TEXT, letter INTEGER, superseded_by INTEGER NOT \
                                 NULL, row_hash INTEGER NOT NULL, key_hash INTEGER NOT NULL,
  payload_hash INTEGER NOT NULL, version_ns INTEGER NOT NULL,
  sequence INTEGER NOT NULL, time_ns INTEGER NOT NULL, bytes INTEGER NOT NULL, label TEXT NOT \
                                 NULL, payload BLOB NOT NULL, PRIMARY KEY (consumer, letter)) \
                                 STRICT;
CREATE TABLE IF NOT EXISTS letter_order (consumer TEXT, letter INTEGER, sequence INTEGER NOT \
                                 NULL, outcome TEXT, PRIMARY KEY (consumer, letter)) STRICT;
";

const ENTRY: &str = "letter, superseded_by, row_hash, key_hash, payload_hash, version_ns, \
                     sequence, time_ns, bytes";

/// A letter in the state file: its consumer, the sequence that superseded it, its label.
pub type StoredLetter = (String, Option<u64>, LetterLabel);

/// What came of an order to try a letter again.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LetterOrder {
    /// Whose letter it is.
    pub consumer: String,
    /// Its number.
    pub letter: u64,
    /// Its place in the stream: another letter may get the number once it is gone.
    pub sequence: u64,
    /// What came of it, for people; `None` while it was not tried.
    pub outcome: Option<String>,
}

impl State {
    /// What becomes of letters of `consumer`, in one transaction. Repeating it does nothing.
    pub fn change_letters(
        &self,
        consumer: &str,
        changes: &LetterChanges,
    ) -> Result<(), StateError> {
        let key = &*self.key(consumer);
        let mut db = self.db();
        let transaction = db.transaction()?;
        for numbered in &changes.added {
            let NumberedLetter { letter, .. } = numbered;
            let entry = LetterEntry::of(numbered);
            let LetterEntry { number, superseded_by, mark, position, bytes, .. } = entry;
            transaction.execute(
                "INSERT OR REPLACE INTO dead_letter VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, \
                 ?10, ?11, ?12)",
                params![
                    key,
                    number as i64,
                    superseded_by.unwrap_or(0) as i64,
                    mark.row as i64,
                    mark.spelled as i64,
                    entry.payload_hash as i64,
                    entry.version_ns as i64,
                    position.sequence as i64,
                    position.time_ns,
                    bytes as i64,
                    LetterLabel::of(numbered).to_text(),
                    &letter.payload[..],
                ],
            )?;
        }
        for (letter, sequence) in &changes.superseded {
            transaction.execute(
                "UPDATE dead_letter SET superseded_by = ?1 WHERE consumer = ?2 AND letter = ?3",
                params![*sequence as i64, key, *letter as i64],
            )?;
        }
        if let Some((letter, _)) = changes.retried {
            transaction.execute(
                "DELETE FROM dead_letter WHERE consumer = ?1 AND letter = ?2",
                params![key, letter as i64],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// What has to be known of all letters of `consumer`, by number.
    pub fn letter_entries(&self, consumer: &str) -> Result<Vec<LetterEntry>, StateError> {
        let key = &*self.key(consumer);
        let db = self.db();
        let sql = format!("SELECT {ENTRY} FROM dead_letter WHERE consumer = ?1 ORDER BY letter");
        let mut statement = db.prepare(&sql)?;
        let rows = statement.query_map([key], entry)?;
        Ok(rows.collect::<Result<_, _>>()?)
    }

    /// All letters of this destination, by consumer and number; with those that an earlier version
    /// of EDS has left, until the first start takes them over.
    pub fn letters(&self) -> Result<Vec<StoredLetter>, StateError> {
        let db = self.db();
        let mut statement = db.prepare(
            "SELECT consumer, superseded_by, label FROM dead_letter ORDER BY consumer, letter",
        )?;
        let rows = statement.query_map([], |row| {
            Ok((row.get::<_, String>(0)?, row.get::<_, i64>(1)?, row.get::<_, String>(2)?))
        })?;
        let mut letters = Vec::new();
        for row in rows {
            let (key, superseded_by, label) = row?;
            let Some(consumer) = self.consumer_of_any(&key).map(str::to_owned) else { continue };
            match read_label(&label) {
                Ok(label) => letters.push((consumer, sequence_of(superseded_by), label)),
                Err(e) => tracing::warn!("a dead letter is left out: {e}"),
            }
        }
        Ok(letters)
    }

    /// A letter with its payload; `None` where it is not kept any more.
    pub fn letter(
        &self,
        consumer: &str,
        number: u64,
    ) -> Result<Option<(StoredLetter, Vec<u8>)>, StateError> {
        let key = &*self.key(consumer);
        let read = |row: &Row<'_>| {
            Ok((row.get::<_, i64>(0)?, row.get::<_, String>(1)?, row.get::<_, Vec<u8>>(2)?))
        };
        let found = self
            .db()
            .query_row(
                "SELECT superseded_by, label, payload FROM dead_letter WHERE consumer IN (?1, ?2) AND \
                 letter = ?3 ORDER BY consumer = ?1 DESC LIMIT 1",
                params![key, consumer, number as i64],
                read,
            )
            .optional()?;
        let Some((superseded_by, label, payload)) = found else { return Ok(None) };
        let stored = (consumer.to_owned(), sequence_of(superseded_by), read_label(&label)?);
        Ok(Some((stored, payload)))
    }

    /// Removes letters.
    pub fn drop_letters(&self, consumer: &str, numbers: &[u64]) -> Result<(), StateError> {
        let key = &*self.key(consumer);
        let mut db = self.db();
        let transaction = db.transaction()?;
        for number in numbers {
            transaction.execute(
                "DELETE FROM dead_letter WHERE consumer IN (?1, ?2) AND letter = ?3",
                params![key, consumer, *number as i64],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// These letters, by number and sequence, are to be tried again.
    pub fn order_letters(&self, consumer: &str, letters: &[(u64, u64)]) -> Result<(), StateError> {
        let key = &*self.key(consumer);
        let mut db = self.db();
        let transaction = db.transaction()?;
        for (number, sequence) in letters {
            transaction.execute(
                "INSERT OR REPLACE INTO letter_order VALUES (?1, ?2, ?3, NULL)",
                params![key, *number as i64, *sequence as i64],
            )?;
        }
        Ok(transaction.commit()?)
    }

    /// All orders for this destination, by consumer and letter, whatever came of them.
    pub fn letter_orders(&self) -> Result<Vec<LetterOrder>, StateError> {
        let db = self.db();
        let mut statement = db.prepare(
            "SELECT consumer, letter, outcome, sequence FROM letter_order ORDER BY consumer, letter",
        )?;
        let rows = statement.query_map([], |row| {
            let number = |at: usize| row.get::<_, i64>(at).map(|n| n as u64);
            let (letter, sequence) = (number(1)?, number(3)?);
            Ok(LetterOrder { consumer: row.get(0)?, letter, sequence, outcome: row.get(2)? })
        })?;
        let mut orders = rows.collect::<Result<Vec<LetterOrder>, _>>()?;
        orders.retain_mut(|order| match self.consumer_of(&order.consumer) {
            Some(consumer) => {
                order.consumer = consumer.to_owned();
                true
            }
            None => false,
        });
        Ok(orders)
    }

    /// The letter was tried; what came of it, for people.
    pub fn finish_letter_order(
        &self,
        consumer: &str,
        letter: u64,
        outcome: &str,
    ) -> Result<(), StateError> {
        let key = &*self.key(consumer);
        self.db().execute(
            "UPDATE letter_order SET outcome = ?3 WHERE consumer = ?1 AND letter = ?2 AND \
             outcome IS NULL",
            params![key, letter as i64, outcome],
        )?;
        Ok(())
    }

    /// Forgets an order of which something came.
    pub fn forget_letter_order(&self, consumer: &str, letter: u64) -> Result<(), StateError> {
        let key = &*self.key(consumer);
        self.db().execute(
            "DELETE FROM letter_order WHERE consumer = ?1 AND letter = ?2 AND outcome IS NOT NULL",
            params![key, letter as i64],
        )?;
        Ok(())
    }
}

fn entry(row: &Row<'_>) -> rusqlite::Result<LetterEntry> {
    let number = |at: usize| row.get::<_, i64>(at).map(|n| n as u64);
    Ok(LetterEntry {
        number: number(0)?,
        superseded_by: sequence_of(row.get(1)?),
        mark: RowMark { row: number(2)?, spelled: number(3)? },
        payload_hash: number(4)?,
        version_ns: number(5)?,
        position: Position { sequence: number(6)?, time_ns: row.get(7)? },
        bytes: number(8)?,
    })
}

fn sequence_of(superseded_by: i64) -> Option<u64> {
    (superseded_by != 0).then_some(superseded_by as u64)
}

fn read_label(label: &str) -> Result<LetterLabel, StateError> {
    LetterLabel::from_text(label).ok_or(StateError::Unreadable("dead_letter"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::DeadLetter;

    fn numbered(number: u64) -> NumberedLetter {
        let place = ("s", Position { sequence: number + 10, time_ns: 5 });
        let payload = bytes::Bytes::from_static(b"\xffp");
        let letter = DeadLetter::of_message("why".into(), place, payload);
        NumberedLetter { number, superseded_by: None, letter }
    }

    #[test]
    fn letters_are_kept_superseded_and_taken_away() -> Result<(), StateError> {
        let state = State::in_memory()?;
        let added = vec![numbered(0), numbered(1), numbered(2)];
        let changes = LetterChanges { added: added.clone(), ..LetterChanges::default() };
        state.change_letters("c", &changes)?;
        state.change_letters("c", &changes)?;
        let retried = Some((2, added[2].letter.position));
        let later =
            LetterChanges { superseded: vec![(1, 99)], retried, ..LetterChanges::default() };
        state.change_letters("c", &later)?;
        let mut expected = [LetterEntry::of(&added[0]), LetterEntry::of(&added[1])];
        expected[1].superseded_by = Some(99);
        assert_eq!(state.letter_entries("c")?, expected);
        assert_eq!(state.letter_entries("other")?, []);
        assert_eq!(state.letters()?.len(), 2);
        let found = state.letter("c", 1)?;
        assert_eq!(found.map(|(_, payload)| payload).as_deref(), Some(&b"\xffp"[..]));
        state.drop_letters("c", &[0, 1, 7])?;
        assert_eq!(state.letters()?, []);
        Ok(())
    }

    /// Format 2 named the consumer only; a person may look before the first start.
    #[test]
    fn letters_of_an_earlier_version_are_seen_before_the_first_start() -> Result<(), StateError> {
        let file = State::in_memory()?;
        let added = vec![numbered(0), numbered(1), numbered(2)];
        let changes = LetterChanges { added, ..LetterChanges::default() };
        file.change_letters("c", &changes)?;
        let state = file.of_destination("a", None)?;
        assert_eq!(state.letters()?.len(), 3);
        assert!(state.letter("c", 1)?.is_some());
        state.drop_letters("c", &[1])?;
        state.order_letters("c", &[(2, 12)])?;
        state.adopt_unplaced()?;
        assert_eq!((state.letters()?.len(), state.letter_entries("c")?.len()), (2, 2));
        assert_eq!(state.letter_orders()?.len(), 1);
        assert_eq!(file.of_destination("b", None)?.letters()?, []);
        Ok(())
    }

    #[test]
    fn an_order_is_tried_once() -> Result<(), StateError> {
        let state = State::in_memory()?;
        state.order_letters("c", &[(3, 13), (4, 14)])?;
        state.finish_letter_order("c", 3, "applied")?;
        let orders = state.letter_orders()?;
        let outcomes: Vec<_> = orders.iter().map(|o| (o.letter, o.outcome.as_deref())).collect();
        assert_eq!(outcomes, [(3, Some("applied")), (4, None)]);
        state.forget_letter_order("c", 3)?;
        state.forget_letter_order("c", 4)?;
        state.order_letters("c", &[(4, 14)])?;
        assert_eq!(state.letter_orders()?.len(), 1);
        Ok(())
    }
}
