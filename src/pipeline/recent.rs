//! The memory of rows that were changed lately, which keeps an older version from overwriting a newer one.

use std::collections::HashMap;

use crate::change::{Change, Position, Version};
use crate::state::RecentChunk;

/// Rows that are remembered at least; beyond, the oldest half is forgotten.
pub const ROWS_MAX: usize = 200_000;
/// Rows after which the memory is saved even if its minute is not over: bounds what a start has to read again.
pub const UNSAVED_MAX: usize = 32_768;
/// Bytes of one row in a saved chunk.
const ENTRY_BYTES: usize = 28;
/// Bytes of saved chunks that are kept.
pub const SAVED_BYTES_MAX: usize = ROWS_MAX * ENTRY_BYTES;

const DELETE: u32 = 1 << 31;

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    nanos: u64,
    /// Logical counter; the highest bit is set for a delete.
    logical: u32,
    sequence: u64,
}

/// Two generations of rows by a 64-bit hash of table and key.
#[derive(Default)]
pub struct Recent {
    young: HashMap<u64, Entry>,
    old: HashMap<u64, Entry>,
    unsaved: Vec<(u64, Entry)>,
}

impl Recent {
    /// Reads saved chunks, and says how far they go: what comes later has to be seen again.
    pub fn load(chunks: &[RecentChunk]) -> (Recent, Option<Position>) {
        let mut recent = Recent::default();
        for entry in chunks.iter().flat_map(|c| c.entries.chunks_exact(ENTRY_BYTES)) {
            let (hash, entry) = unpack(entry);
            recent.insert(hash, entry);
        }
        (recent, chunks.last().map(|c| c.through))
    }

    /// Takes note of a change. `true`: its row already had a newer version, so it must not be applied.
    pub fn is_stale(&mut self, change: &Change) -> bool {
        let Some(schema) = &change.schema else { return false };
        let hash = hash(&schema.table, &change.key);
        let Some(version) = change.event.version() else {
            // It says nothing about its age, so what was known about the row's age is void.
            self.forget(hash, change.position.sequence);
            return false;
        };
        if let Some(known) = self.young.get(&hash).or_else(|| self.old.get(&hash)) {
            let applied = Version { nanos: known.nanos, logical: u64::from(known.logical & !DELETE) };
            if version.is_stale_after(change.is_delete(), applied, known.logical & DELETE != 0) {
                return true;
            }
        }
        let logical = (version.logical.min(u64::from(!DELETE)) as u32) | if change.is_delete() { DELETE } else { 0 };
        let entry = Entry { nanos: version.nanos, logical, sequence: change.position.sequence };
        self.insert(hash, entry);
        self.unsaved.push((hash, entry));
        false
    }

    fn forget(&mut self, hash: u64, sequence: u64) {
        let known = self.young.remove(&hash).is_some() | self.old.remove(&hash).is_some();
        if known {
            self.unsaved.push((hash, Entry { nanos: 0, logical: 0, sequence }));
        }
    }

    fn insert(&mut self, hash: u64, entry: Entry) {
        self.young.insert(hash, entry);
        if self.young.len() >= ROWS_MAX / 2 {
            self.old = std::mem::take(&mut self.young);
        }
    }

    /// What lies beyond `through` is not (or no longer) at the destination, and will be seen again.
    pub fn forget_beyond(&mut self, through: Option<Position>) {
        let sequence = through.map_or(0, |p| p.sequence);
        self.young.retain(|_, e| e.sequence <= sequence);
        self.old.retain(|_, e| e.sequence <= sequence);
        self.unsaved.retain(|(_, e)| e.sequence <= sequence);
    }

    /// What was saved is void: everything is saved again.
    pub fn save_all(&mut self) {
        self.unsaved = self.old.iter().chain(&self.young).map(|(hash, entry)| (*hash, *entry)).collect();
    }

    pub fn unsaved(&self) -> usize {
        self.unsaved.len()
    }

    /// What has come since the last chunk up to `through`, which is durable at the destination. What lies beyond may
    /// yet be set aside, and must then not stand in the way of an older version.
    pub fn chunk(&mut self, through: Position) -> RecentChunk {
        let (durable, later): (Vec<_>, Vec<_>) = self.unsaved.drain(..).partition(|(_, e)| e.sequence <= through.sequence);
        self.unsaved = later;
        RecentChunk { through, entries: durable.into_iter().flat_map(|(hash, entry)| pack(hash, entry)).collect() }
    }
}

fn hash(table: &str, key: &[u8]) -> u64 {
    let mut hasher = xxhash_rust::xxh3::Xxh3Default::new();
    hasher.update(table.as_bytes());
    hasher.update(&[0]);
    hasher.update(key);
    hasher.digest()
}

fn pack(hash: u64, entry: Entry) -> [u8; ENTRY_BYTES] {
    let mut out = [0; ENTRY_BYTES];
    out[..8].copy_from_slice(&hash.to_le_bytes());
    out[8..16].copy_from_slice(&entry.nanos.to_le_bytes());
    out[16..20].copy_from_slice(&entry.logical.to_le_bytes());
    out[20..].copy_from_slice(&entry.sequence.to_le_bytes());
    out
}

fn unpack(bytes: &[u8]) -> (u64, Entry) {
    let eight = |at: usize| bytes.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes);
    let logical = bytes.get(16..20).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes);
    (eight(0), Entry { nanos: eight(8), logical, sequence: eight(20) })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_chunk_reads_back() {
        let mut recent = Recent::default();
        for n in 0..100u64 {
            let entry = Entry { nanos: n, logical: n as u32 | DELETE, sequence: n };
            recent.insert(n * 7919, entry);
            recent.unsaved.push((n * 7919, entry));
        }
        let through = Position { sequence: 99, time_ns: 5 };
        let chunk = recent.chunk(through);
        let (read, q) = Recent::load(&[chunk]);
        assert_eq!((&read.young, q, recent.unsaved()), (&recent.young, Some(through), 0));
    }

    #[test]
    fn is_bounded_and_forgets_what_a_restored_destination_lacks() {
        let mut recent = Recent::default();
        for n in 0..3 * ROWS_MAX as u64 {
            recent.insert(n, Entry { nanos: 1, logical: 0, sequence: n });
        }
        assert!(recent.young.len() + recent.old.len() <= ROWS_MAX);
        recent.forget_beyond(Some(Position { sequence: 10, time_ns: 0 }));
        assert!(recent.young.is_empty() && recent.old.is_empty());
    }
}
