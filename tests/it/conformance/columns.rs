//! Columns that are left out or hashed: whatever becomes of a change, nothing of their values is
//! kept anywhere.

use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use super::{Database, WAYS, canonical, replayed};
use eds::change::ColumnType;

use crate::services::eds::{dead_letters, schema, upsert};

/// The key of [`hash`].
pub const KEY: &str = "a key of enough bytes\n";
/// What must not be found.
pub const SECRET: &str = "SECRET";

/// `printf SECRET-b@x | openssl dgst -sha256 -hmac 'a key of enough bytes'`
pub fn hash(of: &str) -> &'static str {
    match of {
        "SECRET-b@x" => "d17fdd84c6b6b06fa79803af5167eb5e06f86b97776bf5112724e049f1d24a54",
        "SECRET-c@x" => "8d0f836e0026f4120000ed1e92f1d908ca3cdf7af1221e9d8802f68709eab1e4",
        "SECRET-d@x" => "83072872f105c18fecc9260ef095d2c47268f26e81d939cd9115ca8278b9adb2",
        "SECRET-e@x" => "af967b909c2660a3050bebc3ea0295519ce8d8c1f7992041e95b1763a85d3a4c",
        _ => panic!("no hash of {of} is known"),
    }
}

/// Writes the key; the arguments that leave out `ssn` and hash `mail`.
pub fn rules(dir: &Path) -> Vec<String> {
    std::fs::write(dir.join("key"), KEY).unwrap_or_else(|e| panic!("{e}"));
    let file = dir.join("key").display().to_string();
    let args = ["--exclude", "people.ssn", "--hash", "people.mail", "--hash-key-file", &file];
    args.map(str::to_owned).to_vec()
}

/// A schema in which a value of `ssn` is required.
pub fn people(version: &str, more: &[&str]) -> Value {
    let text = json!({"type": "string"});
    let mut columns = json!({"ssn": text, "mail": text, "n": {"type": "integer"}});
    more.iter().for_each(|name| columns[*name] = text.clone());
    let mut people = schema("people", version, columns);
    people["required"] = json!(["id", "ssn"]);
    people
}

pub fn person(id: &str, version: &str, n: i64) -> Value {
    let (ssn, mail) = (format!("{SECRET}-{id}"), format!("{SECRET}-{id}@x"));
    upsert("people", version, json!({"id": id, "ssn": ssn, "mail": mail, "n": n}))
}

fn shown(rows: &[(&str, Option<&str>, Option<&str>, &str)]) -> Vec<Vec<Option<String>>> {
    let text = |text: &str| Some(text.to_owned());
    let row = |(id, ssn, mail, n): &(&str, Option<&str>, Option<&str>, &str)| {
        vec![text(id), ssn.and_then(text), mail.and_then(text), text(n)]
    };
    rows.iter().map(row).collect()
}

/// A journal that grows, into one database.
struct GrowingJournal<'d> {
    dir: TempDir,
    database: &'d dyn Database,
    rules: Vec<String>,
    text: String,
}

impl<'d> GrowingJournal<'d> {
    fn new(database: &'d dyn Database) -> GrowingJournal<'d> {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let rules = rules(dir.path());
        GrowingJournal { dir, database, rules, text: String::new() }
    }

    /// Goes on with these events.
    fn run(&mut self, schemas: &[Value], events: &[String], args: &[&str]) -> String {
        let schemas = schemas.iter().enumerate().map(|(i, s)| (i.to_string(), s.clone())).collect();
        events.iter().for_each(|event| self.text += &format!("{event}\n"));
        let args = [&["--restart=false"], args].concat();
        replayed(self.dir.path(), self.database, &Value::Object(schemas), &self.text, &args)
    }

    /// The same by the rules; nothing is told of what they hide.
    fn run_by_rules(&mut self, schemas: &[Value], events: &[String], more: &[&str]) {
        let rules = self.rules.clone();
        let args: Vec<&str> =
            rules.iter().map(String::as_str).chain(more.iter().copied()).collect();
        let said = self.run(schemas, events, &args);
        assert!(!said.contains(SECRET), "{said}");
    }

    fn letters(&self) -> Vec<Value> {
        dead_letters(&self.database.url(), &self.dir.path().join("data"))
    }

    async fn has(&self, rows: &[(&str, Option<&str>, Option<&str>, &str)]) {
        let found = self.database.read("people", &["id", "ssn", "mail", "n"]).await;
        assert_eq!(found, shown(rows));
    }
}

/// Rows, a dead letter that is retried, a message that cannot be read, and a table that is held and
/// released: all have the hash, once, and nothing of what is left out. What was written before the
/// rules stays as it was.
pub async fn values_that_are_left_out_are_nowhere(database: &dyn Database) {
    let mut journal = GrowingJournal::new(database);
    let before = |id: &str| {
        let row = json!({"id": id, "ssn": "old", "mail": "old@x", "n": 1});
        upsert("people", "1", row).to_string()
    };
    journal.run(&[people("1", &[])], &[before("a"), before("b")], &[]);

    let moved = json!({"operation": "UPDATE", "table": "people", "modelVersion": "1", "key": ["c"],
        "before": {"id": "c", "ssn": SECRET, "mail": SECRET}, "diff": ["ssn"],
        "after": person("c", "1", 4)["after"]});
    let mut events =
        [person("b", "1", 3), moved, person("d", "9", 5)].map(|e| e.to_string()).to_vec();
    events.push(format!(r#"{{"operation":"INSERT","table":"people","after":{{"ssn":"{SECRET}"#));
    journal.run_by_rules(&[people("1", &[])], &events, &[]);
    let [b, c, d, e] = ["SECRET-b@x", "SECRET-c@x", "SECRET-d@x", "SECRET-e@x"].map(hash);
    let (a, c) = (("a", Some("old"), Some("old@x"), "1"), ("c", None, Some(c), "4"));
    journal.has(&[a, ("b", Some("old"), Some(b), "3"), c]).await;
    let letters = journal.letters();
    let text = Value::from(letters.clone()).to_string();
    assert!(!text.contains(SECRET) && text.contains(d), "{text}");
    let kinds: Vec<_> = letters.iter().map(|l| l["kind"].as_str().unwrap_or_default()).collect();
    assert_eq!(kinds, ["unknown-schema", "malformed"]);

    let wider = [people("1", &[]), people("2", &["x"])];
    let waiting = [person("e", "2", 6).to_string()];
    journal.run_by_rules(&wider, &waiting, &["--schema-change", "hold"]);
    let held = database.read("_eds_held", &["body"]).await;
    let held = held.iter().flatten().flatten().cloned().collect::<String>();
    assert!(!held.contains(SECRET) && held.contains(e), "{held}");

    // The letter is tried again, as its schema is known by now.
    let all = [people("1", &[]), people("2", &["x"]), people("9", &[])];
    journal.run_by_rules(&all, &[person("b", "1", 7).to_string()], &[]);
    let (b, d) = (("b", Some("old"), Some(b), "7"), ("d", None, Some(d), "5"));
    journal.has(&[a, b, c, d, ("e", None, Some(e), "6")]).await;
    assert_eq!(journal.letters().len(), 1);
}

/// Nanoseconds of a version `ms` after a moment.
fn version_of(ms: u64) -> String {
    format!("1720732611{ms:03}000000")
}

/// A change of table `table` at a moment.
fn change_of(table: &str, operation: &str, id: &str, ms: u64, rows: [Value; 2]) -> String {
    let mvcc = format!("{}.0000000000", version_of(ms));
    let [before, after] = rows;
    json!({"operation": operation, "table": table, "modelVersion": "1", "key": [id],
        "before": before, "after": after, "mvccTimestamp": mvcc})
    .to_string()
}

/// A table whose deleted rows stay: `a` is required, and `n` is what tells rows apart.
struct MarkedTable<'d> {
    dir: TempDir,
    database: &'d dyn Database,
    name: &'static str,
    way: &'static [&'static str],
}

/// Id, `n`, when it was deleted, and its version.
type MarkedRow = (&'static str, u64, Option<u64>, u64);

impl MarkedTable<'_> {
    fn run(&self, events: &[String], more: &[&str]) {
        let columns = json!({"a": {"type": "string"}, "n": {"type": "integer"}});
        let mut described = schema(self.name, "1", columns);
        described["required"] = json!(["id", "a"]);
        let schemas = json!({ self.name: described });
        let journal: String = events.iter().map(|event| format!("{event}\n")).collect();
        let args = [self.way, more].concat();
        replayed(self.dir.path(), self.database, &schemas, &journal, &args);
    }

    fn insert(&self, id: &str, ms: u64) -> String {
        change_of(self.name, "INSERT", id, ms, [Value::Null, row(id, ms)])
    }

    fn delete(&self, id: &str, ms: u64, before: Value) -> String {
        change_of(self.name, "DELETE", id, ms, [before, Value::Null])
    }

    /// When EDS took a row up is told for each.
    async fn has(&self, rows: &[MarkedRow]) {
        let names = ["id", "a", "n", "_eds_deleted_at", "_eds_version", "_eds_applied_at"];
        let found = self.database.read(self.name, &names).await;
        let found = found.iter().map(|row| {
            let time = |i: usize| canonical(ColumnType::Time, row[i].as_deref());
            assert!(time(5).is_string(), "{row:?}");
            json!([row[0], row[1], row[2], time(3), row[4]])
        });
        let expected = rows.iter().map(|(id, n, gone, at)| {
            let gone = gone.map(|ms| format!("2024-07-11T21:16:51.{ms:03}000Z"));
            json!([id, "x", n.to_string(), gone, version_of(*at)])
        });
        assert_eq!(found.collect::<Vec<_>>(), expected.collect::<Vec<_>>());
    }
}

fn row(id: &str, n: u64) -> Value {
    json!({"id": id, "a": "x", "n": n})
}

/// A row that is deleted keeps its values and is marked, whatever of it the event tells; it may be
/// left by a change of its key, come back, and go again.
pub async fn deleted_rows_stay_where_they_are_marked(database: &dyn Database) {
    const SOFT: [&str; 4] = ["--deletes", "soft", "--add-columns", "version,applied-at"];
    for (name, way) in ["soft_1", "soft_2"].into_iter().zip(WAYS) {
        let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
        let table = MarkedTable { dir, database, name, way };
        // Before rows were kept: NOT NULL is there.
        table.run(&["a", "b", "c", "g"].map(|id| table.insert(id, 1)), &[]);
        let events = [
            table.delete("a", 2, row("a", 1)),
            table.delete("b", 3, json!({"id": "b"})),
            table.delete("c", 4, Value::Null),
            change_of(name, "UPDATE", "h", 5, [row("g", 1), row("h", 5)]),
            table.insert("d", 6),
            table.delete("d", 7, Value::Null),
            table.insert("e", 8),
            table.delete("e", 9, row("e", 8)),
            table.insert("e", 10),
        ];
        table.run(&events, &SOFT);
        let rows = [
            ("a", 1, Some(2), 2),
            ("b", 1, Some(3), 3),
            ("c", 1, Some(4), 4),
            ("d", 6, Some(7), 7),
            ("e", 10, None, 10),
            ("g", 1, Some(5), 5),
            ("h", 5, None, 5),
        ];
        table.has(&rows).await;
        table.run(&[table.insert("a", 11), table.delete("h", 12, row("h", 5))], &SOFT);
        let again = [&[("a", 11, None, 11)], &rows[1..6], &[("h", 5, Some(12), 12)]].concat();
        table.has(&again).await;
        // Hard again: what is deleted from now on is gone, and the columns stay.
        table.run(&[table.delete("a", 13, Value::Null)], &["--add-columns", "version,applied-at"]);
        table.has(&again[1..]).await;
        // Whoever writes a row that is marked takes the mark away, whatever becomes of deletions.
        table.run(&[table.insert("b", 14)], &["--add-columns", "version,applied-at"]);
        table.has(&[&[("b", 14, None, 14)], &again[2..]].concat()).await;
    }
}

/// Columns that EDS makes have the user's types, in new tables and old ones; what a database cannot
/// write is said before anything is made.
pub async fn new_columns_have_the_types_that_were_asked_for(database: &dyn Database) {
    let dir = tempfile::tempdir().unwrap_or_else(|e| panic!("{e}"));
    // What the database calls a number of 12 digits, two of them behind the point.
    let decimal = match database.url().split(':').next() {
        Some("snowflake") => "number(12,2)",
        Some("postgres") => "numeric(12,2)",
        _ => "decimal(12,2)",
    };
    let number = json!({"type": "number"});
    let of = |version: &str, columns: Value| json!({"t": schema("typed", version, columns)});
    let run = |schemas: &Value, event: Value, types: &str| {
        let journal = format!("{event}\n");
        super::replay_in(dir.path(), &database.url(), schemas, &journal, &["--types", types])
    };
    let narrow = of("1", json!({"total": number, "rest": number}));
    let event = upsert("typed", "1", json!({"id": "a", "total": 10.25, "rest": 0.125}));
    for (types, why) in [
        ("typed.total=blob".to_owned(), "EDS cannot write numbers into"),
        (format!("typed.more={decimal}"), "no known schema has the column typed.more"),
    ] {
        let output = run(&narrow, event.clone(), &types);
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!output.status.success() && said.contains(why), "{said}");
    }
    let wide = of("2", json!({"total": number, "rest": number, "more": number}));
    let mut wider = event.clone();
    (wider["modelVersion"], wider["after"]["more"]) = ("2".into(), 99.5.into());
    let total = format!("typed.total={decimal}");
    let types = format!("{total},typed.more={decimal}");
    for (schemas, event, types) in [(&narrow, event, &total), (&wide, wider, &types)] {
        let output = run(schemas, event, types);
        assert!(output.status.success(), "{output:?}");
    }
    let rows = database.read("typed", &["total", "rest", "more"]).await;
    let numbers: Vec<f64> =
        rows.iter().flatten().flatten().filter_map(|text| text.parse().ok()).collect();
    assert_eq!(numbers, [10.25, 0.125, 99.5]);
    // More digits are not kept, as the type says; SQLite and the stand-ins keep them.
    let event = upsert("typed", "2", json!({"id": "a", "total": 10.256, "more": 1, "rest": 1}));
    let output = run(&wide, event, &types);
    assert!(output.status.success(), "{output:?}");
    let kept = database.read("typed", &["total"]).await;
    let kept = kept.first().and_then(|row| row[0].clone()).unwrap_or_default();
    assert!(["10.26", "10.256"].contains(&&*kept), "{kept}");
    let is_real = ["postgres", "mysql"].iter().any(|name| database.url().starts_with(name));
    assert!(!is_real || kept == "10.26", "{kept}");
}
