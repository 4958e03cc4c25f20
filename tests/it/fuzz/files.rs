//! Files that EDS reads: each is read or refused, and what was read can be used.

use std::io::Write;
use std::path::Path;

use eds::change::cutover::TableSnapshot;
use eds::change::{Position, Version};
use eds::config::{Config, ConfigEntry};
use eds::export::lines::Lines;
use eds::feed::journal::Journal;
use eds::feed::{Feed, OpenAt, Signal};
use eds::state::{FILE_NAME, State};
use rusqlite::Connection;
use tempfile::TempDir;

use super::generate::change;
use super::{lines, try_with};
use crate::services::block_on;

/// The most that is read of one journal.
const LINES_MAX: usize = 10_000;

fn temp() -> TempDir {
    TempDir::new().unwrap_or_else(|e| panic!("{e}"))
}

fn write(path: &Path, content: &[u8]) {
    std::fs::write(path, content).unwrap_or_else(|e| panic!("{e}"));
}

fn packed(content: &[u8]) -> Vec<u8> {
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let written = gzip.write_all(content).and_then(|()| gzip.finish());
    written.unwrap_or_else(|e| panic!("{e}"))
}

/// Three lines, as they are, packed, and packed in two members.
fn journals() -> Vec<Vec<u8>> {
    let all = "{\"a\":1}\r\n\n{\"b\":2}\n\u{feff}{\"c\":3}".as_bytes();
    vec![all.to_vec(), packed(all), [packed(all), packed(b"{}\n")].concat()]
}

#[test]
fn journals_are_read_or_refused() {
    let (dir, seeds) = (temp(), journals());
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    try_with("journals", &seeds, |content| {
        for name in ["j.jsonl", "j.jsonl.gz"] {
            let path = dir.path().join(name);
            write(&path, content);
            if let Ok(mut journal) = Journal::new(&path) {
                let _ = journal.fingerprint();
                block_on(read_journal(&mut journal));
            }
        }
    });
}

async fn read_journal(journal: &mut Journal) {
    if journal.open(OpenAt::default()).await.is_err() {
        return;
    }
    let mut read = Vec::new();
    while let Ok(Signal::Delivered) = journal.next(&mut read, 100).await {
        assert!(read.len() < LINES_MAX, "it has no end");
    }
    let _ = journal.close().await;
}

/// Files of an export, as HQ writes them.
#[test]
fn files_of_exports_are_read_or_refused() {
    let (dir, seeds) = (temp(), journals());
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let path = dir.path().join("x.ndjson.gz");
    try_with("exports", &seeds, |content| {
        write(&path, content);
        let Ok(mut lines) = Lines::open(&path) else { return };
        while let Ok(Some(_)) = lines.next(64, 2) {
            assert!(lines.lines() < LINES_MAX as u64, "it has no end");
        }
    });
}

#[test]
fn configurations_are_read_or_refused() {
    let dir = temp();
    let seeds: Vec<Vec<u8>> = lines(include_str!("corpus/configs.txt"))
        .into_iter()
        .map(|line| line.iter().map(|byte| if *byte == b'|' { b'\n' } else { *byte }).collect())
        .collect();
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let entries: [ConfigEntry<'_>; 2] = [("token", Some("a\"\n'")), ("url", None)];
    try_with("configurations", &seeds, |content| {
        write(&dir.path().join("config.toml"), content);
        if Config::read(dir.path()).is_ok() && Config::write(dir.path(), &entries).is_ok() {
            assert!(Config::read(dir.path()).is_ok(), "what was written is no configuration");
        }
    });
}

/// A state file with something of everything.
fn state_file(dir: &Path) -> Vec<u8> {
    let state = State::open(dir).unwrap_or_else(|e| panic!("{e}"));
    let at = Position { sequence: 7, time_ns: 8 };
    let version = Version { nanos: 1_720_732_611_708_587_506, logical: 0 };
    let snapshot = TableSnapshot { table: "t".into(), at: version, whole: true };
    let schema = lines(include_str!("corpus/schemas.txt"))[0];
    let saved = [
        state.save_schema("t", "1", &String::from_utf8_lossy(schema)),
        state.save_position("c", at),
        state.save_intent("c", at),
        state.save_idle("c", at),
        state.save_since("c", 9),
        state.order_letters("c", &[(1, 2), (3, 4)]),
        state.finish_import(&[snapshot]),
    ];
    assert!(saved.iter().all(Result::is_ok), "{saved:?}");
    drop(state);
    std::fs::read(dir.join(FILE_NAME)).unwrap_or_else(|e| panic!("{e}"))
}

fn read_state(dir: &Path) {
    let Ok(state) = State::open(dir) else { return };
    let _ = (state.schemas(), state.position("c"), state.intent("c"), state.idle("c"));
    let _ = (state.since("c"), state.recent("c"), state.letters(), state.letter_entries("c"));
    let _ = (state.letter_orders(), state.cutovers(), state.open_import(), state.list());
    let _ = (state.has_positions(), state.import_progress("j"), state.adopt_unplaced());
}

/// Of its pages some are changed.
#[test]
fn state_files_are_read_or_refused() {
    let dir = temp();
    let seed = state_file(dir.path());
    try_with("state files", &[&seed], |content| {
        for more in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("{FILE_NAME}{more}")));
        }
        write(&dir.path().join(FILE_NAME), content);
        read_state(dir.path());
    });
}

/// Its pages are whole, and of its values one is another.
#[test]
fn values_in_state_files_are_read_or_refused() {
    let dir = temp();
    let seed = state_file(dir.path());
    let path = dir.path().join(FILE_NAME);
    let seeds = cells(&path);
    let seeds: Vec<&[u8]> = seeds.iter().map(Vec::as_slice).collect();
    let mut rng = fastrand::Rng::new();
    try_with("values of state files", &seeds, |value| {
        for more in ["-wal", "-shm"] {
            let _ = std::fs::remove_file(dir.path().join(format!("{FILE_NAME}{more}")));
        }
        write(&path, &seed);
        let mut value = value.to_vec();
        change(&mut rng, &mut value, &seeds);
        set_cell(&path, &mut rng, &value);
        read_state(dir.path());
    });
}

/// Tables and their columns.
fn columns(db: &Connection) -> Vec<(String, String)> {
    let sql = "SELECT s.name, c.name FROM sqlite_schema s, pragma_table_info(s.name) c WHERE \
               s.type = 'table'";
    let mut statement = db.prepare(sql).unwrap_or_else(|e| panic!("{e}"));
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?)));
    rows.unwrap_or_else(|e| panic!("{e}")).flatten().collect()
}

/// All values as texts.
fn cells(path: &Path) -> Vec<Vec<u8>> {
    let db = Connection::open(path).unwrap_or_else(|e| panic!("{e}"));
    let mut all = vec![b"0".to_vec()];
    for (table, column) in columns(&db) {
        let sql = format!("SELECT CAST(\"{column}\" AS BLOB) FROM \"{table}\"");
        let mut statement = db.prepare(&sql).unwrap_or_else(|e| panic!("{e}"));
        let rows = statement.query_map([], |row| row.get::<_, Option<Vec<u8>>>(0));
        all.extend(rows.unwrap_or_else(|e| panic!("{e}")).flatten().flatten());
    }
    all
}

/// Another value in one column of one table, as a number, a text or bytes.
fn set_cell(path: &Path, rng: &mut fastrand::Rng, value: &[u8]) {
    let db = Connection::open(path).unwrap_or_else(|e| panic!("{e}"));
    let all = columns(&db);
    let (table, column) = &all[rng.usize(..all.len())];
    let form = ["CAST(?1 AS INTEGER)", "CAST(?1 AS TEXT)", "?1", "NULL"][rng.usize(..4)];
    // A rule of the table may be against it.
    let _ = db.execute(&format!("UPDATE \"{table}\" SET \"{column}\" = {form}"), [value]);
}
