//! What a run is like at a moment, as `/status.json` shows it.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};

use crate::clock::{now_ns, now_s};

/// The warnings that are kept, the latest ones.
const WARNINGS_MAX: usize = 20;
/// Tables that are counted by name; what is of further ones is counted together.
pub const TABLES_MAX: usize = 4_096;
/// The name under which further tables are counted.
pub const OTHER_TABLES: &str = "(others)";

/// What the engine is doing.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(tag = "name", content = "reason", rename_all = "snake_case")]
pub enum Phase {
    /// It connects.
    #[default]
    Starting,
    /// It applies changes.
    Streaming,
    /// Nothing is pending.
    CaughtUp,
    /// Something that it needs is away; why.
    Waiting(String),
    /// It was told to stop, and writes what is pending.
    Stopping,
    /// Nothing is fetched until somebody says so.
    Paused,
    /// It has ended; why, where that was not asked for.
    Stopped(Option<String>),
}

impl Phase {
    /// The names of all, as metrics and `/status.json` have them.
    pub const NAMES: [&str; 7] =
        ["starting", "streaming", "caught_up", "waiting", "stopping", "paused", "stopped"];

    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Phase::Starting => "starting",
            Phase::Streaming => "streaming",
            Phase::CaughtUp => "caught_up",
            Phase::Waiting(_) => "waiting",
            Phase::Stopping => "stopping",
            Phase::Paused => "paused",
            Phase::Stopped(_) => "stopped",
        }
    }

    /// Whether changes are applied, or would be if there were any.
    pub fn is_flowing(&self) -> bool {
        matches!(self, Phase::Streaming | Phase::CaughtUp)
    }
}

/// What became of one table's events since the start.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct TableCounts {
    /// Rows written.
    pub upserts: u64,
    /// Rows deleted.
    pub deletes: u64,
    /// Events that could not be applied.
    pub dead_letters: u64,
    /// Events that the user left out.
    pub filtered: u64,
    /// Events whose row has a newer version already.
    pub stale: u64,
    /// Events that an import contains.
    pub imported: u64,
    /// The version of the schema of the last change that was applied; empty where none is known.
    pub schema_version: String,
    /// When the last change that was applied had been published, Unix seconds; 0: none was.
    pub last_change_unix: u64,
    /// The time of the export that its last import loaded, Unix seconds; 0: none is known.
    pub imported_unix: u64,
}

impl TableCounts {
    /// Together with what was counted before.
    fn after(mut self, former: &TableCounts) -> TableCounts {
        self.upserts += former.upserts;
        self.deletes += former.deletes;
        self.dead_letters += former.dead_letters;
        self.filtered += former.filtered;
        self.stale += former.stale;
        self.imported += former.imported;
        if self.schema_version.is_empty() {
            self.schema_version.clone_from(&former.schema_version);
        }
        self.last_change_unix = self.last_change_unix.max(former.last_change_unix);
        self.imported_unix = self.imported_unix.max(former.imported_unix);
        self
    }
}

/// A table that cannot be written now.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct HeldCounts {
    /// Why, for people.
    pub reason: String,
    /// Since when, Unix seconds.
    pub since_unix: u64,
    /// How many of its changes wait at the destination.
    pub changes: u64,
    /// The bytes that they take there.
    pub bytes: u64,
}

/// An import that is under way.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct ImportStatus {
    /// Since when, Unix seconds.
    pub since_unix: u64,
    /// Its tables; 0 until the export is there.
    pub tables: u64,
    /// Those that are loaded.
    pub tables_done: u64,
    /// Rows that are loaded.
    pub rows: u64,
    /// How much of the loading is done, from 0 to 1.
    pub fraction: f64,
    /// The tables that are being loaded, a few of them.
    pub now: Vec<String>,
}

/// Something that failed, or that somebody should know.
#[derive(Clone, PartialEq, Eq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusNotice {
    /// When, Unix seconds.
    pub at_unix: u64,
    /// What, for people.
    pub text: String,
    /// How often that was said; `at_unix` is of the last time.
    pub times: u64,
}

impl StatusNotice {
    /// Of this moment.
    pub fn now(text: &str) -> StatusNotice {
        StatusNotice { at_unix: now_s(), text: text.to_owned(), times: 1 }
    }
}

/// A moment's reading.
#[derive(Clone, PartialEq, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Snapshot {
    /// What the engine is doing.
    pub state: Phase,
    /// Where changes go, without its secrets; empty where that is not known.
    pub destination: String,
    /// The consumer whose changes are applied; empty where that is not known.
    pub consumer: String,
    /// Events received from the feed.
    pub received: u64,
    /// Events that are done with: applied, skipped, or dead letters.
    pub done: u64,
    /// Events that the destination had already.
    pub seen_before: u64,
    /// Events whose row has a newer version already.
    pub stale: u64,
    /// Events that the user left out.
    pub filtered: u64,
    /// Events that an import contains.
    pub imported: u64,
    /// Events that could not be applied.
    pub dead_letters: u64,
    /// Dead letters that are kept and that no later change of their row has superseded.
    pub dead_letters_waiting: u64,
    /// Sets of pending changes that were applied.
    pub batches: u64,
    /// The seconds that this took, together.
    pub batch_seconds: f64,
    /// Events that are known to wait at the source or in EDS.
    pub lag_events: u64,
    /// Age of the oldest event that waits; 0 where none does.
    pub lag_seconds: f64,
    /// When the oldest event that waits was published, Unix nanoseconds, or no earlier than that;
    /// 0 where none waits.
    pub oldest_pending_ns: i64,
    /// When a batch became durable, or nothing was pending, Unix seconds; 0: never yet.
    pub last_success_unix: u64,
    /// How far the destination is.
    pub stream_sequence: u64,
    /// What fails now, and since when; nothing where it works again.
    pub last_error: Option<StatusNotice>,
    /// When something failed last, Unix seconds, also where it works again; 0: never.
    pub last_error_unix: u64,
    /// What somebody should know, oldest first.
    pub warnings: VecDeque<StatusNotice>,
    /// By table.
    pub tables: BTreeMap<String, TableCounts>,
    /// The tables that cannot be written now, whose changes wait.
    pub held: BTreeMap<String, HeldCounts>,
    /// The import that is under way, if one is.
    pub import: Option<ImportStatus>,
}

impl Snapshot {
    /// The same counts in another state.
    pub fn in_state(mut self, state: Phase) -> Snapshot {
        self.state = state;
        self
    }

    /// As of a process that has ended since: what came after its last success may wait.
    pub fn of_ended(mut self) -> Snapshot {
        if self.oldest_pending_ns == 0 {
            self.oldest_pending_ns = unix_ns_of(self.last_success_unix);
        }
        self.aged()
    }

    /// The same with the lag of this moment.
    pub fn aged(mut self) -> Snapshot {
        self.lag_seconds = match self.oldest_pending_ns {
            0 => 0.0,
            oldest => (now_ns() - oldest).max(0) as f64 / 1e9,
        };
        self
    }

    /// The age of the oldest change that is not in its table yet: those of held tables count, too.
    pub fn oldest_change_age_seconds(&self) -> f64 {
        let held = self.held.values().filter(|held| held.changes > 0).map(|held| held.since_unix);
        let held = held.min().map_or(0, |since| now_s().saturating_sub(since));
        self.lag_seconds.max(held as f64)
    }

    /// Together with what a process before counted.
    pub fn after(mut self, former: &Snapshot) -> Snapshot {
        self.received += former.received;
        self.done += former.done;
        self.seen_before += former.seen_before;
        self.stale += former.stale;
        self.filtered += former.filtered;
        self.imported += former.imported;
        self.dead_letters += former.dead_letters;
        self.batches += former.batches;
        self.batch_seconds += former.batch_seconds;
        // One that has not looked yet knows nothing better than what the one before left.
        if self.oldest_pending_ns == 0 && self.last_success_unix == 0 {
            self.oldest_pending_ns = former.clone().of_ended().oldest_pending_ns;
        }
        self.last_success_unix = self.last_success_unix.max(former.last_success_unix);
        self.last_error_unix = self.last_error_unix.max(former.last_error_unix);
        self.stream_sequence = match self.stream_sequence {
            0 => former.stream_sequence,
            known => known,
        };
        for (table, counts) in &former.tables {
            let own = self.tables.remove(table).unwrap_or_default();
            self.tables.insert(table.clone(), own.after(counts));
        }
        for warning in former.warnings.iter().rev() {
            match self.warnings.iter_mut().find(|known| known.text == warning.text) {
                Some(known) => known.times += warning.times,
                None => self.warnings.push_front(warning.clone()),
            }
        }
        self.forget_warnings();
        self
    }

    /// Something fails from now on.
    pub fn fails(&mut self, why: &str) {
        let notice = StatusNotice::now(why);
        self.last_error_unix = notice.at_unix;
        let since = self.last_error.as_ref().map_or(notice.at_unix, |error| error.at_unix);
        self.last_error = Some(StatusNotice { at_unix: since, ..notice });
    }

    /// Somebody should know this. What was said before moves to the end, so that one trouble does
    /// not push all others out.
    pub fn warn(&mut self, text: &str) {
        let mut notice = StatusNotice::now(text);
        if let Some(known) = self.warnings.iter().position(|known| known.text == text) {
            notice.times += self.warnings.remove(known).map_or(0, |known| known.times);
        }
        self.warnings.push_back(notice);
        self.forget_warnings();
    }

    fn forget_warnings(&mut self) {
        while self.warnings.len() > WARNINGS_MAX {
            self.warnings.pop_front();
        }
    }

    /// The name under which the table is counted, and its counts.
    pub fn counts_of<'t>(&mut self, table: &'t str) -> (&'t str, &mut TableCounts) {
        let is_known = self.tables.contains_key(table);
        let name = match is_known || self.tables.len() < TABLES_MAX {
            true => table,
            false => OTHER_TABLES,
        };
        (name, self.tables.entry(name.to_owned()).or_default())
    }
}

/// Unix seconds as Unix nanoseconds.
pub fn unix_ns_of(seconds: u64) -> i64 {
    i64::try_from(seconds).unwrap_or(0).saturating_mul(1_000_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_counted_backwards_when_a_process_follows_another() {
        let mut former = Snapshot { received: 9, done: 7, batches: 2, ..Snapshot::default() };
        former.counts_of("order").1.upserts = 5;
        former.counts_of("gone").1.deletes = 1;
        former.warn("before");
        let mut now = Snapshot { received: 1, done: 1, batches: 1, ..Snapshot::default() };
        now.counts_of("order").1.upserts = 1;
        (0..WARNINGS_MAX + 5).for_each(|i| now.warn(&i.to_string()));
        let all = now.after(&former);
        assert_eq!((all.received, all.done, all.batches), (10, 8, 3));
        assert_eq!((all.tables["order"].upserts, all.tables["gone"].deletes), (6, 1));
        assert_eq!(all.warnings.len(), WARNINGS_MAX);
        assert_eq!(all.warnings.back().map(|w| &*w.text), Some("24"));
    }

    #[test]
    fn a_warning_that_is_repeated_is_counted() {
        let mut former = Snapshot::default();
        ["refused", "other"].iter().for_each(|text| former.warn(text));
        let mut now = Snapshot::default();
        ["refused", "full", "refused"].iter().for_each(|text| now.warn(text));
        let all = now.after(&former);
        let told: Vec<(&str, u64)> = all.warnings.iter().map(|w| (&*w.text, w.times)).collect();
        assert_eq!(told, [("other", 1), ("full", 1), ("refused", 3)]);
    }

    #[test]
    fn what_fails_again_and_again_fails_since_the_first_time() {
        let first = StatusNotice { at_unix: 7, text: "refused".into(), times: 1 };
        let mut snapshot = Snapshot { last_error: Some(first), ..Snapshot::default() };
        snapshot.fails("timed out");
        let error = snapshot.last_error.clone().unwrap_or_default();
        assert_eq!((error.at_unix, &*error.text), (7, "timed out"));
        assert!(snapshot.last_error_unix > 7);
    }

    #[test]
    fn tables_beyond_the_limit_are_counted_together() {
        let mut snapshot = Snapshot::default();
        for i in 0..TABLES_MAX + 10 {
            snapshot.counts_of(&format!("t{i}")).1.filtered += 1;
        }
        assert_eq!(snapshot.tables.len(), TABLES_MAX + 1);
        assert_eq!(snapshot.tables[OTHER_TABLES].filtered, 10);
        assert_eq!(snapshot.counts_of("t1").0, "t1");
        assert_eq!(snapshot.counts_of("new").0, OTHER_TABLES);
    }

    #[test]
    fn a_process_that_has_ended_may_lag_since_its_last_success() {
        let caught_up = Snapshot { last_success_unix: now_s() - 100, ..Snapshot::default() };
        assert_eq!(caught_up.clone().aged().lag_seconds, 0.0);
        let lag = caught_up.of_ended().lag_seconds;
        assert!((99.0..200.0).contains(&lag), "{lag}");
        assert_eq!(Snapshot::default().of_ended().lag_seconds, 0.0, "it has never streamed");
    }

    /// A new worker that has not looked yet is no reason to believe that nothing waits.
    #[test]
    fn the_lag_of_the_worker_before_lasts_until_the_next_one_has_looked() {
        let ago = |seconds: u64| now_s() - seconds;
        let idle = Snapshot { last_success_unix: ago(100), ..Snapshot::default() };
        let behind = Snapshot { oldest_pending_ns: unix_ns_of(ago(300)), ..idle.clone() };
        let lag = |now: Snapshot, former| now.after(former).aged().lag_seconds;
        assert!((99.0..200.0).contains(&lag(Snapshot::default(), &idle)));
        assert!((299.0..400.0).contains(&lag(Snapshot::default(), &behind)));
        let looked = Snapshot { last_success_unix: now_s(), ..Snapshot::default() };
        assert_eq!(lag(looked, &behind), 0.0);
        let first = Snapshot::default();
        assert_eq!(lag(first.clone(), &first), 0.0, "nobody has ever looked");
    }

    #[test]
    fn changes_of_held_tables_are_the_oldest_where_they_wait_longest() {
        let mut snapshot = Snapshot { lag_seconds: 3.0, ..Snapshot::default() };
        let held =
            |changes| HeldCounts { changes, since_unix: now_s() - 60, ..HeldCounts::default() };
        snapshot.held.insert("a".into(), held(0));
        assert_eq!(snapshot.oldest_change_age_seconds(), 3.0);
        snapshot.held.insert("b".into(), held(1));
        assert!(snapshot.oldest_change_age_seconds() >= 60.0);
    }
}
