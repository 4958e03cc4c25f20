//! Reduces a piece of the stream to the last change of each row, such that applying the result
//! equals applying the changes one by one.

use std::borrow::Cow;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::Arc;

use super::batch::TableGroup;
use super::{Change, TableSchema};

/// Hashes row keys with xxh3. It does not resist chosen keys, but a slow map is all that they could
/// cause.
#[derive(Default)]
struct KeyHasher(xxhash_rust::xxh3::Xxh3Default);

impl Hasher for KeyHasher {
    fn finish(&self) -> u64 {
        self.0.digest()
    }
    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// A key in a form that is the same for all keys that a column may take for equal: some
/// collations do not tell upper from lower case or see spaces at the end, and PostgreSQL's texts
/// hold no NUL.
fn alike(key: &[u8]) -> Cow<'_, [u8]> {
    let is_plain = |b: &u8| matches!(b, b'!'..=b'@' | b'['..=b'~');
    if key.iter().all(is_plain) {
        return Cow::Borrowed(key);
    }
    let mut folded: Vec<u8> = match std::str::from_utf8(key) {
        Ok(text) => text.to_lowercase().into_bytes(),
        Err(_) => key.to_ascii_lowercase(),
    };
    folded.retain(|b| !matches!(b, b' ' | 0));
    Cow::Owned(folded)
}

struct Last {
    index: u32,
    /// The batch deletes the row before this change.
    recreated: bool,
    /// It is deleted, though rows that are gone are marked: the same event writes a row that may be
    /// the same one.
    removed: bool,
}

/// A row by its table and key; last, whether the same event has left a row whose key is alike.
type RowName<'c> = (&'c str, Cow<'c, [u8]>, bool);

/// The last change of each row.
type LastOfRow<'c> = HashMap<RowName<'c>, Last, BuildHasherDefault<KeyHasher>>;

/// Groups `changes[from..]`, less those in `skipped` (sorted), by table and version. Stops before a
/// change whose row has an earlier change under a version with columns that the new one lacks:
/// applied one by one, those columns would keep the earlier values, so the change belongs to a
/// further batch. So does one whose key may be the same row in the database as another key. Two
/// changes of one event stay together. Returns the groups and where it stopped.
pub fn compact(
    changes: &[Change],
    from: usize,
    to: usize,
    skipped: &[usize],
) -> (Vec<TableGroup>, usize) {
    let mut rows = LastOfRow::default();
    let mut end = to;
    for (index, change) in changes.iter().enumerate().take(to).skip(from) {
        let Some(schema) = &change.schema else { continue };
        if skipped.binary_search(&index).is_ok() {
            continue;
        }
        let before = (index > from).then(|| &changes[index - 1]);
        let pair = before.filter(|before| before.is_of_same_event(change));
        // Deletions come before what is written: a row that is left and written under a key that is
        // alike is right in one batch, and never torn apart.
        let is_alike = pair.is_some_and(|before| alike(&before.key) == alike(&change.key));
        if is_alike && let Some(left) = rows.get_mut(&(&*schema.table, alike(&change.key), false)) {
            left.removed = true;
        }
        match rows.entry((&schema.table, alike(&change.key), is_alike)) {
            Entry::Vacant(vacant) => {
                vacant.insert(Last { index: index as u32, recreated: false, removed: false });
            }
            Entry::Occupied(mut occupied) => {
                let last = occupied.get_mut();
                let earlier = &changes[last.index as usize];
                let is_same = !last.removed && earlier.key == change.key;
                if !is_same || !replaces(change, schema, earlier) {
                    if pair.is_some() {
                        return compact(changes, from, index - 1, skipped);
                    }
                    end = index;
                    break;
                }
                last.recreated |= earlier.removes_row();
                last.index = index as u32;
            }
        }
    }
    let mut lasts: Vec<Last> = rows.into_values().collect();
    lasts.sort_unstable_by_key(|last| last.index);
    (grouped(changes, &lasts), end)
}

fn replaces(change: &Change, schema: &Arc<TableSchema>, earlier: &Change) -> bool {
    change.removes_row()
        || earlier.removes_row()
        || earlier.schema.as_ref().is_none_or(|s| Arc::ptr_eq(s, schema) || schema.covers(s))
}

fn grouped(changes: &[Change], lasts: &[Last]) -> Vec<TableGroup> {
    let mut groups: Vec<TableGroup> = Vec::new();
    for last in lasts {
        let change = &changes[last.index as usize];
        let Some(schema) = &change.schema else { continue };
        let found = groups.iter().position(|g| {
            Arc::ptr_eq(&g.schema, schema)
                || (g.schema.table == schema.table
                    && g.schema.version == schema.version
                    && g.schema.columns_hash == schema.columns_hash)
        });
        let at = found.unwrap_or_else(|| {
            groups.push(TableGroup {
                schema: schema.clone(),
                deletes: Vec::new(),
                upserts: Vec::new(),
            });
            groups.len() - 1
        });
        let removed = change.removes_row() || last.removed;
        if removed || last.recreated {
            groups[at].deletes.push(last.index);
        }
        if !removed {
            groups[at].upserts.push(last.index);
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::change::decode::ColumnOrder;
    use crate::change::stamps::{AddedStamps, StampTokens};
    use crate::change::{ColumnRules, Decoder, Position};
    use proptest::prelude::*;
    use std::collections::BTreeMap;

    fn schemas() -> Vec<Arc<TableSchema>> {
        let of = |version: &str, columns: &str| {
            let json = format!(
                r#"{{"table":"t","modelVersion":"{version}","primaryKeys":["id"],"properties":{{"id":{{"type":"string"}},{columns}}}}}"#
            );
            Arc::new(TableSchema::parse(&json).unwrap_or_else(|e| panic!("{e}")))
        };
        vec![
            of("1", r#""a":{"type":"integer"}"#),
            of("2", r#""a":{"type":"integer"},"b":{"type":"integer"}"#),
            of("3", r#""b":{"type":"integer"}"#),
        ]
    }

    /// The same schemas where rows that are deleted are marked.
    fn soft_schemas() -> Vec<Arc<TableSchema>> {
        let stamps = AddedStamps { deleted_at: true, ..AddedStamps::default() };
        let rules = ColumnRules::default().adding(stamps);
        let soft = |schema: &Arc<TableSchema>| rules.schema(schema).ok().flatten().map(Arc::new);
        schemas().iter().filter_map(soft).collect()
    }

    /// An odd deletion does not tell the row as it was.
    fn change(schema: &Arc<TableSchema>, delete: bool, key: u8, n: u8) -> Change {
        let text = if delete && n % 2 == 1 {
            format!(r#"{{"operation":"DELETE","table":"t","key":["{key}"]}}"#)
        } else if delete {
            format!(
                r#"{{"operation":"DELETE","table":"t","key":["{key}"],"before":{{"id":"{key}","a":{n}}}}}"#
            )
        } else {
            format!(
                r#"{{"operation":"UPDATE","table":"t","after":{{"id":"{key}","a":{n},"b":{n}}}}}"#
            )
        };
        let mut decoder = Decoder::default();
        let mut event = decoder.decode(text.into()).unwrap_or_else(|e| panic!("{e}"));
        event.stamped(StampTokens::of_row(None));
        let (row, key) = decoder
            .row(&event, schema, &mut ColumnOrder::default())
            .unwrap_or_else(|e| panic!("{e}"));
        Change {
            event,
            subject: "".into(),
            position: Position::default(),
            schema: Some(schema.clone()),
            row,
            key,
        }
        .as_told()
    }

    type TableRows = BTreeMap<String, BTreeMap<String, String>>;

    fn apply(table: &mut TableRows, change: &Change) {
        let key = change.token(0).unwrap_or_default().to_owned();
        if change.removes_row() {
            table.remove(&key);
            return;
        }
        let row = table.entry(key).or_default();
        let Some(schema) = &change.schema else { return };
        for (i, column) in schema.columns.iter().enumerate() {
            row.insert(column.name.to_string(), change.token(i).unwrap_or("null").to_owned());
        }
    }

    proptest! {
        #[test]
        fn equals_one_by_one(spec in prop::collection::vec(
            (0usize..3, prop::bool::weighted(0.3), 0u8..4, any::<u8>()),
            0..40,
        ), is_soft: bool) {
            let schemas = if is_soft { soft_schemas() } else { schemas() };
            let make = |(s, delete, key, n): &(usize, bool, u8, u8)| {
                change(&schemas[*s], *delete, *key, *n)
            };
            let changes: Vec<Change> = spec.iter().map(make).collect();
            let mut expected = TableRows::new();
            changes.iter().for_each(|c| apply(&mut expected, c));
            let mut table = TableRows::new();
            let mut at = 0;
            while at < changes.len() {
                let (groups, end) = compact(&changes, at, changes.len(), &[]);
                prop_assert!(end > at);
                for group in &groups {
                    for i in &group.deletes {
                        table.remove(changes[*i as usize].token(0).unwrap_or_default());
                    }
                }
                for group in groups.iter().rev() {
                    group.upserts.iter().for_each(|i| apply(&mut table, &changes[*i as usize]));
                }
                at = end;
            }
            prop_assert_eq!(table, expected);
        }
    }

    #[test]
    fn keys_that_a_collation_may_take_for_equal_are_not_of_one_batch() {
        let of = |key: &str| {
            let mut change = change(&schemas()[0], false, 0, 0);
            change.key = key.as_bytes().to_vec().into();
            change
        };
        for (one, other, end) in [
            ("ab", "Ab", 1),
            ("ab", "ab ", 1),
            ("ab", "ab\0", 1),
            ("äb", "ÄB", 1),
            ("ab", "ac", 2),
            ("ab", "ab", 2),
            ("Ab", "Ab", 2),
        ] {
            assert_eq!(compact(&[of(one), of(other)], 0, 2, &[]).1, end, "{one:?} {other:?}");
        }
    }

    /// Where a database may take both keys for one, a mark could fall on the row that is written.
    #[test]
    fn a_row_that_is_left_is_marked_unless_the_other_may_be_the_same() {
        let schemas = soft_schemas();
        let grouped = |from: &str, to: &str| {
            let mut written = change(&schemas[0], false, 0, 0);
            written.key = to.as_bytes().to_vec().into();
            let key = from.as_bytes().to_vec().into();
            let left = Change { event: written.event.as_delete(), key, ..written.clone() };
            let (mut groups, _) = compact(&[left, written], 0, 2, &[]);
            groups.pop().map(|group| (group.deletes, group.upserts))
        };
        assert_eq!(grouped("a", "b"), Some((vec![], vec![0, 1])));
        assert_eq!(grouped("a", "A"), Some((vec![0], vec![1])));
    }

    #[test]
    fn two_changes_of_one_event_are_of_one_batch_whatever_their_keys() {
        let schemas = schemas();
        let pair = |from: &str, to: &str| {
            let mut written = change(&schemas[0], false, 0, 0);
            written.key = to.as_bytes().to_vec().into();
            let key = from.as_bytes().to_vec().into();
            [Change { event: written.event.as_delete(), key, ..written.clone() }, written]
        };
        for (from, to) in [("abc", "ABC"), ("ABC", "abc"), ("ab ", "ab")] {
            let [left, written] = pair(from, to);
            assert!(left.is_of_same_event(&written));
            let (groups, end) = compact(&[left, written], 0, 2, &[]);
            let found = (&groups[0].deletes[..], &groups[0].upserts[..], end);
            assert_eq!(found, (&[0][..], &[1][..], 2), "{from:?} {to:?}");
        }
        // A row whose key is alike, too, is for the next batch.
        let [left, written] = pair("ABC", "abc");
        let [_, other] = pair("x", "Abc");
        assert_eq!(compact(&[left, written, other], 0, 3, &[]).1, 2);
        // So is the row that was left, where it comes again: it is deleted in this one.
        let [left, written] = pair("ABC", "abc");
        let [_, again] = pair("x", "ABC");
        let (groups, end) = compact(&[left, written, again], 0, 3, &[]);
        assert_eq!((&groups[0].deletes[..], &groups[0].upserts[..], end), (&[0][..], &[1][..], 2));
        // The second would hide columns of an earlier change of its row: both wait.
        let mut wide = change(&schemas[1], false, 0, 0);
        wide.key = b"b".to_vec().into();
        let [left, written] = pair("a", "b");
        assert_eq!(compact(&[wide, left, written], 0, 3, &[]).1, 1);
    }

    #[test]
    fn leaves_out_what_was_refused() {
        let schema = &schemas()[0];
        let changes = [change(schema, false, 1, 1), change(schema, false, 1, 2)];
        let (groups, end) = compact(&changes, 0, 2, &[1]);
        assert_eq!((groups[0].upserts.as_slice(), end), (&[0u32][..], 2));
    }
}
