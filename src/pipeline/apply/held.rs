//! The tables that are held: they cannot be written now, so their changes are kept by the
//! destination, in order, until they can. Pure: the clock is outside.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::backoff::{Backoff, Waits};
use crate::change::filter::TableFilter;
use crate::change::held::{Body, HeldLabel};
use crate::change::{HeldChunk, Release, TableSchema};
use crate::destination::KeptChunk;

/// The waits between two tries to write a table that is held.
const HELD_WAITS: Waits =
    Waits { at_once: false, first: Duration::from_millis(500), longest: Duration::from_secs(30) };

/// Why a table is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct HoldReason {
    /// For people.
    pub text: String,
    /// The table was there when it was held.
    pub was_there: bool,
    /// It waits for rows of another table.
    pub waits_for_rows: bool,
}

/// One table that is held.
pub struct HeldTable {
    /// Why.
    pub reason: HoldReason,
    /// Since when, Unix seconds.
    pub since_unix: u64,
    /// The schema that could not be brought up at the start, where no changes are kept yet.
    schema: Option<Arc<TableSchema>>,
    /// What the destination keeps, in its order.
    chunks: VecDeque<KeptChunk>,
    backoff: Backoff,
    try_at: Instant,
    /// It was tried, and nothing has changed anywhere since.
    is_tried: bool,
    /// How many of the kept changes are tried at once.
    tried_max: usize,
}

impl HeldTable {
    /// Whether what is kept first has to be resolved before it is tried.
    fn begins_with_events(&self) -> bool {
        self.chunks.front().is_some_and(|chunk| chunk.label.is_unresolved)
    }

    /// It can be tried from `now` on.
    fn new(reason: HoldReason, since_unix: u64, now: Instant) -> HeldTable {
        HeldTable {
            reason,
            since_unix,
            schema: None,
            chunks: VecDeque::new(),
            backoff: Backoff::new(HELD_WAITS),
            try_at: now,
            is_tried: false,
            tried_max: usize::MAX,
        }
    }

    /// How many changes wait.
    pub fn changes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.label.changes.saturating_sub(chunk.applied)).sum()
    }

    /// The bytes that the destination keeps of them.
    pub fn bytes(&self) -> u64 {
        self.chunks.iter().map(|chunk| chunk.label.bytes).sum()
    }
}

/// What is tried next for a table that is held.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum HeldWork {
    /// The first of the kept changes are to be written.
    Chunk(KeptChunk),
    /// The first of the kept changes are events whose schema was not known: they are to be resolved
    /// first.
    Events(KeptChunk),
    /// Nothing is kept: the table is to be brought up for this schema.
    Shape(Arc<TableSchema>),
    /// Nothing is left to do.
    Nothing,
}

/// All tables that are held.
#[derive(Default)]
pub struct HeldTables {
    tables: BTreeMap<String, HeldTable>,
    /// The number of the next chunk.
    next_number: u64,
}

impl HeldTables {
    /// Whether the table is held.
    pub fn contains(&self, table: &str) -> bool {
        !self.tables.is_empty() && self.tables.contains_key(table)
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// By name.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &HeldTable)> {
        self.tables.iter().map(|(name, table)| (&**name, table))
    }

    /// Those of which events are kept whose schema was not known.
    pub fn unresolved(&self) -> impl Iterator<Item = &str> {
        let is_unresolved =
            |held: &HeldTable| held.chunks.iter().any(|chunk| chunk.label.is_unresolved);
        self.tables.iter().filter(move |(_, held)| is_unresolved(held)).map(|(name, _)| &**name)
    }

    /// A schema has become known, or that nobody knows it: what waits for one is tried now.
    pub fn schema_answered(&mut self, now: Instant) {
        let waiting = |held: &&mut HeldTable| {
            held.chunks.front().is_some_and(|chunk| chunk.label.is_unresolved)
        };
        for held in self.tables.values_mut().filter(waiting) {
            held.backoff.reset();
            held.try_at = now;
        }
    }

    /// Those of which changes are kept, and that were there when they were held.
    pub fn were_there(&self) -> HashSet<String> {
        let kept = self.tables.iter().filter(|(_, held)| !held.chunks.is_empty());
        kept.filter(|(_, held)| held.reason.was_there).map(|(name, _)| name.clone()).collect()
    }

    /// The bytes that the destination keeps for all of them.
    pub fn bytes(&self) -> u64 {
        self.tables.values().map(HeldTable::bytes).sum()
    }

    /// Holds the table from now on, or for another while.
    pub fn hold(&mut self, table: &str, reason: HoldReason, (now, now_unix): (Instant, u64)) {
        let held = self
            .tables
            .entry(table.to_owned())
            .or_insert_with(|| HeldTable::new(reason.clone(), now_unix, now));
        let was_there = held.reason.was_there || reason.was_there;
        held.reason = HoldReason { was_there, ..reason };
        held.is_tried = true;
        held.try_at = now + held.backoff.next(table);
    }

    /// The table is to be brought up for this schema before anything is written to it.
    pub fn wants(&mut self, schema: &Arc<TableSchema>) {
        if let Some(held) = self.tables.get_mut(&*schema.table) {
            held.schema = Some(schema.clone());
        }
    }

    /// What the destination keeps, by its own record: tables of which it keeps changes are held.
    /// Tables that `filter` does not take are left as they are.
    pub fn take_stock(&mut self, kept: Vec<KeptChunk>, filter: &TableFilter, now: Instant) {
        self.next_number = kept.iter().map(|chunk| chunk.number + 1).max().unwrap_or(0);
        self.tables.values_mut().for_each(|held| held.chunks.clear());
        for chunk in kept.into_iter().filter(|chunk| filter.takes(&chunk.label.table)) {
            let label = &chunk.label;
            let held = self.tables.entry(label.table.clone()).or_insert_with(|| {
                let (text, was_there) = (label.reason.clone(), label.was_there);
                let reason = HoldReason { text, was_there, waits_for_rows: false };
                HeldTable::new(reason, label.since_unix, now)
            });
            held.since_unix = held.since_unix.min(label.since_unix);
            held.chunks.push_back(chunk);
        }
        // What is not kept any more was released, and nothing follows it.
        self.tables.retain(|_, held| !held.chunks.is_empty() || held.schema.is_some());
    }

    /// Chunks of a held table's changes, to be kept with the next batch.
    pub fn chunks_of(&self, table: &str, bodies: Vec<Body>, earlier: usize) -> Vec<HeldChunk> {
        let Some(held) = self.tables.get(table) else { return Vec::new() };
        let label = |body: &Body| HeldLabel {
            table: table.to_owned(),
            reason: held.reason.text.clone(),
            was_there: held.reason.was_there,
            since_unix: held.since_unix,
            changes: body.changes,
            bytes: body.text.len() as u64,
            is_unresolved: body.is_unresolved,
        };
        let first = self.next_number + earlier as u64;
        let numbered = (first..).zip(bodies);
        numbered
            .map(|(number, body)| HeldChunk { number, label: label(&body), body: body.text })
            .collect()
    }

    /// The destination keeps these from now on.
    pub fn kept(&mut self, chunks: &[HeldChunk]) {
        for chunk in chunks {
            self.next_number = self.next_number.max(chunk.number + 1);
            let Some(held) = self.tables.get_mut(&chunk.label.table) else { continue };
            held.is_tried = false;
            held.chunks.push_back(KeptChunk {
                number: chunk.number,
                applied: 0,
                label: chunk.label.clone(),
            });
        }
    }

    /// The destination was found to keep these, or what an earlier try made of them; it has told of
    /// that.
    pub fn found(&mut self, chunks: &[HeldChunk]) {
        for chunk in chunks {
            if let Some(held) = self.tables.get_mut(&chunk.label.table) {
                held.is_tried = false;
            }
        }
    }

    /// Changes of a chunk of the table were applied: it may be written again.
    pub fn released(&mut self, table: &str, release: Release, now: Instant) {
        if let Some(held) = self.tables.get_mut(table) {
            held.backoff.reset();
            held.try_at = now;
            held.tried_max = held.tried_max.saturating_mul(2);
            match held.chunks.front_mut().filter(|chunk| chunk.number == release.chunk) {
                Some(_) if release.is_last => drop(held.chunks.pop_front()),
                Some(chunk) => chunk.applied = release.to,
                None => {}
            }
        }
        // What one table has may be what another waits for.
        for held in self.tables.values_mut() {
            held.is_tried = false;
            if held.reason.waits_for_rows {
                held.try_at = now;
            }
        }
    }

    /// How many of the table's kept changes are tried at once.
    pub fn tried_max(&self, table: &str) -> usize {
        self.tables.get(table).map_or(usize::MAX, |held| held.tried_max)
    }

    /// So many kept changes of the table could not be written together. The next try is about half
    /// of them: what the later ones wait for may be kept for another table. Where that is known to
    /// be the reason, which costs no wait for a lock, it follows at once.
    pub fn not_released(&mut self, table: &str, tried: usize, now: Instant) {
        if let Some(held) = self.tables.get_mut(table) {
            held.tried_max = (tried / 2).max(1);
            held.is_tried = tried <= 1;
            if held.reason.waits_for_rows && tried > 1 {
                held.backoff.reset();
                held.try_at = now;
            }
        }
    }

    /// Whether the destination keeps nothing of the table any more.
    pub fn is_empty_of(&self, table: &str) -> bool {
        self.tables.get(table).is_some_and(|held| held.chunks.is_empty())
    }

    /// Whether the chunk is what is to be applied next of its table.
    pub fn is_first(&self, chunk: &KeptChunk) -> bool {
        let held = self.tables.get(&chunk.label.table);
        held.is_some_and(|held| {
            held.chunks
                .front()
                .is_some_and(|c| (c.number, c.applied) == (chunk.number, chunk.applied))
        })
    }

    /// Whether the last try to write the table has failed.
    pub fn is_waiting(&self, table: &str) -> bool {
        self.tables.get(table).is_some_and(|held| held.backoff.tries() > 0)
    }

    /// The table is tried again later, for no reason of its own.
    pub fn postpone(&mut self, table: &str, now: Instant) {
        if let Some(held) = self.tables.get_mut(table) {
            held.is_tried = true;
            held.try_at = now + held.backoff.next(table);
        }
    }

    /// The table is held no longer.
    pub fn free(&mut self, table: &str) -> Option<HeldTable> {
        self.tables.remove(table)
    }

    /// When the next try is due; none is while nothing is held. `with_events`: also of tables whose
    /// events are to be resolved first.
    pub fn due(&self, with_events: bool) -> Option<Instant> {
        let wanted = self.tables.values().filter(|held| with_events || !held.begins_with_events());
        wanted.map(|held| held.try_at).min()
    }

    /// The table that is tried next, if one is due. `is_end`: nothing else is left to do, so each
    /// is tried once more, whatever its time. `with_events`: also one whose events are to be
    /// resolved first.
    pub fn next(
        &self,
        now: Instant,
        is_end: bool,
        with_events: bool,
    ) -> Option<(String, HeldWork)> {
        let is_due = |held: &HeldTable| held.try_at <= now || (is_end && !held.is_tried);
        let is_wanted = |held: &HeldTable| with_events || !held.begins_with_events();
        let (name, held) = self
            .tables
            .iter()
            .filter(|(_, held)| is_due(held) && is_wanted(held))
            .min_by_key(|(_, held)| held.try_at)?;
        let work = match (held.chunks.front(), &held.schema) {
            (Some(chunk), _) if chunk.label.is_unresolved => HeldWork::Events(chunk.clone()),
            (Some(chunk), _) => HeldWork::Chunk(chunk.clone()),
            (None, Some(schema)) => HeldWork::Shape(schema.clone()),
            (None, None) => HeldWork::Nothing,
        };
        Some((name.clone(), work))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reason(text: &str) -> HoldReason {
        HoldReason { text: text.into(), was_there: true, waits_for_rows: false }
    }

    fn body(changes: u64) -> Body {
        Body { changes, text: "{}".into(), is_unresolved: false }
    }

    fn chunk_of(work: Option<(String, HeldWork)>) -> Option<u64> {
        match work {
            Some((_, HeldWork::Chunk(chunk))) => Some(chunk.number),
            _ => None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_kept_is_tried_in_its_time_and_once_at_the_end() {
        let mut held = HeldTables::default();
        let now = Instant::now();
        assert!(held.chunks_of("t", vec![body(1)], 0).is_empty(), "it is not held");
        held.hold("t", reason("a lock"), (now, 7));
        let chunks = held.chunks_of("t", vec![body(2), body(3)], 0);
        held.kept(&chunks);
        // A reconnect has told of the same already.
        held.found(&chunks);
        let numbers: Vec<u64> = chunks.iter().map(|chunk| chunk.number).collect();
        assert_eq!((numbers, held.bytes()), (vec![0, 1], 4));
        assert_eq!(held.next(now, false, true), None);
        assert_eq!(chunk_of(held.next(now, true, true)), Some(0));
        held.hold("t", reason("a lock"), (now, 8));
        held.not_released("t", 3, now);
        assert_eq!((held.tried_max("t"), chunk_of(held.next(now, true, true))), (1, Some(0)));
        held.not_released("t", 1, now);
        assert_eq!(held.next(now, true, true), None, "it was tried");
        let due = held.due(true).unwrap_or(now);
        assert_eq!(chunk_of(held.next(due, false, true)), Some(0));
        let part = Release { chunk: 0, from: 0, to: 1, is_last: false };
        held.released("t", part, now);
        let waiting = held.iter().map(|(_, table)| (table.changes(), table.since_unix));
        assert_eq!(waiting.collect::<Vec<_>>(), [(4, 7)]);
        held.released("t", Release { from: 1, to: 2, is_last: true, ..part }, now);
        assert_eq!(chunk_of(held.next(now, false, true)), Some(1));
        let last = Release { chunk: 1, from: 0, to: 3, is_last: true };
        held.released("t", last, now);
        assert!(held.is_empty_of("t") && held.free("t").is_some() && held.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn the_destinations_record_counts() {
        let mut held = HeldTables::default();
        let now = Instant::now();
        held.hold("forgotten", reason("a lock"), (now, 7));
        let kept = |number, table: &str| {
            let label = HeldLabel {
                table: table.into(),
                reason: "a right".into(),
                was_there: table == "t",
                since_unix: number,
                changes: 5,
                bytes: 10,
                is_unresolved: false,
            };
            KeptChunk { number, applied: 2, label }
        };
        let stock = vec![kept(3, "t"), kept(4, "left out"), kept(8, "u")];
        held.take_stock(stock, &TableFilter::parse("t,u"), now);
        let tables: Vec<_> = held.iter().map(|(name, table)| (name, table.changes())).collect();
        assert_eq!(tables, [("t", 3), ("u", 3)]);
        assert_eq!(held.were_there(), HashSet::from(["t".to_owned()]));
        held.hold("t", reason("a lock"), (now, 9));
        let next = held.chunks_of("t", vec![body(1)], 0);
        assert_eq!(next.first().map(|chunk| (chunk.number, chunk.label.since_unix)), Some((9, 3)));
    }
}
