//! What happens at the simulated source: a stream of changes, and the rows after each of them.

use std::collections::BTreeMap;

use eds::change::Version;
use eds::change::cutover::TableSnapshot;
use eds::destination::memory::MemoryRow;

/// SourceRows by table and number.
pub type SourceRows = BTreeMap<(&'static str, u64), MemoryRow>;

pub struct History {
    pub messages: Vec<String>,
    /// The source after so many messages.
    pub source: Vec<SourceRows>,
    /// How many messages have to become a dead letter.
    pub bad: usize,
}

/// When message `sequence` was made and published, Unix nanoseconds: a hundred seconds after the
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

    /// An export of some tables after `through` messages.
    pub fn snapshots(&self, tables: &[&str], through: u64, whole: bool) -> Vec<TableSnapshot> {
        let at = Version { nanos: time(through) as u64, logical: 0 };
        tables.iter().map(|table| TableSnapshot { table: (*table).to_owned(), at, whole }).collect()
    }
}

/// A stream of changes.
pub fn history(rng: &mut fastrand::Rng) -> History {
    let mut messages: Vec<String> = Vec::new();
    let mut tables: BTreeMap<(&'static str, u64), (Option<MemoryRow>, u64)> = BTreeMap::new();
    let mut sent: Vec<(u64, String)> = Vec::new();
    let mut source = vec![SourceRows::new()];
    let mut bad = 0;
    for n in 0..rng.u64(20..220) {
        let version = time(n + 1) as u64;
        match rng.u32(..20) {
            // An older version of a row again: it must not win.
            0 | 1 if !sent.is_empty() => messages.push(sent[rng.usize(..sent.len())].1.clone()),
            2 => {
                bad += 1;
                let broken = [
                    "{",
                    r#"{"operation":"INSERT"}"#,
                    r#"{"operation":"UPDATE","table":"a","modelVersion":"9","after":{"id":"x"}}"#,
                    r#"{"operation":"INSERT","table":"a","modelVersion":"1","after":{"id":"unfit","n":"twelve"}}"#,
                ];
                messages.push(broken[rng.usize(..4)].to_owned());
            }
            _ => {
                let (table, key) = (if rng.bool() { "a" } else { "b" }, rng.u64(..6));
                let schema = if table == "a" { rng.usize(..2) } else { 2 };
                let model_version = if schema == 1 { "2" } else { "1" };
                let entry = tables.entry((table, key)).or_default();
                let keys = if table == "a" {
                    format!(r#"["eu","k{key}"]"#)
                } else {
                    format!(r#"["eu","{key}","x"]"#)
                };
                let text = if entry.0.is_some() && rng.u32(..4) == 0 {
                    entry.0 = None;
                    format!(
                        r#"{{"operation":"DELETE","table":"{table}","modelVersion":"{model_version}","key":{keys},"before":{{}},"mvccTimestamp":"{version}.0"}}"#
                    )
                } else {
                    let row = entry.0.get_or_insert_default();
                    let mut set = |name: &str, value: String| row.insert(name.to_owned(), value);
                    let after = match (table, schema) {
                        ("a", 0) => {
                            set("id", format!("\"k{key}\""));
                            set("n", n.to_string());
                            format!(r#"{{"id":"k{key}","n":{n},"m":{n}}}"#)
                        }
                        ("a", _) => {
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
                };
                entry.1 = version;
                sent.push((version, text.clone()));
                messages.push(text);
            }
        }
        source.push(
            tables
                .iter()
                .filter_map(|((table, key), (row, _))| Some(((*table, *key), row.clone()?)))
                .collect(),
        );
    }
    History { messages, source, bad }
}
