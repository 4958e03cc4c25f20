//! The cutover between an import and the stream: which events an imported table already contains,
//! and from where the stream has to be read after an import.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{Event, Position, Version};

/// The stream is read from so much before the snapshot, because the broker's clock is not the
/// database's.
pub const CLOCKS_APART_MAX_NS: i64 = 600_000_000_000;
/// A broker's clock is believed to be no further behind the database's: a place in the stream that
/// is older than that is earlier.
const CLOCK_BEHIND_MAX_NS: i64 = 24 * 3_600_000_000_000;
/// Stands for the tables of a consumer that have no line of their own.
const OTHERS: &str = "";

/// How a table was imported.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Imported {
    /// Its rows contain the events up to this version. `None` where the import only added rows to
    /// the existing ones: deletions up to then are known from the stream alone.
    pub at: Option<Version>,
    /// The time of the last snapshot, or, where it only added rows, the time up to which the
    /// stream was applied if that is earlier; Unix nanoseconds. The stream is read from a little
    /// before it.
    pub since_ns: i64,
}

/// The snapshot that an import has loaded into a table.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TableSnapshot {
    /// The name of the table, as events have it.
    pub table: String,
    /// When its rows were read.
    pub at: Version,
    /// Whether the table has no rows but those of the snapshot.
    pub whole: bool,
}

/// Where the stream has to be read from, where no checkpoint says so.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum ResumePoint {
    /// Behind this place.
    After(Position),
    /// With what was published from a time on, or behind a place, whichever comes first in the
    /// stream: only there is it known, as the broker's clock may be far from the database's.
    Since {
        /// Unix nanoseconds.
        since_ns: i64,
        /// The place, if some table needs its events from there on.
        after: Option<Position>,
    },
}

/// What one consumer has to know about the imported tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cutover {
    /// By table: what is known of its last import.
    pub imported: BTreeMap<String, Imported>,
    /// Up to where the events of a table were applied before an import set the consumer back.
    pub applied: BTreeMap<String, Position>,
}

impl Cutover {
    fn applied_to(&self, table: &str) -> Position {
        self.applied.get(table).or_else(|| self.applied.get(OTHERS)).copied().unwrap_or_default()
    }

    /// Whether what comes at `position` was applied to the table before an import set the consumer
    /// back.
    pub fn had_applied(&self, table: &str, position: Position) -> bool {
        self.applied_to(table).contains(position)
    }

    /// Whether the event is contained in its table already: it is not newer than the snapshot, or
    /// was applied before the import. An event of no plausible version is judged by its timestamp.
    pub fn contains(&self, event: &Event, position: Position) -> bool {
        if self.imported.is_empty() && self.applied.is_empty() {
            return false;
        }
        self.is_in_snapshot(event) || self.applied_to(&event.table()).contains(position)
    }

    /// Whether the event is not newer than the rows that were imported into its table.
    pub fn is_in_snapshot(&self, event: &Event) -> bool {
        self.imported.get(&*event.table()).and_then(|imported| imported.at).is_some_and(|at| {
            match event.version() {
                Some(version) => version <= at,
                None => (1..(at.nanos / 1_000_000) as i64).contains(&event.timestamp_ms()),
            }
        })
    }

    /// Whether an import has only added rows to the table after `time_ns`: what was published
    /// before may be older than they are.
    pub fn has_newer_rows(&self, table: &str, time_ns: i64) -> bool {
        let imported = self.imported.get(table);
        imported.is_some_and(|imported| imported.at.is_none() && time_ns <= imported.since_ns)
    }

    /// Whether the consumer had applied anything when an import set it back.
    pub fn had_begun(&self) -> bool {
        self.applied.contains_key(OTHERS)
    }

    /// The lowest place from which some table still needs its events; `None` where nothing was
    /// imported.
    pub fn resume_point(&self) -> Option<ResumePoint> {
        let unread =
            self.imported.iter().filter(|(table, _)| self.applied_to(table) == Position::default());
        let since = unread.map(|(_, imported)| imported.since_ns - CLOCKS_APART_MAX_NS).min();
        let after = self.applied.values().filter(|p| p.sequence > 0).min_by_key(|p| p.sequence);
        let after = after.copied();
        let is_earlier = |since_ns: i64, after: Position| {
            after.time_ns > 0 && after.time_ns < since_ns.saturating_sub(CLOCK_BEHIND_MAX_NS)
        };
        match (since, after) {
            (Some(since_ns), Some(after)) if is_earlier(since_ns, after) => {
                Some(ResumePoint::After(after))
            }
            (Some(since_ns), after) => Some(ResumePoint::Since { since_ns, after }),
            (None, after) => after.map(ResumePoint::After),
        }
    }
}

/// What all consumers of a destination have to know about the imported tables.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct Cutovers {
    imported: BTreeMap<String, Imported>,
    applied: BTreeMap<String, BTreeMap<String, Position>>,
}

/// A line of the table of cutovers: consumer (empty: all), table, and what is known.
pub type Line = (String, String, String);

#[derive(Serialize, Deserialize, Default)]
#[serde(default)]
struct CutoverText {
    #[serde(skip_serializing_if = "Option::is_none")]
    imported_at: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    since_ns: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_sequence: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stream_time_ns: Option<i64>,
}

impl Cutovers {
    /// Reads lines as [`Cutovers::lines`] gives them.
    pub fn read(lines: Vec<Line>) -> Result<Cutovers, serde_json::Error> {
        let mut cutovers = Cutovers::default();
        for (consumer, table, words) in lines {
            let words: CutoverText = serde_json::from_str(&words)?;
            if consumer.is_empty() {
                let at = words.imported_at.as_deref().and_then(Version::parse);
                cutovers
                    .imported
                    .insert(table, Imported { at, since_ns: words.since_ns.unwrap_or_default() });
            } else {
                let position = Position {
                    sequence: words.stream_sequence.unwrap_or_default(),
                    time_ns: words.stream_time_ns.unwrap_or_default(),
                };
                cutovers.applied.entry(consumer).or_default().insert(table, position);
            }
        }
        Ok(cutovers)
    }

    /// One line for each table, as a destination stores them and [`Cutovers::read`] reads them.
    pub fn lines(&self) -> Vec<Line> {
        let text = |words: &CutoverText| serde_json::to_string(words).unwrap_or_default();
        let imported = self.imported.iter().map(|(table, i)| {
            let words = CutoverText {
                imported_at: i.at.map(|v| v.to_string()),
                since_ns: Some(i.since_ns),
                ..CutoverText::default()
            };
            (String::new(), table.clone(), text(&words))
        });
        let applied = self.applied.iter().flat_map(|(consumer, tables)| {
            tables.iter().map(move |(table, p)| {
                let words = CutoverText {
                    stream_sequence: Some(p.sequence),
                    stream_time_ns: Some(p.time_ns),
                    ..CutoverText::default()
                };
                (consumer.clone(), table.clone(), text(&words))
            })
        });
        imported.chain(applied).collect()
    }

    /// What `consumer` has to know.
    pub fn of(&self, consumer: &str) -> Cutover {
        Cutover {
            imported: self.imported.clone(),
            applied: self.applied.get(consumer).cloned().unwrap_or_default(),
        }
    }

    /// Whether the table was ever imported.
    pub fn has(&self, table: &str) -> bool {
        self.imported.contains_key(table)
    }

    /// Takes note of imported tables, and sets all consumers back from where they stood. A consumer
    /// without a position had none, or was set back before and has not moved since.
    pub fn import(&mut self, snapshots: &[TableSnapshot], stood: &[(String, Option<Position>)]) {
        // Where rows are only added, what was left to be read still has to be read: deletions are
        // not in the snapshot, and older changes may wait that are written over it.
        let unmoved = stood.is_empty() || stood.iter().any(|(_, position)| position.is_none());
        let reached_ns = stood.iter().filter_map(|(_, p)| p.map(|p| p.time_ns));
        let reached_ns = reached_ns.filter(|ns| *ns > 0).min();
        for TableSnapshot { table, at, whole } in snapshots {
            let taken_ns = at.nanos as i64;
            let since_ns = match reached_ns {
                Some(reached_ns) if !whole => taken_ns.min(reached_ns),
                _ => taken_ns,
            };
            let earlier = self.imported.get(table).copied();
            // Added rows of an older snapshot may replace newer ones.
            let contained = earlier.and_then(|e| e.at).map(|earlier| earlier.min(*at));
            let imported = match (whole, earlier) {
                (true, _) => Imported { at: Some(*at), since_ns },
                (false, Some(earlier)) if unmoved => {
                    Imported { at: contained, since_ns: earlier.since_ns.min(since_ns) }
                }
                (false, _) => Imported { at: contained, since_ns },
            };
            self.imported.insert(table.clone(), imported);
        }
        stood.iter().for_each(|(consumer, position)| self.set_back(consumer, *position, snapshots));
    }

    /// The imported tables need their events from the snapshot on; the others go on from
    /// `position`.
    fn set_back(
        &mut self,
        consumer: &str,
        position: Option<Position>,
        snapshots: &[TableSnapshot],
    ) {
        let applied = self.applied.entry(consumer.to_owned()).or_default();
        if let Some(position) = position {
            applied.entry(OTHERS.to_owned()).or_default();
            let later = |p: &mut Position| {
                *p = if (p.time_ns, p.sequence) < (position.time_ns, position.sequence) {
                    position
                } else {
                    *p
                }
            };
            applied.values_mut().for_each(later);
        }
        applied.extend(snapshots.iter().map(|s| (s.table.clone(), Position::default())));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::Decoder;

    const T: u64 = 1_720_000_000_000_000_000;

    fn at(sequence: u64) -> Position {
        Position { sequence, time_ns: T as i64 + sequence as i64 }
    }

    fn event(table: &str, mvcc: &str, timestamp: u64) -> Event {
        let text = format!(
            r#"{{"operation":"INSERT","table":"{table}","after":{{}},"timestamp":{timestamp},"mvccTimestamp":"{mvcc}"}}"#
        );
        Decoder::default().decode(text.into()).unwrap_or_else(|e| panic!("{e}"))
    }

    fn since(snapshot: u64, after: Option<Position>) -> Option<ResumePoint> {
        Some(ResumePoint::Since { since_ns: snapshot as i64 - CLOCKS_APART_MAX_NS, after })
    }

    fn snapshots(tables: &[&str], nanos: u64, whole: bool) -> Vec<TableSnapshot> {
        tables
            .iter()
            .map(|t| TableSnapshot { table: (*t).into(), at: Version { nanos, logical: 1 }, whole })
            .collect()
    }

    #[test]
    fn an_event_is_contained_up_to_the_snapshot() {
        let mut cutovers = Cutovers::default();
        cutovers.import(&snapshots(&["a"], T, true), &[]);
        let cutover = cutovers.of("c");
        let contains = |mvcc: String, ms| cutover.contains(&event("a", &mvcc, ms), at(1));
        assert!(contains(format!("{}.0", T - 1), 0) && contains(format!("{T}.0000000001"), 0));
        assert!(!contains(format!("{T}.0000000002"), 0) && !contains(format!("{}", T + 1), 0));
        assert!(contains("7".into(), T / 1_000_000 - 1));
        assert!(!contains("7".into(), T / 1_000_000) && !contains("7".into(), 0));
        assert!(!cutover.contains(&event("b", &format!("{}", T - 1), 0), at(1)));
        assert_eq!(cutover.resume_point(), since(T, None));
    }

    #[test]
    fn rows_that_were_only_added_skip_nothing() {
        let mut cutovers = Cutovers::default();
        cutovers.import(&snapshots(&["a"], T, false), &[]);
        assert!(!cutovers.of("c").contains(&event("a", &format!("{}", T - 1), 0), at(1)));
        // What was deleted between two imports is known from the stream alone.
        cutovers.import(&snapshots(&["a"], T + 9, false), &[("c".into(), None)]);
        assert_eq!(cutovers.of("c").resume_point(), since(T, None));
    }

    /// Import, stream to 700 of what had been applied to 1000, then add the rows of a later export:
    /// what was deleted between 700 and that export is known from the stream alone, and a change
    /// that waits at 700 is older than those rows.
    #[test]
    fn rows_that_were_only_added_are_followed_by_what_had_not_been_applied() {
        let mut cutovers = Cutovers::default();
        cutovers.import(&snapshots(&["a"], T, true), &[("c".into(), Some(at(1000)))]);
        let later = snapshots(&["a"], T + 2 * CLOCKS_APART_MAX_NS as u64, false);
        cutovers.import(&later, &[("c".into(), Some(at(700)))]);
        let cutover = cutovers.of("c");
        let expected = since(at(700).time_ns as u64, Some(at(1000)));
        assert_eq!(cutover.resume_point(), expected);
        assert!(!cutover.contains(&event("a", &format!("{}", T + 5), 0), at(701)));
    }

    #[test]
    fn a_consumer_that_moved_on_reads_the_imported_table_again_and_no_other() {
        let mut cutovers = Cutovers::default();
        let one = snapshots(&["a"], T, true);
        cutovers.import(&one, &[("c".into(), Some(at(1000)))]);
        let cutover = cutovers.of("c");
        let new = format!("{}", T + 5);
        assert!(!cutover.contains(&event("a", &new, 0), at(900)));
        assert!(cutover.contains(&event("b", &new, 0), at(900)));
        assert!(!cutover.contains(&event("b", &new, 0), at(1001)));
        assert_eq!(cutover.resume_point(), since(T, Some(at(1000))));
        assert_eq!(cutovers.of("another").resume_point(), since(T, None));
    }

    #[test]
    fn a_consumer_that_stopped_before_the_snapshot_goes_on_where_it_was() {
        let resumes = |snapshot: u64| {
            let mut cutovers = Cutovers::default();
            cutovers.import(&snapshots(&["a"], snapshot, true), &[("c".into(), Some(at(1000)))]);
            cutovers.of("c").resume_point()
        };
        let later = T + 2 * CLOCK_BEHIND_MAX_NS as u64;
        assert_eq!(resumes(later), Some(ResumePoint::After(at(1000))));
        // Its broker's clock may have been behind: then it was after the snapshot.
        let later = T + CLOCK_BEHIND_MAX_NS as u64;
        assert_eq!(resumes(later), since(later, Some(at(1000))));
    }

    /// Import all, stream to 700 of what had been applied to 1000, then import one table.
    #[test]
    fn a_second_import_keeps_what_the_first_one_left_open() {
        let mut cutovers = Cutovers::default();
        let first = snapshots(&["a", "b"], T, true);
        cutovers.import(&first, &[("c".into(), Some(at(1000)))]);
        let second = snapshots(&["a"], T + 1, true);
        cutovers.import(&second, &[("c".into(), Some(at(700)))]);
        let cutover = cutovers.of("c");
        let new = format!("{}", T + 5);
        let contains =
            |table: &str, sequence| cutover.contains(&event(table, &new, 0), at(sequence));
        assert!(contains("b", 700) && !contains("b", 701));
        assert!(contains("others", 1000) && !contains("others", 1001));
        assert!(!contains("a", 1));
        // Not yet moved since: everything stays as it was.
        let mut again = cutovers.clone();
        again.import(&second, &[("c".into(), None)]);
        assert_eq!(again, cutovers);
        assert_eq!(Cutovers::read(cutovers.lines()).unwrap_or_else(|e| panic!("{e}")), cutovers);
    }
}
