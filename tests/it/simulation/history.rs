//! What happens at the simulated source: a stream of changes, and the rows after each of them.

use std::collections::{BTreeMap, BTreeSet};

use eds::change::Version;
use eds::change::cutover::TableSnapshot;
use eds::destination::memory::MemoryRow;

/// SourceRows by table and number.
pub type SourceRows = BTreeMap<(&'static str, u64), MemoryRow>;

pub struct History {
    pub messages: Vec<String>,
    /// The source after so many messages.
    pub source: Vec<SourceRows>,
    /// The sequences of messages that have to become dead letters.
    pub bad: BTreeSet<u64>,
}

/// How long after its change a message is published.
pub const PUBLISHED_AFTER_NS: i64 = 900_000_000_000;

/// When the change of message `sequence` was made, Unix nanoseconds: a hundred seconds after the
/// one before.
pub fn time(sequence: u64) -> i64 {
    1_720_732_611_000_000_000 + sequence as i64 * 100_000_000_000
}

/// The key of a row in the form in which equal keys have equal bytes.
pub fn key(table: &str, number: u64) -> Vec<u8> {
    if table == "a" {
        return format!("k{number}").into_bytes();
    }
    let mut key = Vec::new();
    for part in [number.to_string(), "x".into()] {
        key.extend_from_slice(&(part.len() as u32).to_le_bytes());
        key.extend_from_slice(part.as_bytes());
    }
    key
}

impl History {
    /// What must be in the tables at the end.
    pub fn model(&self) -> BTreeMap<String, Vec<MemoryRow>> {
        let mut model: BTreeMap<String, Vec<MemoryRow>> =
            ["a", "b"].map(|table| (table.to_owned(), Vec::new())).into();
        for ((table, _), row) in self.source.last().into_iter().flatten() {
            model.entry((*table).to_owned()).or_default().push(row.clone());
        }
        model.values_mut().for_each(|rows| rows.sort());
        model
    }

    /// Whether no destination can apply the message.
    pub fn is_bad(&self, message: &str) -> bool {
        BROKEN.contains(&message)
    }

    /// An export of some tables after `through` messages.
    pub fn snapshots(&self, tables: &[&str], through: u64, whole: bool) -> Vec<TableSnapshot> {
        let at = Version { nanos: time(through) as u64, logical: 0 };
        tables.iter().map(|table| TableSnapshot { table: (*table).to_owned(), at, whole }).collect()
    }
}

/// Messages that no destination can apply.
const BROKEN: [&str; 4] = [
    "{",
    r#"{"operation":"INSERT"}"#,
    r#"{"operation":"UPDATE","table":"a","modelVersion":"9","after":{"id":"x"}}"#,
    r#"{"operation":"INSERT","table":"a","modelVersion":"1","after":{"id":"unfit","n":"twelve"}}"#,
];

/// A stream of changes, with older versions among them if `repeats`.
pub fn history(rng: &mut fastrand::Rng, repeats: bool) -> History {
    let mut messages: Vec<String> = Vec::new();
    let mut rows = SourceRows::new();
    let mut sent: Vec<String> = Vec::new();
    let mut source = vec![SourceRows::new()];
    let mut bad = BTreeSet::new();
    for n in 0..rng.u64(20..220) {
        match rng.u32(..20) {
            // An older version of a row again: it must not win.
            0 | 1 if repeats && !sent.is_empty() => {
                messages.push(sent[rng.usize(..sent.len())].clone());
            }
            2 => {
                bad.insert(n + 1);
                messages.push(BROKEN[rng.usize(..BROKEN.len())].to_owned());
            }
            _ => {
                let text = change(rng, &mut rows, n);
                sent.push(text.clone());
                messages.push(text);
            }
        }
        source.push(rows.clone());
    }
    History { messages, source, bad }
}

/// Changes a row of the source; the message that says so.
fn change(rng: &mut fastrand::Rng, rows: &mut SourceRows, n: u64) -> String {
    let version = time(n + 1) as u64;
    let (table, key) = (if rng.bool() { "a" } else { "b" }, rng.u64(..6));
    let is_second = table == "a" && rng.bool();
    let model_version = if is_second { "2" } else { "1" };
    let keys = match table {
        "a" => format!(r#"["eu","k{key}"]"#),
        _ => format!(r#"["eu","{key}","x"]"#),
    };
    if rows.contains_key(&(table, key)) && rng.u32(..8) == 0 {
        return rename(rng, rows, (table, key), n);
    }
    if rows.contains_key(&(table, key)) && rng.u32(..4) == 0 {
        rows.remove(&(table, key));
        return format!(
            r#"{{"operation":"DELETE","table":"{table}","modelVersion":"{model_version}","key":{keys},"before":{{}},"mvccTimestamp":"{version}.0"}}"#
        );
    }
    let row = rows.entry((table, key)).or_default();
    let mut set = |name: &str, value: String| row.insert(name.to_owned(), value);
    let after = match (table, is_second) {
        ("a", false) => {
            set("id", format!("\"k{key}\""));
            set("n", n.to_string());
            format!(r#"{{"id":"k{key}","n":{n},"m":{n}}}"#)
        }
        ("a", true) => {
            set("id", format!("\"k{key}\""));
            set("n", n.to_string());
            set("m", n.to_string());
            format!(r#"{{"m":{n},"id":"k{key}","n":{n}}}"#)
        }
        _ => {
            set("id", "\"x\"".into());
            set("k", key.to_string());
            set("n", format!("\"{n}\""));
            format!(r#"{{"id":"x","k":{key},"n":"{n}"}}"#)
        }
    };
    format!(
        r#"{{"operation":"UPDATE","table":"{table}","modelVersion":"{model_version}","key":{keys},"after":{after},"mvccTimestamp":"{version}.0"}}"#
    )
}

/// Gives a row another primary key, in the place of the row that has it.
fn rename(
    rng: &mut fastrand::Rng,
    rows: &mut SourceRows,
    (table, old): (&'static str, u64),
    n: u64,
) -> String {
    let (version, new) = (time(n + 1), (old + rng.u64(1..6)) % 6);
    rows.remove(&(table, old));
    let mut row = MemoryRow::new();
    let (before, after, keys) = match table {
        "a" => {
            row.insert("id".into(), format!("\"k{new}\""));
            row.insert("n".into(), n.to_string());
            row.insert("m".into(), n.to_string());
            (
                format!(r#"{{"m":0,"id":"k{old}","n":0}}"#),
                format!(r#"{{"m":{n},"id":"k{new}","n":{n}}}"#),
                format!(r#"["eu","k{new}"]"#),
            )
        }
        _ => {
            row.insert("id".into(), "\"x\"".into());
            row.insert("k".into(), new.to_string());
            row.insert("n".into(), format!("\"{n}\""));
            (
                format!(r#"{{"k":{old},"id":"x"}}"#),
                format!(r#"{{"id":"x","k":{new},"n":"{n}"}}"#),
                format!(r#"["eu","{new}","x"]"#),
            )
        }
    };
    rows.insert((table, new), row);
    let model_version = if table == "a" { "2" } else { "1" };
    format!(
        r#"{{"operation":"UPDATE","table":"{table}","modelVersion":"{model_version}","key":{keys},"before":{before},"after":{after},"mvccTimestamp":"{version}.0"}}"#
    )
}
