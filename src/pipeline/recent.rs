//! The memory of rows that were changed lately, which keeps an older version from overwriting a
//! newer one.

use std::collections::HashMap;

use crate::change::dead_letter::row_hash;
use crate::change::{Change, Position, Version};
use crate::state::{RECENT_ROW_BYTES, RecentChunk};

/// The most rows that are remembered. A new generation begins at half of it, and the one before the
/// last is forgotten.
pub const ROWS_MAX: usize = 200_000;
/// Rows after which the memory is saved even if its minute is not over: bounds what a start has to
/// read again.
pub const UNSAVED_MAX: usize = 32_768;
/// Bytes of saved chunks that are kept.
pub const SAVED_BYTES_MAX: usize = ROWS_MAX * RECENT_ROW_BYTES;

const DELETE: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct RecentRow {
    nanos: u64,
    /// Logical counter; the highest bit is set for a delete.
    logical: u32,
    sequence: u64,
}

/// Two generations of rows by a 64-bit hash of table and key.
#[derive(Default)]
pub struct Recent {
    young: HashMap<u64, RecentRow>,
    old: HashMap<u64, RecentRow>,
    unsaved: Vec<(u64, RecentRow)>,
    /// What was remembered of rows before what is remembered now, for changes that were kept: they
    /// follow that.
    replaced: HashMap<u64, Vec<RecentRow>>,
}

impl Recent {
    /// The memory as it was at `through`, from saved chunks: they are a log, so that what came
    /// later can be left out without losing what it replaced. Also says how far the memory goes:
    /// what comes later has to be seen again.
    pub fn load(chunks: &[RecentChunk], through: Option<Position>) -> (Recent, Option<Position>) {
        let limit = through.map_or(0, |p| p.sequence);
        let mut recent = Recent::default();
        for (hash, entry) in chunks
            .iter()
            .flat_map(|c| c.entries.chunks_exact(RECENT_ROW_BYTES))
            .map(unpack)
            .filter(|(_, e)| e.sequence <= limit)
        {
            recent.replace(hash, entry);
        }
        let saved = chunks.last().map(|c| c.through);
        (recent, saved.filter(|q| q.sequence < limit).or(through))
    }

    /// The log of `chunks` without what lies beyond `through`, as one chunk; `None` where nothing
    /// does.
    pub fn trimmed(chunks: &[RecentChunk], through: Position) -> Option<RecentChunk> {
        let beyond = |entry: &&[u8]| unpack(entry).1.sequence > through.sequence;
        let all = || chunks.iter().flat_map(|c| c.entries.chunks_exact(RECENT_ROW_BYTES));
        let is_beyond = chunks.last().is_some_and(|c| c.through.sequence > through.sequence)
            || all().any(|e| beyond(&e));
        let through = chunks.last().map_or(through, |c| {
            if c.through.sequence < through.sequence { c.through } else { through }
        });
        is_beyond.then(|| RecentChunk {
            through,
            entries: all().filter(|e| !beyond(e)).flatten().copied().collect(),
        })
    }

    /// Takes note of a change. `true`: its row already had a newer version, so it must not be
    /// applied.
    pub fn is_stale(&mut self, change: &Change) -> bool {
        self.takes_note(change, u64::MAX, Recent::insert)
    }

    /// The same for a change that is seen again while earlier ones of its table may still be kept:
    /// what is remembered of its row until now is remembered, too.
    pub fn is_stale_again(&mut self, change: &Change) -> bool {
        self.takes_note(change, u64::MAX, Recent::replace)
    }

    /// The same for a change that was kept before it could be resolved: what followed it in the
    /// stream follows it now, and says nothing about it.
    pub fn is_stale_in_order(&mut self, change: &Change) -> bool {
        self.takes_note(change, change.position.sequence, Recent::replace)
    }

    /// Nothing is kept that came before what is remembered.
    pub fn forget_replaced(&mut self) {
        self.replaced.clear();
    }

    /// What is remembered of sequences beyond `known_to` does not count.
    fn takes_note(
        &mut self,
        change: &Change,
        known_to: u64,
        insert: fn(&mut Recent, u64, RecentRow),
    ) -> bool {
        let Some(schema) = &change.schema else { return false };
        let hash = row_hash(&schema.table, &change.key);
        let Some(version) = change.event.version() else {
            // It says nothing about its age, so what was known about the row's age is void.
            self.forget(hash, change.position.sequence);
            return false;
        };
        let latest = self.latest(hash);
        let is_passed = latest.is_some_and(|latest| latest.sequence > known_to);
        let known = if is_passed { self.replaced_before(hash, known_to) } else { latest };
        if let Some(known) = known {
            let applied =
                Version { nanos: known.nanos, logical: u64::from(known.logical & !DELETE) };
            if version.is_stale_after(change.is_delete(), applied, known.logical & DELETE != 0) {
                return true;
            }
        }
        let logical = (version.logical.min(u64::from(!DELETE)) as u32)
            | if change.is_delete() { DELETE } else { 0 };
        let entry = RecentRow { nanos: version.nanos, logical, sequence: change.position.sequence };
        if is_passed {
            self.replaced.entry(hash).or_default().push(entry);
            return false;
        }
        insert(self, hash, entry);
        self.unsaved.push((hash, entry));
        false
    }

    fn latest(&self, hash: u64) -> Option<RecentRow> {
        self.young.get(&hash).or_else(|| self.old.get(&hash)).copied()
    }

    /// The last of what was replaced that is not beyond `sequence`.
    fn replaced_before(&self, hash: u64, sequence: u64) -> Option<RecentRow> {
        let replaced = self.replaced.get(&hash)?.iter().filter(|row| row.sequence <= sequence);
        replaced.max_by_key(|row| row.sequence).copied()
    }

    /// Inserts, and keeps what was there before.
    fn replace(&mut self, hash: u64, entry: RecentRow) {
        if let Some(before) = self.latest(hash) {
            self.replaced.entry(hash).or_default().push(before);
        }
        self.insert(hash, entry);
    }

    fn forget(&mut self, hash: u64, sequence: u64) {
        self.young.remove(&hash);
        self.old.remove(&hash);
        // Also where nothing was known: whoever reads the log learns that the row was changed.
        self.unsaved.push((hash, RecentRow { nanos: 0, logical: 0, sequence }));
    }

    fn insert(&mut self, hash: u64, entry: RecentRow) {
        self.young.insert(hash, entry);
        if self.young.len() >= ROWS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// How many entries are not in a chunk yet.
    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// What has come since the last chunk up to `through`, which is durable at the destination.
    /// What lies beyond may yet become a dead letter, and must then not stand in the way of an
    /// older version.
    pub fn chunk(&self, through: Position) -> RecentChunk {
        let durable = self.unsaved.iter().filter(|(_, e)| e.sequence <= through.sequence);
        RecentChunk {
            through,
            entries: durable.flat_map(|(hash, entry)| pack(*hash, *entry)).collect(),
        }
    }

    /// The stream is another one from now on: what is remembered was before its first message. All
    /// of it as one chunk, in the place of those that were saved.
    pub fn begin_other_stream(&mut self) -> RecentChunk {
        self.unsaved.clear();
        let rows = self.old.iter_mut().chain(&mut self.young);
        let entries = rows.flat_map(|(hash, entry)| {
            entry.sequence = 0;
            pack(*hash, *entry)
        });
        RecentChunk { through: Position::default(), entries: entries.collect() }
    }

    /// The chunk up to `through` is saved.
    pub fn saved(&mut self, through: Position) {
        self.unsaved.retain(|(_, e)| e.sequence > through.sequence);
    }

    /// A chunk could not be saved. What it would have held waits, as many rows as are remembered
    /// at all.
    pub fn not_saved(&mut self) {
        let surplus = self.unsaved.len().saturating_sub(ROWS_MAX);
        self.unsaved.drain(..surplus);
    }
}

fn pack(hash: u64, entry: RecentRow) -> [u8; RECENT_ROW_BYTES] {
    let mut out = [0; RECENT_ROW_BYTES];
    out[..8].copy_from_slice(&hash.to_le_bytes());
    out[8..16].copy_from_slice(&entry.nanos.to_le_bytes());
    out[16..20].copy_from_slice(&entry.logical.to_le_bytes());
    out[20..].copy_from_slice(&entry.sequence.to_le_bytes());
    out
}

/// The rows of a chunk, oldest first: hash of table and key, and the nanoseconds of the version; 0
/// where an event without a version changed the row.
pub fn versions(chunk: &RecentChunk) -> impl Iterator<Item = (u64, u64)> {
    chunk.entries.chunks_exact(RECENT_ROW_BYTES).map(unpack).map(|(hash, row)| (hash, row.nanos))
}

/// The last change of a row that is remembered.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct LastChange {
    /// The nanoseconds of its version; 0 where the event has none.
    pub nanos: u64,
    /// It took the row away.
    pub is_delete: bool,
    /// Its place in the stream.
    pub sequence: u64,
}

/// The last change of the row with this hash.
pub fn last_of(chunks: &[RecentChunk], hash: u64) -> Option<LastChange> {
    let all = chunks.iter().flat_map(|chunk| chunk.entries.chunks_exact(RECENT_ROW_BYTES));
    let (_, row) = all.map(unpack).rfind(|(found, _)| *found == hash)?;
    let is_delete = row.logical & DELETE != 0;
    Some(LastChange { nanos: row.nanos, is_delete, sequence: row.sequence })
}

fn unpack(bytes: &[u8]) -> (u64, RecentRow) {
    let eight = |at: usize| {
        bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
    };
    let logical = bytes.get(16..20).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    (eight(0), RecentRow { nanos: eight(8), logical, sequence: eight(20) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(n: u64) -> (u64, RecentRow) {
        (n % 10 * 7919, RecentRow { nanos: n, logical: n as u32 | DELETE, sequence: n })
    }

    #[test]
    fn a_chunk_reads_back_as_of_any_position() {
        let mut recent = Recent::default();
        for n in 1..100 {
            let (hash, entry) = entry(n);
            recent.insert(hash, entry);
            recent.unsaved.push((hash, entry));
        }
        let at = |sequence| Position { sequence, time_ns: 5 };
        let chunk = recent.chunk(at(60));
        assert_eq!(recent.unsaved(), 99);
        recent.saved(at(60));
        assert_eq!(recent.unsaved(), 39);
        let chunks = [chunk, recent.chunk(at(99))];
        let (all, q) = Recent::load(&chunks, Some(at(99)));
        assert_eq!((&all.young, q), (&recent.young, Some(at(99))));
        // A row that was changed at 95 and at 45 has at 50 the version of 45.
        let (earlier, q) = Recent::load(&chunks, Some(at(50)));
        assert_eq!((earlier.young.get(&entry(5).0), q), (Some(&entry(45).1), Some(at(50))));
        assert!(Recent::trimmed(&chunks, at(99)).is_none());
        let trimmed = Recent::trimmed(&chunks, at(50))
            .map(|c| (c.through, c.entries.len() / RECENT_ROW_BYTES));
        assert_eq!(trimmed, Some((at(50), 50)));
        let (_, behind) = Recent::load(&chunks, Some(at(200)));
        assert_eq!(behind, Some(at(99)));
    }

    #[test]
    fn what_was_before_a_stream_counts_wherever_its_checkpoint_is() {
        let mut recent = Recent::default();
        let (hash, row) = entry(95);
        recent.insert(hash, row);
        let chunk = recent.begin_other_stream();
        let early = Position { sequence: 3, time_ns: 5 };
        let (loaded, through) = Recent::load(&[chunk], Some(early));
        assert_eq!(loaded.young.get(&hash), Some(&RecentRow { sequence: 0, ..row }));
        assert_eq!(through, Some(Position::default()));
    }

    /// A row was deleted; an older version of it was kept, and a later change is seen again before
    /// what is kept can be resolved.
    #[test]
    fn what_was_kept_follows_what_was_remembered_before_it() {
        let schema = r#"{"table":"t","modelVersion":"1","primaryKeys":["id"],"properties":{"id":{"type":"string"}}}"#;
        let change = |sequence: u64, operation: &str, version: u64| {
            let event = format!(
                r#"{{"operation":"{operation}","table":"t","key":["a"],"after":{{"id":"a"}},"mvccTimestamp":"17207326117085875{version:02}"}}"#
            );
            let schema: serde_json::Value = serde_json::from_str(schema).unwrap_or_default();
            let one = serde_json::json!({"subject": "s", "sequence": sequence, "time_ns": 0, "part": "own", "is_of_future": false, "event": event});
            let body = serde_json::json!({"schema": schema, "changes": [one]}).to_string();
            let read = crate::change::held::read(&body, &Default::default())
                .unwrap_or_else(|e| panic!("{e}"));
            read.into_iter().next().unwrap_or_else(|| panic!("no change"))
        };
        let mut recent = Recent::default();
        assert!(!recent.is_stale(&change(47, "DELETE", 47)));
        let at = Position { sequence: 62, time_ns: 5 };
        let both = |recent: &mut Recent| {
            assert!(recent.is_stale_in_order(&change(50, "UPDATE", 40)));
            assert!(!recent.is_stale_in_order(&change(51, "UPDATE", 51)));
            assert!(recent.is_stale_in_order(&change(52, "UPDATE", 49)));
        };
        assert!(!recent.is_stale_again(&change(62, "UPDATE", 62)));
        let chunks = [recent.chunk(at)];
        both(&mut recent);
        // The same after a crash, from what is saved.
        both(&mut Recent::load(&chunks, Some(at)).0);
        recent.forget_replaced();
        assert!(!recent.is_stale_in_order(&change(50, "UPDATE", 40)));
    }

    #[test]
    fn is_bounded() {
        let mut recent = Recent::default();
        for n in 0..3 * ROWS_MAX as u64 {
            recent.insert(n, RecentRow { nanos: 1, logical: 0, sequence: n });
        }
        assert!(recent.young.len() + recent.old.len() <= ROWS_MAX);
    }
}
