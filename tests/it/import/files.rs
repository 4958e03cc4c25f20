//! Files of an export as other programs leave them: with a byte order mark, empty, cut off.

use std::io::Write;

use serde_json::{Value, json};

use super::columns::ExportDir;
use crate::services::eds::schema;
use crate::services::hq::said;

fn gzip(text: &[u8]) -> Vec<u8> {
    let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
    encoder.write_all(text).and_then(|()| encoder.finish()).unwrap_or_else(|e| panic!("{e}"))
}

fn schemas() -> Value {
    json!({"t": schema("t", "1", json!({"n": {"type": "integer"}}))})
}

const ROWS: &str = "{\"id\":\"a\",\"n\":1}\r\n\n{\"id\":\"b\",\"n\":2}";
const MARK: &str = "\u{FEFF}";

/// An export of one file, into an SQLite file; the name of the file, and the rows of the table.
struct OneFile {
    export: ExportDir,
}

impl OneFile {
    fn new(ending: &str, content: &[u8]) -> OneFile {
        let export = ExportDir::new();
        let name = format!("202407131650522808024640000000001-5-1-3-0-t-15.ndjson{ending}");
        let path = export.path().join("export").join(name);
        std::fs::write(path, content).unwrap_or_else(|e| panic!("{e}"));
        OneFile { export }
    }

    fn url(&self) -> String {
        format!("sqlite://{}", self.export.path().join("shop.db").display())
    }

    fn rows(&self) -> i64 {
        let db = rusqlite::Connection::open(self.export.path().join("shop.db"))
            .unwrap_or_else(|e| panic!("{e}"));
        db.query_row("SELECT count(*) FROM t", [], |row| row.get(0))
            .unwrap_or_else(|e| panic!("{e}"))
    }
}

#[test]
fn files_that_are_whole_are_loaded() {
    let marked = format!("{MARK}{ROWS}");
    let members = [gzip(&marked.as_bytes()[..9]), gzip(&marked.as_bytes()[9..])].concat();
    let cases: [(&str, Vec<u8>, i64); 8] = [
        ("", marked.clone().into(), 2),
        (".gz", gzip(marked.as_bytes()), 2),
        (".gz", members, 2),
        // Some programs unpack without changing the name.
        (".gz", ROWS.into(), 2),
        ("", Vec::new(), 0),
        ("", MARK.into(), 0),
        (".gz", gzip(b""), 0),
        (".gz", gzip(b"\n\n"), 0),
    ];
    for (n, (ending, content, rows)) in cases.into_iter().enumerate() {
        let file = OneFile::new(ending, &content);
        file.export.import(&file.url(), &schemas(), &[]);
        assert_eq!(file.rows(), rows, "case {n}");
    }
}

#[test]
fn files_that_are_cut_off_replace_nothing() {
    let (one, two) = (gzip(ROWS.as_bytes()), gzip(ROWS.as_bytes()));
    let cases: [(&str, Vec<u8>); 5] = [
        (".gz", Vec::new()),
        (".gz", one[..5].to_vec()),
        (".gz", one[..one.len() - 1].to_vec()),
        (".gz", [&one[..], &two[..12]].concat()),
        (".gz", [&one[..], b"garbage"].concat()),
    ];
    for (n, (ending, content)) in cases.into_iter().enumerate() {
        let before = OneFile::new("", ROWS.as_bytes());
        before.export.import(&before.url(), &schemas(), &[]);
        let file = OneFile::new(ending, &content);
        let output = file.export.run(&before.url(), &schemas(), &["--skip-bad-rows", "9"]);
        let text = said(&output);
        assert_eq!(output.status.code(), Some(1), "case {n}: {text}");
        assert!(text.contains("is damaged after line"), "case {n}: {text}");
        assert_eq!(before.rows(), 2, "case {n}");
    }
}

/// A mark elsewhere than at the beginning belongs to the text, and a file in another encoding has
/// no rows.
#[test]
fn a_mark_in_the_middle_is_no_mark() {
    let file = OneFile::new("", format!("{ROWS}\n{MARK}{{\"id\":\"c\"}}").as_bytes());
    let output = file.export.run(&file.url(), &schemas(), &[]);
    assert!(said(&output).contains("line 4: the line is not JSON"), "{}", said(&output));
    let wide: Vec<u8> = ROWS.encode_utf16().flat_map(u16::to_le_bytes).collect();
    let file = OneFile::new("", &[&[0xff, 0xfe][..], &wide].concat());
    let output = file.export.run(&file.url(), &schemas(), &[]);
    assert!(said(&output).contains("line 1: the line is not UTF-8"), "{}", said(&output));
}

/// A destination that appends has no tables to check.
#[test]
fn each_row_becomes_an_event_where_there_are_no_tables() {
    let file = OneFile::new("", ROWS.as_bytes());
    let out = file.export.path().join("events");
    let url = format!("file://{}", out.display());
    let text = file.export.import(&url, &schemas(), &["--check"]);
    assert!(text.contains("each row becomes an event"), "{text}");
    assert!(!out.exists() || std::fs::read_dir(&out).is_ok_and(|mut all| all.next().is_none()));
}
