//! The state file of the Go program, `eds-data.db`: a log of commands in the form of Redis'
//! protocol (BuntDB). It is read where a first start knows nothing else, and left as it is.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{BufRead, BufReader, ErrorKind, Read};
use std::path::Path;

use serde::Deserialize;

use crate::change::value::unix_ns;

/// The name of the file in the data directory.
pub const FILE_NAME: &str = "eds-data.db";
/// The most bytes of one key or value that is read.
const PART_BYTES_MAX: u64 = 64 << 20;
/// The most parts of one command: `set key value ex seconds`.
const PARTS_MAX: u64 = 16;
const TABLE_EXPORT: &str = "table-export";
const REGISTRY: &str = "registry:";

/// What a predecessor has left in the data directory.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub enum Predecessor {
    /// Nothing.
    #[default]
    Nobody,
    /// What it knew.
    Known {
        /// When each table was imported, Unix nanoseconds, in the order of the names.
        imported: Vec<(String, i64)>,
        /// Schemas of tables, as JSON.
        schemas: Vec<String>,
    },
    /// Its file cannot be read; why.
    Unreadable(String),
}

#[derive(Deserialize)]
struct TableExport {
    #[serde(alias = "table", alias = "Table")]
    table: String,
    #[serde(alias = "timestamp", alias = "Timestamp")]
    timestamp: ExportTime,
}

/// RFC 3339, or Unix milliseconds.
#[derive(Deserialize)]
#[serde(untagged)]
enum ExportTime {
    Text(String),
    Millis(i64),
}

impl ExportTime {
    fn unix_ns(&self) -> Option<i64> {
        match self {
            ExportTime::Text(text) => unix_ns(text),
            ExportTime::Millis(ms) => ms.checked_mul(1_000_000),
        }
    }
}

impl Predecessor {
    /// Reads the file in `data_dir`, where there is one.
    pub fn read(data_dir: &Path) -> Predecessor {
        let path = data_dir.join(FILE_NAME);
        let parsed = match File::open(&path) {
            Ok(file) => Predecessor::parse(&mut BufReader::new(file)),
            Err(e) if e.kind() == ErrorKind::NotFound => return Predecessor::Nobody,
            Err(e) => Err(e.to_string()),
        };
        parsed.unwrap_or_else(|why| Predecessor::Unreadable(format!("{}: {why}", path.display())))
    }

    /// Reads the content of the file; an error says why it cannot be read.
    pub fn parse(log: &mut impl BufRead) -> Result<Predecessor, String> {
        known(entries(log)?)
    }

    /// From when on the stream has to be read, Unix nanoseconds: the oldest import.
    pub fn since_ns(&self) -> Option<i64> {
        match self {
            Predecessor::Known { imported, .. } => imported.iter().map(|(_, at)| *at).min(),
            Predecessor::Nobody | Predecessor::Unreadable(_) => None,
        }
    }
}

/// What the entries say.
fn known(entries: BTreeMap<String, Vec<u8>>) -> Result<Predecessor, String> {
    let unreadable = |e: serde_json::Error| format!("{TABLE_EXPORT}: {e}");
    let exported: Vec<TableExport> = match entries.get(TABLE_EXPORT) {
        Some(json) => serde_json::from_slice(json).map_err(unreadable)?,
        None => Vec::new(),
    };
    let mut imported = Vec::new();
    for TableExport { table, timestamp } in exported {
        let at =
            timestamp.unix_ns().ok_or_else(|| format!("{TABLE_EXPORT}: {table:?} has no time"))?;
        imported.push((table, at));
    }
    imported.sort();
    // The newest version of a table is named by an entry of its own, which is no schema.
    let schemas = entries
        .into_iter()
        .filter(|(key, _)| key.starts_with(REGISTRY) && !key.ends_with(":version"))
        .filter_map(|(_, value)| String::from_utf8(value).ok())
        .collect();
    Ok(Predecessor::Known { imported, schemas })
}

/// The entries that matter once all commands are done. A last command that is cut off was never
/// done: the program was killed while it wrote.
fn entries(log: &mut impl BufRead) -> Result<BTreeMap<String, Vec<u8>>, String> {
    let mut entries = BTreeMap::new();
    while let Some(command) = command(log)? {
        let mut parts = command.into_iter();
        let name = parts.next().unwrap_or_default().to_ascii_lowercase();
        let key = parts.next().and_then(|key| String::from_utf8(key).ok()).unwrap_or_default();
        match &name[..] {
            b"set" if key == TABLE_EXPORT || key.starts_with(REGISTRY) => {
                entries.insert(key, parts.next().unwrap_or_default());
            }
            b"set" => {}
            b"del" => drop(entries.remove(&key)),
            b"flushdb" => entries.clear(),
            other => {
                return Err(format!("it has the command {:?}", String::from_utf8_lossy(other)));
            }
        }
    }
    Ok(entries)
}

/// The parts of the next command; `None` at the end of the file, also in the middle of a command.
fn command(log: &mut impl BufRead) -> Result<Option<Vec<Vec<u8>>>, String> {
    let Some(count) = number(log, b'*')? else { return Ok(None) };
    if count == 0 || count > PARTS_MAX {
        return Err(format!("it has a command of {count} parts"));
    }
    let mut parts = Vec::new();
    for _ in 0..count {
        let Some(length) = number(log, b'$')? else { return Ok(None) };
        if length > PART_BYTES_MAX {
            return Err(format!("it has an entry of {length} bytes"));
        }
        let mut part = Vec::new();
        let read =
            log.by_ref().take(length + 2).read_to_end(&mut part).map_err(|e| e.to_string())?;
        if read as u64 != length + 2 {
            return Ok(None);
        }
        if !part.ends_with(b"\r\n") {
            return Err("it is not of the form of BuntDB".into());
        }
        part.truncate(length as usize);
        parts.push(part);
    }
    Ok(Some(parts))
}

/// The number on a line after `sign`; `None` at the end of the file, also in the middle of a line.
fn number(log: &mut impl BufRead, sign: u8) -> Result<Option<u64>, String> {
    let mut line = Vec::new();
    log.by_ref().take(32).read_until(b'\n', &mut line).map_err(|e| e.to_string())?;
    if !line.ends_with(b"\n") && line.len() < 32 {
        return Ok(None);
    }
    let digits = line.strip_prefix(&[sign]).and_then(|rest| rest.strip_suffix(b"\r\n"));
    let text = digits.and_then(|digits| std::str::from_utf8(digits).ok());
    let number = text.and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| "it is not of the form of BuntDB".to_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn write(commands: &[&[&str]]) -> Vec<u8> {
        let mut log = String::new();
        for parts in commands {
            log += &format!("*{}\r\n", parts.len());
            parts.iter().for_each(|part| log += &format!("${}\r\n{part}\r\n", part.len()));
        }
        log.into_bytes()
    }

    fn read(log: &[u8]) -> Predecessor {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        std::fs::write(dir.path().join(FILE_NAME), log).unwrap_or_else(|e| panic!("{e}"));
        Predecessor::read(dir.path())
    }

    const EXPORT: &str = r#"[{"Table":"order","Timestamp":"2024-07-11T21:16:51.708Z"},{"Table":"customer","Timestamp":"2024-07-11T21:16:50Z"}]"#;

    #[test]
    fn what_the_last_commands_left_counts() {
        let schema = r#"{"table":"order"}"#;
        let log = write(&[
            &["set", "table-export", "[]"],
            &["set", "snowflake:order:x", "1", "ex", "86400"],
            &["set", "registry:order-v1", schema],
            &["set", "registry:order:version", "v1"],
            &["set", "registry:gone-v1", schema],
            &["set", "table-export", EXPORT],
            &["del", "registry:gone-v1"],
        ]);
        let found = read(&log);
        let expected = Predecessor::Known {
            imported: vec![
                ("customer".into(), 1_720_732_610_000_000_000),
                ("order".into(), 1_720_732_611_708_000_000),
            ],
            schemas: vec![schema.into()],
        };
        assert_eq!(found, expected);
        assert_eq!(found.since_ns(), Some(1_720_732_610_000_000_000));
    }

    #[test]
    fn a_last_command_that_is_cut_off_was_never_done() {
        let log = write(&[&["set", "table-export", EXPORT]]);
        let cut = write(&[&["set", "table-export", "[]"]]);
        for length in 1..cut.len() {
            let both = [&log[..], &cut[..length]].concat();
            assert!(read(&both).since_ns().is_some(), "{length}");
        }
    }

    #[test]
    fn what_is_not_of_that_form_is_not_taken_for_nothing() {
        for log in [
            &b"SQLite format 3\0 and more than one line of it"[..],
            b"*1\r\n$3\r\nfoo\r\n",
            b"*99\r\n",
            b"*x\r\n",
            b"*3\r\n$99999999999\r\n",
            &write(&[&["set", "table-export", "{"]]),
        ] {
            assert!(matches!(read(log), Predecessor::Unreadable(_)), "{log:?}");
        }
        let nobody = Predecessor::read(Path::new("/nowhere"));
        assert_eq!(nobody, Predecessor::Nobody);
        assert_eq!(read(b""), Predecessor::Known { imported: vec![], schemas: vec![] });
    }

    proptest! {
        #[test]
        fn no_file_panics(log in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = entries(&mut &log[..]);
        }
    }
}
