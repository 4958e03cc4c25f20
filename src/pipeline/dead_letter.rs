//! What a worker knows of the dead letters that are kept: which of them a later change of their row
//! makes useless, and how much room they take. Pure.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::change::batch::LetterChanges;
use crate::change::dead_letter::{LetterEntry, RowMark, payload_hash};
use crate::change::{Change, DeadLetter, NumberedLetter, Position};

/// What becomes of a change that cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum OnRejected {
    /// It is kept as a dead letter, and others go on.
    #[default]
    DeadLetter,
    /// The run ends before it.
    Stop,
}

/// What happens when no more dead letters may be kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum WhenFull {
    /// The stream waits until some are retried or dropped.
    #[default]
    Wait,
    /// The oldest are dropped, and the log says which.
    DropOldest,
}

/// How many dead letters are kept.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetterLimits {
    /// The most letters.
    pub letters_max: usize,
    /// The most bytes of their payloads.
    pub bytes_max: u64,
}

/// What a user may choose about dead letters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LetterOptions {
    /// What becomes of changes that cannot be applied.
    pub on_rejected: OnRejected,
    /// What happens when no more letters may be kept.
    pub when_full: WhenFull,
    /// How many are kept.
    pub limits: LetterLimits,
}

impl Default for LetterOptions {
    fn default() -> LetterOptions {
        LetterOptions {
            on_rejected: OnRejected::default(),
            when_full: WhenFull::default(),
            limits: LetterLimits { letters_max: 100_000, bytes_max: 1 << 30 },
        }
    }
}

/// Which letters of its row a change makes useless.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Supersedes {
    /// All that are kept: it comes from the stream, and they came before. Where the stream is read
    /// again, they are made anew.
    All,
    /// Those of an older version or that were published before it: it was kept while its table was
    /// held, or as a letter.
    Earlier,
    /// None: every change is kept.
    Nothing,
}

impl Supersedes {
    fn takes(self, entry: &LetterEntry, change: &Change) -> bool {
        let (version_ns, other_ns) = (version_ns(change), entry.version_ns);
        if is_older(version_ns, other_ns) {
            return false;
        }
        // Times of another stream of the same name may be by another clock; versions are not.
        let time = |position: Position| (position.time_ns, position.sequence);
        match self {
            Supersedes::All => true,
            Supersedes::Earlier => {
                is_older(other_ns, version_ns) || time(entry.position) < time(change.position)
            }
            Supersedes::Nothing => false,
        }
    }
}

/// The last change of a row that a batch applies.
#[derive(Clone, Copy)]
struct LastApplied {
    /// Among the changes.
    index: usize,
    sequence: u64,
    version_ns: u64,
}

impl LastApplied {
    fn of(index: usize, change: &Change) -> LastApplied {
        let sequence = change.position.sequence;
        LastApplied { index, sequence, version_ns: version_ns(change) }
    }
}

/// The age of the row after the change; 0 where it is not known.
fn version_ns(change: &Change) -> u64 {
    change.event.version().map_or(0, |version| version.nanos)
}

/// Whether a change of one age is older than one of another, where both are known.
fn is_older(version_ns: u64, other_ns: u64) -> bool {
    version_ns > 0 && other_ns > version_ns
}

/// The dead letters of one consumer.
#[derive(Default)]
pub struct LetterBook {
    entries: BTreeMap<u64, LetterEntry>,
    /// Which of them are about a row, by both hashes of it.
    by_row: HashMap<u64, Vec<u64>>,
    /// Those of use by place, row and message: the same change is kept once.
    known: HashSet<(Position, RowMark, u64)>,
    bytes: u64,
    next_number: u64,
}

impl LetterBook {
    /// A book of what is kept.
    pub fn of(entries: Vec<LetterEntry>) -> LetterBook {
        let mut book = LetterBook::default();
        entries.into_iter().for_each(|entry| book.add(entry));
        book
    }

    /// The letter of this number, if it is kept and of use.
    pub fn of_use(&self, number: u64) -> Option<&LetterEntry> {
        self.entries.get(&number).filter(|entry| entry.superseded_by.is_none())
    }

    /// How many are kept.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// How many are kept that are still of use.
    pub fn waiting(&self) -> usize {
        self.entries.values().filter(|entry| entry.superseded_by.is_none()).count()
    }

    /// The bytes of their payloads.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    fn add(&mut self, entry: LetterEntry) {
        self.remove(entry.number);
        self.next_number = self.next_number.max(entry.number + 1);
        self.bytes += entry.bytes;
        if entry.superseded_by.is_none() {
            self.known.insert((entry.position, entry.mark, entry.payload_hash));
            for hash in hashes(entry.mark) {
                self.by_row.entry(hash).or_default().push(entry.number);
            }
        }
        self.entries.insert(entry.number, entry);
    }

    /// The letter is kept no longer.
    pub fn remove(&mut self, number: u64) {
        let Some(entry) = self.entries.remove(&number) else { return };
        self.bytes -= entry.bytes;
        self.forget_row(&entry);
    }

    fn forget_row(&mut self, entry: &LetterEntry) {
        self.known.remove(&(entry.position, entry.mark, entry.payload_hash));
        for hash in hashes(entry.mark) {
            if let Some(numbers) = self.by_row.get_mut(&hash) {
                numbers.retain(|number| *number != entry.number);
                if numbers.is_empty() {
                    self.by_row.remove(&hash);
                }
            }
        }
    }

    /// What becomes of letters with a batch that makes `letters` and applies `applied` (each with
    /// its index among the changes). The index of a letter is that of its change; one of an event
    /// that never became a change has none, and its place in the stream says what is later.
    pub fn changes<'a>(
        &self,
        letters: Vec<(Option<usize>, DeadLetter)>,
        applied: impl Iterator<Item = (usize, &'a Change)>,
        supersedes: Supersedes,
    ) -> LetterChanges {
        if letters.is_empty() && (self.by_row.is_empty() || supersedes == Supersedes::Nothing) {
            return LetterChanges::default();
        }
        let mut superseded = BTreeMap::new();
        let mut latest: HashMap<u64, LastApplied> = HashMap::new();
        for (index, change) in applied {
            for hash in hashes(RowMark::of_change(change)) {
                for number in self.by_row.get(&hash).into_iter().flatten() {
                    if supersedes.takes(&self.entries[number], change) {
                        superseded.insert(*number, change.position.sequence);
                    }
                }
                if !letters.is_empty() && supersedes != Supersedes::Nothing {
                    let applied = LastApplied::of(index, change);
                    let last = latest.entry(hash).or_insert(applied);
                    if last.index <= index {
                        *last = applied;
                    }
                }
            }
        }
        let superseder = |index: Option<usize>, letter: &DeadLetter| {
            let found = hashes(letter.mark).filter_map(|hash| latest.get(&hash));
            let is_later = |applied: &&LastApplied| match index {
                _ if is_older(applied.version_ns, letter.version_ns) => false,
                Some(index) => applied.index > index,
                None => letter.position.sequence < applied.sequence,
            };
            found.filter(is_later).map(|applied| applied.sequence).max()
        };
        let is_new = |(_, letter): &(Option<usize>, DeadLetter)| {
            let hash = payload_hash(&letter.payload);
            !self.known.contains(&(letter.position, letter.mark, hash))
        };
        let added = letters.into_iter().filter(is_new).zip(self.next_number..);
        let added = added.map(|((index, letter), number)| NumberedLetter {
            number,
            superseded_by: superseder(index, &letter),
            letter,
        });
        LetterChanges {
            added: added.collect(),
            superseded: superseded.into_iter().collect(),
            retried: None,
        }
    }

    /// The changes are durable.
    pub fn committed(&mut self, changes: &LetterChanges) {
        for numbered in &changes.added {
            self.add(LetterEntry::of(numbered));
        }
        for (number, sequence) in &changes.superseded {
            if let Some(mut entry) = self.entries.get(number).copied() {
                entry.superseded_by = Some(*sequence);
                self.forget_row(&entry);
                self.entries.insert(*number, entry);
            }
        }
        if let Some((number, _)) = changes.retried {
            self.remove(number);
        }
    }

    /// Whether so much more may be kept.
    pub fn has_room(&self, added: &[NumberedLetter], limits: LetterLimits) -> bool {
        let more: u64 = added.iter().map(|numbered| numbered.letter.payload.len() as u64).sum();
        let is_alone = self.is_empty();
        added.is_empty()
            || is_alone
            || (self.len() + added.len() <= limits.letters_max
                && self.bytes + more <= limits.bytes_max)
    }

    /// The letters that are dropped to make room, oldest first: those of no more use, at most a
    /// tenth of all; where there are none and `when_full` says so, others.
    pub fn to_drop(&self, when_full: WhenFull) -> Vec<u64> {
        let tenth = self.len() / 10 + 1;
        let is_useless = |entry: &&LetterEntry| entry.superseded_by.is_some();
        let useless: Vec<u64> =
            self.entries.values().filter(is_useless).take(tenth).map(|e| e.number).collect();
        match useless.is_empty() && when_full == WhenFull::DropOldest {
            true => self.entries.keys().take(tenth).copied().collect(),
            false => useless,
        }
    }
}

/// The hashes that are known of a row.
fn hashes(mark: RowMark) -> impl Iterator<Item = u64> {
    [mark.row, mark.spelled].into_iter().filter(|hash| *hash != 0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::{ColumnRules, held};

    /// Inserts of these rows, one after the other.
    fn changes_of_rows(ids: &[&str]) -> Vec<Change> {
        let schema = r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;
        let change = |(i, id): (usize, &&str)| {
            let event = format!(
                r#"{{"operation":"INSERT","table":"t","key":["{id}"],"after":{{"id":"{id}"}},"mvccTimestamp":"17207326117085875{i:02}"}}"#
            );
            let (subject, part, sequence) = ("s", "own", i as u64 + 2);
            serde_json::json!({"subject": subject, "sequence": sequence, "time_ns": 0, "part": part, "is_of_future": false, "event": event})
        };
        let changes: Vec<_> = ids.iter().enumerate().map(change).collect();
        let schema: serde_json::Value = serde_json::from_str(schema).unwrap_or_default();
        let body = serde_json::json!({"schema": schema, "changes": changes}).to_string();
        held::read(&body, &ColumnRules::default()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn letter(change: &Change) -> DeadLetter {
        DeadLetter::of_change("why".into(), change)
    }

    fn applied<'a>(
        changes: &'a [Change],
        indices: &'a [usize],
    ) -> impl Iterator<Item = (usize, &'a Change)> {
        indices.iter().map(|index| (*index, &changes[*index]))
    }

    #[test]
    fn a_later_change_of_the_row_supersedes_its_letter() {
        // Rows a, b, a, a.
        let changes = changes_of_rows(&["a", "b", "a", "a"]);
        let mut book = LetterBook::default();
        let letters = vec![(Some(2), letter(&changes[2]))];
        let first = book.changes(letters.clone(), applied(&changes, &[0, 1]), Supersedes::All);
        assert_eq!(first.added.len(), 1);
        assert_eq!(first.added[0].superseded_by, None, "what came before does not count");
        book.committed(&first);
        assert!(
            book.changes(letters, applied(&changes, &[1]), Supersedes::All).is_empty(),
            "it is kept already"
        );
        let later = book.changes(Vec::new(), applied(&changes, &[1, 3]), Supersedes::All);
        assert_eq!(later.superseded, [(0, 5)]);
        book.committed(&later);
        assert_eq!((book.len(), book.waiting()), (1, 0));
        assert!(book.changes(Vec::new(), applied(&changes, &[3]), Supersedes::All).is_empty());
    }

    /// The stream was recreated, and its clock is behind that of the former.
    #[test]
    fn an_older_version_is_superseded_whatever_the_clocks_say() {
        let changes = changes_of_rows(&["a", "a"]);
        let mut book = LetterBook::default();
        let late = Position { sequence: 40, time_ns: 9_000 };
        let former = DeadLetter { position: late, ..letter(&changes[0]) };
        book.committed(&book.changes(vec![(None, former)], std::iter::empty(), Supersedes::All));
        let retried = book.changes(Vec::new(), applied(&changes, &[1]), Supersedes::Earlier);
        assert_eq!(retried.superseded, [(0, 3)]);
    }

    #[test]
    fn a_letter_may_be_of_no_use_when_it_is_made() {
        let changes = changes_of_rows(&["a", "b", "a"]);
        let letters = vec![(Some(0), letter(&changes[0])), (Some(1), letter(&changes[1]))];
        let made = LetterBook::default().changes(letters, applied(&changes, &[2]), Supersedes::All);
        let superseded: Vec<_> = made.added.iter().map(|n| (n.number, n.superseded_by)).collect();
        assert_eq!(superseded, [(0, Some(4)), (1, None)]);
    }

    #[test]
    fn an_event_of_an_unknown_schema_is_known_by_its_spelled_key() {
        let changes = changes_of_rows(&["a", "a"]);
        let unknown =
            DeadLetter { mark: RowMark::of_event(&changes[0].event), ..letter(&changes[0]) };
        let mut book = LetterBook::default();
        let with_later =
            book.changes(vec![(None, unknown.clone())], applied(&changes, &[1]), Supersedes::All);
        assert_eq!(with_later.added[0].superseded_by, Some(3));
        let made = book.changes(vec![(None, unknown)], std::iter::empty(), Supersedes::All);
        book.committed(&made);
        let later = book.changes(Vec::new(), applied(&changes, &[1]), Supersedes::All);
        assert_eq!(later.superseded, [(0, 3)]);
    }

    #[test]
    fn what_is_of_no_use_makes_room_first() {
        let changes = changes_of_rows(&["a", "b", "c", "b"]);
        let mut book = LetterBook::default();
        let letters = (0..3).map(|i| (Some(i), letter(&changes[i]))).collect();
        let made = book.changes(letters, std::iter::empty(), Supersedes::All);
        book.committed(&made);
        let limits = LetterLimits { letters_max: 3, bytes_max: 1 << 20 };
        assert!(!book.has_room(&made.added[..1], limits));
        assert!(book.has_room(&[], limits));
        assert!(book.to_drop(WhenFull::Wait).is_empty());
        assert_eq!(book.to_drop(WhenFull::DropOldest), [0]);
        let later = book.changes(Vec::new(), applied(&changes, &[3]), Supersedes::All);
        book.committed(&later);
        assert_eq!(book.to_drop(WhenFull::DropOldest), [1]);
        book.remove(1);
        assert!(book.has_room(&made.added[..1], limits));
        assert_eq!(book.bytes(), LetterBook::of(book.entries.values().copied().collect()).bytes());
    }
}
